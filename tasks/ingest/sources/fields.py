"""Helpers of all parsers: JSON values as bounded text, times, links, severities and identities."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import orjson
from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, Severity, web_address
from orchestration.errors import json_kind
from orchestration.places import host_of
from tasks.ingest.sources.source import JsonObject
from tasks.ingest.sources.spelling import in_words, readable, says_nothing

NAME_LIMIT = 512
LABEL_NAME_LIMIT = 256
LABEL_LIMIT = 2048
PROSE_LIMIT = 8192

SEVERITY = ("severity", "priority", "level")
RUNBOOK = ("runbook_url", "runbookURL", "runbook")
DASHBOARD = ("dashboard_url", "dashboardURL", "dashboard")
PAGE = ("url", "link", "source_url", "generatorURL")
"""Names that operators and several vendors give to the same field."""

_BREAKS = "\x00-\x1f\x7f-\x9f\u2028\u2029"
_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"  # they change the order in which a text is displayed
_UNPRINTABLE = re.compile(f"[{_BREAKS}{_DIRECTIONS}]")
_ONE_WORD = re.compile("[!-~]*")
_UNPRINTABLE_IN_PROSE = re.compile(f"(?![\n\t])[{_BREAKS}{_DIRECTIONS}]")
_SAYS_SOMETHING = re.compile(f"[^\\s{_BREAKS}{_DIRECTIONS}]")
_EPOCH = re.compile(r"[0-9]{9,20}(\.[0-9]+)?")

_JOINED_BEFORE = re.compile(r"[\w.-]")
_JOINED_AFTER = re.compile(r"[\w-]|\.\w")
"""What makes a host a part of a longer name: `web-1` in `web-12`, `web-1.example.com`, `my.web-1`."""

_DOTTED_DAY = re.compile(r"^(\d{4})[./](\d\d)[./](\d\d)(?=\D|$)")
_LOCAL_DAY = re.compile(r"^(\d\d)\.(\d\d)\.(\d{4})(?=\D|$)")
_ZONE_NAME = re.compile(r"\s+([+-]\d\d:?\d\d)(?:\s+[A-Z]{1,5})?$|\s*(?:UTC|GMT)$")

_SEVERITIES: dict[Severity, str] = {
    Severity.CRITICAL: "critical crit fatal emergency emerg disaster page severe high error err major urgent "
    "blocker danger p0 p1 p2 sev0 sev1 sev2 sev-0 sev-1 sev-2",
    Severity.WARNING: "warning warn medium moderate average minor p3 sev3 sev-3",
    Severity.INFO: "info information informational low notice none debug ok p4 p5 sev4 sev5 sev-4 sev-5",
}
_SEVERITY_OF = {word: severity for severity, words in _SEVERITIES.items() for word in words.split()}
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def text(value: JsonValue) -> str:
    """Any value as text: "" for null and empty containers, compact JSON for objects and lists."""
    if isinstance(value, str):
        return value
    if value is None or value == [] or value == {}:
        return ""
    return _compact(value)


def one_line_text(value: JsonValue, limit: int | None = NAME_LIMIT) -> str:
    """Text on one line, without control characters, at most `limit` characters; None means no limit."""
    written = value if isinstance(value, str) else text(value)
    if not _ONE_WORD.fullmatch(written):  # most names and labels are one
        written = " ".join(_UNPRINTABLE.sub(" ", written).split())
    return _cut(written, limit)


def long_text(value: JsonValue, limit: int = PROSE_LIMIT) -> str:
    """Text with its line breaks and tabs, without other control characters, at most `limit` characters."""
    return _cut(_UNPRINTABLE_IN_PROSE.sub("", text(value).replace("\r\n", "\n")).strip(), limit)


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def labels_of(value: JsonValue, name: str = "labels") -> dict[str, str]:
    """An object as labels. Any other value, such as a list of tags, becomes one label called `name`."""
    return _texts(value, name, lines=True)


def annotations_of(value: JsonValue, name: str = "annotations") -> dict[str, str]:
    """An object as annotations, which may have line breaks. Any other value becomes one annotation called `name`."""
    return _texts(value, name, lines=False)


def _texts(value: JsonValue, name: str, *, lines: bool) -> dict[str, str]:
    if value is None or value == {}:
        return {}
    fields = value if isinstance(value, dict) else {name: value}
    texts: dict[str, str] = {}
    for key, item in fields.items():
        said = one_line_text(in_words(item), LABEL_LIMIT) if lines else long_text(item)
        # As in Prometheus, an empty label is the same as no label.
        if said and (named := one_line_text(key, LABEL_NAME_LIMIT)):
            texts[named] = said
    return texts


def tags_of(value: JsonValue, name: str = "tags") -> dict[str, str]:
    """Tags as labels, from a list or a text with commas: `host:web-1` becomes the label `host`.

    Tags without a colon are joined in one label called `name`. The values of a repeated key are joined too. Zabbix
    also sends a text that is a JSON list of `{"tag": …, "value": …}`.
    """
    value = _listed(value)
    if isinstance(value, dict):
        return labels_of(value, name)
    tags = value if isinstance(value, list) else text(value).split(",")
    joined: dict[str, list[str]] = {}
    for tag in filter(None, map(_tag, tags)):
        key, colon, item = tag.partition(":")
        named = colon and key.strip() and item.strip()
        joined.setdefault(key.strip() if named else name, []).append(item.strip() if named else tag)
    return labels_of({key: ", ".join(dict.fromkeys(values)) for key, values in joined.items()})


def _listed(value: JsonValue) -> JsonValue:
    if isinstance(value, str) and value.lstrip().startswith(("[{", "[]")):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _tag(value: JsonValue) -> str:
    if isinstance(value, dict) and "tag" in value:
        return one_line_text(f"{text(value['tag'])}:{text(value.get('value'))}".rstrip(":"))
    return "" if says_nothing(text(value)) else one_line_text(in_words(value))


def _said(value: JsonValue) -> str:
    """The value on one line; "" if its sender could not fill it in."""
    return "" if says_nothing(text(value)) else one_line_text(value)


def object_in(value: JsonValue) -> JsonObject:
    """The value if it is an object, else an empty object."""
    return value if isinstance(value, dict) else {}


def first_of(value: JsonValue) -> JsonValue:
    """The first item of a list, or the value itself: vendors' templates send lists even for a single value."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


