"""An incident with everything that belongs to it, and when an alert was received; every query is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident, UtcDatetime
from orchestration.contracts import Contract
from orchestration.store.models import AlertRow, HistoryRow, IncidentRow, PipelineRunRow
from orchestration.store.records import HistoryRecord, RunRecord
from orchestration.store.runs import RUN_COLUMNS, run_record

MOST = 200
"""How many rows of each kind are read at most: the newest."""


class AlertRecord(Contract):
    """A row of `alert`, without the payload."""

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


class AlertTimes(Contract):
    """When an alert was received."""

    first_received_at: UtcDatetime | None
    """None means that the history of that time is deleted."""
    last_received_at: UtcDatetime
    """Also by a push that was skipped as a duplicate."""


class IncidentStory(Contract):
    """An incident and its rows. Lists are newest first, at most `MOST` of each."""

    incident: Incident
    alerts: list[AlertRecord]
    history: list[HistoryRecord]
    runs: list[RunRecord]
    duplicates: list[RunRecord]
    """The pushes that repeated one of `runs`, and were skipped."""

    @property
    def last_duplicate_at(self) -> UtcDatetime | None:
        """When the latest duplicate came in."""
        return self.duplicates[0].created_at if self.duplicates else None


_INCIDENT = [column for name, column in IncidentRow.__table__.columns.items() if name in Incident.model_fields]
_ALERT = [column for name, column in AlertRow.__table__.columns.items() if name in AlertRecord.model_fields]
_HISTORY = [column for name, column in HistoryRow.__table__.columns.items() if name in HistoryRecord.model_fields]


async def read_incident(tx: AsyncConnection, incident_id: int) -> IncidentStory | None:
    """An incident, its alerts, its history and its runs. None means that there is no incident with this id."""
    row = (await tx.execute(select(*_INCIDENT).where(IncidentRow.id == incident_id))).mappings().one_or_none()
    if row is None:
        return None
    alerts = select(*_ALERT).where(AlertRow.incident_id == incident_id).order_by(AlertRow.id.desc())
    history = select(*_HISTORY).where(HistoryRow.incident_id == incident_id).order_by(HistoryRow.id.desc())
    runs = await _runs_of(tx, incident_id)
    duplicates = select(*RUN_COLUMNS).where(_repeats(incident_id, runs)).order_by(PipelineRunRow.id.desc())
    return IncidentStory(
        incident=Incident.model_validate({**row, "id": str(row["id"])}),
        alerts=[AlertRecord.model_validate(dict(one)) for one in (await tx.execute(alerts.limit(MOST))).mappings()],
        history=[HistoryRecord.model_validate(dict(one)) for one in (await tx.execute(history.limit(MOST))).mappings()],
        runs=runs,
        duplicates=[run_record(one) for one in (await tx.execute(duplicates.limit(MOST))).mappings()],
    )


async def read_alert_times(tx: AsyncConnection, alert: AlertRecord) -> AlertTimes:
    """When this alert was received first and last. Of the incident's runs the newest `MOST` are looked at."""
    created = select(func.min(HistoryRow.at)).where(
        HistoryRow.alert_id == alert.id, HistoryRow.event == "alert_created"
    )
    last = alert.updated_at
    if alert.incident_id is not None and (runs := await _runs_of(tx, alert.incident_id)):
        contained = PipelineRunRow.payload.contains({"alerts": [{"fingerprint": alert.fingerprint}]})
        repeated = select(func.max(PipelineRunRow.created_at)).where(_repeats(alert.incident_id, runs), contained)
        last = max(last, (await tx.execute(repeated)).scalar_one() or last)
    return AlertTimes(first_received_at=(await tx.execute(created)).scalar_one(), last_received_at=last)


async def _runs_of(tx: AsyncConnection, incident_id: int) -> list[RunRecord]:
    runs = select(*RUN_COLUMNS).where(PipelineRunRow.incident_id == incident_id).order_by(PipelineRunRow.id.desc())
    return [run_record(one) for one in (await tx.execute(runs.limit(MOST))).mappings()]


def _repeats(incident_id: int, runs: Sequence[RunRecord]) -> ColumnElement[bool]:
    """Whether a run is a duplicate of one of these runs of the incident."""
    # There is no index of `duplicate_of`. A duplicate has the same alerts as the run that it repeats, in any order,
    # and there is an index of the fingerprint of a run's first alert.
    alerts = select(AlertRow.fingerprint).where(AlertRow.incident_id == incident_id)
    leads = select(PipelineRunRow.alert_fingerprint).where(PipelineRunRow.incident_id == incident_id)
    same_alerts = PipelineRunRow.alert_fingerprint.in_(alerts.union(leads))
    return and_(same_alerts, PipelineRunRow.duplicate_of.in_([run.run_id for run in runs]))
