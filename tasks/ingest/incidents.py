"""Which alerts belong together, and whether somebody is notified of a push. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestration.alert import Alert
from orchestration.news import IncidentChange
from orchestration.reasons import Reason


@dataclass(frozen=True)
class NotifyDecision:
    """Whether somebody is notified, and the rule that decided it."""

    notify: bool
    reason: Reason
    note: str = ""
    """What else the message says of the decision."""


def decide(change: IncidentChange, *, storm: bool = False) -> NotifyDecision:
    """Decide whether somebody is notified. The first rule that applies decides and gives the reason; else `repeat`.

    `storm` is whether the incident is one: its message speaks for all that join it.
    """
    rules = (
        (change.opened, NotifyDecision(True, Reason.OPENED)),
        (change.reopened, NotifyDecision(True, Reason.REOPENED)),
        # Before the rules for what got worse: an all-clear must not read as a page.
        (change.resolved, NotifyDecision(True, Reason.RESOLVED)),
        (change.severity_raised, NotifyDecision(True, Reason.SEVERITY_RAISED)),
        (change.snoozed and change.material, NotifyDecision(False, Reason.SNOOZED)),
        (storm and change.only_grew, NotifyDecision(False, Reason.STORM_GREW)),
        (change.new_episode, NotifyDecision(True, Reason.NEW_EPISODE)),
        (change.new_firing > 0, NotifyDecision(True, Reason.NEW_ALERTS)),
        (change.stale, NotifyDecision(False, Reason.STALE)),
        (change.elsewhere, NotifyDecision(False, Reason.KEPT_ELSEWHERE)),
        (not change.known, NotifyDecision(False, Reason.NOTHING_OPEN)),
        # What was left unsaid because of the snooze is said when it ends.
        (change.snoozed and not change.notified_before, NotifyDecision(False, Reason.SNOOZED)),
        # The last message failed for good: without this rule nobody would ever learn of the incident.
        (not change.notified_before, NotifyDecision(True, Reason.UNTOLD)),
        (change.newly_resolved > 0 and change.still_firing > 0, NotifyDecision(False, Reason.SOME_RESOLVED)),
        (change.severity_lowered, NotifyDecision(False, Reason.SEVERITY_LOWERED)),
    )
    return next((decision for applies, decision in rules if applies), NotifyDecision(False, Reason.REPEAT))


def split_by_incident(alerts: Iterable[Alert]) -> list[list[Alert]]:
    """Group the alerts of a push by incident key. Groups and alerts keep the order of the push."""
    groups: dict[str, list[Alert]] = {}
    for alert in alerts:
        groups.setdefault(alert.incident_key, []).append(alert)
    return list(groups.values())
