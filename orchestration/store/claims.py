"""Claims: which runs a worker takes next, and whose leases it may take over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, RowMapping, String, and_, bindparam, cast, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Severity
from orchestration.store.clock import in_seconds
from orchestration.store.models import CLAIMABLE_STATUSES, PipelineRunRow
from orchestration.store.records import RunRecord
from orchestration.store.runs import RUN_COLUMNS, run_record

_T = PipelineRunRow
CLAIMABLE: ColumnElement[bool] = _T.status.in_(
    bindparam("claimable", CLAIMABLE_STATUSES, expanding=True, literal_execute=True)
)
"""Runs that are not over, written out in the statement so that PostgreSQL sees that their index is the one to use."""

_RUN_NAMES = [column.name for column in RUN_COLUMNS]

_LIMIT_LOCK = "select pg_advisory_xact_lock(hashtextextended('alert-pipeline/limit', 0))"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A run that this process holds now, and under which name."""

    record: RunRecord
    owner: str
    overdue: bool
    """It is critical, and has waited longer than it may."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id


async def claim_runs(
    tx: AsyncConnection,
    *,
    process: str,
    limit: int,
    lease_seconds: float,
    deadline_seconds: float,
    overdue_only: bool = False,
    limit_of_all: int | None = None,
) -> list[Claim]:
    """Take up to `limit` runs that nobody works on: critical ones first, then the oldest.

    Two workers that ask at once get different runs, and neither waits for the other. Each run is held under a
    name of its own, `process` with something random, so that a run that comes back to the same process is told
    from its first time there. `limit_of_all` is how many runs all workers together may have.
    """
    if limit_of_all is not None:
        limit = min(limit, limit_of_all - await _count_held_alone(tx))
    if limit <= 0:
        return []
    # A run that was resumed by hand is not overdue because it is old: its last change counts.
    overdue = and_(_T.severity == Severity.CRITICAL.value, _T.updated_at < in_seconds(-deadline_seconds))
    chosen = (
        select(_T.id, overdue.label("overdue"))
        .where(CLAIMABLE, free_lease(), *([overdue] if overdue_only else []))
        .order_by(_T.priority.desc(), _T.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    token = func.left(cast(func.gen_random_uuid(), String), 8)
    taken = await tx.execute(
        update(_T)
        .where(_T.id == chosen.c.id)
        .values(lease_owner=func.concat(process, "/", token), lease_expires_at=in_seconds(lease_seconds))
        .returning(*RUN_COLUMNS, _T.id, chosen.c.overdue)
    )
    found = [_claim(row) for row in sorted(taken.mappings(), key=lambda row: row["id"])]
    return sorted(found, key=lambda claim: -claim.record.severity.rank)


def _claim(row: RowMapping) -> Claim:
    record = run_record({name: row[name] for name in _RUN_NAMES})
    return Claim(record=record, owner=row["lease_owner"], overdue=row["overdue"])


async def list_holders(tx: AsyncConnection) -> list[str]:
    """The names under which the leases of runs that are not over are held."""
    query = select(_T.lease_owner).where(CLAIMABLE, _T.lease_owner.is_not(None))
    return [owner for owner in (await tx.execute(query)).scalars() if owner is not None]


async def free_leases(tx: AsyncConnection, owners: Collection[str]) -> int:
    """Give back the leases of holders that are known to be dead; how many."""
    freed = await tx.execute(
        update(_T).where(_T.lease_owner.in_(owners)).values(lease_owner=None, lease_expires_at=None).returning(_T.id)
    )
    return len(freed.all())


async def count_waiting(tx: AsyncConnection) -> int:
    """How many runs wait for a worker."""
    query = select(func.count()).where(CLAIMABLE, free_lease())
    return (await tx.execute(query)).scalar_one()


async def oldest_waiting_seconds(tx: AsyncConnection) -> float | None:
    """How long the run has waited that has waited longest; None: none waits. A resume starts the wait anew."""
    waited = func.extract("epoch", func.clock_timestamp() - func.min(_T.updated_at))
    found = (await tx.execute(select(waited).where(CLAIMABLE, free_lease()))).scalar()
    return None if found is None else float(found)


async def count_held(tx: AsyncConnection) -> int:
    """How many runs are being worked on."""
    return (await tx.execute(select(func.count()).where(CLAIMABLE, ~free_lease()))).scalar_one()


def free_lease() -> ColumnElement[bool]:
    """Nobody holds the run."""
    return or_(_T.lease_owner.is_(None), _T.lease_expires_at < func.clock_timestamp())


async def _count_held_alone(tx: AsyncConnection) -> int:
    """How many runs are being worked on. Until the end of the transaction no other worker counts."""
    await tx.execute(text(_LIMIT_LOCK))
    return await count_held(tx)
