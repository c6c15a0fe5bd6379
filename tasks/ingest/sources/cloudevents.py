"""CloudEvents: an envelope around what happened, which any system can write.

If a source knows the data in it, that source reads it, and the envelope adds the moment and the link that the data
lacks. Otherwise the envelope's own type, subject and source are the alert. Source: CloudEvents 1.0.2, its JSON format.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from pydantic import JsonValue

from orchestration.alert import Alert
from orchestration.errors import BadInput
from tasks.ingest.sources import generic
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.envelope import Envelope, changed
from tasks.ingest.sources.fields import NAME_LIMIT, SEVERITY, moment, one_line_text, text
from tasks.ingest.sources.source import ENVELOPE, NOT_MINE, JsonObject, Push, Source

_VERSIONS = re.compile(r"1\.\d+|0\.3")
_MAX_LEVELS = 4
"""How many envelopes may be around one another: brokers that forward to each other add one each."""

_MAX_VALUES = 100_000
"""How many values data may have that is written as a text. The values of the body itself were counted before."""

_TYPE_VERSION = re.compile(r"(?:[._/-]v?\d+(?:[a-z]+\d+)?)+$")
"""As in `dev.tekton.event.pipelinerun.failed.v1`."""
_LAST_WORD = re.compile(r"^(.*?)[._/:-]+([A-Za-z]+)$")
_END_WORDS = (
    "resolved recovered recovery restored closed cleared fixed up ok online healthy normal passed succeeded successful "
    "success resolve recover close clear"
)
_BEGIN_WORDS = (
    "firing fired triggered trigger problem opened reopened alerting raised detected reported activated began started "
    "created failed failing failure degraded down offline unhealthy open raise"
)
"""The last word of a type. Both kinds are left out of the alert's name, so that the end ends what began."""
_ENDS, _BEGINS = frozenset(_END_WORDS.split()), frozenset(_BEGIN_WORDS.split())


@dataclass(frozen=True, kw_only=True)
class Event(Envelope):
    """An event that was taken out of its envelopes; texts that they lack are ""."""

    type: str
    source: str
    subject: str
    severity: JsonValue
    """An extension that some senders add."""
    problem: str = ""
    """Why the envelope cannot be read by itself."""


def is_envelope(body: JsonObject) -> bool:
    """Whether a body says that it is a CloudEvent, of whatever version, whole or broken."""
    version = body.get("specversion")
    return isinstance(version, str | int | float) and not body.keys().isdisjoint(("type", "data", "data_base64"))


def opened(body: JsonObject) -> Event | None:
    """The event in a body, of the innermost envelope; None if the body is no envelope. It never raises."""
    if not is_envelope(body):
        return None
    levels, data, problem = _levels_of(body)
    kind = _first(levels[-1:], "type")[:NAME_LIMIT]
    inner_first = levels[::-1]
    return Event(
        type=kind,
        source=_first(inner_first, "source"),
        subject=_first(inner_first, "subject"),
        page=_first(inner_first, "source"),
        time=next(filter(None, (moment(each.get("time")) for each in inner_first)), None),
        severity=next((each[name] for each in inner_first for name in SEVERITY if name in each), None),
        data=data,
        problem=problem or _problem_of(levels[-1], kind, data),
    )


def _levels_of(body: JsonObject) -> tuple[list[JsonObject], JsonValue, str]:
    """An envelope with those that are in it, the innermost last; its data, and why that cannot be read."""
    levels = [body]
    while True:
        data, problem = _data_in(levels[-1])
        if not (isinstance(data, dict) and is_envelope(data)):
            return levels, data, problem
        if len(levels) == _MAX_LEVELS:
            return levels, data, f"more than {_MAX_LEVELS} CloudEvents are in one another"
        levels.append(data)


def _problem_of(envelope: JsonObject, kind: str, data: JsonValue) -> str:
    """Why an envelope of this type cannot be read by itself; "" if it can."""
    version = text(envelope["specversion"])
    if not _VERSIONS.fullmatch(version):
        return f"the CloudEvent's specversion {one_line_text(version, 40)!r} is not known: 1.0 and 0.3 are"
    has_name = any(map(str.isalnum, kind)) or (isinstance(data, dict) and generic.names_an_alert(data))
    return "" if has_name else "the CloudEvent has no type"


def _first(levels: list[JsonObject], name: str) -> str:
    """The attribute of the first level that has it, which is a text."""
    values = (each.get(name) for each in levels)
    return next(filter(None, (one_line_text(value, None) for value in values if isinstance(value, str))), "")


