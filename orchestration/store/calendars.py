"""Calendars of schedules as a worker read them last: while one cannot be read, its last good copy counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from urllib.parse import urlsplit

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.policy.rotations import Schedule
from orchestration.policy.schedules import Entry
from orchestration.store.database import read_clock
from orchestration.store.models import SealedCopyRow

OLD_AFTER = timedelta(hours=6)
"""A calendar whose last good copy is older is reported: what it says may have changed long ago."""

_T = SealedCopyRow


class StoredCalendar(Contract):
    """What is known of a calendar."""

    entries: tuple[Entry, ...] | None = None
    """What it says, as it was read last. None means that it was never read."""
    problems: tuple[str, ...] = ()
    """Its events that were left out."""
    read_at: UtcDatetime | None = None
    tried_at: UtcDatetime
    failure: str = ""
    """Why the last try failed. Empty means that it did not."""


def calendar_key(schedule: Schedule) -> str:
    """The name under which the calendar of a schedule is stored. Its URL, which may have a secret in it, is hashed."""
    source = f"{schedule.ical}\n{schedule.time_zone}"
    return f"calendar/{hashlib.sha256(source.encode()).hexdigest()[:32]}"


def calendar_name(schedule: Schedule) -> str:
    """What people may see of the source of a calendar: its host, or its file."""
    source = schedule.ical or ""
    return source if source.startswith("/") else urlsplit(source).hostname or "?"


async def read_calendars(tx: AsyncConnection, schedules: Iterable[Schedule]) -> dict[str, StoredCalendar]:
    """The stored calendars of these schedules, by `calendar_key()`. One that no worker has tried to read is missing."""
    keys = {calendar_key(schedule) for schedule in schedules if schedule.ical}
    if not keys:
        return {}
    query = select(_T.name, _T.content).where(_T.name.in_(keys))
    # They are stored as plain text: who is on call is as little a secret here as the names of channels are.
    return {name: StoredCalendar.model_validate_json(content) for name, content in await tx.execute(query)}


async def start_reading(tx: AsyncConnection, schedule: Schedule, every: timedelta) -> StoredCalendar | None:
    """Note that the caller reads the calendar of a schedule now. Returns what is known of it.

    None means that somebody has done so within the time `every`: there is nothing to do.
    """
    key = calendar_key(schedule)
    await tx.execute(text("select pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})
    known, now = (await read_calendars(tx, [schedule])).get(key), await read_clock(tx)
    if known is not None and now - known.tried_at < every:
        return None
    before = known.model_copy(update={"tried_at": now}) if known is not None else StoredCalendar(tried_at=now)
    await write_calendar(tx, schedule, before)
    return before


async def write_calendar(tx: AsyncConnection, schedule: Schedule, calendar: StoredCalendar) -> None:
    """Store what is known of the calendar of a schedule."""
    content = calendar.model_dump_json().encode()
    row = insert(_T).values(name=calendar_key(schedule), content=content)
    newer = {"content": content, "updated_at": func.clock_timestamp()}
    await tx.execute(row.on_conflict_do_update(index_elements=[_T.name], set_=newer))
