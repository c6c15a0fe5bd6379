"""Rows in the store, in the words of the tests."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.store import attempts, claims, runs
from orchestration.store.database import Database
from orchestration.store.incidents import get_incident
from orchestration.store.models import HistoryRow, IncidentChannelRow
from orchestration.store.pushes import NewPush, NewRun, write_push
from orchestration.store.records import HistoryRecord, Node, new_id
from orchestration.store.table import columns_of


def new_run(*, payload: object = None, **more: Any) -> NewRun:
    """A run to be written. `payload` is any JSON, by default {}."""
    basics = {"run_id": new_id(), "trace_id": "t", "source": "generic", "environment": "test"}
    return NewRun(**basics | more, payload=orjson.dumps(payload or {}))


async def add_runs(tx: AsyncConnection, *new: NewRun) -> None:
    """Write runs, as one push."""
    await write_push(tx, NewPush(runs=new))


async def note_notified(tx: AsyncConnection, incident_id: str | None) -> None:
    """Write that a channel knows the incident as it is now, as notify does."""
    if incident_id is not None:
        incident = await get_incident(tx, incident_id)
        known = {"incident_id": int(incident.id), "channel": "test", "driver": "test", "version": incident.version}
        row = insert(IncidentChannelRow).values(**known)
        await tx.execute(
            row.on_conflict_do_update(index_elements=["incident_id", "channel"], set_={"version": incident.version})
        )


async def history_of(tx: AsyncConnection, incident_id: str) -> list[HistoryRecord]:
    """The history of an incident, oldest first."""
    mine = HistoryRow.incident_id == int(incident_id)
    query = select(*columns_of(HistoryRow, HistoryRecord)).where(mine).order_by(HistoryRow.id)
    return [HistoryRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]


async def lease(tx: AsyncConnection, run_id: str, owner: str) -> None:
    """Lease a run for half a minute, whoever has its lease."""
    query = text(
        "update pipeline_run set lease_owner = :owner, lease_expires_at = clock_timestamp() + interval '30 s' "
        "where run_id = :run_id"
    )
    await tx.execute(query, {"owner": owner, "run_id": run_id})


async def open_attempts(database: Database, run_id: str, *nodes: Node) -> None:
    """Open the next attempt at each node, as a process that dies while it executes them; keep the lease as it is."""
    async with database.transaction() as tx:
        before = await runs.get_run(tx, run_id)
        owner = before.lease_owner or "dead/1/2/3"
        await lease(tx, run_id, owner)
        run = await runs.get_run(tx, run_id)
    for node in nodes:
        run, _ = await attempts.open_attempt(database, run, node, owner=owner, status=run.status, input_ref=None)
    if before.lease_owner is None:
        async with database.transaction() as tx:
            await claims.release(tx, run_id, owner=owner)


async def waits_for_a_lock(database: Database) -> bool:
    """Whether somebody waits for what another transaction holds."""
    async with database.statement() as tx:
        return (await tx.execute(text("select exists (select from pg_locks where not granted)"))).scalar_one()
