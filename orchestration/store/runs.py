"""Runs: found by id, listed page by page, changed, finished, resumed. `pushes.py` writes new ones."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, bindparam, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from orchestration.contracts import Contract, StageError
from orchestration.errors import BadInput, IllegalTransition, RunBusy, RunNotFound
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.states import RunReason, RunStatus, advance
from orchestration.store.endings import CLOSED, Ending
from orchestration.store.models import HistoryRow, PipelineRunRow
from orchestration.store.prepared import Prepared, Row, prepared
from orchestration.store.records import RunRecord
from orchestration.store.table import columns_of

_T = PipelineRunRow
RUN_COLUMNS = columns_of(_T, RunRecord)
"""The columns of a `RunRecord`, for a `select()`."""

RUN_COLUMN_NAMES = ", ".join(column.name for column in RUN_COLUMNS)
"""The same for a statement in SQL. One that says `.columns(*RUN_COLUMNS)` costs SQLAlchemy less for each result."""

INBOX_CHANNEL = "alert_pipeline_inbox"
"""The channel of NOTIFY on which workers hear of new runs. The notice is empty: the table says which runs wait."""

DONE_CHANNEL = "alert_pipeline_done"
"""The channel of NOTIFY on which the id of a run is sent when the run is over."""

RESUMED = "run_resumed"
"""The event of a line of history that says that a run was resumed."""

_WANTED = select(*RUN_COLUMNS).where(_T.run_id == bindparam("wanted"))
_BY_ID, _LOCKED = Prepared(_WANTED), Prepared(_WANTED.with_for_update())
_WITH_PAYLOAD = Prepared(_WANTED.add_columns(_T.payload).with_for_update())
_PAYLOAD = Prepared(_WANTED.with_only_columns(_T.payload))


def run_record(row: Mapping[Any, Any]) -> RunRecord:
    """The record of a row that has at least `RUN_COLUMNS`."""
    values = {name: row[name] for name in RunRecord.model_fields}
    incident_id = values["incident_id"]
    values["incident_id"] = None if incident_id is None else str(incident_id)
    return RunRecord.model_validate(values)


def readable_run(row: Mapping[Any, Any]) -> RunRecord | None:
    """The record of a row; None if this version cannot read the row, which the log says.

    For rows that are read together: another version may have written one of them, and the others do not wait for it.
    """
    try:
        return run_record(row)
    except ValidationError as error:
        logger.error("Run %s cannot be read by this version: %s", row["run_id"], one_line(str(error), 500))
        return None


def readable_runs(rows: Iterable[Mapping[Any, Any]]) -> list[RunRecord]:
    """The records of those rows that this version can read."""
    return [run for run in map(readable_run, rows) if run is not None]


async def get_run(tx: AsyncConnection, run_id: str, *, lock: bool = False) -> RunRecord:
    """The run with this id; its row is locked if `lock` is true.

    Raises:
        RunNotFound: there is no such run.
    """
    return run_record(await _row(tx, _LOCKED if lock else _BY_ID, run_id))


async def get_run_with_payload(tx: AsyncConnection, run_id: str) -> tuple[RunRecord, dict[str, Any]]:
    """The run with this id and the payload that it was started with; its row is locked.

    Raises:
        RunNotFound: there is no such run.
    """
    row = await _row(tx, _WITH_PAYLOAD, run_id)
    return run_record(row), row["payload"]


async def get_payload(tx: AsyncConnection, run_id: str) -> dict[str, Any]:
    """The payload that the run was started with.

    Raises:
        RunNotFound: there is no such run.
    """
    return (await _row(tx, _PAYLOAD, run_id))["payload"]


async def change_payload(tx: AsyncConnection, run_id: str, payload: Mapping[str, Any], *, title: str) -> None:
    """Give a run that began without knowing what it is about its payload and its title."""
    await tx.execute(update(_T).where(_T.run_id == run_id).values(payload=dict(payload), title=title))


async def _row(tx: AsyncConnection, query: Prepared, run_id: str) -> Row:
    row = await query.row(tx, {"wanted": run_id})
    if row is None:
        raise RunNotFound(f"There is no pipeline run {run_id!r}")
    return row


async def change(
    tx: AsyncConnection,
    run_id: str,
    *,
    owner: str | None = None,
    known: RunStatus | None = None,
    status: RunStatus | None = None,
    values: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Set columns of a run and, as the table of `states.py` allows, its status. Returns the run after the change.

    `known` is the status that the lease owner saw last. If the run still has it, one statement is enough.

    `owner` is the name under which the caller leased the run: a process that was asleep when its lease ran out must
    not overwrite the work of the process that has the lease now.

    Raises:
        IllegalTransition: the run's status cannot become this one.
        RunBusy: another process has the lease.
        RunNotFound: there is no such run.
    """
    while True:
        if known is None:
            current = await get_run(tx, run_id, lock=True)
            ensure_leased(current, owner)
            known = current.status
        unchanged = [_T.status == known.value, *([_T.lease_owner == owner] if owner is not None else [])]
        new = {**changes(known, status, values), "updated_at": func.clock_timestamp()}
        statement = update(_T).where(_T.run_id == run_id, *unchanged).values(new).returning(*RUN_COLUMNS)
        if (row := (await tx.execute(statement)).mappings().one_or_none()) is not None:
            return run_record(row)
        known = None


