"""What is true of an incident now, for a message about it: its state, its members, and what comes next by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from sqlalchemy import and_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Alert, AlertStatus, Incident
from orchestration.contracts import Contract
from orchestration.message import Upcoming
from orchestration.states import RunReason, RunStatus
from orchestration.store.incidents import INCIDENT_COLUMNS, incident_of
from orchestration.store.models import AlertRow, IncidentRow, PipelineRunRow, columns_of

MAX_MEMBERS = 200
"""How many alerts of an incident are read for a message. The others are counted."""

_ALERT_COLUMNS = [column.name for column in columns_of(AlertRow, Alert) if column.name not in ("status", "raw_payload")]

# The worst and oldest of the firing ones come first; if none fires, those that ended last.
_MEMBERS = text(
    f"""
    select {", ".join(f"alert.{name}" for name in _ALERT_COLUMNS)}, membership.status,
        count(*) filter (where membership.status = '{AlertStatus.FIRING}') over () as firing,
        count(*) over () as members
    from membership join alert on alert.id = membership.alert_id
    where membership.incident_id = :incident_id
    order by membership.status = '{AlertStatus.FIRING}' desc,
        case when membership.status = '{AlertStatus.FIRING}' then case alert.severity
            when 'critical' then 0 when 'warning' then 1 else 2 end end,
        case when membership.status = '{AlertStatus.FIRING}' then alert.id end,
        alert.ended_at desc nulls last, alert.id desc
    limit {MAX_MEMBERS}
    """
)

_IS_ITS_TIMER = and_(
    PipelineRunRow.incident_id == IncidentRow.id,
    PipelineRunRow.status == RunStatus.PENDING.value,
    PipelineRunRow.reason.in_([RunReason.REMINDER.value, RunReason.EXPIRY.value]),
    PipelineRunRow.due_at.is_not(None),
)
_WITH_TIMER = select(*INCIDENT_COLUMNS, PipelineRunRow.reason, PipelineRunRow.due_at).outerjoin(
    PipelineRunRow, _IS_ITS_TIMER
)


class Present(Contract):
    """An incident as it is now."""

    incident: Incident
    alerts: list[Alert] = Field(default_factory=list[Alert])
    """The alerts that fire in it; if none does, those that ended last. At most `MAX_MEMBERS`."""
    firing: int = 0
    resolved: int = 0
    upcoming: Upcoming | None = None


async def read_present(tx: AsyncConnection, incident_id: str) -> Present:
    """The incident with this id, which must exist, with its members."""
    found = (await tx.execute(_WITH_TIMER.where(IncidentRow.id == int(incident_id)))).mappings().one()
    incident = incident_of(found)
    rows = (await tx.execute(_MEMBERS, {"incident_id": int(incident_id)})).mappings().all()
    firing, members = (rows[0]["firing"], rows[0]["members"]) if rows else (0, 0)
    alerts = [_alert_of(row, incident) for row in rows]
    shown = [alert for alert in alerts if alert.firing] or _latest_to_end(alerts)
    return Present(
        incident=incident,
        alerts=shown,
        firing=firing,
        resolved=members - firing,
        upcoming=None if found["due_at"] is None else Upcoming(reason=found["reason"], due_at=found["due_at"]),
    )


def _latest_to_end(alerts: list[Alert]) -> list[Alert]:
    """Of resolved alerts, those of the last episode: what had ended before the last one began is another story."""
    if not alerts or (last := alerts[0]).ended_at is None or last.started_at is None:
        return alerts
    return [alert for alert in alerts if alert.ended_at is None or alert.ended_at >= last.started_at]


def _alert_of(row: Mapping[Any, Any], incident: Incident) -> Alert:
    values = {name: row[name] for name in _ALERT_COLUMNS}
    values["status"] = AlertStatus.FIRING if row["status"] == AlertStatus.FIRING else AlertStatus.RESOLVED
    # Without its time of the end, which a sender names for an alert that fires, too.
    ended = {} if values["status"] == AlertStatus.RESOLVED else {"ended_at": None}
    return Alert.model_validate({**values, **ended, "incident_key": incident.incident_key})
