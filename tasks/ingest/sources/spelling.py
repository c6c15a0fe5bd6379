"""The spelling of what senders write: names of fields in any spelling, values without content, texts for people."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from pydantic import JsonValue

_MACRO = (
    r"\{\{[^{}]*\}\}|\{[A-Z][A-Z0-9]*(?:\.[A-Z0-9_]+)+\}|\*UNKNOWN\*|<no value>|\[no value\]|<error expanding [^>]*>"
)
"""A part of a template that its sender could not fill in, in the syntax of Go, Handlebars, Jinja or Zabbix."""
_NO_VALUE = "(no value)"

UNRENDERED = re.compile(_MACRO)
_SAYS_NOTHING = re.compile(
    rf"(?:{_MACRO})|\$[A-Z][A-Z0-9_]*|\{{\$?[A-Z][A-Z0-9_]*\}}|null|None|<?nil>?|\(null\)|undefined|NaN|N/A|n/a"
)
"""A complete value that is the name of an unset variable, or a programming language's word for no value."""
_LONGEST_NOTHING = 200
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#[0-9]{1,6}|#x[0-9a-fA-F]{1,6});")


def says_nothing(written: str) -> bool:
    """Whether a value is the name of a variable that its sender could not fill in, or a word for no value."""
    return len(written) <= _LONGEST_NOTHING and _SAYS_NOTHING.fullmatch(written.strip()) is not None


def readable(written: str) -> str:
    """A text for people: HTML entities are decoded, and `(no value)` replaces what the sender could not fill in."""
    if "&" in written and _ENTITY.search(written):
        written = html.unescape(written)
    return UNRENDERED.sub(_NO_VALUE, written)


def in_words(value: JsonValue) -> JsonValue:
    """A list or an object as one text for people, such as `load: 0.75, hosts: web-1, web-2`; other values unchanged."""
    if isinstance(value, list):
        return ", ".join(filter(None, (_word(item) for item in value)))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {word}" for key, item in value.items() if (word := _word(item)))
    return value


def _word(value: JsonValue) -> str:
    said = in_words(value)
    if isinstance(said, bool):
        return "true" if said else "false"
    return "" if said is None else str(said).strip()


@lru_cache(maxsize=4096)
def squashed(name: str) -> str:
    """The name of a field without case and punctuation: `EventID`, `event_id` and `EVENT.ID` are the same."""
    return re.sub(r"[^a-z0-9]+", "", name[:_LONGEST_NOTHING].casefold())


def spellings(names: Iterable[str]) -> dict[str, str]:
    """The names by their squashed spelling, for `respelled`. Of two names with the same spelling the first counts."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(squashed(name), name)
    return found


def respelled(body: Mapping[str, JsonValue], known: Mapping[str, str]) -> dict[str, JsonValue]:
    """The object with its fields under the names in `known`. A field that has such a name already is left alone."""
    wanted = {name: known.get(squashed(name), name) for name in body}
    return {new if new == name or new not in body else name: body[name] for name, new in wanted.items()}
