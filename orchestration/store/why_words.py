"""Why somebody was notified, or nobody was, in words: the answer first, then the evidence as a timeline. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from orchestration.alert import AlertStatus, IncidentStatus
from orchestration.contracts import Stage
from orchestration.errors import error_in_words
from orchestration.reasons import Reason
from orchestration.states import RunReason, RunStatus
from orchestration.store.deliveries import FAILED, GIVEN_UP, SUPERSEDED
from orchestration.store.records import DeliveryRecord, RunRecord
from orchestration.store.refused import HTTP_UNAUTHORIZED, RefusedPush
from orchestration.store.why_facts import (
    CLOSED_TIMERS,
    NEAR,
    ChannelHealth,
    ExplainedRun,
    Facts,
    Why,
    clock,
    fails,
    meaning,
    since,
    waits,
)
from orchestration.store.why_timeline import timeline, upcoming

_ENDS = (Reason.RESOLVED, Reason.RESOLVED_BY_HAND, Reason.EXPIRED)
_MINUTE = timedelta(minutes=1)
"""A moment that is asked about is all of its minute."""


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
        timeline=timeline(facts),
        upcoming=upcoming(facts),
        other_incidents=facts.others,
    )


# The answer


def _deciding(facts: Facts) -> ExplainedRun | None:
    """The run that decided about the moment: the one that is named, else the last one until then."""
    if facts.run_id is not None:
        return next((one for one in facts.runs if one.run.run_id == facts.run_id), None)
    spoke = [one for one in facts.runs if one.run.reason is RunReason.PUSH or _has_spoken(one.run)]
    if facts.at is not None:
        spoke = [one for one in spoke if one.moment <= facts.at + _MINUTE]
    return max(spoke, key=lambda one: _last_word(one, facts.at), default=None)


def _last_word(one: ExplainedRun, at: datetime | None) -> datetime:
    """When a run spoke last: a push whose message had to wait speaks after a follow-up that failed meanwhile."""
    sent = [delivery.settled_at for delivery in one.sent() if delivery.settled_at is not None]
    return max([one.moment, *(moment for moment in sent if at is None or moment <= at + _MINUTE)])


def _has_spoken(run: RunRecord) -> bool:
    """Whether a follow-up said something. One that had nothing to say adds nothing to who had told it."""
    if run.reason.disturbs_nobody:
        return False
    silent = (*CLOSED_TIMERS, Reason.COALESCED, Reason.NOT_EDITABLE, Reason.GIVEN_UP)
    return run.status is not RunStatus.PENDING and run.skip_reason not in silent


def _deciding_refusal(facts: Facts, deciding: ExplainedRun | None) -> RefusedPush | None:
    """The refused push that is the reason: the nearest to the moment, if no accepted push is as near.

    It is one that is asked about, or that says what is asked about: what said nothing may be about anything.
    """
    if facts.refused_id is not None:
        return facts.refused[0]
    if facts.run_id is not None:
        return None
    named = [push for push in facts.refused if push.body]
    if facts.at is None:
        newest = next(iter(named), None)
        return newest if newest and (deciding is None or newest.at > deciding.moment) else None
    at = facts.at
    distance = abs(deciding.moment - at) if deciding is not None else NEAR
    near = [push for push in named if abs(push.at - at) < min(distance, NEAR)]
    return min(near, key=lambda push: abs(push.at - at), default=None)


def _refused_answer(facts: Facts, push: RefusedPush) -> str:
    times = f", {push.count} times within that minute" if push.count > 1 else ""
    about = "" if push.body else " What it said is not known."
    if push.was_kept:
        return (
            f"Nobody was notified of {facts.subject} itself {clock(push.at, facts.now)}: no source could read the push "
            f"({push.reason}). An alert of its own said that {_sender(push)} is not understood, and the push is kept "
            f"as refused-{push.id}{_read_later(push)}"
        )
    return (
        f"Nobody was notified of {facts.subject} {clock(push.at, facts.now)}: the push was refused with {push.status} "
        f"({push.reason}). It came from {_sender(push)}{times}.{about}"
    )


def _read_later(push: RefusedPush) -> str:
    run_ids = push.details.get("run_ids")
    return f". A source could read it later: run {', '.join(run_ids)}" if run_ids else ""


def _sender(push: RefusedPush) -> str:
    without = "a sender without a valid key" if push.status == HTTP_UNAUTHORIZED else "a sender without a key"
    if push.unchecked_key:
        without = f"a sender that names the key {push.unchecked_key!r}, which was not checked,"
    return f"{push.key or without} at {push.address or 'an unknown address'}"


def _nothing(facts: Facts) -> str:
    until = f" before {facts.at:%Y-%m-%d %H:%M} UTC" if facts.at is not None else ""
    none = (
        f"Nobody was notified of {facts.subject}: no push about it is on record{until}, neither accepted nor refused."
    )
    advice = "Look at the sender: did it send anything, and to this address?"
    return " ".join([none, *(list(_unknown(facts)) or [advice])])


def _unknown(facts: Facts) -> Iterator[str]:
    """The pushes that may have been about it, because nobody knows what they said."""
    at = facts.at or facts.now
    cut = [run for run in facts.cut if facts.at is None or abs(run.created_at - at) <= NEAR]
    if cut:
        run = min(cut, key=lambda run: abs(run.created_at - at))
        yield (
            f"It may have been in a push that came {clock(run.created_at, facts.now)}, of which only one message was "
            f"made: {run.title} (alert-pipeline why {run.run_id[:8]})."
        )
    found = [push for push in facts.refused if not push.body and (facts.at is None or abs(push.at - at) <= NEAR)]
    if found:
        push = min(found, key=lambda push: abs(push.at - at))
        one, were = (f"one of {push.count} pushes", "were") if push.count > 1 else ("a push", "was")
        yield (
            f"It may have been in {one} from {_sender(push)} that {were} refused with {push.status} "
            f"{clock(push.at, facts.now)} before anybody read it ({push.reason})."
        )


def _run_answer(facts: Facts, one: ExplainedRun) -> str:
    sentences = [_main_sentence(facts, one)]
    if facts.at is not None and facts.run_id is None and facts.at - one.moment > NEAR:
        nothing = f"Nothing about {facts.subject} arrived {clock(facts.at, facts.now)}."
        sentences = [nothing, *_unknown(facts), *sentences]
    if one.run.intelligence_fallback_used:
        sentences.append("The message went out without the analysis, which failed (fallback).")
    if one.run.engine == "direct" and one.sent():
        sentences.append("Prefect was not used (direct engine).")
    sentences += _people(facts, one)
    sentences += [f"The channel {health.name} {fails(health, facts.now)}." for health in _failing(facts)]
    sentences += _given_up(facts)
    return " ".join(sentences)


def _main_sentence(facts: Facts, one: ExplainedRun) -> str:
    run, subject, when = one.run, facts.subject, clock(one.moment, facts.now)
    if sent := one.sent():
        return _sent_sentence(facts, one, sent)
    if run.status is RunStatus.SKIPPED:
        return _skipped_sentence(facts, one)
    if run.status is RunStatus.FAILED:
        return _failed_sentence(facts, one)
    if run.status is RunStatus.RETRYING:
        again = f", and goes on {clock(run.due_at, facts.now)}" if run.due_at else ""
        cause = f": {run.last_error_message}" if run.last_error_message else ""
        return f"Nobody has been notified of {subject} yet: the run waits at {run.current_stage}{again}{cause}."
    if run.status is RunStatus.PENDING:
        none = "" if facts.has_worker else ", and none is alive. Start one: alert-pipeline worker"
        of = when.split(" ", 1)[1]
        return f"Nobody has been notified of {subject} yet: the push of {of} waits for a worker{none}."
    if run.status is RunStatus.NOTIFIED and run.reason.disturbs_nobody:
        why = meaning(run.reason.value)
        return f"The messages about {subject} were brought up to date {when}, and nobody was notified: {why}."
    if run.status is RunStatus.NOTIFIED:
        return f"The run about {subject} {when} ended, and no message of its own is on record."
    return f"Nobody has been notified of {subject} yet: the run is in progress at {run.current_stage}."


def _failed_sentence(facts: Facts, one: ExplainedRun) -> str:
    run = one.run
    what = "the message about" if one.deliveries or run.current_stage == Stage.NOTIFY else "the run for"
    failed = (
        f"Nobody was notified of {facts.subject} {clock(one.moment, facts.now)}: {what} it failed "
        f"({error_in_words(run.last_error_type, run.last_error_message)})."
    )
    if (later := _first_sent(facts, after=one.moment)) is not None:
        return f"{failed} Later, {_told(later, facts.now)[:-1]} of what was true by then."
    if (again := _next_try(facts)) is not None:
        return f"{failed} It is sent again {clock(again, facts.now)}."
    return f"{failed} Nothing tries it again. Resume it with `alert-pipeline resume {run.run_id}`."


def _failing(facts: Facts) -> Iterator[ChannelHealth]:
    """The channels that fail now, and failed at the moment in question."""
    for health in facts.failing:
        if facts.at is None or (health.failing_since is not None and health.failing_since <= facts.at + NEAR):
            yield health


def _sent_sentence(facts: Facts, one: ExplainedRun, sent: Sequence[DeliveryRecord]) -> str:
    names = _listed([delivery.channel for delivery in sent])
    told_at = max(delivery.settled_at or delivery.created_at for delivery in sent)
    tries = max(delivery.tries for delivery in sent)
    verb = "were" if len({delivery.channel for delivery in sent}) > 1 else "was"
    more = f", in try {tries}" if tries > 1 else ""
    reason = meaning(one.reason)
    sentence = f"{names} {verb} notified of {facts.subject} {clock(told_at, facts.now)}{more}: {reason}."
    if one.reason not in _ENDS and _said_the_end(facts, sent):
        sentence += " The last message says that it is over."
    missing = [*one.sent(FAILED), *one.sent(GIVEN_UP)]
    if missing:
        sentence += " " + " ".join(f"{delivery.channel} was not: {delivery.error}." for delivery in missing)
        again = _next_try(facts)
        sentence += f" That is tried again {clock(again, facts.now)}." if again else ""
    return sentence


def _said_the_end(facts: Facts, sent: Sequence[DeliveryRecord]) -> bool:
    """Whether one of the messages is about the end. A run says what is true, also if the beginning has queued it."""
    incident = facts.incident
    if incident is None or not incident.status.ended:
        return False
    mine = [delivery for delivery in sent if delivery.incident_id == int(incident.id)]
    return any((delivery.version or 0) >= incident.news_version for delivery in mine)


def _skipped_sentence(facts: Facts, one: ExplainedRun) -> str:
    run, when = one.run, clock(one.moment, facts.now)
    last = _last_sent(facts, before=one.moment)
    told = f" {_told(last, facts.now)}" if last is not None else " No message about it has been sent before."
    if last is None and (again := _next_try(facts)) is not None:
        told += f" An earlier one is tried again {clock(again, facts.now)}."
    match run.skip_reason:
        case Reason.DUPLICATE | Reason.REPEAT:
            again = " again" if last is not None else ""
            return f"Nobody was notified{again} of {facts.subject} {when}: {meaning(run.skip_reason)}.{told}"
        case Reason.COALESCED:
            by = _last_sent(facts, before=facts.now)
            told = f" {_told(by, facts.now)}" if by is not None else ""
            return f"No message of its own was needed for {facts.subject} {when}: {meaning(run.skip_reason)}.{told}"
        case Reason.IGNORED:
            return f"Nobody was notified {when}: {run.title} was ignored, because {meaning(run.skip_reason)}."
        case Reason.NO_CHANNEL | Reason.NO_OTHER_CHANNEL:
            advice = "Set one up: docs/channels.md."
            return f"Nobody was notified of {facts.subject} {when}: {meaning(run.skip_reason)}. {advice}"
        case Reason.ACKNOWLEDGED | Reason.SNOOZED if run.reason in (RunReason.REMINDER, RunReason.ESCALATION):
            return f"Nobody was reminded of {facts.subject} {when}: {meaning(run.skip_reason)}.{told}"
        case reason:
            return f"Nobody was notified of {facts.subject} {when}: {meaning(reason)}.{told}"


def _people(facts: Facts, one: ExplainedRun) -> Iterator[str]:
    """Who keeps the incident quiet now."""
    incident = facts.incident
    if incident is None or facts.at is not None:
        return
    if incident.status is IncidentStatus.ACKNOWLEDGED and incident.acknowledged_at is not None:
        by = f" by {incident.acknowledged_by}" if incident.acknowledged_by else ""
        yield f"It is acknowledged{by} {since(incident.acknowledged_at, facts.now)}, which stops the reminders."
    if incident.snoozed_until is not None and incident.snoozed_until > facts.now:
        yield f"It is snoozed until {incident.snoozed_until:%Y-%m-%d %H:%M}."
    if one.sent(SUPERSEDED):
        names = _listed([delivery.channel for delivery in one.sent(SUPERSEDED)])
        perhaps = any(delivery.perhaps_accepted for delivery in one.sent(SUPERSEDED))
        not_sent = "perhaps arrived, and is not sent again" if perhaps else "was not sent"
        yield f"An older message to {names} {not_sent}, because a newer one overtook it (superseded)."


def _given_up(facts: Facts) -> Iterator[str]:
    """Which channels could not be told, and what they still say."""
    over = facts.incident is not None and facts.incident.status.ended
    for channel in facts.channels:
        if channel.given_up_at is None:
            continue
        wrong = ", and still says that it fires" if over and channel.status == AlertStatus.FIRING else ""
        yield f"{channel.channel} could not be told and was given up {clock(channel.given_up_at, facts.now)}{wrong}."


def _last_sent(facts: Facts, *, before: datetime) -> DeliveryRecord | None:
    sent = [delivery for delivery in facts.sent if delivery.created_at <= before]
    return max(sent, key=lambda delivery: delivery.created_at, default=None)


def _first_sent(facts: Facts, *, after: datetime) -> DeliveryRecord | None:
    sent = [delivery for delivery in facts.sent if delivery.settled_at is not None and delivery.settled_at >= after]
    return min(sent, key=lambda delivery: delivery.settled_at or delivery.created_at, default=None)


def _told(delivery: DeliveryRecord, now: datetime) -> str:
    return f"{delivery.channel} was notified {clock(delivery.settled_at or delivery.created_at, now)}."


def _next_try(facts: Facts) -> datetime | None:
    """When a message that was not accepted is tried again: by a redelivery, or by its own run, which waits."""
    waiting = [one.run for one in facts.runs if waits(one.run)]
    tries = [run for run in waiting if run.reason is RunReason.REDELIVERY or run.status is RunStatus.RETRYING]
    return min((run.due_at for run in tries if run.due_at is not None), default=None)


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return " and ".join([", ".join(unique[:-1]), unique[-1]] if len(unique) > 1 else unique)
