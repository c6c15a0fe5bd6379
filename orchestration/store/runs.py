"""Runs: written when a push comes in, claimed by one process at a time, advanced, finished, found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from orchestration.alert import Severity
from orchestration.contracts import Contract, IngestResult, StageError
from orchestration.errors import IllegalTransition, RunBusy, RunNotFound
from orchestration.requests import RunOptions
from orchestration.states import RunStatus, advance
from orchestration.store.models import HistoryRow, PipelineRunRow
from orchestration.store.records import RunRecord

_T = PipelineRunRow
RUN_COLUMNS = [column for name, column in _T.__table__.columns.items() if name in RunRecord.model_fields]
_INSERT_CHUNK = 500

INBOX_CHANNEL = "alert_pipeline_inbox"
"""Where workers hear of new work. The notice is empty: what there is to do stands in the table."""

DONE_CHANNEL = "alert_pipeline_done"
"""Where those who wait hear that a run is over: its id."""


_WITH_PAYLOAD = select(*RUN_COLUMNS, _T.payload).where(_T.run_id == bindparam("wanted")).with_for_update()


class NewRun(Contract):
    """A run to be written, PENDING. `payload` is what a resume needs: the alerts of this run, as JSON."""

    run_id: str
    trace_id: str
    source: str
    environment: str
    payload: dict[str, Any]
    options: RunOptions = RunOptions()
    incident_key: str | None = None
    title: str = ""
    alert_fingerprint: str | None = None
    severity: Severity = Severity.INFO
    max_retries: int = 3


async def add_runs(tx: AsyncConnection, runs: Sequence[NewRun]) -> None:
    """Write new runs. Nothing is left of them when the transaction is rolled back."""
    for start in range(0, len(runs), _INSERT_CHUNK):
        chunk = runs[start : start + _INSERT_CHUNK]
        await tx.execute(insert(_T), [run.model_dump(mode="json") | {"priority": run.severity.rank} for run in chunk])


async def notify(tx: AsyncConnection, channel: str, notice: str = "") -> None:
    """Tell those who listen, at the end of the transaction; nothing when it is rolled back."""
    await tx.execute(select(func.pg_notify(channel, notice)))


async def request_resume(tx: AsyncConnection, run_id: str, *, by: str | None = None) -> RunRecord:
    """Queue a run that failed, or that nobody goes on with, again. The run as it is now.

    Args:
        by: the name of the API key with which the resume was asked for. None means that it is not known.

    Raises:
        IllegalTransition: it is neither failed nor retrying.
        RunBusy: somebody works on it.
        RunNotFound: there is no such run.
    """
    current = await get_run(tx, run_id, lock=True)
    if current.status not in (RunStatus.FAILED, RunStatus.RETRYING):
        raise IllegalTransition(f"Run {run_id} is {current.status.value}: only failed and retrying runs are resumed")
    # Whoever still holds the lease of a run that has failed is about to give it back.
    held = and_(_T.status == RunStatus.RETRYING.value, _T.lease_expires_at > func.clock_timestamp())
    if (await tx.execute(select(_T.id).where(_T.run_id == run_id, held))).first() is not None:
        raise RunBusy(f"Run {run_id} is being worked on by {current.lease_owner}")
    await note_resume(tx, current, by=by)
    await notify(tx, INBOX_CHANNEL)
    return await change(tx, run_id, status=RunStatus.RETRYING, values={"lease_owner": None, "lease_expires_at": None})


RESUMED = "run_resumed"
"""The event of a line of history that says that a run was resumed."""


async def note_resume(tx: AsyncConnection, current: RunRecord, *, by: str | None) -> None:
    """Write into the history that a run is resumed, and who has executed it until now.

    The next lease of the run overwrites `carried_by` and `engine`; so this line is the only record of them.

    Args:
        current: the run as it is before the resume.
        by: the API key or the lease owner that resumes it. None means that it is not known.
    """
    details = {"by": by, "owner": current.carried_by, "engine": current.engine}
    line = {"event": RESUMED, "run_id": current.run_id, "old_status": current.status.value, "details": details}
    incident_id = int(current.incident_id) if current.incident_id else None
    await tx.execute(insert(HistoryRow).values(**line, incident_id=incident_id, new_status=RunStatus.RETRYING.value))


async def get_run(tx: AsyncConnection, run_id: str, *, lock: bool = False) -> RunRecord:
    """The run with this id.

    Raises:
        RunNotFound: there is none.
    """
    query = select(*RUN_COLUMNS).where(_T.run_id == run_id)
    row = (await tx.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
    if row is None:
        raise RunNotFound(f"There is no pipeline run {run_id!r}")
    return run_record(row)


async def get_run_with_payload(tx: AsyncConnection, run_id: str) -> tuple[RunRecord, dict[str, Any]]:
    """The run with this id, locked, and what it was started with.

    Raises:
        RunNotFound: there is none.
    """
    row = (await tx.execute(_WITH_PAYLOAD, {"wanted": run_id})).mappings().one_or_none()
    if row is None:
        raise RunNotFound(f"There is no pipeline run {run_id!r}")
    values = dict(row)
    payload = values.pop("payload")
    return run_record(values), payload


async def get_payload(tx: AsyncConnection, run_id: str) -> dict[str, Any]:
    """What the run was started with.

    Raises:
        RunNotFound: there is no such run.
    """
    payload = (await tx.execute(select(_T.payload).where(_T.run_id == run_id))).scalar_one_or_none()
    if payload is None:
        raise RunNotFound(f"There is no pipeline run {run_id!r}")
    return payload


def starts_with(column: InstrumentedAttribute[str], prefix: str) -> ColumnElement[bool]:
    """Whether an id starts so. Of hexadecimal digits the ids are a range: its index serves, whatever the collation."""
    if prefix and set(prefix) <= set("0123456789abcdef"):
        return and_(column >= prefix, column < f"{prefix}g", column.startswith(prefix))
    return column.startswith(prefix, autoescape=True)


async def find_runs(tx: AsyncConnection, id_prefix: str, *, limit: int = 10) -> list[RunRecord]:
    """The runs whose id starts so."""
    query = select(*RUN_COLUMNS).where(starts_with(_T.run_id, id_prefix)).limit(limit)
    return [run_record(row) for row in (await tx.execute(query)).mappings()]


async def change(
    tx: AsyncConnection,
    run_id: str,
    *,
    owner: str | None = None,
    known: RunStatus | None = None,
    status: RunStatus | None = None,
    values: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Set columns of a run and, by the table of `states.py`, its status. The run as it is now.

    `known` is the status that the holder of the lease has last seen: if it still is, one statement does it all.

    `owner` is who believes to hold the lease: a process that was asleep when its lease ran out must not
    write over the work of the one that took the run from it.

    Raises:
        IllegalTransition: the run's status cannot become this one.
        RunBusy: somebody else holds the lease.
        RunNotFound: there is no such run.
    """
    if owner is not None and known is not None:
        unchanged = (_T.lease_owner == owner, _T.status == known.value)
        if changed := await _set(tx, run_id, changes(known, status, values), *unchanged):
            return changed
    current = await get_run(tx, run_id, lock=True)
    _ensure_held(current, owner)
    changed = await _set(tx, run_id, changes(current.status, status, values))
    if changed is None:
        raise RunNotFound(f"There is no pipeline run {run_id!r}")
    return changed


