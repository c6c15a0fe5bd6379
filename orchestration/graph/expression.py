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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

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


_Part = Callable[[Lookup], Any]
"""Evaluates a part of an expression."""


@dataclass(frozen=True)
class Expression:
    """An expression that can be evaluated. Made by `Expression.parse()`."""

    text: str
    references: tuple[Reference, ...]
    _evaluate: _Part

    @classmethod
    @lru_cache(maxsize=1024)
    def parse(cls, text: str) -> Expression:
        """Read an expression.

        Raises:
            BadExpression: what is wrong with it, and where.
        """
        if not text.strip():
            raise BadExpression("is empty: expected an expression such as checks.checks_failed > 0")
        if len(text) > MAX_CHARACTERS:
            raise BadExpression(f"has {len(text)} characters: an expression has at most {MAX_CHARACTERS}")
        if "\\" in text or _HYPHEN in text or not text.isprintable():
            raise BadExpression("has a character that no expression has")
        try:
            tree = ast.parse(_TOKENS.sub(_for_python, text.strip()), mode="eval").body
        except SyntaxError as error:
            place = f" at character {error.offset}" if error.offset else ""
            raise BadExpression(f"{shown(text)} is no expression: {error.msg}{place}") from None
        except (ValueError, MemoryError, RecursionError):
            raise BadExpression(f"{shown(text)} is no expression: it is nested too deep") from None
        reader = _Reader(text)
        evaluate = reader.read(tree)
        return cls(text, tuple(dict.fromkeys(reader.references)), evaluate)

    def holds(self, lookup: Lookup) -> bool:
        """Whether the expression holds. Whatever the values are, it does or does not: this never raises."""
        return bool(self._evaluate(lookup))


def _for_python(token: re.Match[str]) -> str:
    if token[0][0].isdigit():
        raise BadExpression(f"{shown(token[0])} is neither a number nor a name")
    return token[0] if token[0][0] in "'\"" else token[0].replace("-", _HYPHEN)


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def _compare(operators: Sequence[type[ast.cmpop]], parts: Sequence[_Part], lookup: Lookup) -> bool:
    """A chain of comparisons, such as `1 < a.x < 5`. A comparison of values that cannot be compared does not hold."""
    for compared, (left, right) in zip(operators, pairwise(part(lookup) for part in parts), strict=True):
        try:
            holds = _COMPARISONS[compared](left, right)
        except TypeError:
            holds = compared is ast.NotIn
        if not holds:
            return False
    return True


def _combine(decisive: bool, parts: Sequence[_Part], lookup: Lookup) -> object:
    """As `or` (`decisive` is true) and `and` in Python: the first value that decides, else the last one."""
    value: object = None
    for part in parts:
        value = part(lookup)
        if bool(value) is decisive:
            break
    return value


class _Reader:
    """Compiles what the language has, and refuses the rest: nothing is ever reached into by evaluation."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.references: list[Reference] = []

    def read(self, node: ast.expr) -> _Part:
        match node:
            case ast.BoolOp(op=op, values=values):
                return partial(_combine, isinstance(op, ast.Or), [self.read(value) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                part = self.read(operand)
                return lambda lookup: not part(lookup)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return partial(_compare, [type(op) for op in ops], [self.read(one) for one in (left, *comparators)])
            case _:
                return self._value(node)

    def _value(self, node: ast.expr) -> _Part:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return lambda _: value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return lambda _: -number
            case ast.List(elts=items) | ast.Tuple(elts=items):
                if any(isinstance(item, ast.List | ast.Tuple) for item in items):
                    raise self._error("there are no lists in lists")
                parts = [self._value(item) for item in items]
                return lambda lookup: [part(lookup) for part in parts]
            case ast.Name(id=name) if name in _LITERALS:
                return lambda _: _LITERALS[name]
            case ast.Name() | ast.Attribute():
                reference = self._reference(node)
                return lambda lookup: lookup(reference)
            case _:
                raise self._error(
                    f"{type(node).__name__} is not part of the language: there are comparisons, and, or, not, in, "
                    "texts, numbers, lists, and values such as checks.checks_failed"
                )

    def _reference(self, node: ast.Name | ast.Attribute) -> Reference:
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
        self.references.append(reference)
        return reference

    def _error(self, message: str) -> BadExpression:
        return BadExpression(f"{shown(self.text)} is no expression: {message}")
