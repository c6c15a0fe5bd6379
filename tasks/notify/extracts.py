"""What transforms made, as lines of a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from orchestration.message import Fact
from orchestration.redaction import one_line, redact

_MOST = 10
_ITEMS = 10
_CHARACTERS = 500


def facts_of(extracts: Mapping[str, JsonValue]) -> Iterator[Fact]:
    """One line an extract, under its node's id; what is null or empty says nothing."""
    for node_id, value in list(extracts.items())[:_MOST]:
        text = one_line(_in_words(redact(value)), _CHARACTERS)
        if text:
            yield Fact(label=one_line(node_id, 80), value=text)


def _in_words(value: JsonValue) -> str:
    if isinstance(value, list):
        more = [f"and {len(value) - _ITEMS} more"] if len(value) > _ITEMS else []
        return "; ".join([*(_in_words(item) for item in value[:_ITEMS]), *more])
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_in_words(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    return "" if value is None else str(value)
