"""Zabbix: a media type of the type webhook, whose parameters are named after Zabbix's macros.

Source: Zabbix documentation, "Configuration → Notifications → Media types → Webhook" and "Supported macros".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, Severity
from tasks.ingest.sources.fields import (
    annotations_of,
    fingerprint_of,
    incident_key,
    incident_title,
    labels_of,
    line,
    links_of,
    moment,
    pick,
    prose,
    tags_of,
    web_address,
)
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source
from tasks.ingest.sources.words import severity_of, status_of

_SOURCE = "zabbix"
_EVENT_FIELDS = frozenset(
    (
        *("event_name", "event_value", "event_status", "event_severity", "event_nseverity", "event_date", "event_time"),
        *("event_opdata", "event_tags", "event_source", "event_update_status"),
        *("event_recovery_date", "event_recovery_time"),
    )
)
_NAME = ("trigger_name", "event_name", "name", "alert_subject", "subject")
_SEVERITY = ("event_severity", "event_nseverity", "trigger_severity", "trigger_nseverity", "severity")
"""An operator may change an event's severity; the trigger keeps its own."""
_STATUS = ("event_value", "trigger_value", "trigger_status", "event_status", "status", "value")
_HOST = ("host", "host_name", "hostname", "host_host", "host_ip")
_RESOLVED = AlertStatus.RESOLVED
_SEVERITIES = {
    "not classified": Severity.INFO,
    "0": Severity.INFO,
    "1": Severity.INFO,
    "2": Severity.WARNING,
    "3": Severity.WARNING,
    "4": Severity.CRITICAL,
    "5": Severity.CRITICAL,
}
"""What `words` does not know; it knows the other names: information, warning, average, high, disaster."""

_MACRO = re.compile(r"\{[A-Z][A-Z0-9_.]*[0-9]*\}|\*UNKNOWN\*")
"""A macro that Zabbix had nothing to put in for; it is sent as it stands."""


def _recognises(body: JsonObject) -> int:
    triggers = sum(name.startswith("trigger_") for name in body)
    events = sum(name in _EVENT_FIELDS for name in body)
    fits = triggers > 0 or ("event_id" in body and events > 0)
    if not fits or not line(pick((body,), _NAME)):
        return NOT_MINE
    return VENDOR + VENDOR * (triggers + events + ("event_id" in body))


def _parse(body: JsonObject) -> Push:
    told = {name: value for name, value in body.items() if not _MACRO.fullmatch(line(value))}
    if not _recognises(told):
        return Push(source=_SOURCE)
    name = line(pick((told,), _NAME))
    host = line(pick((told,), _HOST), None)
    labels = _labels(told, host)
    trigger = line(told.get("trigger_id"), None)
    own = f"{trigger}:{host}" if trigger and host else trigger
    status = _status(told)
    alert = Alert(
        source=_SOURCE,
        fingerprint=own or fingerprint_of(name, labels_of({"host": host})),
        name=name,
        severity=_severity(told),
        status=status,
        description=prose(pick((told,), ("trigger_description", "alert_message", "message", "event_opdata"))),
        labels=labels,
        annotations=_annotations(told),
        incident_key=incident_key(_SOURCE, name, labels),
        title=incident_title(name, labels),
        links=links_of({"source": _event_page(told) or told.get("trigger_url"), "runbook": told.get("trigger_url")}),
        started_at=_moment(told, "event_date", "event_time") or _moment(told, "date", "time"),
        ended_at=_moment(told, "event_recovery_date", "event_recovery_time") if status is _RESOLVED else None,
        raw_payload=body,
    )
    return Push(source=_SOURCE, alerts=(alert,))


def _status(told: JsonObject) -> AlertStatus:
    """By the first field that says it: 0 and 1 as numbers or texts, or a word (OK, RESOLVED, PROBLEM)."""
    said = line(pick((told,), _STATUS))
    return _RESOLVED if said == "0" or status_of(said) is _RESOLVED else AlertStatus.FIRING


def _severity(told: JsonObject) -> Severity:
    said = line(pick((told,), _SEVERITY))
    return _SEVERITIES.get(said.casefold()) or severity_of(said)


def _labels(told: JsonObject, host: str) -> dict[str, str]:
    tags = pick((told,), ("event_tags", "trigger_tags", "tags"))
    own = {
        "host": host,
        "host_ip": told.get("host_ip"),
        "host_group": pick((told,), ("host_group", "host_groups", "trigger_hostgroup_name")),
        "trigger_id": told.get("trigger_id"),
        "item": pick((told,), ("item_name", "item_key")),
    }
    return tags_of(tags) | labels_of(own)


def _annotations(told: JsonObject) -> dict[str, str]:
    names = ("event_id", "event_opdata", "event_update_message", "item_value", "trigger_expression", "event_severity")
    return annotations_of({name: told.get(name) for name in names})


def _event_page(told: JsonObject) -> str:
    """The event's page, where the media type is told where Zabbix is, as all that ship with it are."""
    frontend = web_address(told.get("zabbix_url")).rstrip("/")
    trigger, event = line(told.get("trigger_id")), line(told.get("event_id"))
    if not (frontend and trigger.isdecimal() and event.isdecimal()):
        return ""
    return f"{frontend}/tr_events.php?triggerid={trigger}&eventid={event}"


def _moment(told: JsonObject, date: str, time: str) -> datetime | None:
    """A date such as `2026.03.14` with a time; Zabbix writes both in its own zone, which is taken as UTC."""
    day, hour = line(told.get(date)), line(told.get(time))
    return moment(f"{day.replace('.', '-')} {hour}".strip()) if day else moment(_epoch(told, time))


def _epoch(told: JsonObject, time: str) -> JsonValue:
    return told.get(time.removesuffix("time") + "timestamp") or told.get(time)


def _sample(mark: str) -> JsonObject:
    since = datetime.now(UTC) - timedelta(minutes=9)
    return {
        "event_id": str(700_000 + since.second),
        "event_name": "Free space on /var is less than 5 %",
        "event_value": "1",
        "event_status": "PROBLEM",
        "event_severity": "High",
        "event_nseverity": "4",
        "event_date": f"{since:%Y.%m.%d}",
        "event_time": f"{since:%H:%M:%S}",
        "event_opdata": "Free: 1.2 GB of 40 GB",
        "event_tags": "component:storage, scope:capacity",
        "trigger_id": "23541",
        "trigger_name": "Free space on /var is less than 5 %",
        "trigger_description": "The folder holds the database. It stops writing when the disk is full.",
        "trigger_severity": "High",
        "trigger_status": "PROBLEM",
        "trigger_url": "https://runbooks.example.com/disk-full",
        "host": f"pg-{mark}",
        "host_ip": "192.0.2.17",
        "zabbix_url": "https://zabbix.example.com",
    }


SOURCE = Source(name=_SOURCE, title="Zabbix", recognises=_recognises, parse=_parse, sample=_sample)
