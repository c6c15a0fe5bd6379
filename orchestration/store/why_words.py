"""Why somebody was notified, or nobody was, in words: the answer first, then the evidence as a timeline. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from pydantic import Field

from orchestration.alert import AlertStatus, Incident, IncidentStatus, UtcDatetime
from orchestration.contracts import Contract
from orchestration.reasons import Reason, meaning_of
from orchestration.states import RunReason, RunStatus
from orchestration.store.deliveries import FAILED, GIVEN_UP, SENDING, SENT, SUPERSEDED
from orchestration.store.incidents import ChannelRecord
from orchestration.store.records import CHANNEL_GIVEN_UP, AttemptRecord, DeliveryRecord, HistoryRecord, RunRecord
from orchestration.store.refused import RefusedPush

NEAR = timedelta(minutes=5)
"""How far from the moment that is asked about a push may lie and still be the one that is meant."""

HTTP_UNAUTHORIZED = 401

_SAME_MOMENT = timedelta(seconds=1)
"""How far two times may lie apart that were written for the same moment."""

_CLOSED_TIMERS = frozenset({Reason.HEARD_OF, Reason.NOT_DUE, Reason.ALREADY_RESOLVED})
_SAID_BY_RUNS = frozenset({"incident_reminded", "incident_expired"})
_KINDS = {
    RunReason.PUSH: "push",
    RunReason.REMINDER: "reminder",
    RunReason.EXPIRY: "expiry",
    RunReason.REDELIVERY: "redelivery",
    RunReason.MEMBER_ENDED: "end of an alert in another push",
    RunReason.ACTION: "action of a person",
}


class Event(Contract):
    """One line of the timeline."""

    at: UtcDatetime
    mark: str
    """✓ somebody was notified, ✗ something failed or was refused, - nothing was to be done, · anything else."""
    text: str
    run_id: str | None = None


class ExplainedRun(Contract):
    """A run with what was decided, what was sent, and what went wrong."""

    run: RunRecord
    tell: bool | None = None
    reason: str | None = None
    """The rule that decided in ingest. None means that ingest has not decided."""
    errors: list[str] = Field(default_factory=list[str])
    """What of the push could not be used."""
    deliveries: list[DeliveryRecord] = Field(default_factory=list[DeliveryRecord])
    failures: list[AttemptRecord] = Field(default_factory=list[AttemptRecord])
    """The attempts at its stages that failed."""

    def sent(self, status: str = SENT) -> list[DeliveryRecord]:
        """Its messages with this status."""
        return [delivery for delivery in self.deliveries if delivery.status == status]

    @property
    def moment(self) -> datetime:
        """When it spoke: a push when it arrived, a follow-up when it was executed."""
        run = self.run
        return run.created_at if run.reason is RunReason.PUSH else run.completed_at or run.updated_at


class ChannelHealth(Contract):
    """A channel that fails now."""

    name: str
    failures: int = 0
    failing_since: UtcDatetime | None = None
    not_before: UtcDatetime | None = None
    last_error: str | None = None


class Facts(Contract):
    """What is on record about the thing that somebody asks about."""

    what: str
    now: UtcDatetime
    at: UtcDatetime | None = None
    run_id: str | None = None
    """The run that is asked about, if it is a single one."""
    subject: str
    incident: Incident | None = None
    others: list[Incident] = Field(default_factory=list[Incident])
    """Further incidents that fit the question."""
    runs: list[ExplainedRun] = Field(default_factory=list[ExplainedRun])
    """Oldest first."""
    channels: list[ChannelRecord] = Field(default_factory=list[ChannelRecord])
    failing: list[ChannelHealth] = Field(default_factory=list[ChannelHealth])
    history: list[HistoryRecord] = Field(default_factory=list[HistoryRecord])
    refused: list[RefusedPush] = Field(default_factory=list[RefusedPush])
    """Newest first."""


class Why(Contract):
    """Why somebody was notified of something, or nobody was."""

    what: str = Field(description="What was asked about.")
    at: UtcDatetime | None = Field(description="The moment that was asked about. Null means the latest news.")
    answer: str = Field(description="The answer, in a sentence or a few.")
    incident: Incident | None
    run_id: str | None = Field(description="The run that decided.")
    timeline: list[Event] = Field(description="What happened, oldest first.")
    upcoming: list[Event] = Field(description="What happens next by itself, and when.")
    other_incidents: list[Incident] = Field(description="Further incidents that fit the question.")


def explain(facts: Facts) -> Why:
    """The answer to a question, with its evidence."""
    deciding = _deciding(facts)
    refused = _deciding_refusal(facts, deciding)
    if refused is not None:
        answer = _refused_answer(facts, refused)
    elif deciding is not None:
        answer = _run_answer(facts, deciding)
    else:
        answer = _nothing(facts)
    return Why(
        what=facts.what,
        at=facts.at,
        answer=answer,
        incident=facts.incident,
        run_id=deciding.run.run_id if deciding is not None and refused is None else None,
        timeline=sorted(_events(facts), key=lambda event: event.at),
        upcoming=sorted(_upcoming(facts), key=lambda event: event.at),
        other_incidents=facts.others,
    )


def clock(moment: datetime, now: datetime) -> str:
    """A moment in UTC as a sentence names it: `at 03:12`, or with its day if that is not today."""
    return f"at {moment:%H:%M}" if moment.date() == now.date() else f"on {moment:%Y-%m-%d} at {moment:%H:%M}"


# The answer


def _deciding(facts: Facts) -> ExplainedRun | None:
    """The run that decided about the moment: the one that is named, else the last one until then."""
    if facts.run_id is not None:
        return next((one for one in facts.runs if one.run.run_id == facts.run_id), None)
    spoke = [one for one in facts.runs if one.run.reason is RunReason.PUSH or _has_spoken(one.run)]
    if facts.at is not None:
        spoke = [one for one in spoke if one.moment <= facts.at + timedelta(minutes=1)]
    return max(spoke, key=lambda one: one.moment, default=None)


def _has_spoken(run: RunRecord) -> bool:
    return run.status is not RunStatus.PENDING and run.skip_reason not in _CLOSED_TIMERS


def _deciding_refusal(facts: Facts, deciding: ExplainedRun | None) -> RefusedPush | None:
    """The refused push that is the reason: the nearest to the moment, if no accepted push is as near."""
    if facts.run_id is not None or not facts.refused:
        return None
    if facts.at is None:
        # What said nothing may have been about anything.
        newest = next((push for push in facts.refused if push.body or deciding is None), None)
        return newest if newest and (deciding is None or newest.at > deciding.moment) else None
    at = facts.at
    near = [push for push in facts.refused if abs(push.at - at) <= NEAR]
    if deciding is not None and abs(deciding.moment - at) <= NEAR:
        near = [push for push in near if push.body and abs(push.at - at) < abs(deciding.moment - at)]
    return min(near, key=lambda push: abs(push.at - at), default=None)


def _refused_answer(facts: Facts, push: RefusedPush) -> str:
    without = "a sender without a valid key" if push.status == HTTP_UNAUTHORIZED else "a sender without a key"
    who = f"the key {push.sender!r}" if push.sender else without
    about = "" if push.body else " What it said is not known."
    times = f", {push.count} times within that minute" if push.count > 1 else ""
    return (
        f"Nobody was notified of {facts.subject} {clock(push.at, facts.now)}: the push was refused with {push.status} "
        f"({push.reason}). It came from {who} at {push.address or 'an unknown address'}{times}.{about}"
    )


def _nothing(facts: Facts) -> str:
    until = f" before {facts.at:%Y-%m-%d %H:%M} UTC" if facts.at is not None else ""
    return (
        f"Nobody was notified of {facts.subject}: no push about it is on record{until}, neither accepted nor refused. "
        "Look at the sender: did it send anything, and to this address?"
    )


def _run_answer(facts: Facts, one: ExplainedRun) -> str:
    sentences = [_main_sentence(facts, one)]
    if facts.at is not None and facts.run_id is None and facts.at - one.moment > NEAR:
        sentences.insert(0, f"Nothing about {facts.subject} arrived {clock(facts.at, facts.now)}.")
    if one.run.intelligence_fallback_used:
        sentences.append("The message went out without the analysis, which failed (fallback).")
    if one.run.engine == "direct" and one.sent():
        sentences.append("Prefect was not used (direct engine).")
    sentences += _people(facts, one)
    sentences += [f"The channel {health.name} {_since(health, facts.now)}." for health in facts.failing]
    sentences += _given_up(facts)
    return " ".join(sentences)


def _main_sentence(facts: Facts, one: ExplainedRun) -> str:
    run, subject, when = one.run, facts.subject, clock(one.moment, facts.now)
    if sent := one.sent():
        return _sent_sentence(facts, one, sent)
    if run.status is RunStatus.SKIPPED:
        return _skipped_sentence(facts, one)
    if run.status is RunStatus.FAILED:
        redelivery = _next(facts, RunReason.REDELIVERY)
        goes_on = f" It is sent again {clock(redelivery, facts.now)}." if redelivery else " Nothing tries it again."
        resume = "" if redelivery else f" Resume it with: alert-pipeline resume {run.run_id}"
        what = "the message about" if one.deliveries else "the run for"
        return (
            f"Nobody was notified of {subject} {when}: {what} it failed ({run.last_error_type}: "
            f"{run.last_error_message}).{goes_on}{resume}"
        )
    if run.status is RunStatus.RETRYING:
        again = f", and goes on {clock(run.due_at, facts.now)}" if run.due_at else ""
        cause = f": {run.last_error_message}" if run.last_error_message else ""
        return f"Nobody has been notified of {subject} yet: the run waits at {run.current_stage}{again}{cause}."
    if run.status is RunStatus.PENDING:
        return f"Nobody has been notified of {subject} yet: the push of {when.split(' ', 1)[1]} waits for a worker."
    if run.status is RunStatus.NOTIFIED:
        return f"The run about {subject} {when} ended, and no message of its own is on record."
    return f"Nobody has been notified of {subject} yet: the run is in progress at {run.current_stage}."


def _sent_sentence(facts: Facts, one: ExplainedRun, sent: Sequence[DeliveryRecord]) -> str:
    names = _listed([delivery.channel for delivery in sent])
    told_at = max(delivery.settled_at or delivery.created_at for delivery in sent)
    tries = max(delivery.tries for delivery in sent)
    verb = "were" if len(sent) > 1 else "was"
    more = f", in try {tries}" if tries > 1 else ""
    reason = one.reason if one.run.reason is RunReason.PUSH else one.run.reason.value
    if one.run.reason is RunReason.EXPIRY:
        reason = Reason.EXPIRED.value
    sentence = f"{names} {verb} notified of {facts.subject} {clock(told_at, facts.now)}{more}: {_meaning(reason)}."
    missing = [*one.sent(FAILED), *one.sent(GIVEN_UP)]
    if missing:
        sentence += " " + " ".join(f"{delivery.channel} was not: {delivery.error}." for delivery in missing)
        again = _next(facts, RunReason.REDELIVERY)
        sentence += f" That is tried again {clock(again, facts.now)}." if again else ""
    return sentence


def _skipped_sentence(facts: Facts, one: ExplainedRun) -> str:
    run, when = one.run, clock(one.moment, facts.now)
    last = _last_sent(facts, before=one.moment)
    told = f" {_told(last, facts.now)}" if last is not None else " No message about it has been sent before."
    match run.skip_reason:
        case Reason.DUPLICATE | Reason.REPEAT:
            return f"Nobody was notified again of {facts.subject} {when}: {_meaning(run.skip_reason)}.{told}"
        case Reason.COALESCED:
            by = _last_sent(facts, before=facts.now)
            told = f" {_told(by, facts.now)}" if by is not None else ""
            return f"No message of its own was needed for {facts.subject} {when}: {_meaning(run.skip_reason)}.{told}"
        case Reason.IGNORED:
            return f"Nobody was notified {when}: {run.title} was ignored, because {_meaning(run.skip_reason)}."
        case Reason.NO_CHANNEL:
            advice = "Set one up: docs/channels.md."
            return f"Nobody was notified of {facts.subject} {when}: {_meaning(run.skip_reason)}. {advice}"
        case Reason.ACKNOWLEDGED | Reason.SNOOZED if run.reason is RunReason.REMINDER:
            return f"Nobody was reminded of {facts.subject} {when}: {_meaning(run.skip_reason)}.{told}"
        case reason:
            return f"Nobody was notified of {facts.subject} {when}: {_meaning(reason)}.{told}"


def _people(facts: Facts, one: ExplainedRun) -> Iterator[str]:
    """Who keeps the incident quiet now."""
    incident = facts.incident
    if incident is None or facts.at is not None:
        return
    if incident.status is IncidentStatus.ACKNOWLEDGED and incident.acknowledged_at is not None:
        by = f" by {incident.acknowledged_by}" if incident.acknowledged_by else ""
        yield f"It is acknowledged{by} since {incident.acknowledged_at:%H:%M}, which stops the reminders."
    if incident.snoozed_until is not None and incident.snoozed_until > facts.now:
        yield f"It is snoozed until {incident.snoozed_until:%Y-%m-%d %H:%M}."
    if one.sent(SUPERSEDED):
        names = _listed([delivery.channel for delivery in one.sent(SUPERSEDED)])
        yield f"An older message to {names} was not sent, because a newer one overtook it (superseded)."


def _given_up(facts: Facts) -> Iterator[str]:
    """Which channels could not be told, and what they still say."""
    over = facts.incident is not None and facts.incident.status.ended
    for channel in facts.channels:
        if channel.given_up_at is None:
            continue
        wrong = ", and still says that it fires" if over and channel.status == AlertStatus.FIRING else ""
        yield f"{channel.channel} could not be told and was given up {clock(channel.given_up_at, facts.now)}{wrong}."


def _last_sent(facts: Facts, *, before: datetime) -> DeliveryRecord | None:
    sent = [delivery for one in facts.runs for delivery in one.sent() if delivery.created_at <= before]
    return max(sent, key=lambda delivery: delivery.created_at, default=None)


def _told(delivery: DeliveryRecord, now: datetime) -> str:
    return f"{delivery.channel} was notified {clock(delivery.settled_at or delivery.created_at, now)}."


def _next(facts: Facts, reason: RunReason) -> datetime | None:
    due = [one.run.due_at for one in facts.runs if one.run.reason is reason and _waits(one.run) and one.run.due_at]
    return min(due, default=None)


def _waits(run: RunRecord) -> bool:
    return run.status in (RunStatus.PENDING, RunStatus.RETRYING)


def _meaning(reason: str | None) -> str:
    meaning = meaning_of(reason)
    return f"{meaning} ({reason})" if meaning else reason or "no reason is on record"


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return " and ".join([", ".join(unique[:-1]), unique[-1]] if len(unique) > 1 else unique)


def _since(health: ChannelHealth, now: datetime) -> str:
    since = f" {clock(health.failing_since, now).replace('at ', 'since ', 1)}" if health.failing_since else ""
    error = f": {health.last_error}" if health.last_error else ""
    times = f", {health.failures} times in a row" if health.failures > 1 else ""
    return f"fails{since}{times}{error}"


# The timeline


def _events(facts: Facts) -> Iterator[Event]:
    for push in facts.refused:
        yield Event(at=push.at, mark="✗", text=_refusal_line(push))
    for one in facts.runs:
        yield from _run_events(one)
    for line in facts.history:
        if line.event in _SAID_BY_RUNS:
            continue
        mark = "✗" if line.event == CHANNEL_GIVEN_UP else "·"
        text = f"incident {line.incident_id} {line.in_words}"
        yield Event(at=line.at, mark=mark, text=text, run_id=line.run_id)


def _refusal_line(push: RefusedPush) -> str:
    who = push.sender or (f"unknown key {push.details['key']}" if push.details.get("key") else "no key")
    size = f", {push.size_bytes:,} bytes" if push.size_bytes is not None else ""
    program = f", {push.details['user_agent']}" if push.details.get("user_agent") else ""
    times = f", {push.count} times" if push.count > 1 else ""
    return (
        f"refused {push.status}: push to {push.path} from {who} at {push.address or '?'}{program}{size}{times}: "
        f"{push.reason} (refused-{push.id})"
    )


def _run_events(one: ExplainedRun) -> Iterator[Event]:
    run = one.run
    if run.reason is RunReason.PUSH:
        text = f"push from {run.source} arrived: {run.title or 'no title'}, {run.severity.value}"
        yield Event(at=run.created_at, mark="·", text=text, run_id=run.run_id)
        yield from (
            Event(at=run.created_at, mark="✗", text=f"not used: {error}", run_id=run.run_id) for error in one.errors
        )
    elif not _waits(run) and one.tell is None and run.skip_reason not in _CLOSED_TIMERS:
        text = f"{_KINDS[run.reason]} was due"
        yield Event(at=run.started_at or run.created_at, mark="·", text=text, run_id=run.run_id)
    for attempt in one.failures:
        text = f"{attempt.node_id}, attempt {attempt.attempt}: {attempt.error_type}: {attempt.error_message}"
        yield Event(at=attempt.completed_at or run.updated_at, mark="✗", text=text, run_id=run.run_id)
    if one.tell is True:
        decided = f"decided to notify: {_meaning(one.reason)}"
        yield Event(at=run.started_at or run.updated_at, mark="·", text=decided, run_id=run.run_id)
    for delivery in one.deliveries:
        yield _delivery_event(delivery, run)
    if run.status is RunStatus.SKIPPED and run.skip_reason not in _CLOSED_TIMERS:
        same = f", as run {run.duplicate_of[:12]}" if run.duplicate_of else ""
        yield Event(
            at=run.completed_at or run.updated_at,
            mark="-",
            text=f"nobody is notified: {_meaning(run.skip_reason)}{same}",
            run_id=run.run_id,
        )
    if run.status is RunStatus.FAILED:
        text = f"the run failed: {run.last_error_type}: {run.last_error_message}"
        yield Event(at=run.completed_at or run.updated_at, mark="✗", text=text, run_id=run.run_id)


def _delivery_event(delivery: DeliveryRecord, run: RunRecord) -> Event:
    said = {
        SENT: "sent",
        SENDING: "being sent",
        FAILED: "not accepted",
        SUPERSEDED: "not sent, a newer message overtook it (superseded)",
        GIVEN_UP: "given up",
    }.get(delivery.status, delivery.status)
    mark = {SENT: "✓", SENDING: "·", SUPERSEDED: "-"}.get(delivery.status, "✗")
    tries = f", try {delivery.tries}" if delivery.tries > 1 else ""
    error = f": {delivery.error}" if delivery.error else ""
    text = f"message to {delivery.channel} ({delivery.driver}) {said}{tries}{error}"
    return Event(at=delivery.settled_at or delivery.created_at, mark=mark, text=text, run_id=run.run_id)


def _upcoming(facts: Facts) -> Iterator[Event]:
    for one in facts.runs:
        run = one.run
        if not _waits(run):
            continue
        if run.due_at is None:
            text = f"a worker executes the {_KINDS[run.reason]} as soon as it can"
        elif run.status is RunStatus.RETRYING:
            text = f"the {_KINDS[run.reason]} goes on at {run.current_stage}"
        else:
            text = {
                RunReason.REMINDER: _next_reminder(facts.incident, run.due_at),
                RunReason.EXPIRY: "expiry, if nobody has heard of it until then",
                RunReason.REDELIVERY: "the message that was not accepted is sent again, if no newer one replaced it",
            }.get(run.reason, f"{_KINDS[run.reason]} is executed")
        yield Event(at=run.due_at or facts.now, mark="→", text=text, run_id=run.run_id)
    for health in facts.failing:
        at = health.not_before or facts.now
        yield Event(
            at=at, mark="→", text=f"the channel {health.name} may be tried again; it {_since(health, facts.now)}"
        )


def _next_reminder(incident: Incident | None, due_at: datetime) -> str:
    """What the next reminder depends on: the end of a snooze or of an acknowledgement is a reminder too."""
    if incident is not None and incident.snoozed_until is not None and incident.snoozed_until >= due_at - _SAME_MOMENT:
        return "the snooze ends: a reminder, if it still fires"
    if incident is not None and incident.status is IncidentStatus.ACKNOWLEDGED:
        return "the acknowledgement ends: a reminder, if it still fires"
    return "reminder, if it still fires and nobody has acknowledged it"
