"""Claims and leases: at most one process executes a run, until the run is over, released, or its lease runs out.

The database's clock decides when a lease runs out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import STORM_KEY, Severity
from orchestration.states import RunStatus, advance
from orchestration.store.attempts import OPENED, opening, payload_ref
from orchestration.store.database import in_seconds
from orchestration.store.models import CLAIMABLE_STATUSES, PipelineRunRow
from orchestration.store.prepared import Prepared, prepared
from orchestration.store.records import Node, RunRecord
from orchestration.store.runs import RUN_COLUMN_NAMES, readable_run, run_record

_T = PipelineRunRow
CLAIMABLE: ColumnElement[bool] = _T.status.in_(
    bindparam("claimable", CLAIMABLE_STATUSES, expanding=True, literal_execute=True)
)
"""The run is not over. The statuses are literals in the statement, so that PostgreSQL uses the partial index."""

# `lost` is an owner that is known to be dead. If it is NULL, the comparison with it is NULL, which counts as false.
_FREE = "(lease_owner is null or lease_owner = :owner or lease_expires_at < clock_timestamp() or lease_owner = :lost)"
_LEASE = "lease_owner = :owner, lease_expires_at = clock_timestamp() + make_interval(secs => :seconds)"

_ALL = 2**62
"""A number that no run has yet."""

UNREADABLE_SECONDS = 30.0
"""How long a run waits, in seconds, after a worker has claimed it and cannot read its row."""


# Many runs, for a worker


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A run that this process has leased, and the name under which it did."""

    record: RunRecord
    owner: str
    overdue: bool
    """The run is critical, and has waited longer than its deadline."""

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
    up_to: int | None = None,
) -> list[Claim]:
    """Lease up to `limit` runs that no process executes: critical ones first, then the oldest.

    Two workers that claim at the same time get different runs, and neither waits for the other. Each run gets an owner
    name of its own, `process` and a random part, so that a re-claim by the same process gets a new owner name.
    A run that this version cannot read, because another has written it, is put off and not returned.
    Of new pushes only those up to the number `up_to` are claimed: what came later may be a storm.
    `limit_of_all` is how many runs all workers together may execute at a time; None means no limit, and then this is
    a single statement, which needs no transaction.
    """
    if limit_of_all is not None:
        # No other worker counts until this transaction ends.
        await tx.execute(text("select pg_advisory_xact_lock(hashtextextended('alert-pipeline/limit', 0))"))
        limit = min(limit, limit_of_all - await count_leased(tx))
    if limit <= 0:
        return []
    overdue = _OVERDUE if overdue_only else "true"
    claimed = await _claim_statement(overdue).rows(
        tx,
        {
            "process": process,
            "limit": limit,
            "lease_seconds": lease_seconds,
            "deadline": deadline_seconds,
            "up_to": _ALL if up_to is None else up_to,
        },
    )
    rows = sorted(claimed, key=lambda row: (-row["priority"], row["id"]))
    runs = [
        Claim(record=record, owner=row["lease_owner"], overdue=row["overdue"])
        for row in rows
        if (record := readable_run(row)) is not None
    ]
    if len(runs) < len(rows):
        await _put_off(tx, {row["lease_owner"] for row in rows} - {claim.owner for claim in runs})
    return runs


async def _put_off(tx: AsyncConnection, owners: Collection[str]) -> None:
    """Release runs that this version cannot read, for a worker that can. They wait, so that others are claimed."""
    await tx.execute(
        update(_T)
        .where(_T.lease_owner.in_(owners))
        .values(lease_owner=None, lease_expires_at=None, due_at=in_seconds(UNREADABLE_SECONDS))
    )


