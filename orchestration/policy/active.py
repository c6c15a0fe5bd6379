"""The policy that counts now, with who is on call by its schedules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol
from zoneinfo import ZoneInfo

from orchestration.alert import Alert
from orchestration.policy.grouping import key_of
from orchestration.policy.model import Policy, Route
from orchestration.policy.routing import Decision, Subject, decide, union
from orchestration.policy.schedules import OnCall, Roster, on_call


@dataclass(frozen=True, kw_only=True)
class ActivePolicy:
    """A policy, and what its schedules need beside it: overrides and calendars."""

    policy: Policy
    version: int | None = None
    """None means that it is not stored: a draft that somebody tries."""
    rosters: Mapping[str, Roster] = field(default_factory=dict[str, Roster])

    def route(self, alerts: Iterable[Alert], *, environment: str, at: datetime) -> Decision:
        """Who is notified of an incident with these alerts at a moment: all whom one of its alerts goes to."""
        subjects = (Subject.of(alert, environment=environment) for alert in alerts)
        return union([decide(self.policy, subject, at, explain=False) for subject in subjects])

    def with_own_key(self, alert: Alert, *, environment: str) -> Alert:
        """The alert under the incident key that the policy's grouping gives it; the same if none concerns it."""
        key = key_of(self.policy, alert, environment=environment)
        return alert if key is None else alert.model_copy(update={"incident_key": key})

    @cached_property
    def names_definitions(self) -> bool:
        """Whether any route names a pipeline definition."""
        return _names_definitions(self.policy.routes)

    def on_call(self, schedule: str, at: datetime) -> OnCall | None:
        """Who is on call at a moment, until when, and who comes next.

        None means that the policy has no such schedule.
        """
        roster = self.rosters.get(schedule)
        return None if roster is None else on_call(roster, at)

    def zone_of(self, schedule: str) -> ZoneInfo | None:
        """The time zone of a schedule."""
        found = self.policy.schedules.get(schedule)
        return None if found is None else ZoneInfo(found.time_zone)

    def contacts_of(self, person: str) -> tuple[str, ...]:
        """The names of the channels that reach a person; none if the policy does not know the name."""
        known = self.policy.people.get(person)
        return () if known is None else tuple(known.contacts)


def _names_definitions(routes: Sequence[Route]) -> bool:
    return any(route.definition is not None or _names_definitions(route.routes) for route in routes)


class PolicySource(Protocol):
    """Where a process finds the policy."""

    async def active(self) -> ActivePolicy | None:
        """The policy that counts now. None means that there is none: the default channels are notified."""
        ...
