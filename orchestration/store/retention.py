"""Retention: old rows are deleted in batches, so that no transaction locks many rows or lasts long."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    and_,
    any_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from orchestration.store.claims import CLAIMABLE
from orchestration.store.database import in_seconds
from orchestration.store.models import (
    FINAL_STATUSES,
    HAS_VALUES,
    OPEN_STATUSES,
    AlertRow,
    ChangeEventRow,
    DeliveryRow,
    HistoryRow,
    IncidentRow,
    MembershipRow,
    ModelQuestionRow,
    PipelineRunRow,
    PushRow,
    RefusedPushRow,
    StageExecutionRow,
    UsedSignatureRow,
)

DAY_SECONDS = 86400.0
BATCH = 500
VALUES_DAYS = 2.0
"""How long the payload of a definition without an ingest node is stored after the end of its run."""

# Of each table: the time that says how old a row is, and which old rows can go.
_A, _H, _I, _M, _R = AlertRow, HistoryRow, IncidentRow, MembershipRow, PipelineRunRow
_IS_OPEN = _I.status.in_(bindparam("open", OPEN_STATUSES, expanding=True, literal_execute=True))
_IS_FINAL = _R.status.in_(bindparam("final", FINAL_STATUSES, expanding=True, literal_execute=True))
_HAS_ENDED = _I.status.not_in(bindparam("open", OPEN_STATUSES, expanding=True, literal_execute=True))
"""Literals, because PostgreSQL uses a partial index only for what it can read in the statement."""


def _of_no_open_incident(incident_id: InstrumentedAttribute[int | None]) -> ColumnElement[bool]:
    # The few open incidents are looked up once for a statement.
    return or_(incident_id.is_(None), incident_id.not_in(select(_I.id).where(_IS_OPEN)))


_OLD: dict[str, tuple[Any, InstrumentedAttribute[datetime], ColumnElement[bool]]] = {
    "pipeline_run": (_R, _R.updated_at, and_(_IS_FINAL, _of_no_open_incident(_R.incident_id))),
    "alert": (
        _A,
        _A.heard_at,
        ~select(_M.alert_id).where(_M.alert_id == _A.id, _M.incident_id == _I.id, _IS_OPEN).exists(),
    ),
    "history": (_H, _H.at, _of_no_open_incident(_H.incident_id)),
    "incident": (_I, _I.updated_at, and_(_HAS_ENDED, ~select(_R.id).where(_R.incident_id == _I.id).exists())),
    "push": (PushRow, PushRow.created_at, true()),
    "refused_push": (RefusedPushRow, RefusedPushRow.at, true()),
    "model_question": (ModelQuestionRow, ModelQuestionRow.asked_at, true()),
    "change_event": (ChangeEventRow, ChangeEventRow.received_at, true()),
}

_SIGNATURES = "used_signature"

TABLES = (*_OLD, _SIGNATURES)
"""The tables to look at, in this order: rows that refer to another row are deleted before it."""


def _days_ago(days: float) -> ColumnElement[Any]:
    # PostgreSQL looks nothing up in an index that it compares with `clock_timestamp()`: that one changes meanwhile.
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, days * DAY_SECONDS)


async def delete_old(tx: AsyncConnection, table: str, days: float) -> int:
    """Delete up to `BATCH` rows of one of `TABLES` that are older than so many days, oldest first. Returns how many.

    A run that is not over, an open incident, its alerts, its runs and its history are never deleted.
    """
    if table == _SIGNATURES:
        # A signed request that is older than a day is refused because of its age.
        statement = delete(UsedSignatureRow).where(UsedSignatureRow.used_at < _days_ago(1.0))
        return (await tx.execute(statement)).rowcount
    row, moment, done = _OLD[table]
    oldest = select(row.id).where(moment < _days_ago(days), done).order_by(moment).limit(BATCH)
    ids = list((await tx.execute(oldest.with_for_update(of=row))).scalars())
    if not ids:
        return 0
    if table == "pipeline_run":
        # The database would delete them with each run, one run after the other.
        for part in (StageExecutionRow, DeliveryRow):
            await tx.execute(delete(part).where(part.pipeline_run_id == any_(_given(ids))))
    await tx.execute(delete(row).where(row.id == any_(_given(ids))))
    return len(ids)


def _given(ids: list[int]) -> ColumnElement[Any]:
    return literal(ids, ARRAY(BigInteger))


async def forget_values(tx: AsyncConnection) -> int:
    """Remove the payloads of definitions without an ingest node from up to `BATCH` runs. Returns from how many.

    Such a payload is stored as it came, since the run may be resumed with it. A failed run can be as long as it is
    stored; of any other run that is over, it is removed after `VALUES_DAYS`, when no redelivery needs it any more.
    """
    old = _R.updated_at < _days_ago(VALUES_DAYS)
    batch = select(_R.id).where(text(HAS_VALUES), old).order_by(_R.updated_at).limit(BATCH)
    without = _R.payload.op("-", return_type=JSONB)("data")
    forgotten = update(_R).where(_R.id.in_(batch)).values(payload=without, updated_at=_R.updated_at)
    return (await tx.execute(forgotten)).rowcount


async def count_unfinished(tx: AsyncConnection, older_than_seconds: float) -> int:
    """How many runs are not over although they have not changed for so long."""
    still = func.greatest(PipelineRunRow.updated_at, PipelineRunRow.due_at) < in_seconds(-older_than_seconds)
    return (await tx.execute(select(func.count()).where(CLAIMABLE, still))).scalar_one()
