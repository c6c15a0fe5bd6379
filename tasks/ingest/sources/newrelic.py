"""New Relic: the webhook of a workflow, which sends an issue, and the legacy webhook, which sends an incident.

Sources: New Relic documentation, "Alerts → Notification integrations → Webhook" and "Legacy notification channels".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

from orchestration.alert import Alert, AlertStatus
from tasks.ingest.sources.fields import (
    Fields,
    alert_of,
    first_of,
    joined,
    labels_of,
    latest,
    object_in,
    on_place,
    one_line_text,
    severity_of,
)
from tasks.ingest.sources.source import NOT_MINE, JsonObject, Push, Source, vendor_bid
from tasks.ingest.sources.spelling import respelled, spellings
from tasks.ingest.sources.status import status_of

_SOURCE = "newrelic"
_ISSUE_FIELDS = (
    "accumulations",
    "alertConditionNames",
    "alertPolicyNames",
    "impactedEntities",
    "isCorrelated",
    "totalIncidents",
    "workflowName",
)
_ISSUE_STATE = ("state", "issueState", "issueStatus", "status")
_CREATED = ("createdAt", "issueCreatedAt", "createdAtUtc", "created_at")
_ACTIVATED = ("activatedAt", "issueActivatedAt", "activatedAtUtc", "activated_at", "opened_at")
_UPDATED = ("updatedAt", "issueUpdatedAt", "updatedAtUtc", "updated_at", "timestamp")
_CLOSED = ("closedAt", "issueClosedAt", "issueCloseTime", "closedAtUtc", "closed_at")
_REASON = (
    *("closeCause", "closeReason", "closureReason", "closedReason", "stateReason", "state_reason"),
    *("close_cause", "close_reason", "closedBy", "issueClosedBy", "closed_by"),
)
"""Names for the reason of an end, such as inactivity: no default template has one."""
_LEGACY_LINKS = {"source": "incident_url", "runbook": "runbook_url", "image": "violation_chart_url"}
_LEGACY_FIELDS = ("account_id", "current_state", "policy_name", "condition_name", "incident_url", "targets")


_SPELLINGS = spellings((*_ISSUE_FIELDS, "issueId", "issueUrl", "issueTitle", *_ISSUE_STATE))
"""Operators write the fields of a template as they like: `issueId`, `issue_id`."""


def _recognises(sent: JsonObject) -> int:
    body = respelled(sent, _SPELLINGS)
    if ("issueId" in body or "issueUrl" in body) and any(name in body for name in _ISSUE_FIELDS):
        return vendor_bid(body, _ISSUE_FIELDS)
    if "condition_id" in body and "incident_id" in body:
        return vendor_bid(body, _LEGACY_FIELDS)
    return NOT_MINE


def _parse(body: JsonObject) -> Push:
    issue = respelled(body, _SPELLINGS)
    if "issueId" in issue or "issueUrl" in issue:
        return Push(source=_SOURCE, alerts=(_issue(issue, body),))
    if "condition_id" in body or "incident_id" in body:
        return Push(source=_SOURCE, alerts=(_incident(body),))
    return Push(source=_SOURCE)


def _issue(body: JsonObject, raw: JsonObject) -> Alert:
    """The alert of an issue, no matter how many New Relic incidents the issue contains."""
    sent = Fields(body)
    gathered, notes = object_in(body.get("accumulations")), object_in(body.get("annotations"))
    own_id = sent.identifier("issueId", "id", "issueUrl")
    named = sent.pick("title", "issueTitle") or first_of(Fields(notes, gathered).pick("title", "conditionName"))
    named = one_line_text(named) or one_line_text(first_of(body.get("alertConditionNames")))
    name = named or one_line_text(f"Issue {own_id}")
    description = Fields(body, notes).pick("description", "details") or gathered.get("conditionDescription")
    status = status_of(sent.pick(*_ISSUE_STATE))
    created, activated = sent.moment(*_CREATED), sent.moment(*_ACTIVATED)
    closed, updated = sent.moment(*_CLOSED), sent.moment(*_UPDATED)
    return alert_of(
        _SOURCE,
        raw,
        fingerprint=own_id,
        name=name,
        severity=severity_of(first_of(body.get("priority")), first_of(body.get("severity"))),
        status=status,
        description=first_of(description),
        labels=_issue_labels(body, gathered),
        annotations=sent.annotations("state", "trigger", "totalIncidents", "isCorrelated", "owner"),
        group=None,
        title=name,
        links={"source": body.get("issueUrl"), "runbook": first_of(gathered.get("runbookUrl"))},
        started_at=activated or created or updated,
        ended_at=closed or updated,
        # An issue is created before it is activated: only the former is the same moment in each of its events.
        episode_at=created or activated,
        occurred_at=latest(updated, closed) if status is AlertStatus.RESOLVED else updated,
        state_reason=_reason(sent, status),
    )


def _issue_labels(body: JsonObject, gathered: JsonObject) -> dict[str, str]:
    return labels_of(
        {
            "policy": joined(body.get("alertPolicyNames") or gathered.get("policyName")),
            "condition": joined(body.get("alertConditionNames") or gathered.get("conditionName")),
            "entity": joined(body.get("impactedEntities")),
            "workflow": body.get("workflowName"),
        }
    )


def _reason(sent: Fields, status: AlertStatus) -> str:
    """Why the issue or incident is closed, if a field says so."""
    return joined(sent.pick(*_REASON)) if status is AlertStatus.RESOLVED else ""


def _incident(body: JsonObject) -> Alert:
    """The alert of a legacy policy's incident; `current_state` is open, acknowledged or closed."""
    sent = Fields(body)
    own_id = sent.identifier("incident_id")
    own_id = "" if own_id == "0" else own_id  # a test notification
    name = sent.line("condition_name", "title", "policy_name", "details") or one_line_text(f"Incident {own_id}")
    target = object_in(first_of(body.get("targets")))
    entity = one_line_text(target.get("name"))
    own = {"policy": body.get("policy_name"), "condition": body.get("condition_name"), "entity": entity}
    labels = labels_of(target.get("labels")) | labels_of(own)
    status = status_of(sent.pick("current_state", "state", "status"))
    return alert_of(
        _SOURCE,
        body,
        fingerprint=own_id,
        name=name,
        severity=severity_of(body.get("severity"), body.get("priority")),
        status=status,
        description=sent.pick("details", "condition_description"),
        labels=labels,
        annotations=sent.annotations("current_state", "event_type", "owner"),
        group=None,
        title=one_line_text(on_place(name, entity)),
        links={link: body.get(field) for link, field in _LEGACY_LINKS.items()},
        started_at=sent.moment("timestamp"),
        ended_at=sent.moment(*_CLOSED, "timestamp"),
        episode_at=sent.moment(*_CREATED, *_ACTIVATED),
        occurred_at=sent.moment("timestamp", *_UPDATED),
        state_reason=_reason(sent, status),
    )


def _sample(mark: str) -> JsonObject:
    since_ms = int((datetime.now(UTC) - timedelta(minutes=5)).timestamp() * 1000)
    issue, entity = sha256(mark.encode()).hexdigest()[:32], f"orders-{mark}"
    return {
        "issueId": issue,
        "issueUrl": f"https://radar-api.service.newrelic.com/accounts/1/issues/{issue}?notifier=WEBHOOK",
        "title": f"{entity} query result is > 5.0 on 'Error rate'",
        "priority": "CRITICAL",
        "impactedEntities": [entity],
        "totalIncidents": 1,
        "state": "ACTIVATED",
        "trigger": "STATE_CHANGE",
        "isCorrelated": False,
        "createdAt": since_ms,
        "updatedAt": since_ms,
        "sources": ["newrelic"],
        "alertPolicyNames": ["Orders"],
        "alertConditionNames": ["Error rate"],
        "workflowName": "On call",
        "accumulations": {
            "conditionDescription": [f"More than 5 % of the requests to {entity} fail."],
            "runbookUrl": ["https://runbooks.example.com/error-rate"],
        },
    }


SOURCE = Source(name=_SOURCE, title="New Relic", recognises=_recognises, parse=_parse, sample=_sample)
