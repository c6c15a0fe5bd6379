"""Why nobody is notified of an incident for now: it is silenced, muted, flapping, or explained by another one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from orchestration.alert import FLAPPING, Alert, UtcDatetime
from orchestration.contracts import Contract
from orchestration.policy.active import ActivePolicy
from orchestration.policy.inhibition import inhibited_by
from orchestration.policy.matchers import all_match
from orchestration.policy.model import Matchers, Policy
from orchestration.policy.routing import Subject

LOOK_AGAIN = timedelta(minutes=5)
"""How soon it is looked again whether something still keeps an incident back, if its end is not known."""

MUTED_AHEAD = timedelta(days=1)
"""How far ahead the end of a mute window is looked for."""


class HeldBy(StrEnum):
    """What keeps an incident back."""

    SILENCED = "silenced"
    MUTED = "muted"
    INHIBITED = "inhibited"
    FLAPPING = FLAPPING


class Silence(Contract):
    """Alerts that a person does not want to hear of for some time."""

    id: int = 0
    """0 means that it is not stored: a preview."""
    matchers: Matchers
    starts_at: UtcDatetime
    ends_at: UtcDatetime
    by: str
    comment: str = ""

    def holds(self, labels: Mapping[str, str], at: datetime) -> bool:
        """Whether it concerns an alert with these labels at a moment."""
        return self.starts_at <= at < self.ends_at and all_match(self.matchers, labels)

    def __str__(self) -> str:
        said = f": {self.comment}" if self.comment else ""
        return f"silenced by {self.by} until {self.ends_at:%Y-%m-%d %H:%M} UTC{said}"


class Hold(Contract):
    """What keeps an incident back, and until when at least."""

    by: HeldBy
    why: str
    until: UtcDatetime
    said_at: UtcDatetime | None = None
    """When it was told last that the incident is flapping. None means that it was not, or that it is not flapping."""


def hold_of(
    active: ActivePolicy | None,
    silences: Sequence[Silence],
    alerts: Sequence[Alert],
    others: Iterable[Mapping[str, str]],
    *,
    environment: str,
    at: datetime,
) -> Hold | None:
    """What keeps an incident back at a moment. None means that nothing does: one of its alerts has to be told.

    Args:
        active: the present policy. None means that there is none.
        silences: those that have not ended.
        alerts: the alerts that fire in the incident.
        others: the labels of all alerts that fire now, for inhibition.
        environment: that of the incident.
        at: the moment.
    """
    subjects = [Subject.of(alert, environment=environment).labels for alert in alerts]
    if not subjects:
        return None
    if (hold := _silenced(silences, subjects, at)) is not None:
        return hold
    if active is None:
        return None
    return _muted(active, alerts, environment, at) or _inhibited(active.policy, subjects, list(others), at)


def _silenced(silences: Sequence[Silence], subjects: Sequence[Mapping[str, str]], at: datetime) -> Hold | None:
    """The silences of an incident all of whose alerts are silenced, until the first of them is not any more."""
    ends = list[Silence]()
    for labels in subjects:
        holding = [silence for silence in silences if silence.holds(labels, at)]
        if not holding:
            return None
        ends.append(max(holding, key=lambda silence: silence.ends_at))
    first = min(ends, key=lambda silence: silence.ends_at)
    return Hold(by=HeldBy.SILENCED, why=str(first), until=first.ends_at)


def _muted(active: ActivePolicy, alerts: Sequence[Alert], environment: str, at: datetime) -> Hold | None:
    why = active.route(alerts, environment=environment, at=at).muted_by
    if not why:
        return None
    until = at
    for until in marks_after(at, at + MUTED_AHEAD):
        if not active.route(alerts, environment=environment, at=until).muted_by:
            break
    return Hold(by=HeldBy.MUTED, why=why, until=until)


def marks_after(at: datetime, until: datetime) -> Iterator[datetime]:
    """The moments after `at` at which it is looked whether a mute window has ended: every five minutes, until `until`.

    Windows begin and end with a minute, and people write full ones.
    """
    at += LOOK_AGAIN - timedelta(minutes=at.minute % 5, seconds=at.second, microseconds=at.microsecond)
    while at < until + LOOK_AGAIN:
        yield at
        at += LOOK_AGAIN


def _inhibited(
    policy: Policy, subjects: Sequence[Mapping[str, str]], others: Sequence[Mapping[str, str]], at: datetime
) -> Hold | None:
    found = [inhibited_by(policy, labels, others) for labels in subjects]
    first = found[0]
    if first is None or any(one is None for one in found):
        return None
    name = first.labels.get("alertname", "another alert")
    return Hold(by=HeldBy.INHIBITED, why=f"{name} fires, which explains it", until=at + LOOK_AGAIN)
