"""The evidence of an answer: what happened, line by line, and what comes next by itself. Pure."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby

from orchestration.alert import IncidentStatus
from orchestration.errors import error_in_words
from orchestration.reasons import Reason
from orchestration.redaction import one_line
from orchestration.states import RunReason, RunStatus
from orchestration.store.deliveries import FAILED, GIVEN_UP, SENDING, SENT, SUPERSEDED
from orchestration.store.records import CHANNEL_GIVEN_UP, AttemptRecord, DeliveryRecord, RunRecord
from orchestration.store.refused import KEPT_CHARACTERS, RefusedPush
from orchestration.store.why_facts import CLOSED_TIMERS, Event, ExplainedRun, Facts, fails, meaning, waits

_SAME_MOMENT = timedelta(seconds=1)
"""How far two times may lie apart that were written for the same moment."""

_TOGETHER_FROM = 3
"""From how many equal runs in a row on they are one line."""

_SAID_BY_RUNS = frozenset({"incident_reminded", "incident_expired"})
_KINDS = {
    RunReason.PUSH: "push",
    RunReason.REMINDER: "reminder",
    RunReason.EXPIRY: "expiry",
    RunReason.ESCALATION: "step of the escalation",
    RunReason.REDELIVERY: "redelivery",
    RunReason.MEMBER_ENDED: "end of an alert in another push",
    RunReason.ACTION: "action of a person",
    RunReason.STATE: "update of the messages that are there",
    RunReason.HEARTBEAT: "heartbeat",
    RunReason.ANALYSIS: "update of the messages with the answer of the model",
}


def timeline(facts: Facts) -> list[Event]:
    """What happened, oldest first. What happened again and again is one line."""
    spoken = [*_refused(facts), *_history(facts)]
    single = list[ExplainedRun]()
    alike = dict[str, list[ExplainedRun]]()
    for one in facts.runs:
        if (kind := _said_together(one)) is None:
            single.append(one)
        else:
            alike.setdefault(kind, []).append(one)
    for one in single:
        spoken += _run_events(one)
    others = sorted(event.at for event in spoken)
    for runs in alike.values():
        for group in _uninterrupted(runs, others):
            spoken += (
                _together(group) if len(group) >= _TOGETHER_FROM else [e for one in group for e in _run_events(one)]
            )
    return sorted(spoken, key=lambda event: event.at)


def _said_together(one: ExplainedRun) -> str | None:
    """A name for what may happen so often that it is said in one line. None means that the run has its own lines."""
    run = one.run
    if run.reason is RunReason.REDELIVERY and run.status is RunStatus.FAILED:
        return run.reason.value
    is_push = run.reason is RunReason.PUSH and run.skip_reason in (Reason.REPEAT, Reason.DUPLICATE)
    return f"{run.skip_reason} {run.source}" if is_push and not one.errors and not one.failures else None


def _uninterrupted(runs: Sequence[ExplainedRun], others: Sequence[datetime]) -> Iterator[list[ExplainedRun]]:
    """These runs, oldest first, in groups between which something else happened."""
    ordered = sorted(runs, key=lambda one: one.run.created_at)
    for _, group in groupby(ordered, key=lambda one: bisect(others, one.run.created_at)):
        yield list(group)


def _together(group: Sequence[ExplainedRun]) -> Iterator[Event]:
    """What a group of equal runs did, as one line at the last of them."""
    first, last = group[0].run, group[-1].run
    count = f"{len(group)}", f"since {first.created_at:%H:%M:%S}"
    if last.reason is RunReason.REDELIVERY:
        failed = error_in_words(last.last_error_type, last.last_error_message)
        text = f"{count[0]} redeliveries {count[1]} failed: {failed}"
        for one in group:
            yield from (_delivery_event(delivery, one.run) for delivery in one.deliveries)
        yield Event(at=last.completed_at or last.updated_at, mark="✗", text=text, run_id=last.run_id)
        return
    text = f"{count[0]} pushes from {last.source} {count[1]}, nobody is notified: {meaning(last.skip_reason)}"
    yield Event(at=last.created_at, mark="-", text=text, run_id=last.run_id)


def _refused(facts: Facts) -> Iterator[Event]:
    for push in facts.refused:
        yield Event(at=push.at, mark="✗", text=_refusal_line(push))
        if push.id == facts.refused_id and push.body:
            yield Event(at=push.at, mark="·", text=f"it began with: {one_line(push.body, KEPT_CHARACTERS)}")


def _history(facts: Facts) -> Iterator[Event]:
    at = None
    for line in reversed(facts.history):
        # A line has the beginning of its transaction, which may have waited for that of the line before it.
        at = max(line.at, at or line.at)
        if line.event in _SAID_BY_RUNS:
            continue
        mark = "✗" if line.event == CHANNEL_GIVEN_UP else "·"
        text = f"incident {line.incident_id} {line.in_words}"
        yield Event(at=at, mark=mark, text=text, run_id=line.run_id)


def _refusal_line(push: RefusedPush) -> str:
    named = push.sender or push.key
    unknown_key = f"{'unchecked' if push.unchecked_key else 'unknown'} key {push.details.get('key')}"
    who = named or (unknown_key if push.details.get("key") else "no key")
    size = f", {push.size_bytes:,} bytes" if push.size_bytes is not None else ""
    program = f", {push.details['user_agent']}" if push.details.get("user_agent") else ""
    times = f", {push.count} times" if push.count > 1 else ""
    unknown = "" if push.body else ", what it said is not known"
    outcome = "not understood" if push.was_kept else f"refused {push.status}"
    return (
        f"{outcome}: push to {push.path} from {who} at {push.address or '?'}{program}{size}{times}"
        f"{unknown}: {push.reason} (refused-{push.id})"
    )


def _run_events(one: ExplainedRun) -> Iterator[Event]:
    run = one.run
    if run.reason is RunReason.PUSH:
        text = f"push from {run.source} arrived: {run.title or 'no title'}, {run.severity.value}{_states(one.alerts)}"
        yield Event(at=run.created_at, mark="·", text=text, run_id=run.run_id)
        yield from (
            Event(at=run.created_at, mark="✗", text=f"not used: {error}", run_id=run.run_id) for error in one.errors
        )
    elif not waits(run) and one.tell is None and run.skip_reason not in CLOSED_TIMERS:
        text = f"{_KINDS[run.reason]} was due"
        yield Event(at=run.started_at or run.created_at, mark="·", text=text, run_id=run.run_id)
    yield from _failure_events(one)
    if one.not_checked:
        left_out = (f"{', '.join(names)} ({reason})" for reason, names in one.not_checked.items())
        text = f"not checked: {'; '.join(left_out)}"
        yield Event(at=run.started_at or run.updated_at, mark="-", text=text, run_id=run.run_id)
    if one.tell is True and not run.reason.disturbs_nobody:
        decided = f"decided to notify: {meaning(one.reason)}"
        yield Event(at=run.started_at or run.updated_at, mark="·", text=decided, run_id=run.run_id)
    for delivery in one.deliveries:
        yield _delivery_event(delivery, run)
    if run.status is RunStatus.SKIPPED and run.skip_reason not in CLOSED_TIMERS:
        about = "" if run.reason is RunReason.PUSH else f"{_KINDS[run.reason]}: "
        same = f", as run {run.duplicate_of[:12]}" if run.duplicate_of else ""
        text = f"{about}nobody is notified: {meaning(run.skip_reason)}{same}"
        yield Event(at=run.completed_at or run.updated_at, mark="-", text=text, run_id=run.run_id)


def _states(alerts: Sequence[str]) -> str:
    """How many alerts of a push have which status: `, firing`, or `, 2 firing, 1 resolved`."""
    counts = Counter(alerts)
    if len(alerts) == 1:
        return f", {alerts[0]}"
    return "".join(f", {count} {status}" for status, count in sorted(counts.items()))


def _failure_events(one: ExplainedRun) -> Iterator[Event]:
    """The failed attempts, one line for each node; those at which the run failed are one line with its failure."""
    run = one.run
    failures = list(one.failures)
    if run.status is RunStatus.FAILED:
        fatal = [attempt for attempt in failures if attempt.node_id == failures[-1].node_id]
        failures = [attempt for attempt in failures if attempt not in fatal]
        after = f" at {fatal[-1].node_id}, {_numbers(fatal)}" if fatal else ""
        text = f"the run failed{after}: {error_in_words(run.last_error_type, run.last_error_message)}"
        yield Event(at=run.completed_at or run.updated_at, mark="✗", text=text, run_id=run.run_id)
    for node in dict.fromkeys(attempt.node_id for attempt in failures):
        tried = [attempt for attempt in failures if attempt.node_id == node]
        text = f"{node}, {_numbers(tried)}: {error_in_words(tried[-1].error_type, tried[-1].error_message)}"
        yield Event(at=tried[-1].completed_at or run.updated_at, mark="✗", text=text, run_id=run.run_id)


def _numbers(attempts: Sequence[AttemptRecord]) -> str:
    first, last = attempts[0].attempt, attempts[-1].attempt
    return (
        f"attempt {first}" if len(attempts) == 1 else f"attempts {first} {'and' if last == first + 1 else 'to'} {last}"
    )


def _delivery_event(delivery: DeliveryRecord, run: RunRecord) -> Event:
    said = {
        SENT: "sent",
        SENDING: "being sent",
        FAILED: "not accepted",
        SUPERSEDED: "not sent, a newer message overtook it (superseded)",
        GIVEN_UP: "given up",
    }.get(delivery.status, delivery.status)
    if delivery.status == SUPERSEDED and delivery.perhaps_accepted:
        said = "perhaps arrived, and is not sent again: a newer message overtook it (superseded)"
    if delivery.silent:
        said = "brought up to date"
    mark = {SENT: "✓", SENDING: "·", SUPERSEDED: "-"}.get(delivery.status, "✗")
    tries = f", try {delivery.tries}" if delivery.tries > 1 else ""
    error = f": {delivery.error}" if delivery.error else ""
    driver = "" if delivery.driver == delivery.channel else f" ({delivery.driver})"
    text = f"message to {delivery.channel}{driver} {said}{tries}{error}"
    return Event(at=delivery.settled_at or delivery.created_at, mark=mark, text=text, run_id=run.run_id)


def upcoming(facts: Facts) -> list[Event]:
    """What comes next by itself, and when."""
    found = [*_due(facts)]
    for health in facts.failing:
        if health.not_before is not None and health.not_before > facts.now:
            text = f"the channel {health.name} may be tried again; it {fails(health, facts.now)}"
            found.append(Event(at=health.not_before, mark="→", text=text))
    return sorted(found, key=lambda event: event.at)


def _due(facts: Facts) -> Iterator[Event]:
    waiting = [one.run for one in facts.runs if waits(one.run)]
    now = [run for run in waiting if run.due_at is None]
    if now:
        others = f" and {len(now) - 1} more" if len(now) > 1 else ""
        when = "as soon as it can" if facts.has_worker else "as soon as one is alive"
        text = f"a worker executes the {_KINDS[now[0].reason]}{others} {when}"
        yield Event(at=facts.now, mark="→", text=text, run_id=now[0].run_id)
    for run in waiting:
        if run.due_at is None:
            continue
        if run.status is RunStatus.RETRYING:
            text = f"the {_KINDS[run.reason]} goes on at {run.current_stage}"
        else:
            text = {
                RunReason.REMINDER: _next_reminder(facts, run.due_at),
                RunReason.ESCALATION: "the next step of the escalation, if nobody has acknowledged it until then",
                RunReason.EXPIRY: f"expiry{_by_policy(facts, run.reason)}, if nobody has heard of it until then",
                RunReason.REDELIVERY: "the message that was not accepted is sent again, if no newer one replaced it",
            }.get(run.reason, f"{_KINDS[run.reason]} is executed")
        yield Event(at=run.due_at, mark="→", text=text, run_id=run.run_id)


def _by_policy(facts: Facts, reason: RunReason) -> str:
    said = facts.incident and facts.timing.note_on(reason, facts.incident.severity)
    return f" ({said})" if said else ""


def _next_reminder(facts: Facts, due_at: datetime) -> str:
    """What the next reminder depends on: the end of a snooze or of an acknowledgement is a reminder too."""
    incident = facts.incident
    if incident is not None and incident.snoozed_until is not None and incident.snoozed_until >= due_at - _SAME_MOMENT:
        return "the snooze ends: a reminder, if it still fires"
    if incident is not None and incident.is_flapping:
        return "it is told as it is then, if it has been quiet until then"
    if incident is not None and incident.held_until is not None and incident.held_until >= due_at - _SAME_MOMENT:
        return "what keeps it back ends: it is told, if it still fires and nothing else does"
    if incident is not None and incident.status is IncidentStatus.ACKNOWLEDGED:
        return "the acknowledgement ends: a reminder, if it still fires"
    return f"reminder{_by_policy(facts, RunReason.REMINDER)}, if it still fires and nobody has acknowledged it"
