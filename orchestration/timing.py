"""What happens to an incident without a push, and when: escalation, reminders, and expiry. Pure: no store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestration import heartbeat
from orchestration.alert import Incident, IncidentStatus, Severity
from orchestration.escalation import progress_of
from orchestration.policy import model as policy
from orchestration.settings import Settings
from orchestration.states import RunReason

MISSED_REPEATS = 3
"""An incident expires after this many missed repeats of its sender, or after the setting's time if that is later."""

EARLY = 0.1
"""The part of its interval by which a reminder may come early: sending the previous message took some seconds."""


_NOTHING_SAID = policy.Timing()


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The times that concern an incident, in seconds; 0 means never."""

    remind: float
    remind_critical: float
    acknowledge: float
    """How long an acknowledgement lasts. 0 means until the incident ends."""
    expire: float
    """How long no push may name the incident before it expires."""

    @classmethod
    def of(cls, settings: Settings, source: str, said: policy.Timing = _NOTHING_SAID) -> Timing:
        """The times for an incident of this source. What the policy has said of them replaces the settings.

        Nobody repeats that a heartbeat is missing: it stays missing until it beats, so its incident does not expire.
        """
        return cls(
            remind=_first(said.remind_after, settings.notify_remind_after_seconds),
            remind_critical=_first(said.remind_critical_after, settings.notify_remind_critical_after_seconds),
            acknowledge=settings.incident_acknowledge_seconds,
            expire=_expires_after(settings, source, said),
        )

    def remind_after(self, incident: Incident) -> float:
        """The interval of this incident's reminders."""
        return self.remind_critical if incident.severity is Severity.CRITICAL else self.remind

    def acknowledged_until(self, incident: Incident) -> datetime | None:
        """When the acknowledgement of this incident ends by itself. None means that it does not."""
        if incident.acknowledged_at is None or not self.acknowledge:
            return None
        return incident.acknowledged_at + timedelta(seconds=self.acknowledge)


def _first(said: timedelta | None, otherwise: float) -> float:
    return otherwise if said is None else said.total_seconds()


def _expires_after(settings: Settings, source: str, said: policy.Timing) -> float:
    """A source that the settings name keeps its own time."""
    expires = settings.incident_expire_after_seconds
    if source in expires.by_source:
        return expires.of(source)
    return 0.0 if source == heartbeat.SOURCE else _first(said.expire_after, expires.of(source))


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """What happens next to an incident without a push, and when."""

    reason: RunReason
    """ESCALATION, REMINDER or EXPIRY."""
    due_at: datetime


def next_follow_up(
    incident: Incident,
    timing: Timing,
    *,
    notified_at: datetime | None,
    repeat_seconds: float | None,
    now: datetime,
) -> FollowUp | None:
    """What happens next to an incident without a push. None means nothing: it has ended, or its times say never.

    Args:
        incident: as it is now.
        timing: the times that concern it.
        notified_at: when somebody was notified of it last. None means that it counts from the opening.
        repeat_seconds: how often its sender repeats it. None means that it is not known.
        now: of a reminder and an expiry that are both overdue, only the expiry counts.
    """
    if incident.status.ended:
        return _end_of_flapping(incident)
    expiry = _expiry(incident, timing, repeat_seconds)
    message = _escalation(incident)
    reminder = _reminder(incident, timing, notified_at or incident.opened_at)
    if reminder is not None and (message is None or (incident.is_flapping and reminder < message.due_at)):
        message = FollowUp(reason=RunReason.REMINDER, due_at=reminder)
    # The message of the expiry takes the place of the other one: it says more.
    if expiry is not None and (message is None or expiry <= max(message.due_at, now)):
        return FollowUp(reason=RunReason.EXPIRY, due_at=expiry)
    return message


def is_due(follow_up: FollowUp | None, incident: Incident, timing: Timing, now: datetime) -> bool:
    """Whether what comes next is due. A reminder may come a little early, but never during a snooze or before
    an acknowledgement ends."""
    if follow_up is None:
        return False
    early = 0.0
    if follow_up.reason is RunReason.REMINDER and not is_quiet(incident):
        early = EARLY * timing.remind_after(incident)
    return follow_up.due_at - timedelta(seconds=early) <= now


def is_quiet(incident: Incident) -> bool:
    """Whether nobody is to hear of the incident for now: it is acknowledged, snoozed or kept back."""
    quiet = incident.snoozed_until is not None or incident.held is not None
    return quiet or incident.status is IncidentStatus.ACKNOWLEDGED


def _end_of_flapping(incident: Incident) -> FollowUp | None:
    """An incident that has ended while it was flapping is told when it has been quiet."""
    until = incident.held_until if incident.is_flapping else None
    return None if until is None else FollowUp(reason=RunReason.REMINDER, due_at=until)


def _escalation(incident: Incident) -> FollowUp | None:
    """The next step of the escalation. Until its end nobody is reminded: the steps are the reminders.

    It goes on while the incident is flapping: nobody has acknowledged it.
    """
    held = incident.held is not None and not incident.is_flapping
    quiet = held or incident.snoozed_until is not None or incident.status is IncidentStatus.ACKNOWLEDGED
    progress = None if quiet else progress_of(incident)
    if progress is None or progress.due_at is None:
        return None
    return FollowUp(reason=RunReason.ESCALATION, due_at=progress.due_at)


def _reminder(incident: Incident, timing: Timing, notified_at: datetime) -> datetime | None:
    if is_quiet(incident):
        # The end of a snooze or an acknowledgement is a reminder, also where the settings switch reminders off.
        ends = [until for until in (incident.snoozed_until, incident.held_until) if until is not None]
        if incident.status is IncidentStatus.ACKNOWLEDGED:
            acknowledged_until = timing.acknowledged_until(incident)
            if acknowledged_until is None:
                return None
            ends.append(acknowledged_until)
        return max(ends)
    interval = timing.remind_after(incident)
    return notified_at + timedelta(seconds=interval) if interval else None


def _expiry(incident: Incident, timing: Timing, repeat_seconds: float | None) -> datetime | None:
    if not timing.expire:
        return None
    seconds = max(timing.expire, MISSED_REPEATS * (repeat_seconds or 0.0))
    return (incident.heard_at or incident.opened_at) + timedelta(seconds=seconds)
