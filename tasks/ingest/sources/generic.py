"""The generic shape: a flat JSON object with a name is one alert; `alerts` may hold a list of such objects.

It is for scripts, and for senders that let the operator write the body.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus
from orchestration.places import HOST_LABELS
from tasks.ingest.sources.fields import (
    DASHBOARD,
    PAGE,
    RUNBOOK,
    SEVERITY,
    Fields,
    alert_of,
    annotations_of,
    fingerprint_of,
    known_severity,
    labels_of,
    objects_in,
    one_line_text,
    severity_of,
)
from tasks.ingest.sources.source import FALLBACK, NOT_MINE, JsonObject, Push, Source
from tasks.ingest.sources.spelling import respelled, spellings, squashed
from tasks.ingest.sources.status import (
    STATE_FIELDS,
    is_known_status,
    is_state,
    status_in,
    status_of,
    unknown_severity,
    unknown_status,
)

_NAME = (
    "name",
    "alert_name",
    "alertname",
    "title",
    "Name",
    "check_name",
    "monitor_name",
    "monitorName",
    "monitorFriendlyName",
)
_STATUS = (
    # Of a job: its status is `completed` also when it has failed.
    "conclusion",
    *("status", "state", "Status", "State", "current_state", "currentState", "new_state", "alert_state"),
    *("monitor_status", "monitorStatus", "monitorCondition", "alertTypeFriendlyName", "alert_status"),
    *("service_state", "host_state", "servicestate", "hoststate", "health"),
)
_TEXTS = ("subject", "summary", "message", "msg", "text")
_LAST_NAMES = ("alert", "check", "problem", "rule", *_TEXTS)
"""What names an alert that has no name: a text that differs each time is better than a page that is lost."""
_STATE_WORDS = ("status", "state", "transition")
"""How the names of fields end, squashed, that say whether an alert fires."""
_WAS = ("previous", "prev", "old", "last", "from")
_DESCRIPTION = ("description", "message", "summary", "msg")
_STARTED = ("started_at", "startsAt", "starts_at", "timestamp", "time")
_EPISODE = ("started_at", "startsAt", "starts_at")
_OCCURRED = (
    *("occurred_at", "occurredAt", "timestamp", "time", "date", "datetime", "updated_at", "updatedAt", "event_time"),
    *("eventTime", "sent_at", "state_changed_timestamp", "alertDateTime"),
)
"""A script sends the present moment under these names each time: it is the moment of the event, not of its start."""
_ENDED = ("ended_at", "endsAt", "ends_at", "resolved_at")
_FINGERPRINT = ("fingerprint", "dedup_key")
_GROUP = ("incident_key", "group_key", "groupKey")
_CHECK_ID = ("check_id", "checkId", "check_uuid", "monitor_id", "monitorId", "monitorID", "sensor_id")
"""Ids of what is checked. The name beside them may have a live value in it."""
_REASON = ("state_reason", "stateReason", "status_reason", "reason", "resolve_reason", "close_reason")
_LINKS = {
    "runbook": RUNBOOK,
    "dashboard": DASHBOARD,
    "panel": ("panel_url", "panelURL"),
    "silence": ("silence_url", "silenceURL"),
    "source": PAGE,
}
_MAPS = ("labels", "tags", "annotations", "alerts")
_ENVELOPE = (
    "version",
    "receiver",
    "externalURL",
    "truncatedAlerts",
    "groupLabels",
    "commonLabels",
    "commonAnnotations",
)
_READ = frozenset((*_NAME, *SEVERITY, *_STATUS, *_STARTED, *_ENDED, *_FINGERPRINT, *_GROUP, *_MAPS))

_IDENTITY = frozenset((*HOST_LABELS, "service", "url"))
"""Fields that are always labels, even if they are objects: they identify the alert."""
_NO_IDENTITY = frozenset(
    (
        *_DESCRIPTION,
        *(name for names in _LINKS.values() for name in names),
        *_REASON,
        *("previous_state", "previousState", "previous_status", "old_state", "alertType", "alertDetails"),
        *("details", "detail", "output", "error", "text", "body", "comment", "note", "notes", "long_description"),
    )
)
"""Fields that say something about the alert and may differ between its start and its end."""
_CHANGES = re.compile(
    "((event|message|request|trace|run|correlation)_)?(id|uuid|guid)"
    "|(.*_)?(value|values|current|threshold|count|duration|elapsed|percent|pct|usage|score|seconds|ms|bytes)"
    "|(http_|response_)?(status_?code|http_code)|StatusCode|response_code"
    "|(.*_)?(at|date|time|timestamp|datetime)|[a-zA-Z]+(At|Time|Date|Duration|Timestamp)"
)
"""Fields that differ between two pushes of the same alert."""
_MEASURED = re.compile("(.*_)?(cpu|memory|mem|disk|load|temperature|temp|latency|rate|size|free|used|total|errors)")
"""Fields that differ if they hold a number: `disk: 91`, but not `disk: "/dev/sda"`."""

_SPELLINGS = spellings(
    (
        *(*_NAME, *_LAST_NAMES, *SEVERITY, *_STATUS, *_DESCRIPTION, *_STARTED, *_OCCURRED, *_ENDED, *_FINGERPRINT),
        *(*_GROUP, *_CHECK_ID, *_MAPS, *_REASON, *HOST_LABELS, "service", "url", *STATE_FIELDS),
    )
)
"""The names of fields in the spelling of this file: senders write `AlertName`, `alert-name` or `ALERT_NAME`."""


def _recognises(body: JsonObject) -> int:
    flat = respelled(body, _SPELLINGS)
    return (
        FALLBACK if isinstance(body.get("alerts"), list) or _name_in(flat) or _text_in(flat, _LAST_NAMES) else NOT_MINE
    )


def names_an_alert(body: JsonObject) -> bool:
    """Whether a body names what is wrong, in a field that is for nothing else, or has a list of alerts."""
    listed = body.get("alerts")
    return bool(_name_in(respelled(body, _SPELLINGS))) or (isinstance(listed, list) and bool(listed))


def says_status(body: JsonObject) -> bool:
    """Whether a body has a word for the status of its alert."""
    return Fields(respelled(body, _SPELLINGS)).pick(*_STATUS) is not None


def _name_in(*places: JsonObject) -> str:
    nested = [labels for place in places if isinstance(labels := place.get("labels"), dict)]
    return Fields(*places).name(*_NAME) or Fields(*nested).name("alertname")


def _text_in(flat: JsonObject, names: tuple[str, ...]) -> str:
    return Fields({name: flat[name] for name in names if isinstance(flat.get(name), str)}).line(*names)


def _unclear(flat: JsonObject) -> str:
    """Why a body without a name is not understood; "" if it is.

    A text alone is a page. With a state in words that nobody knows it may as well be the end of one, which would be
    a second page, as the text names it.
    """
    if _text_in(flat, _LAST_NAMES) != _text_in(flat, _TEXTS):
        return ""
    states = {name: value for name, value in flat.items() if _says_state(name, value)}
    if any(name in _STATUS and is_known_status(value) for name, value in states.items()):
        return ""
    for name, value in states.items():
        said = f"{name} says {one_line_text(value, 60)!r}"
        if not is_known_status(value):
            return f"{said}, a word that is not known, and no field names the alert"
        if status_of(value) is AlertStatus.RESOLVED:
            return f"{said}, which may be the end of an alert, and no field names the alert"
    return ""


def _says_state(name: str, value: JsonValue) -> bool:
    spelled = squashed(name)
    return isinstance(value, str) and spelled.endswith(_STATE_WORDS) and not spelled.startswith(_WAS)


def unknown_words(body: JsonObject) -> Iterator[str]:
    """The words for a status or a severity in a body that no source knows, in sentences."""
    listed = body.get("alerts")
    items = [item for _, item in objects_in(listed)[0]] if isinstance(listed, list) and listed else [body]
    shared = respelled(body, _SPELLINGS) if items != [body] else {}
    for item in items:
        flat = respelled(item, _SPELLINGS)
        status = Fields(flat, shared).pick(*_STATUS)
        yield from unknown_status(status)
        labels = flat.get("labels")
        severities = [place.get(name) for place in (flat, shared) for name in SEVERITY]
        yield from unknown_severity([*severities, labels.get("severity") if isinstance(labels, dict) else None])


def parse_as(body: JsonObject, source: str) -> Push:
    """Parse the generic shape as a push of `source`: a hand-written body may be sent under a vendor's name."""
    listed = body.get("alerts")
    if isinstance(listed, list) and (listed or not _name_in(body)):
        return _parse_list(body, source)
    flat = respelled(body, _SPELLINGS)
    name = _name_in(flat) or _text_in(flat, _LAST_NAMES)
    if not name:
        return Push(source=source)
    if not _name_in(flat) and (why := _unclear(flat)):
        return Push(source=source, errors=(why,))
    return Push(source=source, alerts=(_alert(flat, {}, name, source, body),))


