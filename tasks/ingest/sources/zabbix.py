"""Zabbix: a media type of the type webhook, whose parameters are named after Zabbix's macros.

Source: Zabbix documentation, "Configuration → Notifications → Media types → Webhook" and "Supported macros".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, Severity, web_address
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
    severity_of,
    status_of,
    tags_of,
)
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source

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
"""The event's severity comes first: an operator may have changed it, while the trigger keeps its own."""
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
"""Severities that `fields.severity_of` does not know; it knows information, warning, average, high and disaster."""

_MACRO = re.compile(r"\{[A-Z][A-Z0-9_.]*[0-9]*\}|\*UNKNOWN\*")
"""A macro that Zabbix could not resolve; Zabbix sends its name."""


def _recognises(body: JsonObject) -> int:
    triggers = sum(name.startswith("trigger_") for name in body)
    events = sum(name in _EVENT_FIELDS for name in body)
    fits = triggers > 0 or ("event_id" in body and events > 0)
    if not fits or not line(pick((body,), _NAME)):
        return NOT_MINE
    return VENDOR + VENDOR * (triggers + events + ("event_id" in body))


def _parse(body: JsonObject) -> Push:
    sent = {name: value for name, value in body.items() if not _MACRO.fullmatch(line(value))}
    if not _recognises(sent):
        return Push(source=_SOURCE)
    name = line(pick((sent,), _NAME))
    host = line(pick((sent,), _HOST), None)
    labels = _labels(sent, host)
    trigger = line(sent.get("trigger_id"), None)
    own = f"{trigger}:{host}" if trigger and host else trigger
    status = _status(sent)
    alert = Alert(
        source=_SOURCE,
        fingerprint=own or fingerprint_of(name, labels_of({"host": host})),
        name=name,
        severity=_severity(sent),
        status=status,
        description=prose(pick((sent,), ("trigger_description", "alert_message", "message", "event_opdata"))),
        labels=labels,
        annotations=_annotations(sent),
        incident_key=incident_key(_SOURCE, name, labels),
        title=incident_title(name, labels),
        links=links_of({"source": _event_page(sent) or sent.get("trigger_url"), "runbook": sent.get("trigger_url")}),
        started_at=_moment(sent, "event_date", "event_time") or _moment(sent, "date", "time"),
        ended_at=_moment(sent, "event_recovery_date", "event_recovery_time") if status is _RESOLVED else None,
        raw_payload=body,
    )
    return Push(source=_SOURCE, alerts=(alert,))


def _status(sent: JsonObject) -> AlertStatus:
    """The status in the first status field: 0 and 1 as numbers or texts, or a word (OK, RESOLVED, PROBLEM)."""
    word = line(pick((sent,), _STATUS))
    return _RESOLVED if word == "0" or status_of(word) is _RESOLVED else AlertStatus.FIRING


def _severity(sent: JsonObject) -> Severity:
    word = line(pick((sent,), _SEVERITY))
    return _SEVERITIES.get(word.casefold()) or severity_of(word)


def _labels(sent: JsonObject, host: str) -> dict[str, str]:
    tags = pick((sent,), ("event_tags", "trigger_tags", "tags"))
    own = {
        "host": host,
        "host_ip": sent.get("host_ip"),
        "host_group": pick((sent,), ("host_group", "host_groups", "trigger_hostgroup_name")),
        "trigger_id": sent.get("trigger_id"),
        "item": pick((sent,), ("item_name", "item_key")),
    }
    return tags_of(tags) | labels_of(own)


def _annotations(sent: JsonObject) -> dict[str, str]:
    names = ("event_id", "event_opdata", "event_update_message", "item_value", "trigger_expression", "event_severity")
    return annotations_of({name: sent.get(name) for name in names})


def _event_page(sent: JsonObject) -> str:
    """The URL of the event's page; "" if the media type has no parameter `zabbix_url`."""
    frontend = web_address(sent.get("zabbix_url")).rstrip("/")
    trigger, event = line(sent.get("trigger_id")), line(sent.get("event_id"))
    if not (frontend and trigger.isdecimal() and event.isdecimal()):
        return ""
    return f"{frontend}/tr_events.php?triggerid={trigger}&eventid={event}"


def _moment(sent: JsonObject, date: str, time: str) -> datetime | None:
    """The time in two fields, with a date such as `2026.03.14`. Zabbix uses its own time zone; it is read as UTC."""
    day, hour = line(sent.get(date)), line(sent.get(time))
    return moment(f"{day.replace('.', '-')} {hour}".strip()) if day else moment(_epoch(sent, time))


def _epoch(sent: JsonObject, time: str) -> JsonValue:
    return sent.get(time.removesuffix("time") + "timestamp") or sent.get(time)


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
