"""An attempt and the run that it belongs to, moved on together.

One statement does it while the run stands as its holder has last seen it. Otherwise the run is looked at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import RowMapping, TextClause, text

from orchestration.contracts import StageError
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, runs
from orchestration.store.database import Database
from orchestration.store.models import PipelineRunRow
from orchestration.store.records import Node, RunRecord

_PREFIX = "run_"
"""What the names of the run's parameters begin with, so that they are none of the attempt's."""


async def open_attempt(
    database: Database, run: RunRecord, node: Node, *, owner: str, status: RunStatus, input_ref: str | None
) -> tuple[RunRecord, int]:
    """Open the next attempt at a node, and bring the run to `status`; the run as it is now, and the attempt's number.

    Raises:
        IllegalTransition, RunBusy, RunNotFound: as `runs.change()`.
        Unavailable: the database does not answer.
    """
    values = {"current_stage": node.stage.value}
    new = runs.changes(run.status, status, values)
    opening = attempts.opening(run.run_id, node, input_ref)
    if (row := await _try(database, _open_statement(tuple(new)), run, owner, new, opening)) is not None:
        return _run_of(row), row["attempt"]
    async with database.transaction() as tx:
        counted = {**values, "total_attempts": PipelineRunRow.total_attempts + 1}
        changed = await runs.change(tx, run.run_id, owner=owner, status=status, values=counted)
        return changed, await attempts.start_attempt(tx, run.run_id, node, input_ref=input_ref)


async def close_attempt(
    database: Database,
    run: RunRecord,
    node: Node,
    attempt: int,
    ending: StageStatus,
    *,
    owner: str,
    status: RunStatus | None,
    values: Mapping[str, Any],
    duration_ms: float,
    snapshot: dict[str, Any] | None = None,
    error: StageError | None = None,
) -> RunRecord:
    """Close an attempt, set columns of the run, and bring it to `status` unless that is None; the run as it is now.

    Raises:
        IllegalTransition, RunBusy, RunNotFound: as `runs.change()`; the attempt is left open.
        Unavailable: the database does not answer.
    """
    new = runs.changes(run.status, status, values)
    closing = attempts.closing(
        run.run_id, node, attempt, ending, duration_ms=duration_ms, snapshot=snapshot, error=error
    )
    if (row := await _try(database, _close_statement(tuple(new)), run, owner, new, closing)) is not None:
        return _run_of(row)
    async with database.transaction() as tx:
        changed = await runs.change(tx, run.run_id, owner=owner, status=status, values=values)
        await attempts.settle(
            tx, run.run_id, node, attempt, ending, duration_ms=duration_ms, snapshot=snapshot, error=error
        )
        return changed


async def _try(
    database: Database,
    statement: TextClause,
    run: RunRecord,
    owner: str,
    new: Mapping[str, Any],
    attempt: Mapping[str, Any],
) -> RowMapping | None:
    """What the statement gives; None if the run is no longer as it was."""
    known = {"owner": owner, "known": run.status.value}
    parameters = {**attempt, **known, **{_PREFIX + name: value for name, value in new.items()}}
    async with database.statement() as connection:
        return (await connection.execute(statement, parameters)).mappings().one_or_none()


def _run_of(row: RowMapping) -> RunRecord:
    return runs.run_record({name: row[name] for name in _RUN_NAMES})


_RUN_NAMES = [column.name for column in runs.RUN_COLUMNS]
_RUN_COLUMNS = ", ".join(_RUN_NAMES)


def _changed_run(columns: tuple[str, ...], *more: str) -> str:
    """The part of a statement that changes the run, if it is as its holder has last seen it."""
    sets = ", ".join((*(f"{name} = :{_PREFIX}{name}" for name in columns), *more, "updated_at = clock_timestamp()"))
    return (
        f"run as (update pipeline_run set {sets} "
        "where run_id = :run_id and lease_owner = :owner and status = :known "
        f"returning id, {_RUN_COLUMNS})"
    )


@lru_cache(maxsize=64)
def _open_statement(columns: tuple[str, ...]) -> TextClause:
    run = _changed_run(columns, "total_attempts = total_attempts + 1")
    return text(f"with {run}, {attempts.OPEN_ATTEMPT} select run.*, opened.attempt from run, opened")


@lru_cache(maxsize=64)
def _close_statement(columns: tuple[str, ...]) -> TextClause:
    return text(f"with {_changed_run(columns)}, {attempts.CLOSE_ATTEMPT} select run.* from run")
