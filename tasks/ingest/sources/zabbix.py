"""Zabbix: a media type of the type webhook, whose parameters are named after Zabbix's macros.

Source: Zabbix documentation, "Configuration → Notifications → Media types → Webhook" and "Supported macros".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from orchestration.alert import AlertStatus, Severity, web_address
from tasks.ingest.sources.fields import (
    Fields,
    alert_of,
    fingerprint_of,
    known_severity,
    labels_of,
    latest,
    moment,
    one_line_text,
    tags_of,
    text,
)
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source
from tasks.ingest.sources.spelling import respelled, says_nothing, spellings
from tasks.ingest.sources.status import status_of

_SOURCE = "zabbix"
_EVENT_FIELDS = frozenset(
    (
        *("event_name", "event_value", "event_status", "event_severity", "event_nseverity", "event_date", "event_time"),
        *("event_opdata", "event_tags", "event_source", "event_update_status"),
        *("event_recovery_date", "event_recovery_time", "event_timestamp", "event_update_action"),
    )
)
_TRIGGER_FIELDS = frozenset(
    (
        *("trigger_id", "trigger_name", "trigger_severity", "trigger_nseverity", "trigger_status", "trigger_value"),
        *("trigger_expression", "trigger_tags", "trigger_hostgroup_name", "trigger_template_name"),
    )
)
"""Fields that only Zabbix has. Others, such as Honeycomb, have a trigger_url and a trigger_description too."""
_NAME = ("trigger_name", "event_name", "name", "alert_subject", "subject")
_SEVERITY = (
    *("event_update_nseverity", "event_update_severity", "event_severity", "event_nseverity"),
    *("trigger_severity", "trigger_nseverity", "severity", "nseverity"),
)
"""The event's severity comes first: an operator may have changed it, while the trigger keeps its own. Installations
give the severities names of their own, in their own language: the first that is known counts, and so a number."""
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

_SPELLINGS = spellings(
    (
        *_EVENT_FIELDS,
        *("event_id", "trigger_id", "trigger_name", "trigger_description", "trigger_severity", "trigger_nseverity"),
        *("trigger_status", "trigger_value", "trigger_url", "trigger_expression", "trigger_tags", "zabbix_url"),
        *("alert_subject", "alert_message", "subject", "message", "host", "host_name", "hostname"),
        *("host_ip", "host_group", "item_name", "item_value", "service_id", "service_name"),
        *("event_tags_json", "event_update_nseverity"),
        *("event_update_severity", "event_update_message", "event_update_date", "event_update_time"),
    )
)
"""Media types name their parameters as they like: `event_id`, `eventid`, `EventID`, `EVENT.ID`."""

_SUBJECT = re.compile(
    r"(?P<state>problem|resolved|updated problem)(?: in (?:\d+\w+ ?)+)?: +(?P<name>.+)", re.IGNORECASE | re.DOTALL
)
"""The subjects of Zabbix's own messages, such as `Resolved in 30m 5s: Disk is full`."""
_UPDATED = "updated problem"
_LINE = re.compile(r"^(Host|Severity|Original problem ID): *(.+?)\s*$", re.MULTILINE)
"""Lines of Zabbix's own messages."""
_LINES = {"Host": "host", "Severity": "severity", "Original problem ID": "event_id"}

_NO_PROBLEM = {"1": "discovery", "2": "autoregistration"}
"""Values of `event_source` whose events are about no problem, and what they are about."""
_ZONE = ("timezone", "zabbix_timezone", "time_zone")


def _recognises(body: JsonObject) -> int:
    return _bid(respelled(body, _SPELLINGS))


def _bid(body: JsonObject) -> int:
    """The bid for a body whose parameters have their usual names."""
    triggers = sum(name.startswith("trigger_") for name in body)
    events = sum(name in _EVENT_FIELDS for name in body)
    fits = not _TRIGGER_FIELDS.isdisjoint(body) or ("event_id" in body and events > 0)
    if not fits or not (Fields(body).name(*_NAME) or _other_subject(body)):
        return NOT_MINE
    return VENDOR + VENDOR * (triggers + events + ("event_id" in body))