def ensure_leased(current: RunRecord, owner: str | None) -> None:
    """Check that the run is leased to `owner`; None means no lease is needed.

    Raises:
        RunBusy: another process has the lease, or had it.
    """
    if owner is not None and current.lease_owner != owner:
        other = current.lease_owner or "a process that has released it since"
        raise RunBusy(f"Run {current.run_id} was taken over by {other}")


def changes(
    current: RunStatus,
    status: RunStatus | None,
    values: Mapping[str, Any] | None,
    *,
    through: RunStatus | None = None,
) -> dict[str, Any]:
    """The columns to set, with the new status if it differs from the current one. `through` is one in between.

    Raises:
        IllegalTransition: the table of `states.py` does not allow this change of status.
    """
    at = _reached(_reached(current, through), status)
    return dict(values or {}) | ({} if at is current else {"status": at.value})


def _reached(current: RunStatus, status: RunStatus | None) -> RunStatus:
    return current if status is None or status is current else advance(current, status)


def error_columns(error: StageError | None) -> dict[str, Any]:
    """The columns with a run's last error; None clears them."""
    return {
        "last_error_type": error.error_type if error else None,
        "last_error_message": error.message if error else None,
        "last_error_retryable": error.retryable if error else None,
    }


_SET_ERROR = ", ".join(f"{name} = case when :keeps_error then {name} else :{name} end" for name in error_columns(None))


