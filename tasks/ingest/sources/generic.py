"""Anything with a name: a flat JSON object that is one alert, or a list of such under `alerts`.

This shape is our own, for scripts and for senders that let the operator write the body.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus
from tasks.ingest.sources.fields import (
    annotations_of,
    fingerprint_of,
    incident_key,
    incident_title,
    labels_of,
    line,
    links_of,
    moment,
    objects_in,
    pick,
    prose,
)
from tasks.ingest.sources.source import FALLBACK, NOT_MINE, JsonObject, Push, Source
from tasks.ingest.sources.words import known_severity, severity_of, status_of

_NAME = ("name", "alert_name", "alertname", "title")
_SEVERITY = ("severity", "priority", "level")
_STATUS = ("status", "state")
_DESCRIPTION = ("description", "message", "summary")
_STARTED = ("started_at", "startsAt", "starts_at", "timestamp", "time")
_ENDED = ("ended_at", "endsAt", "ends_at", "resolved_at")
_FINGERPRINT = ("fingerprint", "dedup_key")
_GROUP = ("incident_key", "group_key", "groupKey")
_LINKS = {
    "runbook": ("runbook_url", "runbookURL", "runbook"),
    "dashboard": ("dashboard_url", "dashboardURL", "dashboard"),
    "panel": ("panel_url", "panelURL"),
    "silence": ("silence_url", "silenceURL"),
    "source": ("url", "link", "source_url", "generatorURL"),
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
_READ = frozenset((*_NAME, *_SEVERITY, *_STATUS, *_STARTED, *_ENDED, *_FINGERPRINT, *_GROUP, *_MAPS))

_PLACES = frozenset(("instance", "host", "hostname", "node", "service", "url"))
"""Always labels, also where they are objects: they tell one thing from another."""
_TOLD = frozenset((*_DESCRIPTION, *(name for names in _LINKS.values() for name in names)))
_CHANGES = re.compile(
    "((event|message|request|trace|run|correlation)_)?(id|uuid|guid)"
    "|(.*_)?(value|values|current|threshold|count|duration|elapsed|percent|pct|usage|score|seconds|ms|bytes)"
    "|(.*_)?(at|date|time|timestamp|datetime)|[a-z]+(At|Time|Date)"
)
"""Fields that differ from one telling of the same alert to the next."""
_MEASURED = re.compile("(.*_)?(cpu|memory|mem|disk|load|temperature|temp|latency|rate|size|free|used|total|errors)")
"""Fields that do so if they hold a number: `disk: 91`, but not `disk: "/dev/sda"`."""


def _recognises(body: JsonObject) -> int:
    return FALLBACK if isinstance(body.get("alerts"), list) or _name_in(body) else NOT_MINE


def _name_in(*places: JsonObject) -> str:
    nested = [labels for place in places if isinstance(labels := place.get("labels"), dict)]
    return line(pick(places, _NAME)) or line(pick(nested, ("alertname",)))


def parse_as(body: JsonObject, source: str) -> Push:
    """Reads the generic shape in the name of `source`: a vendor's name may come with a body written by hand."""
    listed = body.get("alerts")
    if isinstance(listed, list) and (listed or not _name_in(body)):
        return _parse_list(body, source)
    name = _name_in(body)
    return Push(source=source, alerts=(_alert(body, {}, name, source),) if name else ())


def _parse(body: JsonObject) -> Push:
    return parse_as(body, "generic")


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
    """One alert of the list; what it does not say itself holds as said beside the list (`shared`)."""
    places = (item, shared)
    labels, annotations = _described(item, shared)
    severity = known_severity(*(item.get(key) for key in _SEVERITY), labels.get("severity"))
    status = status_of(pick(places, _STATUS))
    group = line(pick(places, _GROUP), None)
    title = line(pick((item,), ("title",)))
    return Alert(
        source=source,
        # Never from beside the list: it would make one alert of them all.
        fingerprint=line(pick((item,), _FINGERPRINT), None) or fingerprint_of(name, labels),
        name=name,
        severity=severity or severity_of(*(shared.get(key) for key in _SEVERITY)),
        status=status,
        description=prose(pick((*places, annotations), _DESCRIPTION)),
        labels=labels,
        annotations=annotations,
        incident_key=f"{source}:{group}" if group else incident_key(source, name, labels),
        title=title if title and title != name else incident_title(name, labels),
        links=links_of({link: pick((*places, annotations), names) for link, names in _LINKS.items()}),
        started_at=moment(pick(places, _STARTED)),
        ended_at=moment(pick(places, _ENDED)) if status is AlertStatus.RESOLVED else None,
        raw_payload=item,
    )


def _described(item: JsonObject, shared: JsonObject) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations: the objects of these names, and every other field that the body has at its top.

    Labels are the alert's identity. What differs each time (a measured value, an id of the event) must not be one,
    or the end of an alert would not be recognised as that alert's: it is an annotation.
    """
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    for place in (shared, item):
        rest = {key: value for key, value in place.items() if key not in _READ}
        identity = {key: value for key, value in rest.items() if _is_identity(key, value)}
        told = {key: value for key, value in rest.items() if key not in identity}
        labels |= labels_of(identity) | labels_of(place.get("tags"), "tags") | labels_of(place.get("labels"))
        annotations |= annotations_of(told) | annotations_of(place.get("annotations"))
    return labels, annotations


def _is_identity(key: str, value: JsonValue) -> bool:
    if key in _PLACES:
        return True
    if key in _TOLD or isinstance(value, float | dict | list) or _CHANGES.fullmatch(key):
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


SOURCE = Source(name="generic", title="Generic JSON", recognises=_recognises, parse=_parse, sample=_sample)