def _parse(body: JsonObject) -> Push:
    sent = _read(body)
    if "event_id" not in sent and sent.get("event_status") == _UPDATED:
        # An update without the event's id does not say which problem, on which host, it is about.
        return Push(source=_SOURCE, ignored=_UPDATED)
    if not (_bid(sent) or sent.keys() >= {"event_name", "event_status"}):
        return Push(source=_SOURCE)
    if subject := _other_subject(sent):
        return Push(source=_SOURCE, ignored=subject)
    fields = Fields(sent)
    name, host, own_id = fields.name(*_NAME), fields.identifier(*_HOST), _own_id(fields)
    since, recovered = _moment(fields, "event_"), _moment(fields, "event_recovery_")
    status = _status(fields, recovered)
    alert = alert_of(
        _SOURCE,
        body,
        # A name may have a live value in it, and an operator may rename a trigger.
        fingerprint=own_id or fingerprint_of(name, labels_of({"host": host})),
        name=name,
        severity=_severity(fields),
        status=status,
        description=fields.pick("trigger_description", "alert_message", "message", "event_opdata"),
        labels=_labels(fields, host),
        annotations=fields.annotations(
            *("event_id", "event_opdata", "event_update_action", "event_update_message", "item_value"),
            *("trigger_expression", "event_severity"),
        ),
        group=own_id,
        links={"source": _event_page(fields) or sent.get("trigger_url"), "runbook": sent.get("trigger_url")},
        started_at=since or _moment(fields, ""),
        ended_at=recovered,
        # The recovery and the updates of a problem repeat the date and time of the problem.
        episode_at=since,
        occurred_at=latest(recovered, _moment(fields, "event_update_")),
        state_reason=fields.line("event_update_action") if status is AlertStatus.RESOLVED else "",
    )
    return Push(source=_SOURCE, alerts=(alert,))


def _read(body: JsonObject) -> JsonObject:
    """The parameters under their usual names, with what Zabbix's own subject and message say in addition."""
    # A parameter whose macro has no value arrives as the macro's own name: treat it as missing.
    given = {key: value for key, value in body.items() if not says_nothing(one_line_text(value))}
    sent = respelled(given, _SPELLINGS)
    fields = Fields(sent)
    subject = _SUBJECT.fullmatch(fields.line("alert_subject", "subject"))
    if subject is None:
        return sent
    message = text(fields.pick("alert_message", "message")).replace("\r", "")
    said: JsonObject = {_LINES[name]: value for name, value in _LINE.findall(message) if not says_nothing(value)}
    return {"event_status": subject["state"].casefold(), **said, "event_name": subject["name"], **sent}


def _severity(fields: Fields) -> Severity:
    for name in _SEVERITY:
        said = fields.line(name)
        if known := _SEVERITIES.get(said.casefold()) or known_severity(said):
            return known
    return Severity.WARNING


def _other_subject(sent: JsonObject) -> str:
    """What the event is about, if it is about no problem; else ""."""
    return _NO_PROBLEM.get(one_line_text(sent.get("event_source")), "")


def _own_id(fields: Fields) -> str:
    """The stable id of the alert; "" if there is none: then name and host identify it.

    The same trigger on another host is another alert. All events about one problem have the same `event_id`.
    """
    trigger, host = fields.identifier("trigger_id"), fields.identifier(*_HOST)
    if trigger:
        return f"{trigger}:{host}" if host else trigger
    service, event = fields.identifier("service_id"), fields.identifier("event_id")
    return f"service-{service}" if service else f"event-{event}" if event else ""


def _status(fields: Fields, recovered: datetime | None) -> AlertStatus:
    said = fields.line(*_STATUS)
    if said == "0" or status_of(said) is AlertStatus.RESOLVED:
        return AlertStatus.RESOLVED
    # After a comment on a problem that is over, the value is still that of the problem, but it has a recovery time.
    return AlertStatus.RESOLVED if recovered else AlertStatus.FIRING


def _labels(fields: Fields, host: str) -> dict[str, str]:
    own = {
        "host": host,
        "host_ip": fields.pick("host_ip"),
        "host_group": fields.pick("host_group", "host_groups", "trigger_hostgroup_name"),
        "trigger_id": fields.pick("trigger_id"),
        "service": fields.pick("service_name"),
        "item": fields.pick("item_name", "item_key"),
    }
    return tags_of(fields.pick("event_tags", "event_tags_json", "trigger_tags", "tags")) | labels_of(own)


def _event_page(fields: Fields) -> str:
    """The URL of the event's page; "" if the media type has no parameter `zabbix_url`."""
    frontend = web_address(fields.pick("zabbix_url")).rstrip("/")
    trigger, event = fields.line("trigger_id"), fields.line("event_id")
    if not (frontend and trigger.isdecimal() and event.isdecimal()):
        return ""
    return f"{frontend}/tr_events.php?triggerid={trigger}&eventid={event}"


def _moment(fields: Fields, prefix: str) -> datetime | None:
    """The time in an epoch (`event_timestamp`), or in two fields with a date such as `2026.03.14`.

    Zabbix writes dates in its own time zone, without saying which one. They are read in the zone of the parameter
    `timezone`, such as `Europe/Berlin`, else as UTC.
    """
    epoch = fields.moment(f"{prefix}timestamp")
    day, hour = fields.line(f"{prefix}date"), fields.line(f"{prefix}time")
    if epoch or not day:
        return epoch or moment(fields.pick(f"{prefix}time"))
    local = moment(f"{day} {hour}".strip())
    return local.replace(tzinfo=_zone(fields.line(*_ZONE))).astimezone(UTC) if local else None


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return UTC


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
