"""The parts that parsers share: any JSON value as bounded text, a moment, a link, an identity."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from pydantic import JsonValue

from tasks.ingest.sources.source import JsonObject

NAME_LIMIT = 512
LABEL_NAME_LIMIT = 256
LABEL_LIMIT = 2048
PROSE_LIMIT = 8192
URL_LIMIT = 4096

_BREAKS = "\x00-\x1f\x7f-\x9f\u2028\u2029"
_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"  # they make a text read otherwise than it is written
_UNPRINTABLE = re.compile(f"[{_BREAKS}{_DIRECTIONS}]")
_UNPRINTABLE_IN_PROSE = re.compile(f"(?![\n\t])[{_BREAKS}{_DIRECTIONS}]")
_SAYS_SOMETHING = re.compile(f"[^\\s{_BREAKS}{_DIRECTIONS}]")
_UNSAFE_IN_URL = re.compile(f"[\\s<>\"'`|\\\\{_BREAKS}{_DIRECTIONS}]")
_EPOCH = re.compile(r"[0-9]{9,20}(\.[0-9]+)?")
_PLACES = ("instance", "host", "hostname", "node")


def text(value: JsonValue) -> str:
    """Any value as text: null and empty containers as nothing, objects and lists as compact JSON."""
    if isinstance(value, str):
        return value
    if value is None or value == [] or value == {}:
        return ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def line(value: JsonValue, limit: int | None = NAME_LIMIT) -> str:
    """Text on one line, without control characters, at most `limit` characters (None: as long as it is)."""
    return _cut(" ".join(_UNPRINTABLE.sub(" ", text(value)).split()), limit)


def prose(value: JsonValue, limit: int = PROSE_LIMIT) -> str:
    """Text that may have lines and tabs, without other control characters, at most `limit` characters."""
    return _cut(_UNPRINTABLE_IN_PROSE.sub("", text(value).replace("\r\n", "\n")).strip(), limit)


def _cut(whole: str, limit: int | None) -> str:
    return whole if limit is None or len(whole) <= limit else whole[: limit - 1] + "…"


def labels_of(value: JsonValue, name: str = "labels") -> dict[str, str]:
    """An object as labels. Anything else (a list of tags, say) is one label called `name`: it may tell hosts apart."""
    return _texts(value, name, lines=True)


def annotations_of(value: JsonValue, name: str = "annotations") -> dict[str, str]:
    """An object as annotations, which may have lines. Anything else is one annotation called `name`."""
    return _texts(value, name, lines=False)


def _texts(value: JsonValue, name: str, *, lines: bool) -> dict[str, str]:
    fields = value if isinstance(value, dict) else {name: value}
    pairs = (
        (line(key, LABEL_NAME_LIMIT), line(item, LABEL_LIMIT) if lines else prose(item)) for key, item in fields.items()
    )
    # An empty label is no label, as in Prometheus.
    return {key: item for key, item in pairs if key and item}


def tags_of(value: JsonValue, name: str = "tags") -> dict[str, str]:
    """A list of tags, or a text of them with commas between, as labels: `host:web-1` is the label `host`.

    What holds no colon is gathered in one label called `name`; so are the values of a key that comes twice.
    """
    if isinstance(value, dict):
        return labels_of(value, name)
    tags = value if isinstance(value, list) else text(value).split(",")
    gathered: dict[str, list[str]] = {}
    for tag in filter(None, map(line, tags)):
        key, colon, said = tag.partition(":")
        named = colon and key.strip() and said.strip()
        gathered.setdefault(key.strip() if named else name, []).append(said.strip() if named else tag)
    return labels_of({key: ", ".join(dict.fromkeys(values)) for key, values in gathered.items()})


def object_in(value: JsonValue) -> JsonObject:
    """The object that stands there; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def first_of(value: JsonValue) -> JsonValue:
    """The first of a list, or the value itself: templates give a list even where there is one."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


def pick(places: Sequence[Mapping[str, JsonValue]], names: Iterable[str]) -> JsonValue:
    """The first value that says something: under any of `names` in the first place, else in the next place, …"""
    names = tuple(names)
    found = (place[name] for place in places for name in names if name in place)
    return next((value for value in found if _SAYS_SOMETHING.search(text(value))), None)


def moment(value: JsonValue) -> datetime | None:
    """A point in time in UTC: ISO 8601 (also with nanoseconds, as Go writes it) or an epoch in s, ms, µs or ns.

    None for what is no time, and for times outside of 1973 to 2200: Go's zero time, 0, a far-away "never".
    """
    if isinstance(value, str):
        written = value.strip()
        return _from_epoch(float(written)) if _EPOCH.fullmatch(written) else _from_iso(written)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_epoch(float(value))
    return None


def _from_epoch(number: float) -> datetime | None:
    # Of the four units, only one puts a number into our age: the ranges do not meet.
    if not 1e8 <= number < 1e20:
        return None
    while number >= 1e11:
        number /= 1000
    return _plausible(datetime.fromtimestamp(number, UTC))


def _from_iso(written: str) -> datetime | None:
    try:
        return _plausible(datetime.fromisoformat(written))
    except ValueError:
        return None


def _plausible(when: datetime) -> datetime | None:
    if not 1973 <= when.year <= 2200:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def objects_in(value: JsonValue) -> tuple[list[tuple[int, JsonObject]], list[str]]:
    """The objects of a list of alerts, each with its index, and a sentence for each member that is none."""
    members = list(enumerate(value)) if isinstance(value, list) else []
    objects = [(index, member) for index, member in members if isinstance(member, dict)]
    errors = [
        f"alerts[{index}] is {kind(member)}, not an object" for index, member in members if not isinstance(member, dict)
    ]
    return objects, errors


def kind(value: object) -> str:
    """What JSON calls this, with its article, for a sentence."""
    if value is None:
        return "null"
    return _KINDS.get(type(value), f"a Python {type(value).__name__}")


_KINDS: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def links_of(found: Mapping[str, JsonValue]) -> dict[str, str]:
    """Those of the links that lead to a web page, by name."""
    addresses = {name: web_address(value) for name, value in found.items()}
    return {name: address for name, address in addresses.items() if address}


def web_address(value: JsonValue) -> str:
    """An http or https URL, with what could break out of a message's markup percent-encoded; else nothing."""
    if not isinstance(value, str) or len(value) > URL_LIMIT:
        return ""
    url = value.strip()
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    return _UNSAFE_IN_URL.sub(lambda unsafe: quote(unsafe[0], safe=""), url)


def fingerprint_of(name: str, labels: Mapping[str, str]) -> str:
    """The fingerprint of an alert that came without one.

    The recipe: `[name, [[label, value], …]]` with the labels sorted by name, as compact JSON
    (`json.dumps(…, ensure_ascii=False, separators=(",", ":"))`) in UTF-8, SHA-256 of it, in hex.
    """
    recipe = json.dumps([name, sorted(labels.items())], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(recipe.encode()).hexdigest()


def place_of(labels: Mapping[str, str]) -> str:
    """Where it happens: the instance or host that the labels name, or nothing."""
    return next((labels[name] for name in _PLACES if name in labels), "")


def incident_key(source: str, name: str, labels: Mapping[str, str]) -> str:
    """The key for a source that groups nothing itself: one incident a name and place."""
    return ":".join(part for part in (source, name, place_of(labels)) if part)


def incident_title(name: str, labels: Mapping[str, str]) -> str:
    """What a human calls it: the name, and where."""
    place = place_of(labels)
    return line(f"{name} on {place}" if place else name)
