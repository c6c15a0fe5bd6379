"""Whether an incident is flapping: it begins and ends so often that only its last state is worth a message. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestration.policy.holding import HeldBy, Hold
from orchestration.policy.model import Flapping, written_duration


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How an incident has changed of late, and what of it somebody was notified of."""

    notified: bool
    """Whether any channel was notified of it."""
    notified_critical: bool
    """Whether any channel was notified that it is critical."""
    count: int
    """How often it has changed within the time of the rule."""
    latest: datetime | None
    """When it changed last within that time."""


def flapping_hold(rule: Flapping, before: Hold | None, known: Changes, at: datetime) -> Hold | None:
    """What keeps a flapping incident back at a moment. None means that it is not flapping.

    It begins with the rule's number of changes within its time, and goes on until there was none for as long.

    Args:
        rule: what the policy calls flapping.
        before: what has kept the incident back so far.
        known: its changes.
        at: the moment.
    """
    goes_on = before is not None and before.by is HeldBy.FLAPPING
    if known.latest is None or known.latest + rule.within <= at or (known.count < rule.changes and not goes_on):
        return None
    until = known.latest + rule.within
    if before is not None and goes_on:
        return before.model_copy(update={"until": until})
    within = written_duration(rule.within)
    why = f"flapping: {known.count} changes in {within}; held until it is quiet for {within}"
    return Hold(by=HeldBy.FLAPPING, why=why, until=until)


def has_to_be_said(hold: Hold, known: Changes, at: datetime, *, critical: bool, again_after: timedelta) -> bool:
    """Whether a change of a flapping incident is told all the same: the first one that says that it is flapping, what
    nobody knows yet, the first page of a critical one, and one message as often as there would be a reminder.

    `again_after` is the interval of its reminders; 0 means that there are none.
    """
    if hold.said_at is None or not known.notified or (critical and not known.notified_critical):
        return True
    return bool(again_after) and hold.said_at + again_after <= at