# The wait counts from the last change of the run, so a run that was resumed by hand is not overdue at once.
_OVERDUE = f"""
    severity = '{Severity.CRITICAL.value}'
    and greatest(updated_at, due_at) < clock_timestamp() - make_interval(secs => :deadline)
"""
# The alerts of a storm are recorded run by run. Runs that wait for their turn would keep the processor from its first
# page. A run that is worse than those before it does not wait: it records their alerts before its own.
_NEXT_OF_STORM = f"""
    (
        not awaits_ingest or incident_key is null or not starts_with(incident_key, '{STORM_KEY}')
        or not exists (
            select from pipeline_run as earlier
            where earlier.environment = pipeline_run.environment and earlier.incident_key = pipeline_run.incident_key
                and earlier.awaits_ingest and earlier.status in {CLAIMABLE_STATUSES!r}
                and earlier.id < pipeline_run.id and earlier.priority >= pipeline_run.priority
        )
    )
"""
_CANDIDATE = f"""
    select id, priority, {_OVERDUE} as overdue
    from pipeline_run
    where status in {CLAIMABLE_STATUSES!r} and (lease_owner is null or lease_expires_at < clock_timestamp())
"""


@lru_cache
def _claim_statement(condition: str) -> Prepared:
    """Claim runs that are due at once, and runs that have become due; each has an index that no other run is in.

    Of the latter each priority is a range of its index, so that runs that are due later cost nothing.
    """
    by_time = "".join(
        f"""
        due_{severity.rank} as (
            {_CANDIDATE} and {condition} and priority = {severity.rank} and due_at <= statement_timestamp()
            order by due_at limit :limit for update skip locked
        ),
        """
        for severity in Severity
    )
    due = " ".join(f"union all select * from due_{severity.rank}" for severity in Severity)
    return prepared(
        f"""
        with at_once as (
            {_CANDIDATE} and {condition} and due_at is null and (id <= :up_to or not awaits_ingest)
                and {_NEXT_OF_STORM}
            order by priority desc, id limit :limit for update skip locked
        ),
        {by_time}
        chosen as (select * from at_once {due} order by priority desc, id limit :limit)
        update pipeline_run
        set lease_owner = concat(cast(:process as text), '/', left(cast(gen_random_uuid() as text), 8)),
            lease_expires_at = clock_timestamp() + make_interval(secs => :lease_seconds)
        from chosen
        where chosen.id = pipeline_run.id
        returning {", ".join(f"pipeline_run.{name}" for name in RUN_COLUMN_NAMES.split(", "))},
            pipeline_run.id, pipeline_run.priority, chosen.overdue
        """
    )


# One look at the index of due runs for each priority.
_NEXT_DUE = prepared(
    f"""
    select extract(epoch from min(next.due_at) - clock_timestamp())
    from (values {", ".join(f"({severity.rank})" for severity in Severity)}) as known (priority)
    cross join lateral (
        select due_at
        from pipeline_run
        where status in {CLAIMABLE_STATUSES!r} and priority = known.priority and due_at > statement_timestamp()
        order by due_at limit 1
    ) as next
    """
)


async def seconds_until_due(tx: AsyncConnection) -> float | None:
    """The time until the next run becomes due, in seconds; None if none does. A run that a process executes counts."""
    seconds = await _NEXT_DUE.value(tx)
    return None if seconds is None else float(seconds)


async def list_lease_owners(tx: AsyncConnection) -> list[str]:
    """The owners of the leases of all runs that are not over."""
    query = select(_T.lease_owner).where(CLAIMABLE, _T.lease_owner.is_not(None))
    return [owner for owner in (await tx.execute(query)).scalars() if owner is not None]


async def release_leases(tx: AsyncConnection, owners: Collection[str]) -> int:
    """Release the leases of owners that are known to be dead. Returns how many."""
    released = await tx.execute(
        update(_T).where(_T.lease_owner.in_(owners)).values(lease_owner=None, lease_expires_at=None).returning(_T.id)
    )
    return len(released.all())


async def count_waiting(tx: AsyncConnection) -> int:
    """How many runs wait for a worker."""
    query = select(func.count()).where(CLAIMABLE, lease_is_free(), is_due())
    return (await tx.execute(query)).scalar_one()


async def oldest_waiting_seconds(tx: AsyncConnection) -> float | None:
    """The longest time that a run has waited for a worker, in seconds. None means that no run waits.

    A wait begins when the run is due, and again when it is resumed.
    """
    since = func.greatest(_T.updated_at, _T.due_at)
    waited = func.extract("epoch", func.clock_timestamp() - func.min(since))
    found = (await tx.execute(select(waited).where(CLAIMABLE, lease_is_free(), is_due()))).scalar()
    return None if found is None else float(found)


