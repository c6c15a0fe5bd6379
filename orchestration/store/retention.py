"""Retention: old rows are deleted in batches, so that no transaction locks many rows or lasts long."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Delete, and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.states import RunStatus
from orchestration.store.claims import CLAIMABLE
from orchestration.store.database import in_seconds
from orchestration.store.models import (
    OPEN_STATUSES,
    AlertRow,
    HistoryRow,
    IncidentRow,
    PipelineRunRow,
    PushRow,
    UsedSignatureRow,
)

DAY_SECONDS = 86400.0
BATCH = 500

_FINAL = [status.value for status in RunStatus if status.final]


async def delete_old(tx: AsyncConnection, table: str, days: float) -> int:
    """Delete up to `BATCH` rows of one of `TABLES` that are older than so many days. Returns how many.

    A run that is not over, an open incident and its alerts are never deleted.
    """
    return (await tx.execute(_STATEMENTS[table](days))).rowcount


def _runs(days: float) -> Delete:
    # The database deletes the attempts and deliveries of a run with it.
    old = and_(PipelineRunRow.status.in_(_FINAL), PipelineRunRow.updated_at < in_seconds(-days * DAY_SECONDS))
    batch = select(PipelineRunRow.id).where(old).limit(BATCH)
    return delete(PipelineRunRow).where(PipelineRunRow.id.in_(batch))


def _alerts(days: float) -> Delete:
    """Alerts whose incident is over, or that have no incident."""
    over = (
        ~select(IncidentRow.id)
        .where(IncidentRow.id == AlertRow.incident_id, IncidentRow.status.in_(OPEN_STATUSES))
        .exists()
    )
    old = and_(AlertRow.updated_at < in_seconds(-days * DAY_SECONDS), over)
    return delete(AlertRow).where(AlertRow.id.in_(select(AlertRow.id).where(old).limit(BATCH)))


def _incidents(days: float) -> Delete:
    """Incidents that are over and have no alerts and no runs any more."""
    alerts = select(AlertRow.id).where(AlertRow.incident_id == IncidentRow.id).exists()
    runs = select(PipelineRunRow.id).where(PipelineRunRow.incident_id == IncidentRow.id).exists()
    old = and_(
        IncidentRow.status.not_in(OPEN_STATUSES),
        IncidentRow.updated_at < in_seconds(-days * DAY_SECONDS),
        ~or_(alerts, runs),
    )
    return delete(IncidentRow).where(IncidentRow.id.in_(select(IncidentRow.id).where(old).limit(BATCH)))


def _history(days: float) -> Delete:
    old = HistoryRow.at < in_seconds(-days * DAY_SECONDS)
    return delete(HistoryRow).where(HistoryRow.id.in_(select(HistoryRow.id).where(old).limit(BATCH)))


def _pushes(days: float) -> Delete:
    old = PushRow.created_at < in_seconds(-days * DAY_SECONDS)
    return delete(PushRow).where(PushRow.id.in_(select(PushRow.id).where(old).limit(BATCH)))


def _signatures(_days: float) -> Delete:
    # A signed request that is older than a day is refused because of its age.
    return delete(UsedSignatureRow).where(UsedSignatureRow.used_at < in_seconds(-DAY_SECONDS))


_STATEMENTS: dict[str, Any] = {
    "pipeline_run": _runs,
    "alert": _alerts,
    "history": _history,
    "incident": _incidents,
    "push": _pushes,
    "used_signature": _signatures,
}

TABLES = tuple(_STATEMENTS)
"""The tables to look at, in this order: rows that refer to another row are deleted before it."""


async def count_unfinished(tx: AsyncConnection, older_than_seconds: float) -> int:
    """How many runs are not over although they have not changed for so long."""
    still = PipelineRunRow.updated_at < in_seconds(-older_than_seconds)
    return (await tx.execute(select(func.count()).where(CLAIMABLE, still))).scalar_one()
