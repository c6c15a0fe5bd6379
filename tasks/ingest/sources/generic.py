"""The generic shape: a flat JSON object with a name is one alert; `alerts` may hold a list of such objects.

It is for scripts, and for senders that let the operator write the body.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import JsonValue

from orchestration.alert import HOST_LABELS, Alert
from tasks.ingest.sources.fields import (
    DASHBOARD,
    PAGE,
    RUNBOOK,
    SEVERITY,
    Fields,
    alert_of,
    annotations_of,
    known_severity,
    labels_of,
    objects_in,
    severity_of,
    status_of,
)
from tasks.ingest.sources.source import FALLBACK, NOT_MINE, JsonObject, Push, Source

_NAME = ("name", "alert_name", "alertname", "title")
_STATUS = ("status", "state")
_DESCRIPTION = ("description", "message", "summary")
_STARTED = ("started_at", "startsAt", "starts_at", "timestamp", "time")
_ENDED = ("ended_at", "endsAt", "ends_at", "resolved_at")
_FINGERPRINT = ("fingerprint", "dedup_key")
_GROUP = ("incident_key", "group_key", "groupKey")
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
_NO_IDENTITY = frozenset((*_DESCRIPTION, *(name for names in _LINKS.values() for name in names)))
_CHANGES = re.compile(
    "((event|message|request|trace|run|correlation)_)?(id|uuid|guid)"
    "|(.*_)?(value|values|current|threshold|count|duration|elapsed|percent|pct|usage|score|seconds|ms|bytes)"
    "|(.*_)?(at|date|time|timestamp|datetime)|[a-z]+(At|Time|Date)"
)
"""Fields that differ between two pushes of the same alert."""
_MEASURED = re.compile("(.*_)?(cpu|memory|mem|disk|load|temperature|temp|latency|rate|size|free|used|total|errors)")
"""Fields that differ if they hold a number: `disk: 91`, but not `disk: "/dev/sda"`."""


def _recognises(body: JsonObject) -> int:
    return FALLBACK if isinstance(body.get("alerts"), list) or _name_in(body) else NOT_MINE


def _name_in(*places: JsonObject) -> str:
    nested = [labels for place in places if isinstance(labels := place.get("labels"), dict)]
    return Fields(*places).line(*_NAME) or Fields(*nested).line("alertname")


def parse_as(body: JsonObject, source: str) -> Push:
    """Parse the generic shape as a push of `source`: a hand-written body may be sent under a vendor's name."""
    listed = body.get("alerts")
    if isinstance(listed, list) and (listed or not _name_in(body)):
        return _parse_list(body, source)
    name = _name_in(body)
    return Push(source=source, alerts=(_alert(body, {}, name, source),) if name else ())


def _parse_list(body: JsonObject, source: str) -> Push:
    items, errors = objects_in(body.get("alerts"))
    shared = {key: value for key, value in body.items() if key not in _ENVELOPE and key != "alerts"}
    alerts: list[Alert] = []
    for index, item in items:
        name = _name_in(item, shared)
        if name:
            alerts.append(_alert(item, shared, name, source))
        else:
            errors.append(f"alerts[{index}] has no name, alertname or title")
    return Push(source=source, alerts=tuple(alerts), errors=tuple(errors))


def _alert(item: JsonObject, shared: JsonObject, name: str, source: str) -> Alert:
    """One alert of the list. `shared` are the fields beside the list; they apply where the alert has none."""
    fields = Fields(item, shared)
    labels, annotations = _described(item, shared)
    described = Fields(item, shared, annotations)
    severity = known_severity(*(item.get(key) for key in SEVERITY), labels.get("severity"))
    title = Fields(item).line("title")
    return alert_of(
        source,
        item,
        # A fingerprint beside the list is not used: all alerts would be one.
        fingerprint=Fields(item).identifier(*_FINGERPRINT),
        name=name,
        severity=severity or severity_of(*(shared.get(key) for key in SEVERITY)),
        status=status_of(fields.pick(*_STATUS)),
        description=described.pick(*_DESCRIPTION),
        labels=labels,
        annotations=annotations,
        group=fields.identifier(*_GROUP),
        title=title if title != name else "",
        links=described.links(_LINKS),
        started_at=fields.moment(*_STARTED),
        ended_at=fields.moment(*_ENDED),
    )


def _described(item: JsonObject, shared: JsonObject) -> tuple[dict[str, str], dict[str, str]]:
    """The labels and annotations: the objects with these names, and all other fields at the top of the body.

    Labels are the identity of the alert. A field that differs each time (a measured value, an event id) becomes an
    annotation: as a label it would keep the end of the alert from matching its start.
    """
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    for place in (shared, item):
        rest = {key: value for key, value in place.items() if key not in _READ}
        identity = {key: value for key, value in rest.items() if _is_identity(key, value)}
        other = {key: value for key, value in rest.items() if key not in identity}
        labels |= labels_of(identity) | labels_of(place.get("tags"), "tags") | labels_of(place.get("labels"))
        annotations |= annotations_of(other) | annotations_of(place.get("annotations"))
    return labels, annotations


def _is_identity(key: str, value: JsonValue) -> bool:
    if key in _IDENTITY:
        return True
    if key in _NO_IDENTITY or isinstance(value, float | dict | list) or _CHANGES.fullmatch(key):
        return False
    return isinstance(value, str | bool) or not _MEASURED.fullmatch(key)


def _sample(mark: str) -> JsonObject:
    return {
        "name": "QueueStuck",
        "severity": "critical",
        "status": "firing",
        "description": "No job has left the queue mail for 10 minutes; 1,240 are waiting.",
        "host": f"worker-{mark}",
        "service": "mail",
        "value": 1240,
        "timestamp": (datetime.now(UTC) - timedelta(minutes=10)).isoformat(),
        "runbook_url": "https://runbooks.example.com/queue-stuck",
    }


SOURCE = Source(
    name="generic",
    title="Generic JSON",
    recognises=_recognises,
    parse=partial(parse_as, source="generic"),
    sample=_sample,
)
