"""Workers: each has a row, and is alive while its heartbeat is recent."""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.store.database import in_seconds
from orchestration.store.models import WorkerRow

_T = WorkerRow

HEARTBEAT_SECONDS = 5.0
ALIVE_SECONDS = 20.0
"""A worker whose last heartbeat is older than this counts as dead."""


class WorkerRecord(Contract):
    """A row of `worker`."""

    name: str
    host: str
    pid: int
    started_at: UtcDatetime
    heartbeat_at: UtcDatetime
    prefect_ok: bool
    running: int


async def beat(tx: AsyncConnection, *, name: str, host: str, pid: int, prefect_ok: bool, running: int) -> None:
    """Write a worker's heartbeat, and delete workers that have been dead for a day."""
    row = insert(_T).values(name=name, host=host, pid=pid, prefect_ok=prefect_ok, running=running)
    await tx.execute(
        row.on_conflict_do_update(
            index_elements=[_T.name],
            set_={"heartbeat_at": func.clock_timestamp(), "prefect_ok": prefect_ok, "running": running},
        )
    )
    await tx.execute(delete(_T).where(_T.heartbeat_at < in_seconds(-86400)))


async def leave(tx: AsyncConnection, name: str) -> None:
    """Delete a worker that ends."""
    await tx.execute(delete(_T).where(_T.name == name))


async def list_workers(tx: AsyncConnection) -> list[WorkerRecord]:
    """The workers that are alive, oldest first."""
    query = select(*_T.__table__.columns).where(_T.heartbeat_at > in_seconds(-ALIVE_SECONDS)).order_by(_T.started_at)
    return [WorkerRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]
