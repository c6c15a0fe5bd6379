"""Retention: old rows are deleted in batches, so that no transaction locks many rows or lasts long."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, literal_column, select, true, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from orchestration.states import RunStatus
from orchestration.store.claims import CLAIMABLE
from orchestration.store.database import in_seconds
from orchestration.store.models import (
    OPEN_STATUSES,
    AlertRow,
    ChangeEventRow,
    HistoryRow,
    IncidentRow,
    MembershipRow,
    ModelQuestionRow,
    PipelineRunRow,
    PushRow,
    RefusedPushRow,
    UsedSignatureRow,
)

DAY_SECONDS = 86400.0
BATCH = 500
VALUES_DAYS = 2.0
"""How long the payload of a definition without an ingest node is stored after the end of its run."""

_NULL = literal_column("'null'::jsonb", JSONB)

# Of each table: the time that says how old a row is, and which old rows can go.
_A, _H, _I, _M, _R = AlertRow, HistoryRow, IncidentRow, MembershipRow, PipelineRunRow
_IS_OPEN = _I.status.in_(OPEN_STATUSES)
_OLD: dict[str, tuple[Any, InstrumentedAttribute[datetime], ColumnElement[bool]]] = {
    # The database deletes the attempts and deliveries of a run with it.
    "pipeline_run": (_R, _R.updated_at, _R.status.in_([status.value for status in RunStatus if status.final])),
    "alert": (
        _A,
        _A.updated_at,
        ~select(_M.alert_id).where(_M.alert_id == _A.id, _M.incident_id == _I.id, _IS_OPEN).exists(),
    ),
    "history": (_H, _H.at, true()),
    "incident": (
        _I,
        _I.updated_at,
        and_(
            ~_IS_OPEN,
            ~select(_R.id).where(_R.incident_id == _I.id).exists(),
        ),
    ),
    "push": (PushRow, PushRow.created_at, true()),
    "refused_push": (RefusedPushRow, RefusedPushRow.at, true()),
    "model_question": (ModelQuestionRow, ModelQuestionRow.asked_at, true()),
    "change_event": (ChangeEventRow, ChangeEventRow.received_at, true()),
}

_SIGNATURES = "used_signature"

TABLES = (*_OLD, _SIGNATURES)
"""The tables to look at, in this order: rows that refer to another row are deleted before it."""


async def delete_old(tx: AsyncConnection, table: str, days: float) -> int:
    """Delete up to `BATCH` rows of one of `TABLES` that are older than so many days. Returns how many.

    A run that is not over, an open incident and its alerts are never deleted.
    """
    if table == _SIGNATURES:
        # A signed request that is older than a day is refused because of its age.
        statement = delete(UsedSignatureRow).where(UsedSignatureRow.used_at < in_seconds(-DAY_SECONDS))
    else:
        row, moment, done = _OLD[table]
        batch = select(row.id).where(moment < in_seconds(-days * DAY_SECONDS), done).limit(BATCH)
        statement = delete(row).where(row.id.in_(batch))
    return (await tx.execute(statement)).rowcount


async def forget_values(tx: AsyncConnection) -> int:
    """Remove the payloads of definitions without an ingest node from up to `BATCH` runs. Returns from how many.

    Such a payload is stored as it came, since the run may be resumed with it. A failed run can be as long as it is
    stored; of any other run that is over, it is removed after `VALUES_DAYS`, when no redelivery needs it any more.
    """
    over = _R.status.in_([status.value for status in RunStatus if status.final and status is not RunStatus.FAILED])
    old = _R.updated_at < in_seconds(-VALUES_DAYS * DAY_SECONDS)
    given = func.coalesce(_R.payload["data"], _NULL) != _NULL
    batch = select(_R.id).where(_R.alert_fingerprint.is_(None), over, old, given).limit(BATCH)
    without = _R.payload.op("-", return_type=JSONB)("data")
    forgotten = update(_R).where(_R.id.in_(batch)).values(payload=without, updated_at=_R.updated_at)
    return (await tx.execute(forgotten)).rowcount


async def count_unfinished(tx: AsyncConnection, older_than_seconds: float) -> int:
    """How many runs are not over although they have not changed for so long."""
    still = func.greatest(PipelineRunRow.updated_at, PipelineRunRow.due_at) < in_seconds(-older_than_seconds)
    return (await tx.execute(select(func.count()).where(CLAIMABLE, still))).scalar_one()
