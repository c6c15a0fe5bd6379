"""Datadog: the webhooks integration, with its default body or a body that the operator wrote with its variables.

Source: Datadog documentation, "Integrations → Webhooks", its table of variables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from pydantic import JsonValue

from orchestration.alert import AlertStatus
from tasks.ingest.sources.fields import (
    Fields,
    alert_of,
    fingerprint_of,
    labels_of,
    latest,
    one_line_text,
    tags_of,
    text,
    worst_of,
)
from tasks.ingest.sources.source import NOT_MINE, JsonObject, Push, Source, vendor_bid
from tasks.ingest.sources.spelling import respelled, spellings
from tasks.ingest.sources.status import status_of

_SOURCE = "datadog"
_NAME = ("alert_title", "title", "event_title")
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
_SPELLINGS = spellings(
    (
        *_OWN_FIELDS,
        *("alert_id", "title", "event_title", "event_msg", "text_only_msg", "event_type", "event_id", "body", "link"),
        *("hostname", "last_updated", "date", "date_posix", "tags", "snapshot", "priority", "deduplication_key"),
    )
)
"""Operators write the variables' names as they like: `alert_id`, `ALERT_ID`, `alertId`."""
_DEFAULT_FIELDS = ("last_updated", "event_type", "org", "date", "body", "id")
"""The fields of the integration's default body, without the title."""

_GROUP_KEYS = ("aggreg_key", "deduplication_key", "dedup_key")

