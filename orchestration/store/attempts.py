"""Attempts: a row of `stage_execution` for every try at every stage, also for stages left out."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import RowMapping, func, insert, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import StageError
from orchestration.errors import BadInput
from orchestration.states import StageStatus, advance
from orchestration.store.models import PipelineRunRow, StageExecutionRow
from orchestration.store.records import AttemptRecord, Node

_T = StageExecutionRow
_COLUMNS = [column for name, column in _T.__table__.columns.items() if name in AttemptRecord.model_fields]

LOST = StageError(error_type="ProcessLost", message="The process ended while it was at this attempt", retryable=True)
"""The error of an attempt that nobody finished."""

CANCELLED = StageError(error_type="Cancelled", message="The run was cancelled", retryable=True)
"""The error of an attempt that was stopped, with its run."""

CUT_SHORT = frozenset({LOST.error_type, CANCELLED.error_type})
"""The errors of attempts that say nothing of the node itself."""


def output_ref(run_id: str, node_id: str, attempt: int) -> str:
    """The name of an attempt's output; `resolve()` finds it again."""
    return f"output/{run_id}/{node_id}/{attempt}"


def payload_ref(run_id: str) -> str:
    """The name of what a run was started with; `resolve()` finds it again."""
    return f"payload/{run_id}"


OPEN_ATTEMPT = """
    lost as (
        update stage_execution as earlier
        set status = :lost_status, completed_at = clock_timestamp(), error_type = :lost_type,
            error_message = :lost_message, error_stack = null, error_retryable = :lost_retryable
        from run
        where earlier.pipeline_run_id = run.id and earlier.node_id = :node_id and earlier.status = :running
    ),
    opened as (
        insert into stage_execution
            (pipeline_run_id, node_id, stage, attempt, status, idempotency_key, input_ref, started_at)
        select run.id, :node_id, :stage, next.attempt, :running,
            concat(cast(:run_id as text), '/', cast(:node_id as text), '/', next.attempt), :input_ref, clock_timestamp()
        from run
        cross join lateral (
            select coalesce(max(attempt), 0) + 1 as attempt
            from stage_execution
            where pipeline_run_id = run.id and node_id = :node_id
        ) as next
        returning attempt
    )
"""
"""The part of a statement that opens the next attempt of what is `run` in it."""

# One round trip: this is done for every attempt of every run.
_START = text(
    f"with run as (select id from pipeline_run where run_id = :run_id), {OPEN_ATTEMPT} select attempt from opened"
)


CLOSE_ATTEMPT = """
    settled as (
        update stage_execution as attempt
        set status = :settled, output_snapshot = cast(:output_snapshot as jsonb), output_ref = :output_ref,
            completed_at = clock_timestamp(), duration_ms = :duration_ms, error_type = :error_type,
            error_message = :error_message, error_stack = :error_stack, error_retryable = :error_retryable
        from run
        where attempt.pipeline_run_id = run.id and attempt.idempotency_key = :idempotency_key
            and attempt.status = :running
        returning attempt.id
    )
"""
"""The part of a statement that closes an attempt of what is `run` in it."""

_SETTLE = text(
    f"with run as (select id from pipeline_run where run_id = :run_id), {CLOSE_ATTEMPT} select id from settled"
)


async def start_attempt(tx: AsyncConnection, run_id: str, node: Node, *, input_ref: str | None) -> int:
    """Open the next attempt at a node; its number. Attempts that a lost process left open are closed.

    The caller holds the run's row lock, so numbers cannot collide.
    """
    return (await tx.execute(_START, opening(run_id, node, input_ref))).scalar_one()


def opening(run_id: str, node: Node, input_ref: str | None) -> dict[str, Any]:
    """The parameters of `OPEN_ATTEMPT`."""
    return {
        "run_id": run_id,
        "node_id": node.id,
        "stage": node.stage.value,
        "running": advance(StageStatus.PENDING, StageStatus.RUNNING).value,
        "input_ref": input_ref,
        "lost_status": advance(StageStatus.RUNNING, StageStatus.FAILED).value,
        "lost_type": LOST.error_type,
        "lost_message": LOST.message,
        "lost_retryable": LOST.retryable,
    }


async def count_lost(tx: AsyncConnection, run_id: str) -> int:
    """How many processes ended while they were at the same node of a run. An attempt that is open was left so as well.

    Nodes that go on side by side end with one process, so it is the node with the most such attempts that counts.
    """
    lost = or_(_T.error_type == LOST.error_type, _T.status == StageStatus.RUNNING.value)
    query = (
        select(func.count().label("lost"))
        .select_from(_T)
        .join(PipelineRunRow, PipelineRunRow.id == _T.pipeline_run_id)
        .where(PipelineRunRow.run_id == run_id, lost)
        .group_by(_T.node_id)
        .order_by(func.count().desc())
        .limit(1)
    )
    return (await tx.execute(query)).scalar_one_or_none() or 0


