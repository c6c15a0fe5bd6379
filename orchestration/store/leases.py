"""Leases: a run is one process's at a time, until it is over, given back, or the lease runs out."""

from __future__ import annotations

from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.states import RunStatus, advance
from orchestration.store.claims import CLAIMABLE
from orchestration.store.clock import in_seconds
from orchestration.store.models import PipelineRunRow
from orchestration.store.records import RunRecord
from orchestration.store.runs import COLUMN_NAMES, run_record

_T = PipelineRunRow
# Whether a lease is free is asked on the database's clock. `lost` names a holder that is known to be dead; without
# one the comparison is NULL, which is not true.
_FREE = "(lease_owner is null or lease_owner = :owner or lease_expires_at < clock_timestamp() or lease_owner = :lost)"


_LEASE = "lease_owner = :owner, lease_expires_at = clock_timestamp() + make_interval(secs => :seconds)"


_CLAIM = text(f"update pipeline_run set {_LEASE} where run_id = :run_id and {_FREE} returning id")


async def claim(tx: AsyncConnection, run_id: str, *, owner: str, seconds: float, lost: str | None = None) -> bool:
    """Take the run's lease, if nobody holds it; `lost` names a holder that is known to be dead."""
    taken = await tx.execute(_CLAIM, {"run_id": run_id, "owner": owner, "seconds": seconds, "lost": lost})
    return taken.first() is not None


async def renew(tx: AsyncConnection, run_id: str, *, owner: str, seconds: float) -> bool:
    """Hold the lease on. False: somebody else has it."""
    held = await tx.execute(
        update(_T)
        .where(_T.run_id == run_id, _T.lease_owner == owner)
        .values(lease_expires_at=in_seconds(seconds))
        .returning(_T.id)
    )
    return held.first() is not None


async def renew_all(tx: AsyncConnection, owner: str, *, seconds: float) -> int:
    """Hold on to all leases under this name, of runs that are not over; how many there are."""
    held = await tx.execute(
        update(_T)
        .where(CLAIMABLE, _T.lease_owner == owner)
        .values(lease_expires_at=in_seconds(seconds))
        .returning(_T.id)
    )
    return len(held.all())


async def release(tx: AsyncConnection, run_id: str, *, owner: str) -> None:
    """Give the lease back."""
    await tx.execute(
        update(_T).where(_T.run_id == run_id, _T.lease_owner == owner).values(lease_owner=None, lease_expires_at=None)
    )


_BEGIN = text(
    f"""
    update pipeline_run
    set {_LEASE}, status = :standing, engine = :engine, carried_by = :owner,
        prefect_flow_run_id = coalesce(:prefect_flow_run_id, prefect_flow_run_id),
        started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp(),
        completed_at = null, total_duration_ms = null
    where run_id = :run_id and {_FREE}
    returning {COLUMN_NAMES}
    """
)


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
) -> RunRecord | None:
    """Claim a run, and set it going: a new one, one that failed, or one that a lost process left. The run as it is now.

    `current` is the run as the caller has just locked it, `standing` is where it stands by its stages. None:
    somebody else holds the lease.

    Raises:
        IllegalTransition: a run in its status is not set going.
    """
    if current.status is not standing:
        advance(advance(current.status, RunStatus.RETRYING), standing)
    values = {"run_id": current.run_id, "owner": owner, "seconds": seconds, "lost": lost}
    going = {"standing": standing.value, "engine": engine, "prefect_flow_run_id": prefect_flow_run_id}
    row = (await tx.execute(_BEGIN, {**values, **going})).mappings().one_or_none()
    return None if row is None else run_record(row)
