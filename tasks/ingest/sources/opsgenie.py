"""Opsgenie, and Jira Service Management's operations, which send the same: the webhook integration.

Source: Opsgenie documentation, "Integrations → Integrate Opsgenie with Webhook".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

from orchestration.alert import Alert, AlertStatus
from orchestration.places import host_of
from tasks.ingest.sources.fields import (
    DASHBOARD,
    PAGE,
    RUNBOOK,
    Fields,
    alert_of,
    annotations_of,
    joined,
    labels_of,
    object_in,
    on_place,
    one_line_text,
    severity_of,
)
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source, vendor_bid
from tasks.ingest.sources.status import status_of

_SOURCE = "opsgenie"
_OWN_FIELDS = ("integrationId", "integrationName", "integrationType", "escalationId", "escalationNotify")
_ENDS = frozenset(("close", "closed", "resolve", "resolved", "delete", "deleted"))
_BEGINS = frozenset(("", "create", "created", "open", "opened", "reopen", "reopened"))
_NEWS = frozenset(("updatepriority",))
"""A new priority is a new severity, and the person on call should hear of it."""
_LINKS = {"runbook": (*RUNBOOK, "Runbook"), "dashboard": (*DASHBOARD, "Dashboard"), "source": PAGE}


def _recognises(body: JsonObject) -> int:
    alert = body.get("alert")
    if "action" not in body or not isinstance(alert, dict) or not ("alertId" in alert or "tinyId" in alert):
        return NOT_MINE
    return vendor_bid(body, _OWN_FIELDS) + VENDOR * ("alertId" in alert and "tinyId" in alert)


def _parse(body: JsonObject) -> Push:
    sent = object_in(body.get("alert"))
    if not sent:
        return Push(source=_SOURCE)
    action = one_line_text(body.get("action"))
    alert = _alert(body, sent, action)
    # A note, an owner or an acknowledgement does not say that the alert fires, and may come for a closed one. A custom
    # action has a name of the operator's choice.
    if alert.firing and action.casefold() not in _BEGINS | _NEWS:
        return Push(source=_SOURCE, ignored=action)
    return Push(source=_SOURCE, alerts=(alert,))


def _alert(body: JsonObject, sent: JsonObject, action: str) -> Alert:
    """The alert that the action is about."""
    fields = Fields(sent)
    name = fields.line("message") or one_line_text(f"Alert {fields.line('tinyId', 'alertId')}")
    closed = action.casefold() in _ENDS or status_of(sent.get("status")) is AlertStatus.RESOLVED
    labels = labels_of(sent.get("details"), "details") | labels_of(
        {
            "entity": sent.get("entity"),
            "team": joined(fields.pick("team", "teams")),
            "tags": joined(sent.get("tags")),
            "tiny_id": sent.get("tinyId"),
            "sender": sent.get("source"),
        }
    )
    place = host_of(labels) or fields.line("entity")
    return alert_of(
        _SOURCE,
        body,
        fingerprint=fields.identifier("alias", "alertId", "tinyId"),
        name=name,
        severity=severity_of(sent.get("priority")),
        status=AlertStatus.RESOLVED if closed else AlertStatus.FIRING,
        description=sent.get("description"),
        labels=labels,
        annotations=annotations_of({"action": action, "by": sent.get("username"), "note": sent.get("note")}),
        group=None,
        title=one_line_text(on_place(name, place)),
        links=Fields(object_in(sent.get("details"))).links(_LINKS),
        started_at=fields.moment("createdAt"),
        ended_at=fields.moment("updatedAt"),
        episode_at=fields.moment("createdAt"),
        occurred_at=fields.moment("updatedAt"),
    )


def _sample(mark: str) -> JsonObject:
    since_ms = int((datetime.now(UTC) - timedelta(minutes=8)).timestamp() * 1000)
    host, page = f"mx-{mark}", "https://runbooks.example.com/mail-queue"
    identifier = sha256(mark.encode()).hexdigest()
    return {
        "action": "Create",
        "alert": {
            "alertId": f"{identifier[:8]}-{identifier[8:12]}-4a3b-9c2d-{identifier[12:24]}-{since_ms}",
            "tinyId": str(1000 + int(identifier[:3], 16)),
            "alias": f"mail-queue-{host}",
            "message": "Mail queue grows",
            "description": f"1,912 mails wait on {host}, and their number has grown for half an hour.",
            "priority": "P2",
            "entity": host,
            "tags": ["mail", "queue"],
            "teams": ["Mail"],
            "details": {"host": host, "queue": "deferred", "runbook_url": page},
            "actions": [],
            "createdAt": since_ms,
            "updatedAt": since_ms * 1_000_000,
            "username": "Monitoring",
            "source": "monitoring",
        },
        "source": {"name": "", "type": "API"},
        "integrationId": "37c8f316-17c6-49d7-899b-9c7e540c048d",
        "integrationName": "alert-pipeline",
        "integrationType": "Webhook",
    }


SOURCE = Source(name=_SOURCE, title="Opsgenie", recognises=_recognises, parse=_parse, sample=_sample)
