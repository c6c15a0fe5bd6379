"""The message about a run: severity, what, where, since when and what to do first; the evidence after it.

All text from outside is cleaned, redacted and bounded here, before a template gets it.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import JsonValue

from orchestration.alert import PLACE_LABELS, Alert, AlertStatus, Incident, IncidentStatus, Severity, web_address
from orchestration.contracts import AnalyzeResult, Check, CheckResult, CheckStatus
from orchestration.message import Fact, Message, Upcoming
from orchestration.reasons import Reason, meaning_of
from orchestration.redaction import REDACTED, is_secret, one_line, redact, redact_text
from orchestration.states import RunReason
from tasks.notify.templates import render

_MAX_NAMED = 20  # hosts, alerts and checks that are named; the others are counted
_MAX_ACTIONS = 8
_MAX_LABELS = 12
_MAX_LINKS = 8
_MAX_ALERTS_WITH_LINKS = 100
_MAX_URL_CHARACTERS = 2000
_MAX_EXTRACTS = 10
_MAX_EXTRACT_ITEMS = 10
_MAX_EXTRACT_CHARACTERS = 500

_TEST_TITLE = "[TEST] "
_TEST_FACT = Fact(label="Test", value="This message is a test, started by hand. Nobody has to act on it.")

_BEGAN_AND_ENDED = "it began and ended before this message could be sent"

_LINKS_FIRST = ("runbook", "dashboard", "panel", "source", "silence")
_URL_CHARACTERS = "!#$%&'()*+,-./:;=?@[]_~"
_SHOWN_ELSEWHERE = frozenset({"alertname", "severity", "status", "priority", "level", "environment", "env"})
_LABELS_FIRST = ("team", "service", "job", "cluster", "namespace", "region", "device", "mountpoint")
_MARKS = {CheckStatus.OK: "✓", CheckStatus.WARNING: "✗", CheckStatus.CRITICAL: "✗", CheckStatus.UNKNOWN: "?"}
_WORST_FIRST = (CheckStatus.CRITICAL, CheckStatus.WARNING, CheckStatus.UNKNOWN, CheckStatus.OK)
_OF_CHECK = {CheckStatus.OK: Severity.INFO, CheckStatus.CRITICAL: Severity.CRITICAL}


@dataclass(frozen=True, kw_only=True)
class MessageSubject:
    """The run that a message is about, with all that the message says of it."""

    run_id: str
    trace_id: str
    source: str
    environment: str
    node_id: str
    incident: Incident | None
    alerts: Sequence[Alert]
    """The alerts of this run."""
    reason: str
    """The reason of the notify decision, such as opened; "" if there was no decision."""
    check: CheckResult | None
    analysis: AnalyzeResult | None
    firing: int
    """How many alerts of the whole incident fire."""
    resolved: int
    """How many alerts of the whole incident are resolved."""
    title: str = ""
    """The title of a run that is neither about an alert nor about the health of this host."""
    extracts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """The outputs of transforms, by node id."""
    test: bool = False
    """Whether the message says that it is a test."""
    version: int | None = None
    """The incident's version that is said. None: the message is about the run alone."""
    pipeline: Sequence[str] = ()
    """What was unusual about how the run was executed."""
    upcoming: Upcoming | None = None
    """What happens to the incident next, by itself."""
    unread: int = 0
    """How many more alerts of the incident are in the same state as `alerts`."""
    omitted: int = 0
    """How many alerts of the incident the sender has left out of its push."""
    began_and_ended: bool = False
    """Whether the channel hears of the beginning and the end at once."""
    notes: Sequence[str] = ()
    """Why the message goes to this channel."""
    given_up: Mapping[str, str] = field(default_factory=dict[str, str])
    """The channels on which the incident could not be told, and was given up: name to error."""
    ended: str = Reason.RESOLVED
    """How the incident ended last: resolved, resolved_by_hand or expired."""
    ended_by: str = ""
    """The person who has resolved the incident, if one has."""

    @property
    def delivery(self) -> list[str]:
        """What the reader should know of the way of the message: whom it could not reach, and why it comes here."""
        return [*self.notes, *(f"given up on {channel}: {error}" for channel, error in self.given_up.items())]

    @property
    def status(self) -> AlertStatus:
        """Firing while the incident is open; without one, while an alert of the run fires. A healthy host is
        resolved."""
        if self.version is not None and self.incident:
            over = self.incident.status.ended
            return AlertStatus.RESOLVED if over else AlertStatus.FIRING
        if any(alert.firing for alert in self.alerts):
            return AlertStatus.FIRING
        if self.alerts:
            over = self.firing == 0 or self.reason == "resolved"
        elif self.incident:
            over = self.incident.status.ended
        else:
            over = _worst_check(self.check) is CheckStatus.OK
        return AlertStatus.RESOLVED if over else AlertStatus.FIRING

    @property
    def severity(self) -> Severity:
        """The worst severity of the firing alerts; if none fires, of all alerts; without alerts, of the checks."""
        if self.alerts:
            return Severity.worst(*(alert.severity for alert in self.relevant))
        if self.incident:
            return self.incident.severity
        if self.check is None and self.title:
            return Severity.INFO
        return _OF_CHECK.get(_worst_check(self.check), Severity.WARNING)

    @property
    def relevant(self) -> Sequence[Alert]:
        """The firing alerts of the run; all of them, if none fires."""
        return [alert for alert in self.alerts if alert.firing] or self.alerts


