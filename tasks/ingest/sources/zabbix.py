"""Zabbix: a media type of the type webhook, whose parameters are named after Zabbix's macros.

Source: Zabbix documentation, "Configuration → Notifications → Media types → Webhook" and "Supported macros".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from orchestration.alert import AlertStatus, Severity, web_address
from tasks.ingest.sources.fields import (
    Fields,
    alert_of,
    fingerprint_of,
    labels_of,
    moment,
    one_line_text,
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
"""0 and 1, as numbers or texts, or a word: OK, RESOLVED, PROBLEM."""
_HOST = ("host", "host_name", "hostname", "host_host", "host_ip")
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
    if not fits or not Fields(body).line(*_NAME):
        return NOT_MINE
    return VENDOR + VENDOR * (triggers + events + ("event_id" in body))


def _parse(body: JsonObject) -> Push:
    # A parameter whose macro has no value arrives as the macro's own name: treat it as missing.
    sent = {name: value for name, value in body.items() if not _MACRO.fullmatch(one_line_text(value))}
    if not _recognises(sent):
        return Push(source=_SOURCE)
    fields = Fields(sent)
    name, host, trigger = fields.line(*_NAME), fields.identifier(*_HOST), fields.identifier("trigger_id")
    # The same trigger on another host is another alert. Without `trigger_id` the name and the host identify the alert.
    own_id = f"{trigger}:{host}" if trigger and host else trigger
    severity, status = fields.line(*_SEVERITY), fields.line(*_STATUS)
    alert = alert_of(
        _SOURCE,
        body,
        fingerprint=own_id or fingerprint_of(name, labels_of({"host": host})),
        name=name,
        severity=_SEVERITIES.get(severity.casefold()) or severity_of(severity),
        status=AlertStatus.RESOLVED if status == "0" else status_of(status),
        description=fields.pick("trigger_description", "alert_message", "message", "event_opdata"),
        labels=_labels(fields, host),
        annotations=fields.annotations(
            "event_id", "event_opdata", "event_update_message", "item_value", "trigger_expression", "event_severity"
        ),
        links={"source": _event_page(fields) or sent.get("trigger_url"), "runbook": sent.get("trigger_url")},
        started_at=_moment(fields, "event_") or _moment(fields, ""),
        ended_at=_moment(fields, "event_recovery_"),
    )
    return Push(source=_SOURCE, alerts=(alert,))


def _labels(fields: Fields, host: str) -> dict[str, str]:
    own = {
        "host": host,
        "host_ip": fields.pick("host_ip"),
        "host_group": fields.pick("host_group", "host_groups", "trigger_hostgroup_name"),
        "trigger_id": fields.pick("trigger_id"),
        "item": fields.pick("item_name", "item_key"),
    }
    return tags_of(fields.pick("event_tags", "trigger_tags", "tags")) | labels_of(own)


def _event_page(fields: Fields) -> str:
    """The URL of the event's page; "" if the media type has no parameter `zabbix_url`."""
    frontend = web_address(fields.pick("zabbix_url")).rstrip("/")
    trigger, event = fields.line("trigger_id"), fields.line("event_id")
    if not (frontend and trigger.isdecimal() and event.isdecimal()):
        return ""
    return f"{frontend}/tr_events.php?triggerid={trigger}&eventid={event}"


def _moment(fields: Fields, prefix: str) -> datetime | None:
    """The time in two fields, with a date such as `2026.03.14`. Zabbix uses its own time zone; it is read as UTC."""
    day, hour = fields.line(f"{prefix}date"), fields.line(f"{prefix}time")
    if day:
        return moment(f"{day.replace('.', '-')} {hour}".strip())
    return moment(fields.pick(f"{prefix}timestamp") or fields.pick(f"{prefix}time"))


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
