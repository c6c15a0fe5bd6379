"""An incident with everything that belongs to it, read at once and bounded."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident, UtcDatetime
from orchestration.contracts import Contract
from orchestration.store.models import AlertRow, HistoryRow, IncidentRow, PipelineRunRow
from orchestration.store.records import HistoryRecord, RunRecord
from orchestration.store.runs import RUN_COLUMNS, run_record

MOST = 200
"""Of each kind, so many at most are read: the newest."""


class AlertRecord(Contract):
    """A row of `alert`, without what its sender sent."""

    id: int
    source: str
    fingerprint: str
    name: str
    severity: str
    status: str
    description: str = ""
    labels: dict[str, Any] = Field(default_factory=dict[str, Any])
    annotations: dict[str, Any] = Field(default_factory=dict[str, Any])
    started_at: UtcDatetime | None = None
    ended_at: UtcDatetime | None = None
    received_at: UtcDatetime
    updated_at: UtcDatetime
    incident_id: int | None = None


class IncidentStory(Contract):
    """What became of an incident. Lists are newest first, at most `MOST` of each."""

    incident: Incident
    alerts: list[AlertRecord]
    history: list[HistoryRecord]
    runs: list[RunRecord]


_INCIDENT = [column for name, column in IncidentRow.__table__.columns.items() if name in Incident.model_fields]
_ALERT = [column for name, column in AlertRow.__table__.columns.items() if name in AlertRecord.model_fields]
_HISTORY = [column for name, column in HistoryRow.__table__.columns.items() if name in HistoryRecord.model_fields]


async def read_incident(tx: AsyncConnection, incident_id: int) -> IncidentStory | None:
    """An incident, its alerts, its history and its runs; None: there is none of this id."""
    row = (await tx.execute(select(*_INCIDENT).where(IncidentRow.id == incident_id))).mappings().one_or_none()
    if row is None:
        return None
    alerts = select(*_ALERT).where(AlertRow.incident_id == incident_id).order_by(AlertRow.id.desc())
    history = select(*_HISTORY).where(HistoryRow.incident_id == incident_id).order_by(HistoryRow.id.desc())
    runs = select(*RUN_COLUMNS).where(PipelineRunRow.incident_id == incident_id).order_by(PipelineRunRow.id.desc())
    return IncidentStory(
        incident=Incident.model_validate({**row, "id": str(row["id"])}),
        alerts=[AlertRecord.model_validate(dict(one)) for one in (await tx.execute(alerts.limit(MOST))).mappings()],
        history=[HistoryRecord.model_validate(dict(one)) for one in (await tx.execute(history.limit(MOST))).mappings()],
        runs=[run_record(one) for one in (await tx.execute(runs.limit(MOST))).mappings()],
    )
