"""Who is on call by the policy that counts now, with overrides and calendars as they are stored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.errors import ScheduleNotFound
from orchestration.policy.model import Policy
from orchestration.policy.oncall import ScheduleWarning, roster_of, schedule_warnings
from orchestration.policy.parse import parse_policy
from orchestration.policy.schedules import HORIZON, Roster
from orchestration.redaction import shown
from orchestration.store.calendars import OLD_AFTER, StoredCalendar, calendar_key, calendar_name, read_calendars
from orchestration.store.database import Database
from orchestration.store.definitions import find_policy
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
    record = await find_policy(tx)
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


async def find_schedules(database: Database, start: datetime, policy: Policy) -> Schedules | None:
    """The schedules of a policy that may not be stored. None means that the database does not have our tables yet.

    Raises:
        Unavailable: the database does not answer.
    """
    try:
        async with database.transaction() as tx:
            return await read_schedules(tx, start, policy)
    except ProgrammingError:
        return None


def warnings_of(
    found: Schedules, now: datetime, *, schedule: str | None = None, channels: Collection[str] | None = None
) -> list[ScheduleWarning]:
    """What leaves somebody without a page, in one schedule or in all of them, and calendars that are not up to date.

    `channels` are the names of all channels. None means that they are not known, and contacts are not looked at.

    Raises:
        ScheduleNotFound: the policy has no such schedule.
    """
    warnings = list[ScheduleWarning]()
    for name in found.rosters if schedule is None else [schedule]:
        warnings += schedule_warnings(found.policy, name, found.get(name), now, channels=channels)
        if (calendar := found.calendars.get(name)) is not None:
            source = calendar_name(found.policy.schedules[name])
            messages = _calendar_messages(calendar, source, now)
            warnings += [ScheduleWarning(schedule=name, message=message) for message in messages]
    return warnings


def _calendar_messages(calendar: StoredCalendar, source: str, now: datetime) -> Iterator[str]:
    failure = f": it {calendar.failure}" if calendar.failure else ""
    if calendar.read_at is None:
        yield f"the calendar at {source} could not be read{failure}"
    elif now - calendar.read_at > OLD_AFTER:
        yield f"the calendar at {source} was read last at {calendar.read_at:%Y-%m-%d %H:%M} UTC{failure}"
    yield from calendar.problems
