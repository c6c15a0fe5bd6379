"""Which alerts belong together, and whether somebody is notified of a push. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestration.alert import Alert
from orchestration.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class IncidentChange:
    """What the alerts of one run changed in their incident.

    The flags describe changes made by this run: `resolved` means that this run resolved the incident.
    """

    opened: bool
    """The incident is new: no incident with this key could be joined or reopened."""
    reopened: bool
    """The incident was resolved, and fires again."""
    severity_raised: bool
    """A firing alert has a higher severity than the incident had."""
    new_firing: int
    """Firing alerts that are new to the incident, or were resolved before."""
    newly_resolved: int
    """Alerts of the incident that fired before and are resolved now."""
    still_firing: int
    """Alerts of the incident, in this run or not, that fire after this run."""
    resolved: bool
    """The last firing alert of the incident is resolved."""
    known: bool
    """The alerts belong to an incident."""
    notified_before: bool
    """The latest message about this incident was sent or is about to be sent; False if it failed for good."""


@dataclass(frozen=True)
class NotifyDecision:
    """Whether somebody is notified, and the rule that decided it."""

    notify: bool
    reason: Reason


def decide(change: IncidentChange) -> NotifyDecision:
    """Decide whether somebody is notified. The first rule that applies decides and gives the reason; else `repeat`."""
    rules = (
        (change.opened, NotifyDecision(True, Reason.OPENED)),
        (change.reopened, NotifyDecision(True, Reason.REOPENED)),
        # Before the rules for what got worse: an all-clear must not read as a page.
        (change.resolved, NotifyDecision(True, Reason.RESOLVED)),
        (change.severity_raised, NotifyDecision(True, Reason.SEVERITY_RAISED)),
        (change.new_firing > 0, NotifyDecision(True, Reason.NEW_ALERTS)),
        (not change.known, NotifyDecision(False, Reason.NOTHING_OPEN)),
        # The last message failed for good: without this rule nobody would ever learn of the incident.
        (not change.notified_before, NotifyDecision(True, Reason.UNTOLD)),
        (change.newly_resolved > 0 and change.still_firing > 0, NotifyDecision(False, Reason.SOME_RESOLVED)),
    )
    return next((decision for applies, decision in rules if applies), NotifyDecision(False, Reason.REPEAT))


def split_by_incident(alerts: Iterable[Alert]) -> list[list[Alert]]:
    """Group the alerts of a push by incident key. Groups and alerts keep the order of the push."""
    groups: dict[str, list[Alert]] = {}
    for alert in alerts:
        groups.setdefault(alert.incident_key, []).append(alert)
    return list(groups.values())