@cache
def _finish_statement(columns: tuple[str, ...], *, closes: bool) -> Prepared:
    """The statement that ends a run; it may close the run's last attempt and set columns that this one changes."""
    return prepared(
        f"""
        with run as (
            update pipeline_run
            set status = :status, skip_reason = :skip_reason, completed_at = now.moment, updated_at = now.moment,
                total_duration_ms = extract(epoch from now.moment - coalesce(started_at, created_at)) * 1000,
                {_SET_ERROR}, {"".join(f"{name} = :{name}, " for name in columns)}
                lease_owner = null, lease_expires_at = null, due_at = null, awaits_ingest = false
            from (select clock_timestamp() as moment) as now
            where run_id = :run_id and status = :known and (lease_owner = :owner or cast(:owner as text) is null)
            returning id, {RUN_COLUMN_NAMES}, cast(pg_notify(:channel, run_id) as text) as notified
        )
        {f", {CLOSED}" if closes else ""}
        select run.* from run
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
    ending: Ending | None = None,
) -> RunRecord:
    """Bring a run to a final status, with its total duration since its first start. Returns the run after that.

    Its lease is released, and those who wait for its end are notified. `known` is the status that the lease owner saw
    last. `error` is the cause of the failure, if it is not the last error of the run; a run that did not fail keeps
    no error. `ending` is the end of the last attempt, which is written with it.

    Raises:
        IllegalTransition: the run's status cannot become this one.
        RunBusy: another process has the lease.
        RunNotFound: there is no such run.
    """
    if known is None:
        known = (await get_run(tx, run_id, lock=True)).status
    values = {"run_id": run_id, "owner": owner, "skip_reason": skip_reason, "channel": DONE_CHANNEL}
    errors = {"keeps_error": status is RunStatus.FAILED and error is None, **error_columns(error)}
    through, columns = None, dict[str, Any]()
    if ending is not None:
        through = ending.run_status
        columns = {name: value for name, value in ending.run_values.items() if name not in errors}
        values |= ending.parameters(run_id) | columns
    statement = _finish_statement(tuple(columns), closes=ending is not None)
    while True:
        move = {"status": advance(_reached(known, through), status).value, "known": known.value}
        if (row := await statement.row(tx, {**values, **errors, **move})) is not None:
            return run_record(row)
        current = await get_run(tx, run_id)
        ensure_leased(current, owner)
        known = current.status


async def request_resume(tx: AsyncConnection, run_id: str, *, by: str | None = None) -> RunRecord:
    """Queue a run that failed, or that no process executes any more, again. Returns the run after that.

    `by` is the name of the API key with which the resume was requested; None means that it is not known.

    Raises:
        IllegalTransition: the run is neither failed nor retrying.
        RunBusy: a process executes it.
        RunNotFound: there is no such run.
    """
    current = await get_run(tx, run_id, lock=True)
    if current.status not in (RunStatus.FAILED, RunStatus.RETRYING):
        raise IllegalTransition(f"Run {run_id} is {current.status.value}: only failed and retrying runs are resumed")
    # The lease of a run that has failed does not matter: its owner is about to release it.
    leased = and_(_T.status == RunStatus.RETRYING.value, _T.lease_expires_at > func.clock_timestamp())
    if (await tx.execute(select(_T.id).where(_T.run_id == run_id, leased))).first() is not None:
        raise RunBusy(f"Run {run_id} is being worked on by {current.lease_owner}")
    await note_resume(tx, current, by=by)
    await tx.execute(select(func.pg_notify(INBOX_CHANNEL, "")))
    return await change(
        tx, run_id, status=RunStatus.RETRYING, values={"lease_owner": None, "lease_expires_at": None, "due_at": None}
    )


async def note_resume(tx: AsyncConnection, current: RunRecord, *, by: str | None) -> None:
    """Write into the history that a run is resumed, and who has executed it until now.

    The next lease of the run overwrites `carried_by` and `engine`, so this line is the only record of them. `current`
    is the run before the resume. `by` is the API key or the lease owner that resumes it; None means not known.
    """
    details = {"by": by, "owner": current.carried_by, "engine": current.engine}
    line = {"event": RESUMED, "run_id": current.run_id, "old_status": current.status.value, "details": details}
    incident_id = int(current.incident_id) if current.incident_id else None
    await tx.execute(insert(HistoryRow).values(**line, incident_id=incident_id, new_status=RunStatus.RETRYING.value))


# Find and list


def starts_with(column: InstrumentedAttribute[str], prefix: str) -> ColumnElement[bool]:
    """Whether an id starts with this. Hexadecimal ids are a range, which uses the index in every collation."""
    if prefix and set(prefix) <= set("0123456789abcdef"):
        return and_(column >= prefix, column < f"{prefix}g", column.startswith(prefix))
    return column.startswith(prefix, autoescape=True)


async def find_runs(tx: AsyncConnection, id_prefix: str, *, limit: int = 10) -> list[RunRecord]:
    """The runs whose id starts with this."""
    query = select(*RUN_COLUMNS).where(starts_with(_T.run_id, id_prefix)).limit(limit)
    return readable_runs((await tx.execute(query)).mappings())


async def find_run(tx: AsyncConnection, id_prefix: str) -> RunRecord:
    """The only run whose id is, or starts with, the text that a person typed.

    Raises:
        RunNotFound: no run has such an id.
        BadInput: several runs do.
    """
    found = await find_runs(tx, id_prefix, limit=3)
    exact = [run for run in found if run.run_id == id_prefix]
    if not found:
        raise RunNotFound(f"There is no pipeline run {id_prefix!r}; monitor_pipeline lists the latest ones")
    if len(found) > 1 and not exact:
        raise BadInput(f"Several runs start with {id_prefix!r}: " + ", ".join(run.run_id for run in found) + ", …")
    return (exact or found)[0]


HAS_DUE_TIME = and_(_T.status.in_([RunStatus.PENDING.value, RunStatus.RETRYING.value]), _T.due_at.is_not(None))
"""The run goes on by itself at a moment that is known: a timer, a redelivery, the next attempt."""

IS_UPCOMING = and_(
    _T.reason != RunReason.PUSH.value,
    _T.status == RunStatus.PENDING.value,
    _T.due_at.is_not(None),
    _T.due_at > func.clock_timestamp(),
)
"""The run waits for the time at which it is due. Lists leave it out: they show what is due or done."""


class RunFilter(Contract):
    """Which runs to list. None matches any."""

    status: RunStatus | None = None
    source: str | None = None
    environment: str | None = None
    stage: str | None = None
    trace_id: str | None = None
    run_ids: frozenset[str] | None = None
    upcoming: bool = False
    """Also runs that wait for the time at which they are due, such as reminders."""
    search: str | None = None
    """A run's id or its beginning, a trace id or its beginning, or the fingerprint of an alert."""

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a query that lists these runs."""
        equal = (
            (_T.status, self.status.value if self.status is not None else None),
            (_T.source, self.source),
            (_T.environment, self.environment),
            (_T.current_stage, self.stage),
            (_T.trace_id, self.trace_id),
        )
        where: list[ColumnElement[bool]] = [column == value for column, value in equal if value is not None]
        if self.run_ids is not None:
            where.append(_T.run_id.in_(self.run_ids))
        if not self.upcoming:
            where.append(~IS_UPCOMING)
        if self.search is not None:
            where.append(_found_by(self.search))
        return where


class RunPage(Contract):
    """Some runs, and the cursor of the next page; None means there is no next page."""

    runs: list[RunRecord]
    next_cursor: str | None = None


async def list_page(tx: AsyncConnection, wanted: RunFilter, *, limit: int, cursor: str | None = None) -> RunPage:
    """The newest runs, or the runs after an earlier page. Runs that arrive between two pages shift nothing.

    Raises:
        BadInput: the cursor does not come from an earlier page.
    """
    where = wanted.conditions()
    if cursor is not None:
        where.append(tuple_(_T.created_at, _T.id) < tuple_(*map(literal, _decoded(cursor))))
    query = select(*RUN_COLUMNS, _T.id).where(*where)
    newest = query.order_by(_T.created_at.desc(), _T.id.desc()).limit(limit + 1)
    rows = (await tx.execute(newest)).mappings().all()
    next_cursor = None
    if len(rows) > limit:
        last = rows[limit - 1]
        next_cursor = (
            base64.urlsafe_b64encode(f"{last['created_at'].isoformat()}/{last['id']}".encode()).decode().rstrip("=")
        )
    return RunPage(runs=readable_runs(rows[:limit]), next_cursor=next_cursor)


def _found_by(words: str) -> ColumnElement[bool]:
    """Equality and, for ids, a range: both use an index, whatever the database's collation."""
    named = [_T.run_id == words, _T.trace_id == words, _T.alert_fingerprint == words]
    if re.fullmatch("[0-9a-f]{4,31}", words):
        named += [starts_with(column, words) for column in (_T.run_id, _T.trace_id)]
    return or_(*named)


async def seen_lately(tx: AsyncConnection, column: Literal["source", "environment"]) -> list[str]:
    """The values of this column in the latest runs, in order: suggestions for a filter."""
    latest = select(getattr(_T, column).label("value")).order_by(_T.created_at.desc()).limit(2000).subquery()
    return list((await tx.execute(select(latest.c.value).distinct().order_by(latest.c.value).limit(100))).scalars())


async def list_final(tx: AsyncConnection, run_ids: Sequence[str]) -> list[str]:
    """Those of these runs that are over."""
    final = [status.value for status in RunStatus if status.final]
    query = select(_T.run_id).where(_T.run_id.in_(run_ids), _T.status.in_(final))
    return list((await tx.execute(query)).scalars())


def _decoded(cursor: str) -> tuple[datetime, int]:
    unknown = BadInput(f"{cursor[:80]!r} is no cursor: use next_cursor of the page before")
    try:
        decoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        moment, _, row_id = decoded.partition("/")
        created_at, number = datetime.fromisoformat(moment), int(row_id)
    except (ValueError, binascii.Error):
        raise unknown from None
    if created_at.tzinfo is None or not 0 <= number < 2**63:
        raise unknown
    return created_at, number
