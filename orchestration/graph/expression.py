"""The language of conditions: comparisons on the results of earlier nodes, with and, or, not and in.

    checks.checks_failed > 0 and ingest.severity == 'critical'
    analyze.has_errors or 'disk' in analyze.summary

Written as in Python, of which only this much is understood: nothing can be called, computed or reached into, and
a text of 500 characters is all that is read, so an expression costs microseconds whatever it says. A value that
is not there (a node that was left out, a field that a result does not have) is null, and neither more nor less than
anything; nor is a text more or less than a number.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

from simpleeval import EvalWithCompoundTypes  # pyright: ignore[reportMissingTypeStubs]

from orchestration.errors import BadInput
from orchestration.redaction import shown

MAX_CHARACTERS = 500

HAS_ERRORS = "has_errors"
SKIPPED = "skipped"
FACTS = frozenset({HAS_ERRORS, SKIPPED})
"""What every node has, beside the fields of its result."""

_LITERALS = {"true": True, "false": False, "null": None}
_TOKENS = re.compile(r"""'[^']*'|"[^"]*"|[A-Za-z_]\w*(?:-\w+)*|\d[\d.]*[A-Za-z_]+""", re.ASCII)
"""Strings and names, which may have hyphens, and what is neither a number nor a name."""
_HYPHEN = "·"  # may stand within a name for Python; names of ours are ASCII


class BadExpression(BadInput):
    """A text that is no expression of this language."""


@dataclass(frozen=True)
class Reference:
    """A value that an expression looks at: the node, and the path in its result."""

    node: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.node, *self.path))


Lookup = Callable[[Reference], object]
"""Gives the value of a reference; None where there is none."""


class _Evaluator(Protocol):
    def eval(self, expr: str, previously_parsed: ast.AST) -> object: ...


@dataclass(frozen=True)
class Expression:
    """An expression that can be evaluated. Made by `Expression.parse()`."""

    text: str
    references: tuple[Reference, ...]
    _tree: ast.expr
    _named: Mapping[str, Reference]

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read an expression.

        Raises:
            BadExpression: what is wrong with it, and where.
        """
        return _parse(text)

    def holds(self, lookup: Lookup) -> bool:
        """Whether the expression holds. Whatever the values are, it does or does not: this never raises."""

        def value_of(name: ast.Name) -> object:
            return _LITERALS[name.id] if name.id in _LITERALS else lookup(self._named[name.id])

        evaluator = cast(
            "_Evaluator", EvalWithCompoundTypes(operators=_OPERATORS, functions={}, names=cast("Any", value_of))
        )
        return bool(evaluator.eval(self.text, previously_parsed=self._tree))


def _if_comparable(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """The comparison, which of values that cannot be compared does not hold."""

    def compared(left: object, right: object) -> bool:
        try:
            return compare(left, right)
        except TypeError:
            return False

    return compared


_within = _if_comparable(lambda item, container: item in container)


def _not_within(item: object, container: object) -> bool:
    return not _within(item, container)


_OPERATORS: dict[type[ast.AST], Callable[..., object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: _if_comparable(operator.lt),
    ast.LtE: _if_comparable(operator.le),
    ast.Gt: _if_comparable(operator.gt),
    ast.GtE: _if_comparable(operator.ge),
    ast.In: _within,
    ast.NotIn: _not_within,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
}


@lru_cache(maxsize=1024)
def _parse(text: str) -> Expression:
    if not text.strip():
        raise BadExpression("is empty: expected an expression such as checks.checks_failed > 0")
    if len(text) > MAX_CHARACTERS:
        raise BadExpression(f"has {len(text)} characters: an expression has at most {MAX_CHARACTERS}")
    if "\\" in text or _HYPHEN in text or not text.isprintable():
        raise BadExpression("has a character that no expression has")
    plain = _TOKENS.sub(lambda found: _for_python(found[0]), text.strip())
    try:
        tree = ast.parse(plain, mode="eval").body
    except SyntaxError as error:
        place = f" at character {error.offset}" if error.offset else ""
        raise BadExpression(f"{shown(text)} is no expression: {error.msg}{place}") from None
    except (ValueError, MemoryError, RecursionError):
        raise BadExpression(f"{shown(text)} is no expression: it is nested too deep") from None
    reader = _Reader(text)
    read = reader.read(tree)
    return Expression(text, tuple(dict.fromkeys(reader.named.values())), read, reader.named)


def _for_python(token: str) -> str:
    if token[0].isdigit():
        raise BadExpression(f"{shown(token)} is neither a number nor a name")
    return token if token[0] in "'\"" else token.replace("-", _HYPHEN)


class _Reader:
    """Lets through what the language has, with each path as one name: nothing is ever reached into by evaluation."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.named: dict[str, Reference] = {}

    def read(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.BoolOp(op=op, values=values):
                return ast.BoolOp(op=op, values=[self.read(value) for value in values])
            case ast.UnaryOp(op=ast.Not() as op, operand=operand):
                return ast.UnaryOp(op=op, operand=self.read(operand))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                if unknown := [type(op).__name__ for op in ops if type(op) not in _OPERATORS]:
                    raise self._error(f"there is no operator {unknown[0]}")
                return ast.Compare(self.read(left), ops, [self.read(one) for one in comparators])
            case _:
                return self._value(node)

    def _value(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
                return node
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return ast.List([self._item(item) for item in items], ast.Load())
            case ast.Name(id=name) if name in _LITERALS:
                return node
            case ast.Name() | ast.Attribute():
                return self._reference(node)
            case _:
                raise self._error(
                    f"{type(node).__name__} is not part of the language: there are comparisons, and, or, not, in, "
                    "texts, numbers, lists, and values such as checks.checks_failed"
                )

    def _item(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.List | ast.Tuple):
            raise self._error("there are no lists in lists")
        return self._value(node)

    def _reference(self, node: ast.Name | ast.Attribute) -> ast.expr:
        path: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            path.append(inner.attr.replace(_HYPHEN, "-"))
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self._error("a value is written as the id of a node, a point and a field")
        reference = Reference(inner.id.replace(_HYPHEN, "-"), tuple(reversed(path)))
        if not path:
            raise self._error(f"{shown(reference.node)} alone says nothing: write {reference.node}.has_errors, say")
        self.named[str(reference)] = reference
        return ast.Name(id=str(reference), ctx=ast.Load())

    def _error(self, message: str) -> BadExpression:
        return BadExpression(f"{shown(self.text)} is no expression: {message}")
