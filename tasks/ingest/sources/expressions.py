"""The expressions of a mapping: where a sender writes something, in JMESPath.

Source: the JMESPath specification, https://jmespath.org/specification.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from jmespath import functions, parser
from jmespath.exceptions import ArityError, JMESPathError, UnknownFunctionError
from jmespath.parser import ParsedResult
from jmespath.visitor import TreeInterpreter
from pydantic import JsonValue

from orchestration.errors import BadInput
from orchestration.redaction import one_line, shown
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.fields import is_visible, text
from tasks.ingest.sources.spelling import says_nothing, squashed

MAX_CHARACTERS = 512
"""The length of an expression. Those of the mappings that ship have fewer than a hundred."""

_WRONG = (JMESPathError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the library raises about an expression, and about values that its functions cannot use."""
_CHOICES = ("and_expression", "or_expression")
_FROM_THE_LEFT = frozenset(
    ("subexpression", "index_expression", "projection", "value_projection", "filter_projection", "flatten", "pipe")
)


LEAST_WORK, WORK_FOR_A_BYTE, MOST_WORK = 20_000, 5, 15_000_000
"""How many parts of expressions may be evaluated for one body, by its size. The mappings that ship need fewer than 200
for each alert; at most it takes some ten seconds, beside the event loop."""
_SIZE_OF_A_STEP = 16
"""How many items or characters of a value count as one step."""


class TooMuchWork(Exception):
    """The expressions of a mapping take more work with a body than any sender's body is worth."""


class Lookup(TreeInterpreter):
    """How the expressions of a mapping look into one body, with a bound on the work of them all.

    An expression can double what it finds again and again, and each of many alerts can search through all others.
    """

    def __init__(self, *, size_bytes: int = 0, any_spelling: bool = False) -> None:
        """`size_bytes` is the body's size. With `any_spelling` its names are squashed, and those of the expressions are
        read so too."""
        super().__init__()
        self.any_spelling = any_spelling
        self._left = min(LEAST_WORK + WORK_FOR_A_BYTE * size_bytes, MOST_WORK)

    def spend(self, steps: int) -> None:
        """Note work.

        Raises:
            TooMuchWork: it is more than is left.
        """
        self._left -= steps
        if self._left < 0:
            raise TooMuchWork

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        """The value of one part of an expression.

        Raises:
            TooMuchWork: no work is left.
        """
        self.spend(1)
        found: object = super().visit(node, *args, **kwargs)
        if isinstance(found, Sized):
            self.spend(len(found) // _SIZE_OF_A_STEP)
        return found


@dataclass(frozen=True)
class Expression:
    """A JMESPath expression, or a constant text if it begins with `=`. Compiled once; equal texts are equal."""

    written: str

    def __post_init__(self) -> None:
        """Refuse what is no expression.

        Raises:
            ValueError: it is empty, too long, or not JMESPath.
        """
        if not self.written.strip():
            raise ValueError("an expression is empty")
        if len(self.written) > MAX_CHARACTERS:
            raise ValueError(f"an expression has {len(self.written):,} characters: it has at most {MAX_CHARACTERS}")
        if not self.is_constant:
            _compiled(self.written, any_spelling=False)

    @property
    def is_constant(self) -> bool:
        """Whether it is a text that does not depend on the body."""
        return self.written.startswith("=")

    @cached_property
    def first_field(self) -> str | None:
        """The field at the top of the body without which the expression finds nothing. None means that none is."""
        return None if self.is_constant else _first_field(_compiled(self.written, any_spelling=False).parsed)

    def find(self, body: JsonValue, lookup: Lookup) -> JsonValue:
        """The value in a body; None if there is none, or the expression cannot be used with this body.

        Raises:
            TooMuchWork: this and other expressions have used up the work of `lookup`.
        """
        if self.is_constant:
            return self.written[1:]
        try:
            parsed = _compiled(self.written, any_spelling=lookup.any_spelling).parsed
            # A function can return what JSON does not have, and a nested selection is deeper than the body.
            found = clean(lookup.visit(parsed, body))
        except (*_WRONG, BadInput):
            return None
        # `kind == 'x' && name` has no value if the comparison does not hold.
        return None if found is False and parsed["type"] in _CHOICES else found


def first_said(expressions: Iterable[Expression], body: JsonValue, lookup: Lookup) -> JsonValue:
    """The first value that says something. A variable that its sender could not fill in says nothing."""
    values = (expression.find(body, lookup) for expression in expressions)
    return next((value for value in values if is_something(value) and not _is_unfilled(value)), None)


def is_something(value: JsonValue) -> bool:
    """Whether a value has a character that can be seen, if only the name of a variable."""
    return bool(value) if isinstance(value, list | dict) else is_visible(text(value))


def _is_unfilled(value: JsonValue) -> bool:
    return not isinstance(value, list | dict) and says_nothing(text(value))


def squashed_names(value: JsonValue) -> JsonValue:
    """The value with the names of all fields squashed. Of two names with the same spelling the first counts."""
    if isinstance(value, list):
        return [squashed_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    names: dict[str, JsonValue] = {}
    for name, item in value.items():
        names.setdefault(squashed(name), squashed_names(item))
    return names


_NAMES_WITH_QUOTES = """ (a name with other characters than letters, digits and _ needs quotes: '"alarm-id"')"""


@lru_cache(maxsize=4096)
def _compiled(written: str, *, any_spelling: bool) -> ParsedResult:
    """The compiled expression.

    Raises:
        ValueError: it is not JMESPath, or calls a function that does not exist or with too few or too many arguments.
    """
    try:
        compiled = parser.Parser().parse(written)
        _check_calls(compiled.parsed)
        return ParsedResult(written, _squashed(compiled.parsed)) if any_spelling else compiled
    except _WRONG as error:
        said = one_line(str(error).partition("\n")[0], 200).removeprefix("Bad jmespath expression: ").rstrip(": ")
        hint = "" if isinstance(error, UnknownFunctionError | ArityError) else _NAMES_WITH_QUOTES
        raise ValueError(f"{shown(written)} is no JMESPath: {said}{hint}") from None


def _check_calls(node: Any) -> None:
    """Check the functions that an expression calls, which the library does only when it calls them.

    Raises:
        UnknownFunctionError: there is no function of this name.
        ArityError: it takes another number of arguments.
    """
    children = node.get("children", ())
    for child in children:
        if isinstance(child, dict):
            _check_calls(child)
    if node["type"] != "function_expression":
        return
    name, known = node["value"], functions.Functions.FUNCTION_TABLE
    if name not in known:
        raise UnknownFunctionError(f"there is no function {name}(): there are {', '.join(sorted(known))}")
    signature = known[name]["signature"]
    takes_more = bool(signature) and signature[-1].get("variadic", False)
    if len(children) < len(signature) or (len(children) > len(signature) and not takes_more):
        raise ArityError(len(signature), len(children), name)


def _squashed(node: Any) -> Any:
    """The syntax tree with the names of its fields squashed, but for those that it gives to its own objects."""
    if not isinstance(node, dict):
        return node
    known = cast("dict[str, Any]", node)
    changed = {**known, "children": [_squashed(child) for child in known.get("children", ())]}
    return {**changed, "value": squashed(known["value"])} if known.get("type") == "field" else changed


def _first_field(node: Any) -> str | None:
    while node["type"] in _FROM_THE_LEFT and node["children"]:
        node = node["children"][0]
    return str(node["value"]) if node["type"] == "field" else None