def render_message(subject: MessageSubject) -> Message:
    """The message about a run, for one channel. Its ledger names the idempotency key that is sent.

    Deterministic: equal subjects are equal messages.
    """
    links = _links(subject.relevant)
    analysis = list(_analysis(subject.analysis))
    view: dict[str, Any] = {
        "title": f"{_TEST_TITLE if subject.test else ''}{_title(subject)}",
        "facts": list(_facts(subject)),
        "actions": _actions(subject, links),
        "links": links,
        "checks": _checks(subject.check),
        "trace_id": one_line(subject.trace_id, 200),
        "run_id": subject.run_id,
    }
    shown = view | {"analysis": analysis}
    return Message(
        idempotency_key=f"{subject.run_id}/{subject.node_id}",
        dedup_key=_dedup_key(subject),
        text=render("message.txt.j2", shown),
        markdown=render("message.md.j2", shown),
        html=render("message.html.j2", shown),
        severity=subject.severity,
        status=subject.status,
        acknowledged_by=_acknowledged_by(subject),
        summary="\n".join(analysis),
        source=one_line(subject.source, 80),
        environment=one_line(subject.environment, 80),
        **view,
    )


def _acknowledged_by(subject: MessageSubject) -> str | None:
    incident = subject.incident
    if incident is None or incident.status is not IncidentStatus.ACKNOWLEDGED:
        return None
    return one_line(incident.acknowledged_by or "somebody", 80)


def _dedup_key(subject: MessageSubject) -> str:
    if subject.incident is None:
        return subject.run_id
    identity = f"{subject.incident.id}\n{subject.incident.incident_key}"
    return hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:32]


def _title(subject: MessageSubject) -> str:
    word = "RESOLVED" if subject.status is AlertStatus.RESOLVED else subject.severity.value.upper()
    names = list(dict.fromkeys(alert.name for alert in subject.relevant))
    if not subject.alerts and subject.incident is None:
        if subject.check is None and subject.title:
            return f"[{word}] {one_line(subject.title, 160)}"
        worst = _worst_check(subject.check)
        return f"[{worst.value.upper()}] Health of {one_line(socket.gethostname(), 80)}"
    environment = f" ({one_line(subject.environment, 40)})" if subject.environment else ""
    if len(names) == 1:
        where = _where(subject, named=2, limit=60)
        return f"[{word}] {one_line(names[0], 120) or 'nameless alert'}{f' on {where}' if where else ''}{environment}"
    name = subject.incident.title if subject.incident else f"{names[0]} and {len(names) - 1} more"
    return f"[{word}] {one_line(name, 160)}{environment}"


