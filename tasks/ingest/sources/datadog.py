"""Datadog: the webhooks integration, with its default body or a body that the operator wrote with its variables.

Source: Datadog documentation, "Integrations → Webhooks", its table of variables.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from orchestration.alert import AlertStatus
from tasks.ingest.sources.fields import Fields, alert_of, labels_of, one_line_text, status_of, tags_of, worst_of
from tasks.ingest.sources.source import NOT_MINE, JsonObject, Push, Source, vendor_bid

_SOURCE = "datadog"
_NAME = ("alert_title", "title")
_SEVERITY = ("severity", "alert_type", "alert_priority", "priority")
_OWN_FIELDS = (
    "alert_transition",
    "alert_type",
    "alert_metric",
    "alert_priority",
    "alert_query",
    "alert_scope",
    "alert_status",
    "alert_title",
    "alert_cycle_key",
    "aggreg_key",
)
"""Names of the documented variables. Operators use them as names of fields."""
_DEFAULT_FIELDS = ("last_updated", "event_type", "org", "date", "body", "id")
"""The fields of the integration's default body, without the title."""

_STATE_IN_TITLE = re.compile(r"\[(?P<state>[^\]{]*?)(?:\s+on\s+\{(?P<scope>[^}]*)\})?\]\s*(?P<rest>\S.*)")
_STATES = re.compile(
    r"(re-?)?(triggered|recovered|warn(ed|ing)?|no data|notified|notify)( .*)?|ok|alert|error", re.IGNORECASE
)
_RECOVERED = re.compile(r"\brecover(ed|y)\b", re.IGNORECASE)


def _recognises(body: JsonObject) -> int:
    decisive = "alert_id" in body and ("alert_transition" in body or "alert_type" in body)
    several = sum(name in body for name in _OWN_FIELDS) >= 2
    if decisive or (several and Fields(body).line(*_NAME)):
        return vendor_bid(body, _OWN_FIELDS)
    is_default = "title" in body and "last_updated" in body and isinstance(body.get("org"), dict)
    return vendor_bid(body, _DEFAULT_FIELDS) if is_default else NOT_MINE


def _parse(body: JsonObject) -> Push:
    if not _recognises(body):
        return Push(source=_SOURCE)
    sent = Fields(body)
    monitor = sent.identifier("alert_id")
    name, scope_in_title = _without_state(sent.line(*_NAME) or one_line_text(f"Monitor {monitor}"))
    scope = sent.identifier("alert_scope") or scope_in_title
    labels = {"host": sent.pick("hostname", "host"), "alert_id": monitor, "scope": scope}
    sent_at = sent.moment("last_updated", "date")
    alert = alert_of(
        _SOURCE,
        body,
        fingerprint=f"{monitor}:{scope}" if monitor and scope else monitor or sent.identifier("aggreg_key"),
        name=name,
        severity=worst_of(*(body.get(field) for field in _SEVERITY)),
        status=AlertStatus.RESOLVED if _has_recovered(sent) else AlertStatus.FIRING,
        description=sent.pick("body", "event_msg", "text_only_msg", "message", "alert_status"),
        labels=tags_of(sent.pick("tags")) | tags_of(scope, "scope") | labels_of(labels),
        annotations=sent.annotations(
            "alert_metric", "alert_query", "alert_status", "alert_transition", "event_type", "event_id", "aggreg_key"
        ),
        links={"source": sent.pick("link", "url"), "image": body.get("snapshot")},
        started_at=sent_at,
        ended_at=sent_at,
    )
    return Push(source=_SOURCE, alerts=(alert,))


def _without_state(title: str) -> tuple[str, str]:
    """The title without its state, and the scope in that state: "[Triggered on {host:web-1}] CPU is high".

    The state is removed so that the alert has the same name when it recovers.
    """
    found = _STATE_IN_TITLE.match(title)
    if found is None or not _STATES.fullmatch(found["state"].strip()):
        return title, ""
    return one_line_text(found["rest"]), one_line_text(found["scope"] or "", None)


def _has_recovered(sent: Fields) -> bool:
    """Whether the alert has recovered: by the transition if there is one, else by the other fields."""
    transition = sent.line("alert_transition")
    if transition:
        return status_of(transition) is AlertStatus.RESOLVED or bool(_RECOVERED.search(transition))
    if status_of(sent.pick("alert_status")) is AlertStatus.RESOLVED or sent.line("alert_type").casefold() == "success":
        return True
    state = _STATE_IN_TITLE.match(sent.line("title", "alert_title"))
    return state is not None and bool(_RECOVERED.search(state["state"]))


def _sample(mark: str) -> JsonObject:
    since = datetime.now(UTC) - timedelta(minutes=6)
    moment_ms = int(since.timestamp() * 1000)
    host = f"api-{mark}"
    return {
        "alert_id": "81236541",
        "alert_metric": "system.load.norm.5",
        "alert_priority": "P1",
        "alert_query": "avg(last_5m):avg:system.load.norm.5{env:prod} by {host} > 4",
        "alert_scope": f"host:{host}",
        "alert_status": f"system.load.norm.5 over host:{host} was > 4 on average during the last 5m",
        "alert_title": "Load is high",
        "alert_transition": "Triggered",
        "alert_type": "error",
        "aggreg_key": sha256(host.encode()).hexdigest()[:32],
        "body": f"The load of {host} has been above 4 per core for 5 minutes. @webhook-alert-pipeline",
        "date": str(moment_ms),
        "event_id": str(5_000_000_000 + moment_ms % 1_000_000),
        "event_type": "query_alert_monitor",
        "hostname": host,
        "last_updated": str(moment_ms),
        "link": "https://app.datadoghq.com/monitors/81236541",
        "org": {"id": "1234", "name": "Example"},
        "tags": f"env:prod,host:{host},monitor,team:api",
        "title": f"[Triggered on {{host:{host}}}] Load is high",
    }


SOURCE = Source(name=_SOURCE, title="Datadog", recognises=_recognises, parse=_parse, sample=_sample)