def _ensure_held(current: RunRecord, owner: str | None) -> None:
    if owner is not None and current.lease_owner != owner:
        other = current.lease_owner or "a process that has left it again"
        raise RunBusy(f"Run {current.run_id} was taken over by {other}")


def changes(current: RunStatus, status: RunStatus | None, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns to set, with the new status if there is one and the table of `states.py` has the move.

    Raises:
        IllegalTransition: it has not.
    """
    new = dict(values or {})
    if status is not None and status is not current:
        new["status"] = advance(current, status).value
    return new


async def _set(
    tx: AsyncConnection, run_id: str, new: Mapping[str, Any], *unchanged: ColumnElement[bool]
) -> RunRecord | None:
    statement = update(_T).where(_T.run_id == run_id, *unchanged).values(**new, updated_at=func.clock_timestamp())
    row = (await tx.execute(statement.returning(*RUN_COLUMNS))).mappings().one_or_none()
    return None if row is None else run_record(row)


COLUMN_NAMES = ", ".join(column.name for column in RUN_COLUMNS)


_FINISH = text(
    f"""
    update pipeline_run
    set status = :status, skip_reason = :skip_reason, completed_at = now.moment, updated_at = now.moment,
        total_duration_ms = extract(epoch from now.moment - coalesce(started_at, created_at)) * 1000,
        last_error_type = case when :keeps_error then last_error_type else :last_error_type end,
        last_error_message = case when :keeps_error then last_error_message else :last_error_message end,
        last_error_retryable = case when :keeps_error then last_error_retryable else :last_error_retryable end,
        lease_owner = null, lease_expires_at = null
    from (select clock_timestamp() as moment) as now
    where run_id = :run_id and status = :known and (lease_owner = :owner or cast(:owner as text) is null)
    returning {COLUMN_NAMES}, cast(pg_notify(:channel, run_id) as text) as told
    """
)


async def finish(
    tx: AsyncConnection,
    run_id: str,
    status: RunStatus,
    *,
    owner: str | None = None,
    known: RunStatus | None = None,
    skip_reason: str | None = None,
    error: StageError | None = None,
) -> RunRecord:
    """Bring a run to a final status, with its total duration since it was started the first time.

    Its lease is given back with it, and those who wait for its end are told. `error` is what it failed of, where that
    is not the last error that it met; a run that did not fail keeps none. Raises what `change()` does.
    """
    if known is None:
        known = (await get_run(tx, run_id, lock=True)).status
    values = {"run_id": run_id, "owner": owner, "skip_reason": skip_reason, "channel": DONE_CHANNEL}
    errors = {"keeps_error": status is RunStatus.FAILED and error is None, **error_columns(error)}
    while True:
        move = {"status": advance(known, status).value, "known": known.value}
        row = (await tx.execute(_FINISH, {**values, **errors, **move})).mappings().one_or_none()
        if row is not None:
            return run_record({name: row[name] for name in row if name != "told"})
        current = await get_run(tx, run_id)
        _ensure_held(current, owner)
        known = current.status


def error_columns(error: StageError | None) -> dict[str, Any]:
    """The columns that hold a run's last error."""
    return {
        "last_error_type": error.error_type if error else None,
        "last_error_message": error.message if error else None,
        "last_error_retryable": error.retryable if error else None,
    }


async def ingest_result(tx: AsyncConnection, run_id: str) -> IngestResult | None:
    """What ingest did for this run, if it has done it: written in the transaction that did it."""
    stored = (await tx.execute(select(_T.ingest_result).where(_T.run_id == run_id))).scalar_one_or_none()
    return None if stored is None else IngestResult.model_validate(stored)


async def save_ingest_result(tx: AsyncConnection, run_id: str, result: IngestResult) -> None:
    """Keep what ingest did, with the links that follow from it."""
    await tx.execute(
        update(_T)
        .where(_T.run_id == run_id)
        .values(
            ingest_result=result.model_dump(mode="json"),
            incident_id=int(result.incident_id) if result.incident_id else None,
            alert_fingerprint=result.alert_fingerprint,
            severity=result.severity.value,
        )
    )


def run_record(row: Mapping[Any, Any]) -> RunRecord:
    """A row of `RUN_COLUMNS` as the store hands it out."""
    values = dict(row)
    incident_id = values["incident_id"]
    values["incident_id"] = None if incident_id is None else str(incident_id)
    return RunRecord.model_validate(values)