_IN_BRACKETS = re.compile(r"\s*\[(?P<inside>(?:[^\[\]{}]|\{[^{}]*\})*)\]")
_STATE = re.compile(
    r"(?P<state>(re-?)?(triggered|recovered|resolved|warn(ed|ing)?|no data|notified|notify)( recovered)?"
    r"|ok|alert|error)"
    r"(?:\s+on\s*\{(?P<scope>[^{}]*)\})?",
    re.IGNORECASE,
)
_STATE_BEFORE_COLON = re.compile(rf"\s*{_STATE.pattern}\s*:\s+(?=\S)", re.IGNORECASE)
_PRIORITY = re.compile("p[1-5]", re.IGNORECASE)
_TEST = re.compile("test|monitor alert|auto", re.IGNORECASE)
_RECOVERED = re.compile(r"\brecover(ed|y)\b|\bresolved\b", re.IGNORECASE)
_NO_DATA = re.compile(r"\bno data\b", re.IGNORECASE)
_MOST_BRACKETS = 8
_TITLE_LIMIT = 4096
"""Characters of a title that are read. It is more than other texts have, because a scope in a title can be long."""
_MENTIONS = re.compile(r"(?:(?:^|\s+)@[A-Za-z][\w.@+/-]*)+\s*$")
"""Whom a monitor notifies, at the end of its text."""
_HAPPENED = re.compile(r"\s[<>=]|\bwas\b|\bwere\b|\bover\b|\bon average\b|\bduring\b", re.IGNORECASE)
"""What a sentence has that says what happened, and a mere state such as Triggered has not."""
_BUTTONS = re.compile(r"\s*(\[!?\[|- - -)")
_MUTED = re.compile("(un)?muted", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Title:
    """What a title says, such as `[P2] [Triggered on {host:web-1}] CPU is high`.

    The name is the title without priority and state, so that the alert has the same name when it recovers.
    """

    name: str
    state: str = ""
    scope: str = ""
    priority: str = ""
    test: bool = False


def _recognises(body: JsonObject) -> int:
    return _bid(body, respelled(body, _SPELLINGS))


def _bid(sent: JsonObject, body: JsonObject) -> int:
    """The bid for a body. `sent` is the body as it arrived; `body` has its fields under the documented names."""
    decisive = "alert_id" in sent and ("alert_transition" in sent or "alert_type" in sent)
    several = "alert_transition" in body or sum(name in body for name in _OWN_FIELDS) >= 2
    if decisive or (several and Fields(body).name(*_NAME)):
        return vendor_bid(body, _OWN_FIELDS)
    is_default = "title" in body and "last_updated" in body and isinstance(body.get("org"), dict)
    return vendor_bid(body, _DEFAULT_FIELDS) if is_default else NOT_MINE


def _parse(body: JsonObject) -> Push:
    named = respelled(body, _SPELLINGS)
    if not _bid(body, named):
        return Push(source=_SOURCE)
    sent = Fields(named)
    monitor, title = sent.identifier("alert_id"), _title(sent.pick("title", "event_title", "alert_title"))
    own_title = _title(sent.name(*_NAME))
    state = sent.line("alert_transition") or title.state
    if _MUTED.fullmatch(state):
        return Push(source=_SOURCE, ignored=state.casefold())
    name = own_title.name or title.name or one_line_text(f"Monitor {monitor}")
    scope = _in_order(sent.identifier("alert_scope") or title.scope or own_title.scope)
    own_id = _own_id(sent, name, scope, test=title.test or own_title.test)
    labels = {"host": sent.pick("hostname", "host"), "alert_id": monitor, "scope": scope}
    status = AlertStatus.RESOLVED if _has_recovered(sent, title) else AlertStatus.FIRING
    sent_at = sent.moment("last_updated", "date")
    alert = alert_of(
        _SOURCE,
        body,
        fingerprint=own_id,
        name=name,
        severity=worst_of(*(sent.pick(field) for field in _SEVERITY), title.priority, own_title.priority),
        status=status,
        description=_description(sent),
        labels=tags_of(sent.pick("tags")) | tags_of(scope, "scope") | labels_of(labels),
        annotations=sent.annotations(
            *("alert_metric", "alert_query", "alert_status", "alert_transition", "event_type", "event_id"),
            *("aggreg_key", "alert_cycle_key"),
        ),
        group=_group(sent, own_id, name, scope),
        links={"source": sent.pick("link", "url", "source_url"), "image": sent.pick("snapshot")},
        started_at=sent_at,
        ended_at=sent_at,
        # Datadog does not send the start. These fields all have the moment of the event, with more or fewer digits.
        occurred_at=latest(*(sent.moment(field) for field in ("last_updated", "date", "date_posix"))),
        state_reason="No Data" if _NO_DATA.search(state) else "",
    )
    return Push(source=_SOURCE, alerts=(alert,))


def _in_order(scope: str) -> str:
    """The tags of a scope, sorted: the scope identifies the alert, and Datadog may send its tags in any order."""
    return ",".join(sorted(filter(None, (tag.strip() for tag in scope.split(",")))))


def _description(sent: Fields) -> str:
    """What happened in Datadog's words, such as `system.load.1 over host:web-1 was > 4`, and the monitor's text."""
    prose = _prose(sent.pick("body", "event_msg", "text_only_msg", "message", "description"))
    prose, happened = _MENTIONS.sub("", prose).strip(), text(sent.pick("alert_status")).strip()
    if not _HAPPENED.search(happened) or happened in prose:
        return prose or happened
    return f"{happened}\n{prose}".strip()


def _prose(body: JsonValue) -> str:
    """The text of the monitor, without the pictures and buttons that Datadog puts around it in its Markdown."""
    written = text(body)
    if "%%%" not in written:
        return written
    lines = (line for line in written.replace("%%%", "").splitlines() if not _BUTTONS.match(line))
    return "\n".join(lines).strip() or written


def _own_id(sent: Fields, name: str, scope: str, *, test: bool) -> str:
    """The id of a monitor's alert: monitor and scope, else the key of the event's group, else name and scope.

    The default body has no id. A test notification is an alert of its own: it neither opens nor ends the real one.
    """
    monitor, event_group = sent.identifier("alert_id"), sent.identifier(*_GROUP_KEYS)
    own_id = (f"{monitor}:{scope}" if scope else monitor) if monitor else event_group
    if not own_id:
        place = scope or sent.identifier("hostname", "host")
        own_id = fingerprint_of(name, labels_of({"scope": place}))
    return f"test:{own_id}" if test else own_id


def _group(sent: Fields, own_id: str, name: str, scope: str) -> str:
    """The key of the incident: the alert's id, or name and scope if Datadog sends no id."""
    if sent.identifier("alert_id", *_GROUP_KEYS) or own_id.startswith("test:"):
        return own_id
    place = scope or sent.identifier("hostname", "host")
    return f"{name}:{place}" if place else name


def _title(value: JsonValue) -> _Title:
    """The parts of a title. Brackets that say neither state nor priority are part of the name: `[Team A] Down`."""
    written = one_line_text(value, _TITLE_LIMIT)
    rest, kept, muted, found = written, "", "", _Title(name="")
    for _ in range(_MOST_BRACKETS):
        brackets = _IN_BRACKETS.match(rest)
        if brackets is None:
            break
        inside = brackets["inside"].strip()
        if state := _STATE.fullmatch(inside):
            scope = found.scope or one_line_text(state["scope"] or "", None)
            found = replace(found, state=found.state or state["state"], scope=scope)
        elif _MUTED.fullmatch(inside):
            muted = inside
        elif _PRIORITY.fullmatch(inside):
            found = replace(found, priority=found.priority or inside)
        elif _TEST.fullmatch(inside):
            found = replace(found, test=found.test or inside.casefold() == "test")
        else:
            kept += brackets[0]
        rest = rest[brackets.end() :]
    if not found.state and (state := _STATE_BEFORE_COLON.match(rest)):
        scope = found.scope or one_line_text(state["scope"] or "", None)
        found, rest = replace(found, state=state["state"], scope=scope), rest[state.end() :]
    return replace(found, state=found.state or muted, name=one_line_text(kept + rest) or one_line_text(written))


def _has_recovered(sent: Fields, title: _Title) -> bool:
    """Whether the alert has recovered: by the transition if there is one, else by the other fields."""
    transition = sent.line("alert_transition")
    if transition:
        return status_of(transition) is AlertStatus.RESOLVED or bool(_RECOVERED.search(transition))
    if status_of(sent.pick("alert_status")) is AlertStatus.RESOLVED or sent.line("alert_type").casefold() == "success":
        return True
    return status_of(title.state) is AlertStatus.RESOLVED or bool(_RECOVERED.search(title.state))


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
