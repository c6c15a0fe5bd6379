"""The order of ingest: which run of an incident key is recorded next, and what recording it has led to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, bindparam, literal_column, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import STORM_KEY
from orchestration.contracts import IngestResult
from orchestration.store.models import PipelineRunRow
from orchestration.store.prepared import Prepared, prepared

_T = PipelineRunRow


@dataclass(frozen=True, kw_only=True)
class QueuedRun:
    """A run as ingest needs it."""

    id: int
    """Its number. Runs are numbered in the order of acceptance."""
    run_id: str
    environment: str
    incident_key: str
    incident_id: int | None
    created_at: datetime
    """When it was accepted."""
    awaits_ingest: bool
    """Whether its alerts are to be recorded in the order of acceptance. False means that they are recorded, or that the
    run has left the order."""
    ingest_result: dict[str, Any] | None
    """None means that its alerts are not recorded yet."""
    options: dict[str, Any]


_QUEUED = [getattr(_T, name) for name in QueuedRun.__dataclass_fields__]
_BY_ID = Prepared(select(*_QUEUED).where(_T.run_id == bindparam("wanted")))

_FIRST_TWO = (
    select(_T.id)
    .where(_T.incident_key == bindparam("key"), _T.environment == bindparam("place"), _T.awaits_ingest)
    .order_by(_T.id)
    .limit(2)
)
_OWN = select(_T.id).where(_T.run_id == bindparam("wanted"))
_STORM_WAITS = literal_column(
    f"exists (select from pipeline_run as storm where awaits_ingest and starts_with(incident_key, '{STORM_KEY}'))",
    Boolean(),
)
# One list of ids: with two conditions joined by OR PostgreSQL reads the whole table.
_NEXT = Prepared(
    select(*_QUEUED, _STORM_WAITS.label("storm_waits"))
    .where(_T.id.in_(union_all(_OWN, _FIRST_TWO.subquery().select())))
    .order_by(_T.id)
)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Whose alerts are to be recorded now, among the runs of one incident key."""

    own: QueuedRun
    """The run that asks."""
    next: QueuedRun
    """The run whose alerts are to be recorded next; the one that asks, if there is none."""
    more: bool
    """Whether others follow that."""
    storm_waits: bool
    """Whether a run of any storm awaits ingest."""


async def next_to_ingest(tx: AsyncConnection, run_id: str, *, environment: str, incident_key: str) -> Turn:
    """Whose alerts are to be recorded next, of the runs of this run's incident key.

    The next is the first in the order of acceptance that awaits ingest, unless this run has left the order and is
    earlier. The caller has the lock of the key.
    """
    keys = {"wanted": run_id, "key": incident_key, "place": environment}
    rows = await _NEXT.rows(tx, keys)
    storm_waits = any(row["storm_waits"] for row in rows)
    found = [QueuedRun(**{name: row[name] for name in QueuedRun.__dataclass_fields__}) for row in rows]
    own = next(run for run in found if run.run_id == run_id)
    waiting = [run for run in found if run.awaits_ingest]
    if not waiting or (own.ingest_result is None and all(own.id < run.id for run in waiting)):
        return Turn(own=own, next=own, more=bool(waiting), storm_waits=storm_waits)
    return Turn(own=own, next=waiting[0], more=len(waiting) > 1, storm_waits=storm_waits)


async def get_queued_run(tx: AsyncConnection, run_id: str) -> QueuedRun:
    """The run with this id, which must exist."""
    return QueuedRun(**await _BY_ID.one(tx, {"wanted": run_id}))


async def leave_order(tx: AsyncConnection, run: QueuedRun) -> None:
    """Let later runs of the key go on without this one, whose alerts cannot be recorded."""
    await tx.execute(update(_T).where(_T.id == run.id).values(awaits_ingest=False))


_SAVE = prepared(
    """
    update pipeline_run
    set ingest_result = cast(:result as jsonb), awaits_ingest = false, title = coalesce(:title, title),
        incident_id = :incident_id, alert_fingerprint = :alert_fingerprint, severity = :severity
    where run_id = :run_id
    """
)


async def save_ingest_result(
    tx: AsyncConnection, run_id: str, result: IngestResult, *, title: str | None = None
) -> None:
    """Store the result of ingest with the run, and link the run to its incident and its alert.

    `title` is the run's new title. None means that it keeps its own.
    """
    await _SAVE.run(
        tx,
        {
            "run_id": run_id,
            "result": result.model_dump_json(),
            "title": title,
            "incident_id": int(result.incident_id) if result.incident_id else None,
            "alert_fingerprint": result.alert_fingerprint,
            "severity": result.severity.value,
        },
    )