def _facts(subject: MessageSubject) -> Iterable[Fact]:
    host = one_line(socket.gethostname(), 80)
    total = subject.firing + subject.resolved
    facts = {
        "What": _what(subject),
        "Where": _where(subject) if subject.alerts or subject.incident else host,
        "Since": _since(subject),
        "Why now": meaning_of(subject.reason) or one_line(subject.reason, 200),
        "Acknowledged by": _acknowledged_by(subject) or "",
        "Resolved by": one_line(subject.ended_by, 80) if subject.reason == Reason.RESOLVED_BY_HAND else "",
        "State": _BEGAN_AND_ENDED if subject.began_and_ended else "",
        "The sender says": _some(_state_reasons(subject.relevant), named=3, limit=200),
        "Alerts": _counted(subject) if total > 1 or subject.omitted else "",
        "Labels": _labels(subject.relevant),
        "Environment": one_line(subject.environment, 80),
        "Source": one_line(subject.source, 80),
    }
    if subject.test:
        yield _TEST_FACT
    yield from (Fact(label="Pipeline", value=one_line(note, 500)) for note in subject.pipeline)
    yield from (Fact(label="Delivery", value=one_line(note, 500)) for note in subject.delivery)
    yield from (Fact(label=label, value=value) for label, value in facts.items() if value)
    yield from _extracts(subject.extracts)
    if upcoming := _upcoming(subject):
        yield Fact(label="Next", value=upcoming)


def _counted(subject: MessageSubject) -> str:
    counts = f"{subject.firing} firing, {subject.resolved} resolved"
    return f"{counts}, and {subject.omitted} more that the sender left out" if subject.omitted else counts


def _state_reasons(alerts: Sequence[Alert]) -> list[str]:
    """Why the alerts fire or have ended, in the sender's words, such as NoData."""
    return list(dict.fromkeys(alert.state_reason for alert in alerts if alert.state_reason))


def _upcoming(subject: MessageSubject) -> str:
    """What happens next by itself, and how to prevent it."""
    upcoming, incident = subject.upcoming, subject.incident
    if upcoming is None or upcoming.due_at is None or incident is None or subject.status is AlertStatus.RESOLVED:
        return ""
    moment = _moment(upcoming.due_at)
    if upcoming.reason is RunReason.EXPIRY:
        return f"at {moment} it counts as over, unless somebody hears of it before"
    return f"a reminder at {moment}, unless somebody acknowledges it: alert-pipeline incidents ack {incident.id}"


def _what(subject: MessageSubject) -> str:
    alerts = subject.relevant
    if not alerts and subject.incident is None and subject.check is None and subject.title:
        return one_line(subject.title, 300)
    if not alerts:
        return one_line(subject.incident.title, 300) if subject.incident else _health(subject.check)
    names = list(dict.fromkeys(alert.name for alert in alerts))
    if len(names) > 1:
        more = " or more" if subject.unread else ""
        counts = [f"{name} ×{sum(a.name == name for a in alerts)}{more}" for name in names[:_MAX_NAMED]]
        return _some([*counts, *names[_MAX_NAMED:]])
    first = alerts[0]
    says = one_line(first.description or first.annotations.get("summary", ""), 1000)
    alike = len({alert.description for alert in alerts}) == 1
    name = one_line(names[0], 120)
    return (
        f"{name}: {says if alike else f'{says} (the first of {len(alerts) + subject.unread} alerts)'}" if says else name
    )


def _health(check: CheckResult | None) -> str:
    checks = check.checks if check else []
    bad = [found.name for found in checks if found.status is not CheckStatus.OK]
    return f"look at {_some(bad)}" if bad else f"all {len(checks)} checks are ok"


def _where(subject: MessageSubject, *, named: int = _MAX_NAMED, limit: int = 80) -> str:
    places = list(dict.fromkeys(alert.place for alert in subject.relevant if alert.place))
    return _some(places, named=named, limit=limit, beyond=subject.unread)


def _some(names: Sequence[str], *, named: int = _MAX_NAMED, limit: int = 80, beyond: int = 0) -> str:
    """The first names, and the number of the others. `beyond` are others whose names are not known."""
    shown = ", ".join(one_line(name, limit) for name in names[:named])
    others = max(len(names) - named, 0) + beyond
    return f"{shown} and {others} more" if shown and others else shown