def joined(value: JsonValue) -> str:
    """The items of a list on one line, with commas between them; any other value on one line."""
    items = value if isinstance(value, list) else [value]
    return ", ".join(filter(None, map(_said, items)))


def is_visible(written: str) -> bool:
    """Whether a text has a character that can be seen."""
    return _SAYS_SOMETHING.search(written) is not None


class Fields:
    """The fields of one or more objects. Each method reads the first value that says something: under any of the names
    in the first object, else in the second, and so on. A variable that its sender could not fill in says nothing."""

    def __init__(self, *objects: Mapping[str, JsonValue]) -> None:
        self._objects = [each for each in objects if each]

    def pick(self, *names: str) -> JsonValue:
        """The value; None if all are blank."""
        for each in self._objects:
            # An alert is looked up a hundred times, nearly always without success: this is the fast way to know it.
            if each.keys().isdisjoint(names):
                continue
            for name in names:
                if name in each and is_visible(written := text(each[name])) and not says_nothing(written):
                    return each[name]
        return None

    def present(self, names: Sequence[str]) -> Sequence[str]:
        """Those of the names that at least one of the objects has."""
        for each in self._objects:
            if not each.keys().isdisjoint(names):
                return [name for name in names if any(name in each for each in self._objects)]
        return ()

    def name(self, *names: str) -> str:
        """The value as the name of an alert, on one line. A variable without a value is better than no name."""
        written = (each[name] for each in self._objects for name in names if name in each)
        return self.line(*names) or one_line_text(next(filter(is_visible, map(text, written)), ""))

    def line(self, *names: str) -> str:
        """The value on one line, at most `NAME_LIMIT` characters."""
        return one_line_text(self.pick(*names))

    def identifier(self, *names: str) -> str:
        """The value on one line, of any length: two ids can have the same beginning."""
        return one_line_text(self.pick(*names), None)

    def moment(self, *names: str) -> datetime | None:
        """The value as a time in UTC."""
        return moment(self.pick(*names))

    def annotations(self, *names: str) -> dict[str, str]:
        """Each of the fields that is not blank, as an annotation."""
        return annotations_of({name: self.pick(name) for name in names})

    def links(self, names_of: Mapping[str, tuple[str, ...]]) -> JsonObject:
        """For each link in `names_of` the value under its names."""
        return {link: self.pick(*names) for link, names in names_of.items()}


