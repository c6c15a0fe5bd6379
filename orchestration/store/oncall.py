"""Who is on call by the policy that counts now, with overrides and calendars as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.errors import ScheduleNotFound
from orchestration.policy.model import Policy
from orchestration.policy.oncall import roster_of
from orchestration.policy.parse import parse_policy
from orchestration.policy.schedules import HORIZON, Roster
from orchestration.redaction import shown
from orchestration.store.calendars import StoredCalendar, calendar_key, read_calendars
from orchestration.store.definitions import find_definition
from orchestration.store.overrides import list_overrides


@dataclass(frozen=True)
class Schedules:
    """The schedules of the policy."""

    policy: Policy
    """An empty one where none is stored."""
    rosters: Mapping[str, Roster] = field(default_factory=dict[str, Roster])
    """By the name of the schedule, in the order of the names."""
    calendars: Mapping[str, StoredCalendar] = field(default_factory=dict[str, StoredCalendar])
    """What is known of the calendars of those that have one, by the name of the schedule."""

    def get(self, name: str) -> Roster:
        """All that says who is on call by this schedule.

        Raises:
            ScheduleNotFound: the policy has none of this name.
        """
        found = self.rosters.get(name)
        if found is None:
            known = ", ".join(self.rosters) or "none"
            raise ScheduleNotFound(f"The policy has no schedule {shown(name)}; it has: {known}")
        return found


async def read_policy(tx: AsyncConnection) -> Policy:
    """The policy that counts now. It is empty if none is stored."""
    record = await find_definition(tx, "policy")
    return Policy() if record is None else parse_policy(record.config).policy


async def read_schedules(tx: AsyncConnection, start: datetime, policy: Policy | None = None) -> Schedules:
    """The schedules of the policy that counts now, or of another one, for questions about times from `start` on."""
    policy = policy or await read_policy(tx)
    if not policy.schedules:
        return Schedules(policy)
    # Since when somebody has been on call is a question about the past.
    overrides = await list_overrides(tx, start - HORIZON, schedules=list(policy.schedules))
    stored = await read_calendars(tx, policy.schedules.values())
    rosters, calendars = dict[str, Roster](), dict[str, StoredCalendar]()
    for name, schedule in sorted(policy.schedules.items()):
        own = [override for override in overrides if override.schedule == name]
        calendar = stored.get(calendar_key(schedule)) if schedule.ical else None
        if calendar is not None:
            calendars[name] = calendar
        entries = calendar.entries if calendar is not None else None
        rosters[name] = roster_of(policy, name, overrides=own, entries=entries)
    return Schedules(policy, rosters, calendars)
