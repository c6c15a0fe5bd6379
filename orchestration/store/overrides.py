"""Overrides of schedules: who is on call instead, from when until when. One that is over is kept, as it was."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import BadInput, OverrideNotFound
from orchestration.policy.schedules import Override
from orchestration.store.database import read_clock
from orchestration.store.models import OverrideRow
from orchestration.store.table import columns_of

LONGEST = timedelta(days=366)
"""The longest override."""

MAX_OVERRIDES = 500
"""Overrides of one schedule that are not over."""

_T = OverrideRow
_MAX_ID = 2**63 - 1


class OverrideRecord(Override):
    """A row of `oncall_override`."""

    id: int
    schedule: str
    created_by: str
    created_at: UtcDatetime


class Removed(Contract):
    """An override after it was removed."""

    override: OverrideRecord
    has_begun: bool
    """Whether it has begun: then it ends now, and what was true until now stays on record. Otherwise it is deleted."""


_COLUMNS = columns_of(_T, OverrideRecord)


async def add_override(tx: AsyncConnection, schedule: str, override: Override, *, created_by: str) -> OverrideRecord:
    """Add an override. It wins over those that were added before. Whether there is such a schedule is not checked.

    Raises:
        BadInput: it is over already, ends before it starts, is too long, or the schedule has too many.
    """
    if override.starts_at >= override.ends_at:
        raise BadInput("the override ends before it starts")
    if override.ends_at - override.starts_at > LONGEST:
        raise BadInput(f"an override lasts at most {LONGEST.days} days: change the schedule in the policy instead")
    now = await read_clock(tx)
    if override.ends_at <= now:
        raise BadInput(f"the override ended in the past, at {override.ends_at:%Y-%m-%d %H:%M} UTC")
    await tx.execute(text("select pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"override/{schedule}"})
    count = select(func.count()).where(_T.schedule == schedule, _T.ends_at > now)
    if (await tx.execute(count)).scalar_one() >= MAX_OVERRIDES:
        raise BadInput(f"a schedule has at most {MAX_OVERRIDES} overrides: remove some first")
    row = insert(_T).values(schedule=schedule, created_by=created_by, **override.model_dump(include=_GIVEN))
    return OverrideRecord.model_validate(dict((await tx.execute(row.returning(*_COLUMNS))).mappings().one()))


_GIVEN = {"person", "starts_at", "ends_at"}


async def list_overrides(
    tx: AsyncConnection,
    start: datetime,
    end: datetime | None = None,
    *,
    schedules: Collection[str] | None = None,
) -> list[OverrideRecord]:
    """The overrides that count at some time of a span, in the order in which they were added.

    `end` None means for ever. `schedules` None means those of all schedules.
    """
    query = select(*_COLUMNS).where(_T.ends_at > start).order_by(_T.id)
    if end is not None:
        query = query.where(_T.starts_at < end)
    if schedules is not None:
        query = query.where(_T.schedule.in_(schedules))
    return [OverrideRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]


async def remove_override(tx: AsyncConnection, override_id: int) -> Removed:
    """Remove an override that is not over: delete it, or end it now if it has begun.

    Raises:
        OverrideNotFound: there is none with this number.
        BadInput: it is over.
    """
    found = None
    if 0 < override_id <= _MAX_ID:
        query = select(*_COLUMNS).where(_T.id == override_id).with_for_update()
        found = (await tx.execute(query)).mappings().one_or_none()
    if found is None:
        raise OverrideNotFound(
            f"There is no override {override_id}: `alert-pipeline oncall overrides` lists those that there are"
        )
    record, now = OverrideRecord.model_validate(dict(found)), await read_clock(tx)
    if record.ends_at <= now:
        raise BadInput(f"The override {override_id} was over at {record.ends_at:%Y-%m-%d %H:%M} UTC: nothing to remove")
    if record.starts_at >= now:
        await tx.execute(delete(_T).where(_T.id == override_id))
        return Removed(override=record, has_begun=False)
    change = update(_T).where(_T.id == override_id).values(ends_at=now).returning(*_COLUMNS)
    ended = (await tx.execute(change)).mappings().one()
    return Removed(override=OverrideRecord.model_validate(dict(ended)), has_begun=True)