def _parse_list(body: JsonObject, source: str) -> Push:
    items, errors = objects_in(body.get("alerts"))
    around = {key: value for key, value in body.items() if key not in _ENVELOPE and key != "alerts"}
    shared = respelled(around, _SPELLINGS)
    alerts: list[Alert] = []
    for index, each in items:
        item = respelled(each, _SPELLINGS)
        name = _name_in(item, shared)
        if name:
            alerts.append(_alert(item, shared, name, source, each))
        else:
            errors.append(f"alerts[{index}] has no name, alertname or title")
    return Push(source=source, alerts=tuple(alerts), errors=tuple(errors))


def _alert(item: JsonObject, shared: JsonObject, name: str, source: str, sent: JsonObject) -> Alert:
    """One alert of the list, which its sender wrote as `sent`. The fields beside the list, `shared`, apply where the
    alert has none."""
    fields = Fields(item, shared)
    labels, annotations = _described(item, shared)
    described = Fields(item, shared, annotations)
    severity = known_severity(*(item.get(key) for key in SEVERITY), labels.get("severity"))
    title = Fields(item).line("title")
    status = status_in(Fields(item), fields, _STATUS, ("severity", "level"))
    ended_at = fields.moment(*_ENDED)
    fingerprint = _own_id(item, labels)
    return alert_of(
        source,
        sent,
        fingerprint=fingerprint,
        name=name,
        severity=severity or severity_of(*(shared.get(key) for key in SEVERITY)),
        status=status,
        description=described.pick(*_DESCRIPTION),
        labels=labels,
        annotations=annotations,
        # A text alone identifies no alert, so that the labels do: `timeout` may be that of another sensor.
        group=fields.identifier(*_GROUP) or fingerprint or ("" if _name_in(item, shared) else _key_of(name, labels)),
        title=title if title != name else "",
        links=described.links(_LINKS),
        started_at=fields.moment(*_STARTED),
        ended_at=ended_at,
        episode_at=fields.moment(*_EPISODE),
        occurred_at=fields.moment(*_OCCURRED) or (ended_at if status is AlertStatus.RESOLVED else None),
        state_reason=fields.line(*_REASON),
    )


