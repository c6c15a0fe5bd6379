"""The expressions of a mapping: where a sender writes something, in JMESPath.

Source: the JMESPath specification, https://jmespath.org/specification.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from jmespath import parser
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult
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

    def find(self, body: JsonValue, *, any_spelling: bool = False) -> JsonValue:
        """The value in a body; None if there is none, or the expression cannot be used with this body.

        Args:
            body: where to look.
            any_spelling: the names of `body` are squashed, and those of the expression are read so too.
        """
        if self.is_constant:
            return self.written[1:]
        try:
            compiled = _compiled(self.written, any_spelling=any_spelling)
            # A function can return what JSON does not have, and a nested selection is deeper than the body.
            found = clean(compiled.search(body))
        except (*_WRONG, BadInput):
            return None
        # `kind == 'x' && name` has no value if the comparison does not hold.
        return None if found is False and compiled.parsed["type"] in _CHOICES else found


def first_said(expressions: Iterable[Expression], body: JsonValue, *, any_spelling: bool = False) -> JsonValue:
    """The first value that says something. A variable that its sender could not fill in says nothing."""
    values = (expression.find(body, any_spelling=any_spelling) for expression in expressions)
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
        ValueError: it is not JMESPath.
    """
    try:
        compiled = parser.Parser().parse(written)
        return ParsedResult(written, _squashed(compiled.parsed)) if any_spelling else compiled
    except _WRONG as error:
        said = one_line(str(error).partition("\n")[0], 200).removeprefix("Bad jmespath expression: ").rstrip(": ")
        raise ValueError(f"{shown(written)} is no JMESPath: {said}{_NAMES_WITH_QUOTES}") from None


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
