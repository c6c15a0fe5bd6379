"""The rows of a message: what, how much, where, since when, why now, what comes next, and what helps after that.

All text from outside is cleaned, redacted and bounded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from pydantic import JsonValue

from orchestration.alert import FLAPPING, Alert, AlertStatus, Incident, IncidentStatus, first_start, named
from orchestration.contracts import CheckResult, CheckStatus
from orchestration.escalation import progress_of
from orchestration.message import Fact
from orchestration.places import PLACE_LABELS
from orchestration.reasons import Reason, meaning_of
from orchestration.redaction import REDACTED, is_secret, one_line, redact
from orchestration.series import value_in_words
from orchestration.states import RunReason
from tasks.notify.changed import changed
from tasks.notify.subject import MessageSubject

_MAX_NAMED = 20  # hosts and alerts that are named; the others are counted
_FEW = 5
_MAX_LABELS = 12
_MAX_EXTRACTS = 10
_MAX_EXTRACT_ITEMS = 10
_MAX_EXTRACT_CHARACTERS = 500
_MAX_DELIVERY = 2
_SHORT, _LONG = 160, 1000  # characters of a description: at the top, and as a whole
_WORTH_SAYING_SECONDS = 60.0

_TEST = "This message is a test, started by hand. Nobody has to act on it."
_BEGAN_AND_ENDED = "it began and ended before this message could be sent"

_VALUES = ("value", "current_value", "values", "current", "item_value", "usage", "measured")
_LIMITS = ("threshold", "limit", "critical_threshold", "warning_threshold", "max")
"""The annotations and labels in which senders say what was measured, and what was allowed."""

_SHOWN_ELSEWHERE = frozenset({"alertname", "severity", "status", "priority", "level", "environment", "env"})
_LABELS_FIRST = ("team", "service", "job", "cluster", "namespace", "region", "device", "mountpoint")


def facts_of(subject: MessageSubject) -> Iterator[Fact]:
    """What a person needs in half a minute, before what to do: what, how much, where, since when and why now."""
    since = _since(subject)
    rows = {
        "Test": _TEST if subject.test else "",
        "Storm": _storm(subject),
        "Flapping": _flapping(subject),
        "What": _what(subject),
        "With it": _with_it(subject),
        "Value": _measured(subject.check) or _value(subject),
        "Changed": changed(subject),
        "Where": _where(subject),
        "Since": since,
        "Why now": _why_now(subject),
        "Acknowledged by": subject.acknowledged_by,
        "Snoozed until": _snoozed_until(subject),
        "Kept back": "" if _flapping(subject) else one_line(subject.kept_back, 200),
        "Resolved by": one_line(subject.ended_by, 80) if subject.reason == Reason.RESOLVED_BY_HAND else "",
        "State": _BEGAN_AND_ENDED if subject.began_and_ended else "",
    }
    yield from _rows(rows)
    yield from (Fact(label="Delivery", value=one_line(note, 300)) for note in subject.delivery[:_MAX_DELIVERY])


def _why_now(subject: MessageSubject) -> str:
    """Why there is this message. One that is only brought up to date needs no reason: it notifies nobody."""
    if subject.reason in (Reason.STATE, Reason.ANALYSIS):
        return ""
    if subject.reason == Reason.SEVERITY_RAISED and subject.rose_from is not None:
        return f"it got worse: it is {subject.severity.value} now (it was {subject.rose_from.value})"
    return meaning_of(subject.reason) or one_line(subject.reason, 200)


def _storm(subject: MessageSubject) -> str:
    """That many incidents are one message, how many they are, and what they have in common."""
    if (storm := subject.storm) is None:
        return ""
    total = subject.firing + subject.resolved
    now = f", {subject.firing:,} of them firing" if subject.firing and subject.resolved else ""
    shared = ", ".join(f"{one_line(name, 40)}={one_line(value, 60)}" for name, value in storm.shared.items())
    common = f"; most have in common: {shared}" if shared else ""
    left = f"; {storm.released:,} still fire, each as an incident of its own" if storm.released else ""
    alerts = "alert" if total == 1 else "alerts"
    return f"{total:,} {alerts} opened at once{now}. This message speaks for all of them{common}{left}"


def _flapping(subject: MessageSubject) -> str:
    """That an incident goes on and off, whatever it does at this moment. "" if it does not."""
    incident = subject.incident
    if incident is None or not incident.is_flapping or subject.status is AlertStatus.RESOLVED:
        return ""
    now = "it is resolved" if incident.status.ended else "it fires"
    why = one_line(str((incident.held or {}).get("why", "")), 200).removeprefix(f"{FLAPPING}: ")
    return f"it goes on and off, and is not over: at this moment {now}; {why}"


def _snoozed_until(subject: MessageSubject) -> str:
    until = subject.incident.snoozed_until if subject.incident else None
    if until is None or subject.at is None or until <= subject.at or subject.status is AlertStatus.RESOLVED:
        return ""
    return _moment(until, subject.zone)


def follow_ups_of(subject: MessageSubject) -> Iterator[Fact]:
    """Who has it, and what comes next by itself."""
    if subject.status is AlertStatus.FIRING:
        yield from _rows({"On call": _on_call(subject), "Next": _upcoming(subject)})


def _on_call(subject: MessageSubject) -> str:
    until = subject.on_call_until
    return f"{one_line(subject.on_call, 200)}{f', until {_moment(until, subject.zone)}' if until else ''}"


def details_of(subject: MessageSubject) -> Iterator[Fact]:
    """What helps once the reader has begun to look."""
    total = subject.firing + subject.resolved
    places = _where(subject, _MAX_NAMED)
    rows = {
        "Description": _description(subject.relevant, _LONG) if _is_cut(subject.relevant) else "",
        "All places": places if places != _where(subject) else "",
        "The sender says": _some(_state_reasons(subject.relevant), named=3, limit=200),
        "Alerts": _counted(subject) if total > 1 or subject.omitted else "",
        "Labels": _labels(subject.relevant),
        "Environment": one_line(subject.environment, 80),
        "Source": one_line(subject.source, 80),
    }
    yield from (Fact(label="Pipeline", value=one_line(note, 500)) for note in subject.pipeline)
    yield from (Fact(label="Delivery", value=one_line(note, 500)) for note in subject.delivery[_MAX_DELIVERY:])
    yield from _rows(rows)
    yield from _extracts(subject.extracts)


def _rows(rows: Mapping[str, str]) -> Iterator[Fact]:
    return (Fact(label=label, value=value) for label, value in rows.items() if value)


def _counted(subject: MessageSubject) -> str:
    counts = f"{subject.firing} firing, {subject.resolved} resolved"
    return f"{counts}, and {subject.omitted} more that the sender left out" if subject.omitted else counts


def _state_reasons(alerts: Sequence[Alert]) -> list[str]:
    """Why the alerts fire or have ended, in the sender's words, such as NoData."""
    return list(dict.fromkeys(alert.state_reason for alert in alerts if alert.state_reason))


