"""PagerDuty: webhooks version 3, one event each, and version 2, a list of messages.

Sources: PagerDuty developer documentation, "Webhooks → Webhooks overview" (v3), "Webhooks → v2 overview".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus
from orchestration.errors import json_kind
from tasks.ingest.sources.fields import (
    Fields,
    alert_of,
    annotations_of,
    joined,
    labels_of,
    moment,
    object_in,
    one_line_text,
    worst_of,
)
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source, vendor_bid
from tasks.ingest.sources.status import status_of

_SOURCE = "pagerduty"
_OWN_FIELDS = ("resource_type", "occurred_at", "agent", "client")
_ENDS = (".resolve", ".resolved")
_BEGINS = ("incident.trigger", "incident.triggered", "incident.reopened")
_STATES = frozenset(
    f"incident.{word}"
    for word in (
        *("trigger", "triggered", "acknowledge", "acknowledged", "unacknowledge", "unacknowledged", "reopened"),
        *("resolve", "resolved", "assign", "reassigned", "delegate", "delegated", "escalate", "escalated"),
        *("priority_updated", "urgency_updated", "title_updated", "service_updated", "incident_type.changed"),
    )
)
"""The events, of version 3 and 2, that are about the incident itself and have its state."""
_NOTES = frozenset(("incident.annotate", "incident.annotated"))
"""Version 2 sends the incident with a note: the note still must not reopen an incident."""


def _recognises(body: JsonObject) -> int:
    event = object_in(body.get("event"))
    if one_line_text(event.get("event_type")) and (isinstance(event.get("data"), dict) or "resource_type" in event):
        return vendor_bid(event, _OWN_FIELDS)
    messages = body.get("messages")
    if isinstance(messages, list) and any(_is_message(object_in(each)) for each in messages):
        return VENDOR * 2
    return NOT_MINE


def _is_message(message: JsonObject) -> bool:
    """Whether this is a message of version 2. A test message has no incident."""
    event = one_line_text(message.get("event"))
    return isinstance(message.get("incident"), dict) or event.startswith(("incident.", "pagey."))


def _parse(body: JsonObject) -> Push:
    if isinstance(messages := body.get("messages"), list):
        return _parse_messages(messages)
    event = object_in(body.get("event"))
    if not event:
        return Push(source=_SOURCE)
    name, data = one_line_text(event.get("event_type")), object_in(event.get("data"))
    incident = _incident_of(data, name)
    if incident is not None:
        return Push(source=_SOURCE, alerts=(_alert(incident, name, event.get("occurred_at"), body),))
    if name and name not in _STATES:
        return Push(source=_SOURCE, ignored=name)
    return Push(source=_SOURCE, errors=(f"event {name} names no incident",))


def _parse_messages(messages: list[JsonValue]) -> Push:
    alerts: list[Alert] = []
    errors: list[str] = []
    ignored: list[str] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            errors.append(f"messages[{index}] is {json_kind(message)}, not an object")
            continue
        name = one_line_text(message.get("event"))
        incident = _incident_of(object_in(message.get("incident")), name)
        if incident is not None:
            alerts.append(_alert(incident, name, message.get("created_on"), message))
        elif name and name not in _STATES:
            ignored.append(name)
        else:
            errors.append(f"messages[{index}] names no incident")
    names = "" if alerts else one_line_text(", ".join(dict.fromkeys(ignored)))
    return Push(source=_SOURCE, alerts=tuple(alerts), errors=tuple(errors), ignored=names)


def _incident_of(data: JsonObject, event: str) -> JsonObject | None:
    """The incident, if the event has its state; else None.

    A note or a status update names its incident without its state. It must not reopen a resolved incident. An event
    that this list does not know is used if it is about an incident and says its status.
    """
    if event in _NOTES or one_line_text(data.get("type")) not in ("", "incident"):
        return None
    sent = Fields(data)
    if event in _STATES:
        return data if sent.line("id", "title", "status", "summary") else None
    # A message that was made by hand may name no event.
    about_incident = event.startswith("incident.") and one_line_text(data.get("type")) == "incident"
    return data if sent.line("status") and (about_incident or not event) else None


def _alert(incident: JsonObject, event: str, occurred_at: JsonValue, raw: JsonObject) -> Alert:
    """The alert of a PagerDuty incident, which is one alert and one incident here. An acknowledged one still fires."""
    fields = Fields(incident)
    own_id = fields.identifier("id")
    name = fields.line("title", "summary", "description") or one_line_text(f"Incident {own_id}")
    ended = event.endswith(_ENDS) or status_of(incident.get("status")) is AlertStatus.RESOLVED
    labels = _labels(incident)
    news = {"event": event, "status": incident.get("status"), "number": fields.pick("number", "incident_number")}
    body, first = object_in(incident.get("body")), object_in(incident.get("first_trigger_log_entry"))
    conference = object_in(incident.get("conference_bridge")).get("conference_url")
    return alert_of(
        _SOURCE,
        raw,
        fingerprint=own_id,
        name=name,
        # Every service has an urgency, few incidents have a priority: the worse one is the severity.
        severity=worst_of(incident.get("urgency"), _name_of(incident.get("priority"))),
        status=AlertStatus.RESOLVED if ended else AlertStatus.FIRING,
        description=Fields(body, incident, first).pick("details", "description", "summary"),
        labels=labels,
        annotations=annotations_of(news),
        group=None,
        title=name,
        links={"source": incident.get("html_url"), "conference": conference},
        started_at=_since(incident, event, occurred_at),
        ended_at=moment(occurred_at),
        # The id is the episode: an incident that is reopened keeps its id and its created_at.
        occurred_at=moment(occurred_at),
        state_reason=_resolve_reason(incident.get("resolve_reason")),
    )


def _resolve_reason(reason: JsonValue) -> str:
    """Why the incident is resolved, such as `merged into Orders are not confirmed`; "" if PagerDuty does not say."""
    sent = object_in(reason)
    if not sent:
        return one_line_text(reason)
    other = _name_of(sent.get("incident"))
    if one_line_text(sent.get("type")).startswith("merge") and other:
        return f"merged into {other}"
    return Fields(sent).line("summary", "description", "type")


def _since(incident: JsonObject, event: str, occurred_at: JsonValue) -> datetime | None:
    """When the incident began. The time of a later event is not the beginning."""
    created_at = moment(incident.get("created_at"))
    began = event in ("", *_BEGINS)
    return (moment(occurred_at) or created_at) if began else (created_at or moment(occurred_at))


def _labels(incident: JsonObject) -> dict[str, str]:
    teams = incident.get("teams")
    return labels_of(
        {
            "service": _name_of(incident.get("service")),
            "escalation_policy": _name_of(incident.get("escalation_policy")),
            "team": joined([_name_of(team) for team in teams]) if isinstance(teams, list) else "",
            "priority": _name_of(incident.get("priority")),
            "urgency": incident.get("urgency"),
            "dedup_key": incident.get("incident_key"),
        }
    )


def _name_of(reference: JsonValue) -> str:
    """The name in a reference such as `{"id": …, "summary": "API Service"}`."""
    return Fields(reference).line("summary", "name", "id") if isinstance(reference, dict) else one_line_text(reference)


def _sample(mark: str) -> JsonObject:
    since = (datetime.now(UTC) - timedelta(minutes=3)).isoformat(timespec="milliseconds")
    number = int.from_bytes(mark.encode()[:3], "big")

    def reference(identifier: str, what: str, summary: str) -> JsonObject:
        page = f"https://example.pagerduty.com/{what}s/{identifier}"
        return {"id": identifier, "type": f"{what}_reference", "summary": summary, "html_url": page}

    incident: JsonObject = {
        "id": f"Q1CHECKOUT{mark.upper()}",
        "type": "incident",
        "html_url": f"https://example.pagerduty.com/incidents/Q1CHECKOUT{mark.upper()}",
        "number": number,
        "status": "triggered",
        "incident_key": f"checkout-latency-{mark}",
        "created_at": since,
        "title": f"Checkout {mark} answers slowly",
        "service": reference("PF9KMXH", "service", "Checkout"),
        "escalation_policy": reference("PUS0KTE", "escalation_policy", "Shop, day and night"),
        "teams": [reference("PFCVPS0", "team", "Shop")],
        "priority": reference("PSO75BM", "priority", "P1"),
        "urgency": "high",
        "conference_bridge": None,
        "resolve_reason": None,
    }
    return {
        "event": {
            "id": f"01EXAMPLE{mark.upper()}",
            "event_type": "incident.triggered",
            "resource_type": "incident",
            "occurred_at": since,
            "agent": reference("PGFKXTO", "service", "Checkout"),
            "client": {"name": "Monitoring"},
            "data": incident,
        }
    }


SOURCE = Source(name=_SOURCE, title="PagerDuty", recognises=_recognises, parse=_parse, sample=_sample)