async def skip(tx: AsyncConnection, run_id: str, node: Node, reason: str) -> None:
    """Leave a row that says why the stage did not run."""
    run_pk = await _primary_key(tx, run_id)
    exists = select(_T.id).where(_T.pipeline_run_id == run_pk, _T.node_id == node.id)
    if (await tx.execute(exists)).first() is None:
        snapshot = {"output_snapshot": {"skipped": reason}, "completed_at": func.clock_timestamp()}
        await _insert(tx, run_id, run_pk, node, 1, StageStatus.SKIPPED, snapshot)


async def settle(
    tx: AsyncConnection,
    run_id: str,
    node: Node,
    attempt: int,
    status: StageStatus,
    *,
    duration_ms: float,
    snapshot: dict[str, Any] | None = None,
    error: StageError | None = None,
) -> None:
    """Close an attempt."""
    ending = closing(run_id, node, attempt, status, duration_ms=duration_ms, snapshot=snapshot, error=error)
    await tx.execute(_SETTLE, ending)


def closing(
    run_id: str,
    node: Node,
    attempt: int,
    status: StageStatus,
    *,
    duration_ms: float,
    snapshot: dict[str, Any] | None,
    error: StageError | None,
) -> dict[str, Any]:
    """The parameters of `CLOSE_ATTEMPT`."""
    return {
        "run_id": run_id,
        "running": StageStatus.RUNNING.value,
        "settled": advance(StageStatus.RUNNING, status).value,
        "idempotency_key": idempotency_key(run_id, node, attempt),
        "output_ref": output_ref(run_id, node.id, attempt) if snapshot is not None else None,
        "output_snapshot": None if snapshot is None else orjson.dumps(snapshot).decode(),
        "duration_ms": duration_ms,
        **_error_columns(error),
    }


async def list_attempts(tx: AsyncConnection, run_id: str) -> list[AttemptRecord]:
    """All attempts of a run, in the order in which they were opened."""
    query = (
        select(*_COLUMNS)
        .join(PipelineRunRow, PipelineRunRow.id == _T.pipeline_run_id)
        .where(PipelineRunRow.run_id == run_id)
        .order_by(_T.id)
    )
    return [_record(row) for row in (await tx.execute(query)).mappings()]


async def resolve(tx: AsyncConnection, ref: str) -> dict[str, Any]:
    """What a reference stands for: an attempt's output, or a run's payload.

    Raises:
        BadInput: it is no reference, or what it names is gone.
    """
    match ref.split("/"):
        case ["payload", run_id]:
            query = select(PipelineRunRow.payload).where(PipelineRunRow.run_id == run_id)
        case ["output", _, _, _]:
            # An output is called after its attempt, whose name is unique and has the index.
            key = ref.removeprefix("output/")
            query = select(_T.output_snapshot).where(_T.idempotency_key == key, _T.output_ref == ref)
        case _:
            raise BadInput(f"{ref!r} is no reference: expected payload/RUN or output/RUN/NODE/ATTEMPT")
    found = (await tx.execute(query)).scalar_one_or_none()
    if found is None:
        raise BadInput(f"Nothing is stored under {ref!r}")
    return found


def idempotency_key(run_id: str, node: Node, attempt: int) -> str:
    """The unique name of one attempt."""
    return f"{run_id}/{node.id}/{attempt}"


async def _primary_key(tx: AsyncConnection, run_id: str) -> int:
    return (await tx.execute(select(PipelineRunRow.id).where(PipelineRunRow.run_id == run_id))).scalar_one()


async def _insert(
    tx: AsyncConnection,
    run_id: str,
    run_pk: int,
    node: Node,
    attempt: int,
    status: StageStatus,
    values: dict[str, Any],
) -> None:
    await tx.execute(
        insert(_T).values(
            pipeline_run_id=run_pk,
            node_id=node.id,
            stage=node.stage.value,
            attempt=attempt,
            status=advance(StageStatus.PENDING, status).value,
            idempotency_key=idempotency_key(run_id, node, attempt),
            started_at=func.clock_timestamp(),
            **values,
        )
    )


def _error_columns(error: StageError | None) -> dict[str, Any]:
    return {
        "error_type": error.error_type if error else None,
        "error_message": error.message if error else None,
        "error_stack": error.stack_trace if error else None,
        "error_retryable": error.retryable if error else None,
    }


def _record(row: RowMapping) -> AttemptRecord:
    return AttemptRecord.model_validate(dict(row))
