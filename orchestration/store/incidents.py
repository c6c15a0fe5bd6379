"""Incidents as they stand: found with their alerts counted, locked, changed, and what happened to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, func, or_, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import AlertStatus, Incident
from orchestration.errors import BadInput
from orchestration.states import RunStatus
from orchestration.store.models import AlertRow, HistoryRow, IncidentRow, PipelineRunRow
from orchestration.store.records import HistoryRecord

_A = AlertRow
_I = IncidentRow
_INCIDENT_COLUMNS = [column for name, column in _I.__table__.columns.items() if name in Incident.model_fields]


_ID_DIGITS = 18  # what fits a bigint


_COUNTS = (
    select(
        func.count().filter(_A.status == AlertStatus.FIRING.value).label("firing"),
        func.count().filter(_A.status == AlertStatus.RESOLVED.value).label("resolved"),
    )
    .where(_A.incident_id == bindparam("wanted"))
    .subquery()
)


_WITH_COUNTS = select(*_INCIDENT_COLUMNS, _COUNTS).join(_COUNTS, true()).where(_I.id == bindparam("wanted"))


async def get_incident(tx: AsyncConnection, incident_id: str) -> Incident:
    """The incident with this id."""
    row = (await tx.execute(select(*_INCIDENT_COLUMNS).where(_I.id == int(incident_id)))).mappings().one()
    return _incident_of(row)


async def find_incident(tx: AsyncConnection, incident_id: str) -> Incident:
    """The same, of an id that somebody names.

    Raises:
        BadInput: there is no such incident.
    """
    known = incident_id.isdecimal() and len(incident_id) <= _ID_DIGITS
    query = select(_I.id).where(_I.id == int(incident_id)) if known else None
    if query is None or (await tx.execute(query)).first() is None:
        raise BadInput(f"There is no incident {incident_id[:_ID_DIGITS]!r}")
    return await get_incident(tx, incident_id)


async def list_history(tx: AsyncConnection, incident_id: str) -> list[HistoryRecord]:
    """What happened to an incident and its alerts, oldest first."""
    columns = [c for name, c in HistoryRow.__table__.columns.items() if name in HistoryRecord.model_fields]
    query = select(*columns).where(HistoryRow.incident_id == int(incident_id)).order_by(HistoryRow.id)
    return [HistoryRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]


async def get_incident_with_counts(tx: AsyncConnection, incident_id: str) -> tuple[Incident, int, int]:
    """An incident, and how many of its alerts fire and how many are resolved."""
    row = (await tx.execute(_WITH_COUNTS, {"wanted": int(incident_id)})).mappings().one()
    values = dict(row)
    firing, resolved = values.pop("firing"), values.pop("resolved")
    return _incident_of(values), firing, resolved


async def count_alerts(tx: AsyncConnection, incident_id: str) -> tuple[int, int]:
    """How many alerts of an incident fire and how many are resolved."""
    query = select(_A.status, func.count()).where(_A.incident_id == int(incident_id)).group_by(_A.status)
    counts = {row[0]: row[1] for row in await tx.execute(query)}
    return counts.get(AlertStatus.FIRING.value, 0), counts.get(AlertStatus.RESOLVED.value, 0)


async def lock_incident(tx: AsyncConnection, key: str) -> None:
    """Until the end of the transaction nobody else changes an incident of this key."""
    await tx.execute(text("select pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})


async def told_before(tx: AsyncConnection, incident_id: int, run_id: str) -> bool:
    """Whether the latest attempt to tell a human of this incident went out, or still may.

    False: it failed for good, or its definition told nobody, so nobody knows. Runs that ingest found to be nothing
    new were no such attempt.
    """
    meant_to_tell = or_(
        PipelineRunRow.status != RunStatus.SKIPPED.value, PipelineRunRow.ingest_result["tell"].as_boolean().is_(True)
    )
    query = (
        select(PipelineRunRow.status)
        .where(PipelineRunRow.incident_id == incident_id, PipelineRunRow.run_id != run_id, meant_to_tell)
        .order_by(PipelineRunRow.id.desc())
        .limit(1)
    )
    status = (await tx.execute(query)).scalar_one_or_none()
    return status not in (RunStatus.FAILED.value, RunStatus.SKIPPED.value)


async def update_incident(tx: AsyncConnection, incident_id: int, **values: Any) -> None:
    """Set columns of an incident."""
    await tx.execute(update(_I).where(_I.id == incident_id).values(**values, updated_at=func.clock_timestamp()))


def _incident_of(row: Mapping[Any, Any]) -> Incident:
    return Incident.model_validate({**row, "id": str(row["id"])})
