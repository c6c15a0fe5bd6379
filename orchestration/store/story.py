"""Stories: a run, or a push, with everything that belongs to it, read at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

from pydantic import Field
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident, UtcDatetime
from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    Contract,
    IngestResult,
    NodeResult,
    NotifyResult,
    PipelineOutcome,
    PipelineResult,
    Stage,
    StageError,
)
from orchestration.errors import BadInput, RunNotFound
from orchestration.states import RunStatus, StageStatus
from orchestration.store import runs
from orchestration.store.incidents import readable_incidents
from orchestration.store.models import (
    DeliveryRow,
    HistoryRow,
    IncidentRow,
    PipelineRunRow,
    StageExecutionRow,
)
from orchestration.store.records import AttemptRecord, DeliveryRecord, HistoryRecord, RunRecord, readable
from orchestration.store.runs import IS_UPCOMING, RESUMED, RUN_COLUMNS, readable_run, starts_with
from orchestration.store.table import columns_of

ResultT = TypeVar("ResultT", bound=Contract)
RecordT = TypeVar("RecordT", bound=Contract)

_R = PipelineRunRow

MOST_RUNS = 200
"""How many runs of a push are read: the first ones."""


# A run


class Story(Contract):
    """A run, its attempts and its deliveries."""

    run: RunRecord
    attempts: list[AttemptRecord]
    deliveries: list[DeliveryRecord]

    def output(self, stage: Stage, result_type: type[ResultT]) -> ResultT | None:
        """The result of a stage. None means that it did not succeed."""
        for attempt in reversed(self.attempts):
            if attempt.stage is stage and (found := attempt.result(result_type)) is not None:
                return found
        return None

    def outputs(self, stage: Stage, result_type: type[ResultT]) -> list[ResultT]:
        """The results of all nodes of this stage, in the order in which they began."""
        found = {
            attempt.node_id: result
            for attempt in self.attempts
            if attempt.stage is stage and (result := attempt.result(result_type)) is not None
        }
        return list(found.values())

    def result(self) -> PipelineResult:
        """The run in the shape of the contract. A run that is not over is FAILED: it has notified nobody."""
        run = self.run
        return PipelineResult(
            trace_id=run.trace_id,
            run_id=run.run_id,
            status=run.status.outcome or PipelineOutcome.FAILED,
            incident_id=run.incident_id,
            ingest=self.output(Stage.INGEST, IngestResult),
            check=all_checks(self.outputs(Stage.CHECK, CheckResult)),
            analyze=self.output(Stage.ANALYZE, AnalyzeResult),
            notify=_merged(self.outputs(Stage.NOTIFY, NotifyResult)),
            started_at=run.started_at or run.created_at,
            completed_at=run.completed_at or run.updated_at,
            total_duration_ms=run.total_duration_ms or 0.0,
            stages_completed=self.stages_completed,
            final_error=self.final_error,
            skip_reason=run.skip_reason,
            definition_name=run.chosen_definition,
            definition_version=run.definition_version,
            # The result of a stage of the linear pipeline has a field of its own.
            nodes=[node if run.options.defined else node.model_copy(update={"result": None}) for node in self.nodes],
        )

    @property
    def nodes(self) -> list[NodeResult]:
        """Every node that was begun or skipped, with its last attempt, in the order in which they began."""
        last = {attempt.node_id: attempt for attempt in self.attempts}
        return [_node_result(attempt) for attempt in last.values()]

    @property
    def stages_completed(self) -> list[str]:
        """The nodes that succeeded, in order."""
        done = [attempt.node_id for attempt in self.attempts if attempt.status is StageStatus.SUCCEEDED]
        return list(dict.fromkeys(done))

    @property
    def final_error(self) -> StageError | None:
        """The error of a failed run. None means that the run did not fail."""
        run = self.run
        if run.status is not RunStatus.FAILED:
            return None
        return _error(run.last_error_type, run.last_error_message, run.last_error_retryable)


def _error(error_type: str | None, message: str | None, retryable: bool | None) -> StageError | None:
    if error_type is None:
        return None
    return StageError(error_type=error_type, message=message or "", retryable=bool(retryable))


def _node_result(last: AttemptRecord) -> NodeResult:
    """The status, result and error of a node, from its last attempt."""
    snapshot = last.output_snapshot
    skipped = last.status is StageStatus.SKIPPED
    return NodeResult(
        id=last.node_id,
        stage=last.stage,
        status=last.status.value,
        attempts=0 if skipped else last.attempt,
        duration_ms=last.duration_ms,
        result=None if skipped else snapshot,
        error=_error(last.error_type, last.error_message, last.error_retryable),
        skip_reason=str((snapshot or {}).get("skipped", "")) if skipped else None,
    )


def all_checks(found: Sequence[CheckResult]) -> CheckResult | None:
    """The results of several check nodes as one result."""
    return _merged(found)


def _merged(found: Sequence[ResultT]) -> ResultT | None:
    """Several results of one type as one: numbers are added, collections joined, and the last text stays."""
    if len(found) < 2:
        return next(iter(found), None)
    merged: dict[str, Any] = {}
    for name in type(found[0]).model_fields:
        match values := [getattr(one, name) for one in found]:
            case [dict(), *_]:
                merged[name] = {key: value for one in values for key, value in one.items()}
            case [list() | int() | float(), *_]:
                merged[name] = reduce(add, values)
            case _:
                merged[name] = values[-1]
    return type(found[0])(**merged)


async def read_story(tx: AsyncConnection, run_id: str) -> Story:
    """The run with this id, its attempts and its deliveries.

    Raises:
        RunNotFound: there is no such run.
    """
    run = await runs.get_run(tx, run_id)
    key = (await tx.execute(select(_R.id).where(_R.run_id == run_id))).scalar_one()
    return Story(
        run=run,
        attempts=(await rows_by_run(tx, AttemptRecord, StageExecutionRow, [key]))[key],
        deliveries=(await rows_by_run(tx, DeliveryRecord, DeliveryRow, [key]))[key],
    )


# A push


class Resume(Contract):
    """One resume of a run."""

    at: UtcDatetime
    by: str | None = None
    """The API key or the lease owner that resumed it. None means that it is not known."""
    owner: str | None = None
    """The lease owner that had executed the run until then. None means that nobody had."""
    engine: str | None = None
    """The engine that had executed the run until then."""


class TracedRun(Story):
    """A run of a push, and why somebody was notified of it or not."""

    told: bool | None = None
    """Whether somebody is notified. None means that this is not decided yet, or that there was nothing to decide."""
    reason: str | None = None
    resumes: list[Resume] = Field(default_factory=list[Resume])
    """Oldest first."""

    @property
    def first_owner(self) -> str | None:
        """The lease owner that executed the run first, whoever resumed it later."""
        return self.resumes[0].owner if self.resumes else self.run.carried_by

    @property
    def first_engine(self) -> str | None:
        """The engine that executed the run first."""
        return self.resumes[0].engine if self.resumes else self.run.engine


class Trace(Contract):
    """A push, its runs and their incidents."""

    trace_id: str
    run_count: int
    runs: list[TracedRun]
    """In the order of the push, at most `MOST_RUNS`."""
    incidents: list[Incident]
    history: list[HistoryRecord]
    """The changes of these runs to alerts and incidents, oldest first."""


async def find_trace(tx: AsyncConnection, prefix: str) -> str:
    """The only trace id that equals or starts with the prefix.

    Raises:
        BadInput: several trace ids start with it; the message names some of them.
        RunNotFound: no trace id starts with it.
    """
    starts = starts_with(_R.trace_id, prefix)
    query = select(_R.trace_id).where(starts).group_by(_R.trace_id).order_by(_R.trace_id).limit(4)
    found = list((await tx.execute(query)).scalars())
    if not found:
        raise RunNotFound(f"There is no push with the trace id {prefix!r}; monitor_pipeline shows the latest trace ids")
    if prefix in found:
        return prefix
    if len(found) > 1:
        some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise BadInput(f"Several trace ids start with {prefix!r}: {some}")
    return found[0]


async def read_trace(tx: AsyncConnection, trace_id: str) -> Trace:
    """The push with this trace id.

    Raises:
        RunNotFound: no run has this trace id.
    """
    decision = (_R.ingest_result["tell"].label("told"), _R.ingest_result["reason"].label("rule"))
    query = (
        select(*RUN_COLUMNS, _R.id.label("row_id"), *decision)
        .where(_R.trace_id == trace_id, ~IS_UPCOMING)
        .order_by(_R.id)
    )
    rows = (await tx.execute(query.limit(MOST_RUNS))).mappings().all()
    if not rows:
        raise RunNotFound(f"There is no push with the trace id {trace_id!r}")
    keys = [row["row_id"] for row in rows]
    attempts = await rows_by_run(tx, AttemptRecord, StageExecutionRow, keys)
    deliveries = await rows_by_run(tx, DeliveryRecord, DeliveryRow, keys)
    found = {row["row_id"]: run for row in rows if (run := readable_run(row)) is not None}
    resumes = await read_resumes(tx, list(found.values()))
    runs = [
        TracedRun(
            run=run,
            attempts=attempts[row["row_id"]],
            deliveries=deliveries[row["row_id"]],
            told=row["told"],
            reason=row["rule"],
            resumes=resumes[run.run_id],
        )
        for row in rows
        if (run := found.get(row["row_id"])) is not None
    ]
    count = select(func.count()).select_from(_R).where(_R.trace_id == trace_id, ~IS_UPCOMING)
    incident_ids = {int(one.run.incident_id) for one in runs if one.run.incident_id}
    return Trace(
        trace_id=trace_id,
        run_count=(await tx.execute(count)).scalar_one(),
        runs=runs,
        incidents=await _incidents(tx, incident_ids),
        history=await _history(tx, incident_ids, {one.run.run_id for one in runs}),
    )


async def read_resumes(tx: AsyncConnection, runs: Sequence[RunRecord]) -> dict[str, list[Resume]]:
    """The resumes of these runs, by run id, oldest first. A run that was never resumed has an empty list."""
    # The history has an index of incidents and none of runs; a run that failed before ingest has no incident.
    incident_ids = {int(run.incident_id) for run in runs if run.incident_id}
    within = HistoryRow.incident_id.in_(incident_ids) | HistoryRow.incident_id.is_(None)
    mine = (within, HistoryRow.run_id.in_([run.run_id for run in runs]), HistoryRow.event == RESUMED)
    query = select(HistoryRow.run_id, HistoryRow.at, HistoryRow.details).where(*mine).order_by(HistoryRow.id)
    found: dict[str, list[Resume]] = {run.run_id: [] for run in runs}
    for run_id, at, details in await tx.execute(query):
        if isinstance(details, dict):  # another version may have written anything
            found[run_id] += readable(Resume, [{**details, "at": at}])
    return found


async def rows_by_run(
    tx: AsyncConnection,
    record: type[RecordT],
    table: type[StageExecutionRow | DeliveryRow],
    keys: list[int],
    *only: ColumnElement[bool],
) -> dict[int, list[RecordT]]:
    """The rows that belong to these runs and meet the conditions, by run, in the order in which they were written."""
    query = (
        select(*columns_of(table, record), table.pipeline_run_id)
        .where(table.pipeline_run_id.in_(keys), *only)
        .order_by(table.id)
    )
    found: dict[int, list[RecordT]] = defaultdict(list)
    for row in (await tx.execute(query)).mappings():
        values: dict[str, Any] = dict(row)
        found[values.pop("pipeline_run_id")] += readable(record, [values])
    return found


async def _incidents(tx: AsyncConnection, ids: set[int]) -> list[Incident]:
    query = select(*columns_of(IncidentRow, Incident)).where(IncidentRow.id.in_(ids)).order_by(IncidentRow.id)
    return readable_incidents((await tx.execute(query)).mappings())


async def _history(tx: AsyncConnection, incident_ids: set[int], run_ids: set[str]) -> list[HistoryRecord]:
    # Also by incident, because the history has an index of incidents and none of runs.
    mine = (HistoryRow.incident_id.in_(incident_ids), HistoryRow.run_id.in_(run_ids))
    query = select(*columns_of(HistoryRow, HistoryRecord)).where(*mine).order_by(HistoryRow.id)
    return readable(HistoryRecord, (await tx.execute(query)).mappings())