def moment(value: JsonValue) -> datetime | None:
    """A time in UTC, from ISO 8601 (nanoseconds, as Go writes them, are accepted) or an epoch in s, ms, µs or ns.

    Also `2026.03.14 02:11:09`, `2026/03/14 …`, `14.03.2026 …`, `… UTC`, and the dates of e-mail and HTTP. A date
    such as 03/04/2026 is none: its order is not known.

    Returns None for a value that is no time, and for years outside of 1973 (an epoch: 2001) to 2200: Go's zero time,
    0, "never".
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and not _EPOCH.fullmatch(value.strip()):
        return _written_moment(value.strip())
    number = float(value)
    # The ranges of the four units do not overlap: only one unit gives a year from 2001 to 2200. A local time without
    # separators, such as 202611271300, is in none of them.
    if not number < 1e20:
        return None
    while number >= 1e11:
        number /= 1000
    return _plausible(datetime.fromtimestamp(number, UTC)) if number >= 1e9 else None


def _written_moment(written: str) -> datetime | None:
    iso = _LOCAL_DAY.sub(r"\3-\2-\1", _DOTTED_DAY.sub(r"\1-\2-\3", written))
    iso = _ZONE_NAME.sub(lambda zone: zone[1] or "+00:00", iso)
    with suppress(ValueError):
        return _plausible(datetime.fromisoformat(iso))
    with suppress(ValueError, TypeError, IndexError):
        return _plausible(parsedate_to_datetime(written[:64]))
    return None


def latest(*moments: datetime | None) -> datetime | None:
    """The latest of the moments; None if none is given."""
    return max((each for each in moments if each is not None), default=None)


def _plausible(when: datetime) -> datetime | None:
    if not 1973 <= when.year <= 2200:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def objects_in(value: JsonValue) -> tuple[list[tuple[int, JsonObject]], list[str]]:
    """The objects of a list of alerts, each with its index, and one error for each member that is no object."""
    members = list(enumerate(value)) if isinstance(value, list) else []
    objects = [(index, member) for index, member in members if isinstance(member, dict)]
    errors = [
        f"alerts[{index}] is {json_kind(member)}, not an object"
        for index, member in members
        if not isinstance(member, dict)
    ]
    return objects, errors


def on_place(name: str, place: str) -> str:
    """Such as `HighCPU on web-1`; the name alone if it has the place in it, or there is none."""
    return name if not place or _has_word(name.lower(), place.lower()) else f"{name} on {place}"


def _has_word(text: str, word: str) -> bool:
    """Whether a host stands in a text as a whole, and not within another name."""
    found = text.find(word)
    while found >= 0:
        after = found + len(word)
        if not (_JOINED_BEFORE.fullmatch(text, max(found - 1, 0), found) or _JOINED_AFTER.match(text, after)):
            return True
        found = text.find(word, found + 1)
    return False


def links_of(found: Mapping[str, JsonValue]) -> dict[str, str]:
    """The links that are http or https URLs, by name."""
    return {name: address for name, value in found.items() if (address := web_address(value))}


def fingerprint_of(name: str, labels: Mapping[str, str]) -> str:
    """The fingerprint of an alert whose sender gave none.

    The SHA-256, in hex, of `[name, [[label, value], …]]` with the labels sorted by name, as compact JSON in UTF-8
    (`json.dumps(…, ensure_ascii=False, separators=(",", ":"))`).
    """
    return hashlib.sha256(orjson.dumps([name, sorted(labels.items())])).hexdigest()


def known_severity(*values: JsonValue) -> Severity | None:
    """The severity of the first known word among `values`, in any case; None if no word is known."""
    for value in values:
        if value is not None and (known := _SEVERITY_OF.get(text(value).strip().casefold())) is not None:
            return known
    return None


def severity_of(*values: JsonValue) -> Severity:
    """The severity of the first known word among `values`; warning if no word is known, so that no alert is lost."""
    return known_severity(*values) or Severity.WARNING


def worst_of(*values: JsonValue) -> Severity:
    """The worst severity among `values`, for vendors that send it in two fields; warning if no word is known."""
    known = [severity for value in values if (severity := known_severity(value)) is not None]
    return Severity.worst(*known) if known else Severity.WARNING


def alert_of(
    source: str,
    body: JsonObject,
    *,
    name: str,
    severity: Severity,
    status: AlertStatus,
    labels: dict[str, str],
    annotations: dict[str, str],
    description: JsonValue,
    links: Mapping[str, JsonValue],
    host: str | None = None,
    fingerprint: str = "",
    group: str | None = "",
    title: str = "",
    started_at: datetime | None = None,
    ended_at: datetime | None = None,
    episode_at: datetime | None = None,
    occurred_at: datetime | None = None,
    state_reason: str = "",
) -> Alert:
    """The alert in a body. `ended_at` is used only if it is resolved.

    `episode_at` is the start of this firing, if every event about it names the same moment; `occurred_at` is the
    moment of the event itself.

    `host` is what the labels name, if it is known already. Without a fingerprint, name and labels identify the alert.
    `group` is the sender's key of the incident: "" means one incident for each name and host, None means one for each
    alert. The title is the name with its host, if the sender gives none.
    """
    host = host_of(labels) if host is None else host
    fingerprint = fingerprint or fingerprint_of(name, labels)
    group = fingerprint if group is None else group
    if started_at and ended_at and ended_at < started_at:
        # Of two clocks, or of one that was set back. It still is the end of what began then.
        ended_at, occurred_at = started_at, latest(started_at, occurred_at)
    return Alert(
        source=source,
        fingerprint=fingerprint,
        name=one_line_text(readable(name)),
        severity=severity,
        status=status,
        description=long_text(readable(text(in_words(description)))),
        labels=labels,
        annotations=annotations,
        incident_key=":".join(filter(None, (source, group) if group else (source, name, host))),
        title=one_line_text(readable(title or on_place(name, host))),
        links=links_of(links),
        started_at=started_at,
        ended_at=ended_at if status is AlertStatus.RESOLVED else None,
        episode_at=episode_at,
        occurred_at=occurred_at,
        state_reason=one_line_text(state_reason),
        raw_payload=body,
    )
