"""A push with everything that belongs to it, read at once: its runs, their attempts and deliveries, their incidents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import Field
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident, UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import BadInput, RunNotFound
from orchestration.store.models import DeliveryRow, HistoryRow, IncidentRow, PipelineRunRow, StageExecutionRow
from orchestration.store.records import AttemptRecord, DeliveryRecord, HistoryRecord, RunRecord
from orchestration.store.runs import RESUMED, RUN_COLUMNS, run_record, starts_with
from orchestration.store.story import Story

RecordT = TypeVar("RecordT", bound=Contract)

_R = PipelineRunRow
MOST_RUNS = 200
"""How many runs of a push are read at most: a push over thousands of incidents is shown by its first runs."""


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
    """What these runs did to alerts and incidents, oldest first."""


async def find_trace(tx: AsyncConnection, prefix: str) -> str:
    """The trace id that equals `prefix`, or else the only one that starts with it.

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
    query = select(*RUN_COLUMNS, _R.id.label("row_id"), _R.ingest_result["tell"], _R.ingest_result["reason"])
    first = query.where(_R.trace_id == trace_id).order_by(_R.id).limit(MOST_RUNS)
    rows = [tuple(row) for row in await tx.execute(first)]
    if not rows:
        raise RunNotFound(f"There is no push with the trace id {trace_id!r}")
    keys = [row[-3] for row in rows]
    attempts = await _by_run(tx, AttemptRecord, StageExecutionRow, keys)
    deliveries = await _by_run(tx, DeliveryRecord, DeliveryRow, keys)
    names = [column.name for column in RUN_COLUMNS]
    found = [run_record(dict(zip(names, row[:-3], strict=True))) for row in rows]
    resumes = await read_resumes(tx, found)
    runs = [
        TracedRun(
            run=run,
            attempts=attempts[row[-3]],
            deliveries=deliveries[row[-3]],
            told=row[-2],
            reason=row[-1],
            resumes=resumes[run.run_id],
        )
        for run, row in zip(found, rows, strict=True)
    ]
    count = select(func.count()).select_from(_R).where(_R.trace_id == trace_id)
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
    within = or_(HistoryRow.incident_id.in_(incident_ids), HistoryRow.incident_id.is_(None))
    mine = (within, HistoryRow.run_id.in_([run.run_id for run in runs]), HistoryRow.event == RESUMED)
    query = select(HistoryRow.run_id, HistoryRow.at, HistoryRow.details).where(*mine).order_by(HistoryRow.id)
    found: dict[str, list[Resume]] = {run.run_id: [] for run in runs}
    for run_id, at, details in await tx.execute(query):
        found[run_id].append(Resume(at=at, **details))
    return found


async def _by_run(
    tx: AsyncConnection, record: type[RecordT], table: type[StageExecutionRow | DeliveryRow], keys: list[int]
) -> dict[int, list[RecordT]]:
    """The rows that belong to these runs, by run, in the order in which they were written."""
    columns = _columns(record, table)
    query = select(*columns, table.pipeline_run_id).where(table.pipeline_run_id.in_(keys)).order_by(table.id)
    found: dict[int, list[RecordT]] = defaultdict(list)
    for row in (await tx.execute(query)).mappings():
        values: dict[str, Any] = dict(row)
        found[values.pop("pipeline_run_id")].append(record.model_validate(values))
    return found


async def _incidents(tx: AsyncConnection, ids: set[int]) -> list[Incident]:
    columns = [column for name, column in IncidentRow.__table__.columns.items() if name in Incident.model_fields]
    query = select(*columns).where(IncidentRow.id.in_(ids)).order_by(IncidentRow.id)
    return [Incident.model_validate({**row, "id": str(row["id"])}) for row in (await tx.execute(query)).mappings()]


async def _history(tx: AsyncConnection, incident_ids: set[int], run_ids: set[str]) -> list[HistoryRecord]:
    # By incident too, because the history has an index of incidents and none of runs.
    mine = (HistoryRow.incident_id.in_(incident_ids), HistoryRow.run_id.in_(run_ids))
    query = select(*_columns(HistoryRecord, HistoryRow)).where(*mine).order_by(HistoryRow.id)
    return [HistoryRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]


def _columns(record: type[Contract], table: type[Any]) -> list[Any]:
    return [column for name, column in table.__table__.columns.items() if name in record.model_fields]
