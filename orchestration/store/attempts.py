"""Attempts: a row of `stage_execution` for each try at each node of a run, also for nodes that are skipped.

An attempt and its run change in one statement, so that they always agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from psycopg.errors import UniqueViolation
from sqlalchemy import func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import StageError
from orchestration.errors import BadInput
from orchestration.json_text import to_json
from orchestration.states import RunStatus, StageStatus, advance
from orchestration.store.database import Database
from orchestration.store.endings import CLOSED, Ending, idempotency_key
from orchestration.store.models import PipelineRunRow, StageExecutionRow
from orchestration.store.prepared import Prepared, Row, prepared
from orchestration.store.records import AttemptRecord, Node, RunRecord
from orchestration.store.runs import RUN_COLUMN_NAMES, changes, ensure_leased, get_run, run_record
from orchestration.store.table import columns_of

_T = StageExecutionRow
_COLUMNS = columns_of(_T, AttemptRecord)
_RUN = "run_"
"""The prefix of the parameters with the run's new values, so that no parameter of the attempt has the same name."""

LOST = StageError(error_type="ProcessLost", message="The process ended while it was at this attempt", retryable=True)
"""The error of an attempt that was still open when the next one began."""

KILLED = StageError(
    error_type="ProcessKilled", message="The process was killed that executed only this run", retryable=True
)
"""The error of an attempt during which the process was killed, with no other run in it."""

CANCELLED = StageError(error_type="Cancelled", message="The run was cancelled", retryable=True)
"""The error of an attempt that was stopped together with its run."""

CUT_SHORT = frozenset({LOST.error_type, KILLED.error_type, CANCELLED.error_type})
"""The types of errors that say nothing about the node itself."""


def payload_ref(run_id: str) -> str:
    """The reference to the payload that a run was started with, for `resolve()`."""
    return f"payload/{run_id}"


async def open_attempt(
    database: Database,
    run: RunRecord,
    node: Node,
    *,
    owner: str,
    status: RunStatus,
    input_ref: str | None,
    due_in_seconds: float | None = None,
    before: Ending | None = None,
) -> tuple[RunRecord, int]:
    """Open the next attempt at a node, and bring the run to `status`. An attempt that is still open is closed as LOST.

    `owner` is the name under which the caller leased the run. `due_in_seconds` is the time until the run goes on at
    another node, if it waits for that. `before` is the end of an earlier attempt, which is written with it.

    Returns:
        The run after that, and the attempt's number, from 1.

    Raises:
        IllegalTransition: the run's status cannot become this one.
        RunBusy: another process has the lease.
        RunNotFound: there is no such run.
        Unavailable: the database does not answer.
    """
    parameters = {**opening(node, input_ref), "run_id": run.run_id, "due_in_seconds": due_in_seconds}
    values = {"current_stage": node.stage.value}
    row = await _change(database, run, parameters, owner=owner, status=status, values=values, ending=before, opens=True)
    return run_record(row), row["attempt"]


def opening(node: Node, input_ref: str | None) -> dict[str, Any]:
    """The parameters of `OPENED` beside `run_id`."""
    running = advance(StageStatus.PENDING, StageStatus.RUNNING).value
    return {"node_id": node.id, "stage": node.stage.value, "running": running, "input_ref": input_ref}


async def close_attempt(
    database: Database, run: RunRecord, ending: Ending, *, owner: str, due_in_seconds: float | None = None
) -> RunRecord:
    """Close an attempt, set columns of the run, and bring it to its status after that. Returns the run.

    An attempt that is closed already stays as it is. `owner` is the name under which the caller leased the run.
    `due_in_seconds` is the time until the run goes on, if it waits for another attempt.

    Raises:
        IllegalTransition: the run's status cannot become this one; the attempt stays open.
        RunBusy: another process has the lease; the attempt stays open.
        RunNotFound: there is no such run.
        Unavailable: the database does not answer.
    """
    closing = {"run_id": run.run_id, "due_in_seconds": due_in_seconds}
    return run_record(await _change(database, run, closing, owner=owner, ending=ending))


async def _change(
    database: Database,
    run: RunRecord,
    parameters: Mapping[str, Any],
    *,
    owner: str,
    status: RunStatus | None = None,
    values: Mapping[str, Any] | None = None,
    ending: Ending | None = None,
    opens: bool = False,
) -> Row:
    """Change attempts and their run in one statement. If the run has changed since, look at it and retry."""
    if ending is not None:
        parameters = {**ending.parameters(run.run_id), **parameters}
        values = {**ending.run_values, **(values or {})}
    while True:
        new = changes(run.status, status, values, through=None if ending is None else ending.run_status)
        condition = {"owner": owner, "known": run.status.value}
        parameters = {**parameters, **condition, **{_RUN + name: value for name, value in new.items()}}
        statement = _statement(tuple(new), closes=ending is not None, opens=opens)
        try:
            async with database.statement() as connection:
                if (row := await statement.row(connection, parameters)) is not None:
                    return row
        except UniqueViolation as error:
            # A statement that had to wait for the run's row does not see the attempt that was opened meanwhile.
            if "uq_stage_execution" not in str(error):
                raise
        async with database.statement() as connection:
            run = await get_run(connection, run.run_id)
        ensure_leased(run, owner)


@lru_cache(maxsize=128)
def _statement(columns: tuple[str, ...], *, closes: bool, opens: bool) -> Prepared:
    """The statement that changes the run, if it still has the status and the lease that the caller knows."""
    counted = ["total_attempts = total_attempts + 1"] if opens else []
    sets = [*(f"{name} = :{_RUN}{name}" for name in columns), *counted, _SET_DUE, "updated_at = clock_timestamp()"]
    changed = f"""
        run as (
            update pipeline_run set {", ".join(sets)}
            where run_id = :run_id and lease_owner = :owner and status = :known
            returning id, {RUN_COLUMN_NAMES}
        )
    """
    parts = [changed, *([CLOSED] if closes else []), *([OPENED] if opens else [])]
    found = "run.*, opened.attempt from run, opened" if opens else "run.* from run"
    return prepared(f"with {', '.join(parts)} select {found}")