def _key_of(name: str, labels: dict[str, str]) -> str:
    return fingerprint_of(name, labels) if labels.keys() - set(HOST_LABELS) else ""


def _own_id(item: JsonObject, labels: dict[str, str]) -> str:
    """The stable id that the sender gives; "" if there is none. An id beside the list would make all alerts one."""
    sent = Fields(item)
    if own_id := sent.identifier(*_FINGERPRINT):
        return own_id
    check = sent.identifier(*_CHECK_ID)
    places = (labels.get(name, "") for name in (*HOST_LABELS, "service"))
    return ":".join(filter(None, (f"check-{check}", *places))) if check else ""


def _described(item: JsonObject, shared: JsonObject) -> tuple[dict[str, str], dict[str, str]]:
    """The labels and annotations: the objects with these names, and all other fields at the top of the body.

    Labels are the identity of the alert. A field that differs each time (a measured value, an event id) becomes an
    annotation: as a label it would keep the end of the alert from matching its start.
    """
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    for place in filter(None, (shared, item)):
        rest = {key: value for key, value in place.items() if key not in _READ}
        identity = {key: value for key, value in rest.items() if _is_identity(key, value)}
        other = {key: value for key, value in rest.items() if key not in identity}
        labels |= labels_of(identity) | labels_of(place.get("tags"), "tags") | labels_of(place.get("labels"))
        annotations |= annotations_of(other) | annotations_of(place.get("annotations"))
    return labels, annotations


def _is_identity(key: str, value: JsonValue) -> bool:
    if key in _IDENTITY:
        return True
    if (
        key in _NO_IDENTITY
        or is_state(key, value)
        or _says_state(key, value)
        or isinstance(value, float | dict | list)
        or _CHANGES.fullmatch(key)
    ):
        return False
    return isinstance(value, str | bool) or not _MEASURED.fullmatch(key)


def _sample(mark: str) -> JsonObject:
    return {
        "name": "QueueStuck",
        "severity": "critical",
        "status": "firing",
        "description": "No job has left the queue mail for 10 minutes; 1,240 are waiting.",
        "host": socket.gethostname(),
        "service": f"mail-{mark}",
        "incident_key": f"queue-mail-{mark}",
        "value": 1240,
        "timestamp": (datetime.now(UTC) - timedelta(minutes=10)).isoformat(),
        "runbook_url": "https://runbooks.example.com/queue-stuck",
    }


SOURCE = Source(
    name="generic",
    title="Generic JSON",
    recognises=_recognises,
    parse=partial(parse_as, source="generic"),
    unknown_words=unknown_words,
    sample=_sample,
)
