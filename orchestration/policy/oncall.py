"""The schedules of a policy: what each says together with its overrides and its calendar, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta

from orchestration.contracts import Contract
from orchestration.message import is_channel
from orchestration.policy.model import Policy
from orchestration.policy.schedules import Entry, OnCall, Override, Roster, Shift, gaps, on_call, shifts
from orchestration.policy.wall_clock import clock_at
from orchestration.redaction import shown

LOOK_AHEAD = timedelta(days=14)
"""How far ahead warnings look."""


class ScheduleWarning(Contract):
    """Something about a schedule that leaves somebody without a page."""

    schedule: str
    message: str

    def __str__(self) -> str:
        return f"schedule {shown(self.schedule)}: {self.message}"


def roster_of(
    policy: Policy, name: str, *, overrides: Sequence[Override] = (), entries: Sequence[Entry] | None = None
) -> Roster:
    """All that says who is on call by this schedule of a policy.

    Args:
        policy: the policy.
        name: one of its schedules.
        overrides: those of this schedule, the one that was made first at the beginning.
        entries: the events of its calendar. None means that it has none, or that it was never read.

    Raises:
        KeyError: the policy has no such schedule.
    """
    schedule = policy.schedules[name]
    return Roster(schedule, tuple(overrides), entries if schedule.ical else None, frozenset(policy.people))


class ScheduleState(OnCall):
    """Who is on call by a schedule at a moment, and the shifts that follow."""

    schedule: str
    time_zone: str
    shifts: tuple[Shift, ...] = ()


def state_of(name: str, roster: Roster, at: datetime, ahead: timedelta) -> ScheduleState:
    """Who is on call by a schedule at a moment, and the shifts from then on for the time `ahead`."""
    return ScheduleState(
        schedule=name,
        time_zone=roster.schedule.time_zone,
        shifts=tuple(shifts(roster, at, at + ahead)) if ahead else (),
        **on_call(roster, at).model_dump(),
    )


def schedule_warnings(
    policy: Policy, name: str, roster: Roster, now: datetime, *, channels: Collection[str] | None = None
) -> list[ScheduleWarning]:
    """What leaves somebody without a page: nobody on call within `LOOK_AHEAD`, and people whom nothing reaches.

    `channels` are the names of all channels. None means that they are not known, and contacts are not looked at.
    """
    found = _messages(policy, roster, now, channels)
    return [ScheduleWarning(schedule=name, message=message) for message in found]


def policy_warnings(policy: Policy, now: datetime) -> list[ScheduleWarning]:
    """The warnings of all schedules of a policy that is not in use yet: without overrides, calendars and channels."""
    return [
        warning
        for name, schedule in policy.schedules.items()
        if not schedule.ical
        for warning in schedule_warnings(policy, name, roster_of(policy, name), now)
    ]


def _messages(policy: Policy, roster: Roster, now: datetime, channels: Collection[str] | None) -> Iterator[str]:
    if roster.schedule.ical and roster.entries is None:
        yield "nobody is on call, but for overrides, until a worker has read its calendar"
    elif nobody := gaps(roster, now, now + LOOK_AHEAD):
        yield _gap_message(nobody, roster.schedule.time_zone)
    for person in _people_of(roster, now):
        if (known := policy.people.get(person)) is None:
            yield f"{shown(person)} is on call, and `people` does not say how to reach a person of this name"
        elif channels is not None and not any(is_channel(contact, channels) for contact in known.contacts):
            contacts = ", ".join(shown(contact) for contact in known.contacts)
            yield f"{shown(person)} is on call, and there is no channel that is one of the contacts: {contacts}"


def _gap_message(nobody: Sequence[Shift], time_zone: str) -> str:
    first = nobody[0]
    begin, end = (f"{clock_at(moment, time_zone):%Y-%m-%d %H:%M}" for moment in (first.starts_at, first.ends_at))
    more = len(nobody) - 1
    others = f", and at {more} other {'time' if more == 1 else 'times'} in the next {LOOK_AHEAD.days} days"
    return f"nobody is on call from {begin} to {end} ({time_zone}){others if more else ''}"


def _people_of(roster: Roster, now: datetime) -> list[str]:
    """All people of the layers, and those of overrides and events that are on call within `LOOK_AHEAD`."""
    of_layers = [person for layer in roster.schedule.layers for turn in layer.people for person in turn]
    soon = [person for shift in shifts(roster, now, now + LOOK_AHEAD) for person in shift.people]
    return list(dict.fromkeys([*of_layers, *soon]))