def _upcoming(subject: MessageSubject) -> str:
    """What happens next by itself, and how to prevent it."""
    upcoming, incident = subject.upcoming, subject.incident
    if upcoming is None or upcoming.due_at is None or incident is None:
        return ""
    moment = _moment(upcoming.due_at, subject.zone)
    if incident.is_flapping and upcoming.reason is RunReason.REMINDER:
        return f"nothing before {moment}, unless it gets critical: it is flapping"
    unless = f"unless somebody acknowledges it: alert-pipeline incidents ack {incident.id}"
    if upcoming.reason is RunReason.EXPIRY:
        return f"at {moment} it counts as over, unless somebody hears of it before"
    if upcoming.reason is RunReason.ESCALATION:
        return f"{_next_in_line(incident)} at {moment}, {unless}"
    if incident.status is IncidentStatus.ACKNOWLEDGED:
        return f"the acknowledgement ends at {moment}; if it still fires then, it is told again"
    if _snoozed_until(subject):
        return f"the snooze ends at {moment}; if it still fires then, it is told again"
    return f"a reminder at {moment}, {unless}"


def _next_in_line(incident: Incident) -> str:
    """Who is notified in the next step of the escalation."""
    progress = progress_of(incident)
    step = progress.next_step if progress is not None else None
    if progress is None or step is None:
        return "everybody hears that nobody has acknowledged it"
    names = [*step.people, *(f"whoever is on call by {schedule}" for schedule in step.schedules), *step.channels]
    return f"{_some(names, named=_FEW)} is notified (step {progress.taken + 1} of {progress.count})"


def _what(subject: MessageSubject) -> str:
    alerts = subject.relevant
    if not alerts and subject.incident is None and subject.check is None and subject.title:
        return one_line(subject.title, 300)
    if not alerts:
        return one_line(subject.incident.title, 300) if subject.incident else _health(subject.check)
    lead, says = alerts[0], _description(alerts, _SHORT)
    severities = {alert.severity for alert in alerts}
    name = f"{one_line(lead.name, 120)}{f' ({lead.severity.value})' if len(severities) > 1 else ''}"
    if not says:
        return name
    alike = subject.is_mixed or len({alert.description for alert in alerts}) == 1
    return f"{name}: {says if alike else f'{says} (the first of {len(alerts) + subject.unread} alerts)'}"