def _since(subject: MessageSubject) -> str:
    starts = [alert.started_at for alert in subject.relevant if alert.started_at]
    start = min(starts) if starts else subject.incident.opened_at if subject.incident else None
    if start is None:
        return ""
    ends = [alert.ended_at for alert in subject.relevant if alert.ended_at]
    end = max(ends) if ends else subject.incident.resolved_at if subject.incident else None
    if subject.status is AlertStatus.RESOLVED and end and end >= start:
        return f"{_moment(start)}, until {_moment(end)} ({_duration((end - start).total_seconds())})"
    return _moment(start)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{int(seconds)} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _labels(alerts: Sequence[Alert]) -> str:
    """The labels that all alerts share, without those that the message shows elsewhere."""
    if not alerts:
        return ""
    shared = dict(alerts[0].labels)
    for alert in alerts[1:]:
        shared = {key: value for key, value in shared.items() if alert.labels.get(key) == value}
    hidden = _SHOWN_ELSEWHERE | {
        key for key, value in shared.items() if key in PLACE_LABELS and value == alerts[0].place
    }
    keys = [key for key in _LABELS_FIRST if key in shared] + sorted(key for key in shared if key not in _LABELS_FIRST)
    shown = [key for key in keys if key not in hidden][:_MAX_LABELS]
    return ", ".join(
        f"{one_line(key, 60)}={REDACTED if is_secret(key, shared[key]) else one_line(shared[key], 120)}"
        for key in shown
    )


def _checks(check: CheckResult | None) -> list[str]:
    if check is None:
        return []
    found = sorted(check.checks, key=lambda one: _WORST_FIRST.index(one.status))
    more = [f"and {len(found) - _MAX_NAMED} more"] if len(found) > _MAX_NAMED else []
    return [*(_check(one) for one in found[:_MAX_NAMED]), *more]


def _check(check: Check) -> str:
    says = one_line(check.error or check.message, 300)
    return f"{_MARKS[check.status]} {one_line(check.name, 60)}: {check.status.value}{f', {says}' if says else ''}"


def _worst_check(check: CheckResult | None) -> CheckStatus:
    found = {one.status for one in check.checks} if check else set[CheckStatus]()
    return next((status for status in _WORST_FIRST if status in found), CheckStatus.UNKNOWN)


def _analysis(analysis: AnalyzeResult | None) -> Iterable[str]:
    if analysis is None:
        return
    summary, cause = one_line(analysis.summary, 1000), one_line(analysis.probable_cause, 1000)
    if analysis.fallback_used:
        # The summary of a fallback says that there is no analysis; the message adds the error.
        why = one_line(next(iter(analysis.errors), ""), 500) or cause
        summary, cause = f"{summary}: {why}" if why else f"{summary}.", ""
    if summary:
        yield summary
    if cause:
        yield f"Probable cause: {cause}"
    if analysis.confidence > 0:
        yield f"Confidence: {analysis.confidence:.0%}"


def _actions(subject: MessageSubject, links: dict[str, str]) -> list[str]:
    if subject.status is AlertStatus.RESOLVED:
        return []
    analysis = subject.analysis
    advice = list(analysis.actions) if analysis else []
    if analysis and not advice:
        advice = [
            f"{one.title}: {one.description}" if one.description else one.title for one in analysis.recommendations
        ]
    runbook = ["Follow the runbook."] if "runbook" in links else []
    return [line for line in dict.fromkeys([*runbook, *(one_line(step, 300) for step in advice)]) if line][
        :_MAX_ACTIONS
    ]


def _links(alerts: Sequence[Alert]) -> dict[str, str]:
    """The web links of the alerts, without secrets, the most useful links first."""
    found: dict[str, str] = {}
    for alert in alerts[:_MAX_ALERTS_WITH_LINKS]:
        for name, url in alert.links.items():
            address = web_address(url)
            if address and len(url) <= _MAX_URL_CHARACTERS:
                clean = redact_text(address).replace(REDACTED, "redacted")
                found.setdefault(one_line(name, 40), quote(clean, safe=_URL_CHARACTERS))
    names = dict.fromkeys((*_LINKS_FIRST, *found))
    return {name: found[name] for name in [name for name in names if name in found][:_MAX_LINKS]}


def _extracts(extracts: Mapping[str, JsonValue]) -> Iterator[Fact]:
    """The output of each transform as one line, under the id of its node. Null and empty values are left out."""
    for node_id, value in list(extracts.items())[:_MAX_EXTRACTS]:
        text = one_line(_in_words(redact(value)), _MAX_EXTRACT_CHARACTERS)
        if text:
            yield Fact(label=one_line(node_id, 80), value=text)


def _in_words(value: JsonValue) -> str:
    if isinstance(value, list):
        shown = value[:_MAX_EXTRACT_ITEMS]
        more = [f"and {len(value) - len(shown)} more"] if len(value) > len(shown) else []
        return "; ".join([*map(_in_words, shown), *more])
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_in_words(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    return "" if value is None else str(value)
