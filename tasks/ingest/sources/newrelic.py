"""New Relic: the webhook of a workflow, which sends an issue, and the legacy webhook, which sends an incident.

Sources: New Relic documentation, "Alerts → Notification integrations → Webhook" and "Legacy notification channels".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus
from tasks.ingest.sources.fields import (
    annotations_of,
    fingerprint_of,
    first_of,
    labels_of,
    line,
    links_of,
    moment,
    object_in,
    pick,
    prose,
    severity_of,
    status_of,
)
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source

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
_LEGACY_LINKS = {"source": "incident_url", "runbook": "runbook_url", "image": "violation_chart_url"}
_LEGACY_FIELDS = ("account_id", "current_state", "policy_name", "condition_name", "incident_url", "targets")


def _recognises(body: JsonObject) -> int:
    own = sum(name in body for name in _ISSUE_FIELDS)
    if own and ("issueId" in body or "issueUrl" in body):
        return VENDOR + VENDOR * own
    if "condition_id" in body and "incident_id" in body:
        return VENDOR + VENDOR * sum(name in body for name in _LEGACY_FIELDS)
    return NOT_MINE


def _parse(body: JsonObject) -> Push:
    if "issueId" in body or "issueUrl" in body:
        return Push(source=_SOURCE, alerts=(_issue(body),))
    if "condition_id" in body or "incident_id" in body:
        return Push(source=_SOURCE, alerts=(_incident(body),))
    return Push(source=_SOURCE)


def _issue(body: JsonObject) -> Alert:
    """The alert of an issue, no matter how many New Relic incidents the issue contains."""
    own_id = line(pick((body,), ("issueId", "id", "issueUrl")), None)
    gathered, notes = object_in(body.get("accumulations")), object_in(body.get("annotations"))
    named = pick((body,), ("title", "issueTitle")) or first_of(pick((notes, gathered), ("title", "conditionName")))
    name = line(named) or line(first_of(body.get("alertConditionNames"))) or line(f"Issue {own_id}")
    labels = _issue_labels(body, gathered)
    identifier = own_id or fingerprint_of(name, labels)
    status = status_of(pick((body,), ("state", "issueState", "status")))
    return Alert(
        source=_SOURCE,
        fingerprint=identifier,
        name=name,
        severity=severity_of(first_of(body.get("priority")), first_of(body.get("severity"))),
        status=status,
        description=prose(_description(body, notes, gathered)),
        labels=labels,
        annotations=annotations_of(
            {name: body.get(name) for name in ("state", "trigger", "totalIncidents", "isCorrelated", "owner")}
        ),
        incident_key=f"{_SOURCE}:{identifier}",
        title=name,
        links=links_of({"source": body.get("issueUrl"), "runbook": first_of(gathered.get("runbookUrl"))}),
        started_at=moment(pick((body,), ("activatedAt", "createdAt", "createdAtUtc", "timestamp", "updatedAt"))),
        ended_at=moment(pick((body,), ("closedAt", "updatedAt"))) if status is AlertStatus.RESOLVED else None,
        raw_payload=body,
    )


def _issue_labels(body: JsonObject, gathered: JsonObject) -> dict[str, str]:
    return labels_of(
        {
            "policy": _joined(body.get("alertPolicyNames") or gathered.get("policyName")),
            "condition": _joined(body.get("alertConditionNames") or gathered.get("conditionName")),
            "entity": _joined(body.get("impactedEntities")),
            "workflow": body.get("workflowName"),
        }
    )


def _description(body: JsonObject, notes: JsonObject, gathered: JsonObject) -> JsonValue:
    found = pick((body, notes), ("description", "details")) or pick((gathered,), ("conditionDescription",))
    return first_of(found)


def _incident(body: JsonObject) -> Alert:
    """The alert of a legacy policy's incident; `current_state` is open, acknowledged or closed."""
    own_id = line(body.get("incident_id"), None)
    name = line(pick((body,), ("condition_name", "title", "policy_name"))) or line(f"Incident {own_id}")
    status = status_of(pick((body,), ("current_state", "state", "status")))
    target = object_in(first_of(body.get("targets")))
    entity = line(target.get("name"))
    own = {"policy": body.get("policy_name"), "condition": body.get("condition_name"), "entity": entity}
    labels = labels_of(target.get("labels")) | labels_of(own)
    identifier = own_id or fingerprint_of(name, labels)
    sent_at = moment(body.get("timestamp"))
    return Alert(
        source=_SOURCE,
        fingerprint=identifier,
        name=name,
        severity=severity_of(body.get("severity"), body.get("priority")),
        status=status,
        description=prose(pick((body,), ("details", "condition_description"))),
        labels=labels,
        annotations=annotations_of({name: body.get(name) for name in ("current_state", "event_type", "owner")}),
        incident_key=f"{_SOURCE}:{identifier}",
        title=line(f"{name} on {entity}" if entity else name),
        links=links_of({link: body.get(field) for link, field in _LEGACY_LINKS.items()}),
        started_at=sent_at,
        ended_at=sent_at if status is AlertStatus.RESOLVED else None,
        raw_payload=body,
    )


def _joined(value: JsonValue) -> str:
    return ", ".join(filter(None, map(line, value))) if isinstance(value, list) else line(value)


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