async def count_leased(tx: AsyncConnection) -> int:
    """How many runs are executed at the moment."""
    return (await tx.execute(select(func.count()).where(CLAIMABLE, ~lease_is_free()))).scalar_one()


def lease_is_free() -> ColumnElement[bool]:
    """No process has a lease of the run that still holds."""
    return or_(_T.lease_owner.is_(None), _T.lease_expires_at < func.clock_timestamp())


def is_due() -> ColumnElement[bool]:
    """The run does not wait for its time."""
    return or_(_T.due_at.is_(None), _T.due_at <= func.clock_timestamp())


# One run, by its id


async def renew(tx: AsyncConnection, run_id: str, *, owner: str, seconds: float) -> bool:
    """Extend the lease to so many seconds from now. False means that another owner has the lease."""
    renewed = await tx.execute(
        update(_T)
        .where(_T.run_id == run_id, _T.lease_owner == owner)
        .values(lease_expires_at=in_seconds(seconds))
        .returning(_T.id)
    )
    return renewed.first() is not None


async def renew_all(tx: AsyncConnection, owner: str, *, seconds: float) -> int:
    """Extend all leases of this owner, of runs that are not over, to so many seconds from now. Returns how many."""
    renewed = await tx.execute(
        update(_T)
        .where(CLAIMABLE, _T.lease_owner == owner)
        .values(lease_expires_at=in_seconds(seconds))
        .returning(_T.id)
    )
    return len(renewed.all())


async def release(tx: AsyncConnection, run_id: str, *, owner: str) -> None:
    """Release the lease, if this owner has it."""
    await tx.execute(
        update(_T).where(_T.run_id == run_id, _T.lease_owner == owner).values(lease_owner=None, lease_expires_at=None)
    )


@cache
def _begin_statement(*, opens: bool) -> Prepared:
    """The statement that starts a run, and may open its first attempt."""
    opened = ", current_stage = :stage, total_attempts = total_attempts + 1" if opens else ""
    return prepared(
        f"""
        with run as (
            update pipeline_run
            set {_LEASE}, status = :standing, engine = :engine, carried_by = :owner,
                prefect_flow_run_id = coalesce(:prefect_flow_run_id, prefect_flow_run_id),
                started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp(), due_at = null,
                completed_at = null, total_duration_ms = null{opened}
            where run_id = :run_id and status = :known and {_FREE}
            returning id, {RUN_COLUMN_NAMES}, payload
        )
        {f", {OPENED} select run.*, opened.attempt from run, opened" if opens else "select run.* from run"}
        """
    )


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that was started."""

    record: RunRecord
    payload: dict[str, Any]
    """What it was started with."""
    attempt: int | None
    """The number of the attempt that was opened with it; None if none was."""


async def begin(
    tx: AsyncConnection,
    current: RunRecord,
    *,
    owner: str,
    seconds: float,
    lost: str | None,
    standing: RunStatus,
    engine: str,
    prefect_flow_run_id: str | None,
    first: Node | None = None,
) -> Begun | None:
    """Lease a run and start it: a new run, a failed run, or a run whose process died.

    `current` is the run as the caller has just locked or claimed it, `standing` is the status that follows from its
    finished stages, `lost` is an owner that is known to be dead. `first` is a node at which an attempt begins at once.

    Returns:
        The run. None means that another owner has the lease.

    Raises:
        IllegalTransition: a run with this status cannot be started.
    """
    if current.status is not standing:
        advance(advance(current.status, RunStatus.RETRYING), standing)
    values = {"run_id": current.run_id, "owner": owner, "seconds": seconds, "lost": lost}
    started = {"known": current.status.value, "standing": standing.value, "engine": engine}
    opened = {} if first is None else opening(first, payload_ref(current.run_id))
    statement = _begin_statement(opens=first is not None)
    row = await statement.row(tx, {**values, **started, **opened, "prefect_flow_run_id": prefect_flow_run_id})
    return None if row is None else Begun(record=run_record(row), payload=row["payload"], attempt=row.get("attempt"))