def _data_in(envelope: JsonObject) -> tuple[JsonValue, str]:
    """The data, and why it cannot be read. Data that is JSON in a text is that JSON."""
    data = envelope.get("data")
    encoded = envelope.get("data_base64")
    if data is None and encoded is None:
        return None, ""
    name = "data" if data is not None else "data_base64"
    if data is None or (isinstance(data, str) and envelope.get("datacontentencoding") == "base64"):
        raw = _decoded(data if encoded is None else encoded)
        if raw is None:
            return None, f"the CloudEvent's {name} is not base64"
        try:
            data = raw.decode()
        except UnicodeDecodeError:
            return f"{len(raw):,} bytes of {one_line_text(envelope.get('datacontenttype') or 'no named type', 80)}", ""
    if isinstance(data, str) and data.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        if data.count(",") + data.count("[") + data.count("{") > _MAX_VALUES:
            return None, f"the CloudEvent's {name} has more than {_MAX_VALUES:,} values"
        with suppress(ValueError, RecursionError, BadInput):
            return clean(json.loads(data.lstrip("\ufeff"), strict=False)), ""
    return clean(data), ""


def _decoded(encoded: JsonValue) -> bytes | None:
    """The bytes of a base64 text, in either alphabet, with or without padding; None if it is no such text."""
    if not isinstance(encoded, str):
        return None
    written = "".join(encoded.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(written + "=" * (-len(written) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def parse_as(body: JsonObject, source: str) -> Push:
    """The alert of an envelope whose data no source knows, as an alert of `source`."""
    event = opened(body)
    if event is None:
        return Push(source=source)
    if event.problem:
        return Push(source=source, errors=(event.problem,))
    name, happened = _name_of(event.type)
    said = _as_generic(event, name, ended=happened in _ENDS)
    push = generic.parse_as(said, source)
    alerts = (_with_place(alert, event) if alert.name == name else alert for alert in push.alerts)
    return event.added_to(
        replace(push, alerts=tuple(alert.model_copy(update={"raw_payload": body}) for alert in alerts))
    )


def _name_of(kind: str) -> tuple[str, str]:
    """The type without its version and without the word for what happened, and that word."""
    stem = _TYPE_VERSION.sub("", kind) or kind
    found = _LAST_WORD.match(stem)
    if found is None or not any(map(str.isalnum, found[1])) or found[2].lower() not in _ENDS | _BEGINS:
        return stem, ""
    return found[1], found[2].lower()


def _as_generic(event: Event, name: str, *, ended: bool) -> JsonObject:
    """The data in the generic shape, with the envelope's words where it has none."""
    own: JsonObject = event.data if isinstance(event.data, dict) else {}
    said: JsonObject = dict(own) if own else {"description": text(event.data)}
    if not generic.names_an_alert(said):
        said = {"name": name, **{key: value for key, value in said.items() if key != "name"}}
    if ended and not generic.says_status(said):
        said["status"] = "resolved"
    if event.severity is not None and not any(key in said for key in SEVERITY):
        said["severity"] = event.severity
    labels = said.get("labels", {})
    if isinstance(labels, dict):
        places = {"source": event.source, "subject": event.subject}
        said["labels"] = {**{label: place for label, place in places.items() if place}, **labels}
    return said


def _with_place(alert: Alert, event: Event) -> Alert:
    """The alert with a title and an incident that say where it happens, if its data names no host."""
    place = event.subject or event.source
    if alert.host or not place:
        return alert
    found: dict[str, object] = {}
    if alert.title in ("", alert.name):
        found["title"] = one_line_text(f"{alert.name}: {place}")
    if alert.incident_key == f"{alert.source}:{alert.name}":
        found["incident_key"] = f"{alert.incident_key}:{event.source}:{event.subject}"
    return changed(alert, found)


def _recognises(body: JsonObject) -> int:
    return ENVELOPE if is_envelope(body) else NOT_MINE


def _sample(mark: str) -> JsonObject:
    return {
        "specversion": "1.0",
        "id": f"event-{mark}",
        "source": "https://pumps.example.com/sites/north",
        "type": "com.example.pump.stopped.detected",
        "subject": f"pump-{mark}",
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": {"severity": "critical", "message": "The pump stands still, and its tank is 91 % full."},
    }


SOURCE = Source(
    name="cloudevents",
    title="CloudEvents",
    recognises=_recognises,
    parse=partial(parse_as, source="cloudevents"),
    sample=_sample,
    parse_as=parse_as,
)