# Without a wait both are null.
_SET_DUE = "due_at = clock_timestamp() + make_interval(secs => cast(:due_in_seconds as double precision))"

OPENED = f"""
    lost as (
        update stage_execution as earlier
        set status = '{advance(StageStatus.RUNNING, StageStatus.FAILED)}', completed_at = clock_timestamp(),
            error_type = '{LOST.error_type}', error_message = '{LOST.message}', error_stack = null,
            error_retryable = {LOST.retryable}
        from run
        where earlier.pipeline_run_id = run.id and earlier.node_id = :node_id and earlier.status = :running
    ),
    opened as (
        insert into stage_execution
            (pipeline_run_id, node_id, stage, attempt, status, idempotency_key, input_ref, started_at)
        select run.id, :node_id, :stage, next.attempt, :running,
            concat(cast(:run_id as text), '/', cast(:node_id as text), '/', next.attempt), :input_ref,
            statement_timestamp()
        from run
        cross join lateral (
            select coalesce(max(attempt), 0) + 1 as attempt
            from stage_execution
            where pipeline_run_id = run.id and node_id = :node_id
        ) as next
        returning attempt
    )
"""
"""Parts of a statement (`with run as (update pipeline_run …), …`) that open the next attempt at a node of the run."""


_SKIP = text(
    """
    insert into stage_execution (
        pipeline_run_id, node_id, stage, attempt, status, idempotency_key, output_snapshot, started_at, completed_at
    )
    select id, :node_id, :stage, 1, :status, :idempotency_key, cast(:output_snapshot as jsonb),
        clock_timestamp(), clock_timestamp()
    from pipeline_run as run
    where run_id = :run_id and not exists (
        select from stage_execution as earlier where earlier.pipeline_run_id = run.id and earlier.node_id = :node_id
    )
    -- Another process, which took the lease over, may leave it out at this moment.
    on conflict (pipeline_run_id, node_id, attempt) do nothing
    """
)


async def skip(tx: AsyncConnection, run_id: str, node: Node, reason: str) -> None:
    """Write a row that says why a node is skipped, unless the node has a row already."""
    await tx.execute(
        _SKIP,
        {
            "run_id": run_id,
            "node_id": node.id,
            "stage": node.stage.value,
            "status": advance(StageStatus.PENDING, StageStatus.SKIPPED).value,
            "idempotency_key": idempotency_key(run_id, node, 1),
            "output_snapshot": to_json({"skipped": reason}).decode(),
        },
    )


async def count_lost(tx: AsyncConnection, run_id: str) -> tuple[int, int]:
    """How many processes ended while they were at the same node of a run, and how many of them executed nothing else.
    An attempt that is open counts as well.

    A process that ends leaves an attempt open at each node that it executed at the same time, so the node with the
    most lost attempts counts.
    """
    killed = _T.error_type == KILLED.error_type
    lost = or_(killed, _T.error_type == LOST.error_type, _T.status == StageStatus.RUNNING.value)
    query = (
        select(func.count().label("lost"), func.count().filter(killed))
        .select_from(_T)
        .join(PipelineRunRow, PipelineRunRow.id == _T.pipeline_run_id)
        .where(PipelineRunRow.run_id == run_id, lost)
        .group_by(_T.node_id)
    )
    found = (await tx.execute(query)).all()
    return max((row[0] for row in found), default=0), max((row[1] for row in found), default=0)


async def close_lost(tx: AsyncConnection, run_id: str, error: StageError) -> None:
    """Close the attempts that a process left open which has ended. The caller has the run's lease."""
    run = select(PipelineRunRow.id).where(PipelineRunRow.run_id == run_id).scalar_subquery()
    values = {
        "status": advance(StageStatus.RUNNING, StageStatus.FAILED).value,
        "completed_at": func.clock_timestamp(),
        "error_type": error.error_type,
        "error_message": error.message,
        "error_retryable": error.retryable,
    }
    still_open = _T.pipeline_run_id == run, _T.status == StageStatus.RUNNING.value
    await tx.execute(update(_T).where(*still_open).values(**values))


async def list_attempts(tx: AsyncConnection, run_id: str) -> list[AttemptRecord]:
    """All attempts of a run, in the order in which they were opened."""
    query = (
        select(*_COLUMNS)
        .join(PipelineRunRow, PipelineRunRow.id == _T.pipeline_run_id)
        .where(PipelineRunRow.run_id == run_id)
        .order_by(_T.id)
    )
    return [AttemptRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]


async def resolve(tx: AsyncConnection, ref: str) -> dict[str, Any]:
    """The value behind a reference: an attempt's output, or a run's payload.

    Raises:
        BadInput: the text is no reference, or nothing is stored under it any more.
    """
    match ref.split("/"):
        case ["payload", run_id]:
            query = select(PipelineRunRow.payload).where(PipelineRunRow.run_id == run_id)
        case ["output", run_id, _, _]:
            run = select(PipelineRunRow.id).where(PipelineRunRow.run_id == run_id).scalar_subquery()
            query = select(_T.output_snapshot).where(_T.pipeline_run_id == run, _T.output_ref == ref)
        case _:
            raise BadInput(f"{ref!r} is no reference: expected payload/RUN or output/RUN/NODE/ATTEMPT")
    found = (await tx.execute(query)).scalar_one_or_none()
    if found is None:
        raise BadInput(f"Nothing is stored under {ref!r}")
    return found
