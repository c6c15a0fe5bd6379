"""Which alerts belong together, and whether a human is told of what became of them. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, auto

from orchestration.alert import Alert


class Reason(StrEnum):
    """Why a human is told of a push, or is not."""

    OPENED = auto()
    REOPENED = auto()
    RESOLVED = auto()
    SEVERITY_RAISED = auto()
    NEW_ALERTS = auto()
    UNTOLD = auto()
    NOTHING_OPEN = auto()
    SOME_RESOLVED = auto()
    REPEAT = auto()


@dataclass(frozen=True, kw_only=True)
class IncidentChange:
    """What one run's alerts did to their incident.

    The flags are of this run alone: `resolved` means that the run turned the incident from open to resolved, not
    that it is resolved.
    """

    opened: bool
    """There was no incident of this key that could be joined or reopened."""
    reopened: bool
    """It was resolved, and fires again."""
    severity_raised: bool
    """A firing alert is worse than the incident was."""
    new_firing: int
    """Firing alerts that the incident did not have, or had as resolved."""
    newly_resolved: int
    """Alerts of the incident that fired before and do not any more."""
    still_firing: int
    """Alerts of the incident, of this run or not, that fire after it."""
    resolved: bool
    """The last firing alert of the incident resolved."""
    known: bool
    """The alerts belong to an incident."""
    told_before: bool
    """The latest telling of this incident went out, or is still on its way; False when it failed for good."""


@dataclass(frozen=True)
class Telling:
    """Whether a human is told, and by which rule."""

    tell: bool
    reason: Reason


def decide(change: IncidentChange) -> Telling:
    """Whether a human is told. The first rule that holds decides; exactly one reason comes out.

    Told:
        opened: a new incident.
        reopened: a resolved one fires again.
        resolved: all of it is over. It precedes the rules below, so that an all-clear is never worded as a page.
        severity_raised: it is worse than was told.
        new_alerts: it got a firing alert that it did not have.
        untold: nothing new, but the page that should have gone out before failed for good; without this rule
            nobody would ever hear of the incident.

    Not told:
        nothing_open: alerts resolved that belong to no known incident.
        some_resolved: a part is over, the rest still fires.
        repeat: nothing that has not been told.
    """
    rules = (
        (change.opened, Telling(True, Reason.OPENED)),
        (change.reopened, Telling(True, Reason.REOPENED)),
        (change.resolved, Telling(True, Reason.RESOLVED)),
        (change.severity_raised, Telling(True, Reason.SEVERITY_RAISED)),
        (change.new_firing > 0, Telling(True, Reason.NEW_ALERTS)),
        (not change.known, Telling(False, Reason.NOTHING_OPEN)),
        (not change.told_before, Telling(True, Reason.UNTOLD)),
        (change.newly_resolved > 0 and change.still_firing > 0, Telling(False, Reason.SOME_RESOLVED)),
    )
    return next((telling for holds, telling in rules if holds), Telling(False, Reason.REPEAT))


def split_by_incident(alerts: Iterable[Alert]) -> list[list[Alert]]:
    """The alerts of a push, one list an incident key; incidents and their alerts in the order of the push."""
    groups: dict[str, list[Alert]] = {}
    for alert in alerts:
        groups.setdefault(alert.incident_key, []).append(alert)
    return list(groups.values())


_IN_WORDS: dict[str, str] = {
    Reason.OPENED: "a new incident",
    Reason.REOPENED: "it was resolved, and fires again",
    Reason.SEVERITY_RAISED: "it got worse",
    Reason.NEW_ALERTS: "a further alert fires in it",
    Reason.RESOLVED: "nothing of it fires any more",
    Reason.UNTOLD: "nothing new, but the last message about it failed for good",
    Reason.REPEAT: "nothing new",
    Reason.SOME_RESOLVED: "others of it still fire",
    Reason.NOTHING_OPEN: "what has resolved belongs to no known incident",
    "duplicate": "the same was said shortly before",
}


def reason_in_words(reason: str | None) -> str:
    """The reason with its meaning, such as `repeat, nothing new`. A reason that is no code word is returned as it is.

    Args:
        reason: a `Reason`, or the skip reason of a run. None means that no reason is on record.
    """
    known = _IN_WORDS.get(reason or "")
    return f"{reason}, {known}" if known else reason or "no reason is on record"