def _with_it(subject: MessageSubject) -> str:
    """The alerts beside the worst one, if they are not more of the same: how many of each name and severity."""
    if not subject.is_mixed:
        return ""
    says_severity = len({alert.severity for alert in subject.relevant}) > 1
    counts = Counter((alert.name, alert.severity) for alert in subject.relevant[1:])
    more = " or more" if subject.unread else ""
    shown = [
        f"{one_line(name, 80)} ×{count}{more}{f' ({severity.value})' if says_severity else ''}"
        for (name, severity), count in counts.items()
    ]
    left_out = f"; {subject.omitted} more that the sender left out" if subject.omitted else ""
    return f"{_some(shown, limit=160)}{left_out}"


def _description(alerts: Sequence[Alert], limit: int) -> str:
    """What the first alert says of itself."""
    return one_line(alerts[0].description or alerts[0].annotations.get("summary", ""), limit) if alerts else ""


def _is_cut(alerts: Sequence[Alert]) -> bool:
    """Whether the description says more than there is room for at the top."""
    return _description(alerts, _SHORT) != _description(alerts, _LONG)


def _measured(check: CheckResult | None) -> str:
    """What a check has measured of the alert itself: value, limit, what is normal, and a line of the past."""
    found = (value_in_words(one.metrics) for one in (check.checks if check else ()))
    return one_line(next(filter(None, found), ""), 200)


def _value(subject: MessageSubject) -> str:
    """What was measured, against its limit, of the first alert that says it. Of another than the first it says whose
    value it is."""
    for place, alert in enumerate(subject.relevant):
        value = _first_of(alert.annotations, _VALUES) or _first_of(alert.labels, _VALUES)
        if value:
            limit = _first_of(alert.annotations, _LIMITS) or _first_of(alert.labels, _LIMITS)
            whose = f" ({one_line(named(alert.name, alert.place), 120)})" if place else ""
            return f"{one_line(value, 120)}{f', limit {one_line(limit, 60)}' if limit else ''}{whose}"
    return ""


def _first_of(said: Mapping[str, str], names: Sequence[str]) -> str:
    return next((value for name in names if (value := said.get(name, "").strip())), "")


def _health(check: CheckResult | None) -> str:
    checks = check.checks if check else []
    bad = [found.name for found in checks if found.status is not CheckStatus.OK]
    return f"look at {_some(bad)}" if bad else f"all {len(checks)} checks are ok"


def place_of(subject: MessageSubject, *, named: int = _MAX_NAMED, limit: int = 80) -> str:
    """The places of the alerts, of which so many are named; "" if they name none."""
    places = list(dict.fromkeys(alert.place for alert in subject.relevant if alert.place))
    return _some(places, named=named, limit=limit, beyond=subject.unread)


def _where(subject: MessageSubject, named: int = _FEW) -> str:
    if not subject.alerts and subject.incident is None:
        return one_line(subject.checked_host, 80)
    return place_of(subject, named=named)


def _some(names: Sequence[str], *, named: int = _MAX_NAMED, limit: int = 80, beyond: int = 0) -> str:
    """The first names, and the number of the others. `beyond` are others whose names are not known."""
    shown = ", ".join(one_line(name, limit) for name in names[:named])
    others = max(len(names) - named, 0) + beyond
    return f"{shown} and {others} more" if shown and others else shown


def _since(subject: MessageSubject) -> str:
    """Since when the worst alert fires, and the first of all if that is another one; until when, if it is over."""
    first = first_start(subject.relevant) or (subject.incident.opened_at if subject.incident else None)
    if first is None:
        return ""
    if subject.status is AlertStatus.FIRING:
        start = (subject.relevant[0].started_at if subject.is_mixed else None) or first
        lasts = (subject.at - start).total_seconds() if subject.at else 0.0
        began = _moment(start, subject.zone)
        says = f"{began}, for {_duration(lasts)}" if lasts >= _WORTH_SAYING_SECONDS else began
        earlier = (start - first).total_seconds() >= _WORTH_SAYING_SECONDS
        return f"{says}; the first of its alerts since {_moment(first, subject.zone)}" if earlier else says
    ends = [alert.ended_at for alert in subject.relevant if alert.ended_at]
    end = max(ends) if ends else subject.incident.resolved_at if subject.incident else None
    began = _moment(first, subject.zone)
    if end is None or end < first:
        return began
    return f"{began}, until {_moment(end, subject.zone)} ({_duration((end - first).total_seconds())})"


def _moment(moment: datetime, zone: ZoneInfo | None = None) -> str:
    """The moment in UTC, and on the reader's clock if that shows another time."""
    utc = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    local = moment.astimezone(zone) if zone is not None else moment
    return utc if local.utcoffset() == moment.utcoffset() else f"{utc} ({local:%H:%M} {local.tzname()})"


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
