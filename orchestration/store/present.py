"""What is true of an incident now, for a message about it: its state, its members, what happens next without a push,
and which channels were given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Alert, AlertStatus, Incident, Severity, UtcDatetime
from orchestration.contracts import Contract
from orchestration.message import Upcoming
from orchestration.reasons import Reason
from orchestration.states import TIMER_REASONS, RunStatus
from orchestration.store.deliveries import LAST_ERROR
from orchestration.store.incidents import INCIDENT_COLUMNS, incident_of
from orchestration.store.models import OPEN_STATUSES, AlertRow
from orchestration.store.prepared import prepared
from orchestration.store.table import columns_of

MAX_MEMBERS = 200
"""How many alerts of an incident are read for a message. The others are counted."""

_ALERT_COLUMNS = [column.name for column in columns_of(AlertRow, Alert) if column.name not in ("status", "raw_payload")]

# The worst and oldest of the firing ones come first; if none fires, those that ended last.
_MEMBERS = prepared(
    f"""
    select {", ".join(f"alert.{name}" for name in _ALERT_COLUMNS)}, membership.status,
        count(*) filter (where membership.status = '{AlertStatus.FIRING}') over () as firing,
        count(*) over () as members
    from membership join alert on alert.id = membership.alert_id
    where membership.incident_id = :incident_id
    order by membership.status = '{AlertStatus.FIRING}' desc,
        case when membership.status = '{AlertStatus.FIRING}' then case alert.severity
            when 'critical' then 0 when 'warning' then 1 else 2 end end,
        case when membership.status = '{AlertStatus.FIRING}' then alert.started_at end nulls last,
        case when membership.status = '{AlertStatus.FIRING}' then alert.id end,
        alert.ended_at desc nulls last, alert.id desc
    limit {MAX_MEMBERS}
    """
)

_INCIDENT = prepared(
    f"""
    select clock_timestamp() as now, {", ".join(f"incident.{column.name}" for column in INCIDENT_COLUMNS)},
        incident.metadata->>'omitted' as omitted, timer.reason, timer.due_at, (
            select jsonb_object_agg(known.channel, coalesce({LAST_ERROR}, '')) from incident_channel as known
            where known.incident_id = incident.id and known.given_up_at is not null
        ) as given_up, ended.event as ended, ended.details ->> 'by' as ended_by, (
            select history.old_status from history
            where history.incident_id = incident.id and history.event = 'incident_severity_raised'
            order by history.id desc limit 1
        ) as rose_from
    from incident left join pipeline_run as timer on timer.incident_id = incident.id
        and timer.reason in {TIMER_REASONS!r}
        and timer.status = '{RunStatus.PENDING}' and timer.due_at is not null
    left join lateral (
        select history.event, history.details from history
        where incident.status not in {OPEN_STATUSES!r} and history.incident_id = incident.id
            and history.event in ('incident_resolved', 'incident_expired')
        order by history.id desc limit 1
    ) as ended on true
    where incident.id = :incident_id
    """
)


class Present(Contract):
    """An incident as it is now."""

    incident: Incident
    at: UtcDatetime
    """The moment at which it is so."""
    alerts: list[Alert] = Field(default_factory=list[Alert])
    """The alerts that fire in it; if none does, those that ended last. At most `MAX_MEMBERS`."""
    unread: int = 0
    """How many more alerts of the incident are in the same state as `alerts`, and were not read."""
    omitted: int = 0
    """How many firing alerts its sender has left out of the latest push."""
    firing: int = 0
    resolved: int = 0
    upcoming: Upcoming | None = None
    rose_from: Severity | None = None
    """What its severity was before it rose last. None means that it has not."""
    given_up: dict[str, str] = Field(default_factory=dict[str, str])
    """The channels on which the incident was given up, by name, with the last answer of each. A channel leaves this
    list when it accepts a message about the incident."""
    ended: Reason = Reason.RESOLVED
    """How it ended last: by its alerts, by a person, or because nobody heard of it."""
    ended_by: str = ""
    """The person who has resolved it, if one has."""


async def read_present(tx: AsyncConnection, incident_id: str) -> Present:
    """The incident with this id, which must exist, with its members."""
    key = {"incident_id": int(incident_id)}
    found = await _INCIDENT.one(tx, key)
    rows = await _MEMBERS.rows(tx, key)
    incident = incident_of(found)
    firing, members = (rows[0]["firing"], rows[0]["members"]) if rows else (0, 0)
    alerts = [_alert_of(row, incident) for row in rows]
    shown = [alert for alert in alerts if alert.firing] or _latest_to_end(alerts)
    unread = (firing or members) - len(shown) if len(shown) == MAX_MEMBERS else 0
    return Present(
        incident=incident,
        at=found["now"],
        alerts=shown,
        unread=unread,
        omitted=0 if incident.status.ended else int(found["omitted"] or 0),
        firing=firing,
        resolved=members - firing,
        upcoming=None if found["reason"] is None else Upcoming(reason=found["reason"], due_at=found["due_at"]),
        rose_from=found["rose_from"],
        given_up=found["given_up"] or {},
        ended=_end_of(found["ended"], found["ended_by"]),
        ended_by=found["ended_by"] or "",
    )


def _end_of(event: str | None, by: str | None) -> Reason:
    if event == "incident_expired":
        return Reason.EXPIRED
    return Reason.RESOLVED_BY_HAND if by else Reason.RESOLVED


def _latest_to_end(alerts: list[Alert]) -> list[Alert]:
    """Of resolved alerts, those of the last episode. What had ended before the last one began is older history."""
    if not alerts or (last := alerts[0]).ended_at is None or last.started_at is None:
        return alerts
    return [alert for alert in alerts if alert.ended_at is None or alert.ended_at >= last.started_at]


def _alert_of(row: Mapping[Any, Any], incident: Incident) -> Alert:
    values = {name: row[name] for name in _ALERT_COLUMNS}
    values["status"] = AlertStatus.FIRING if row["status"] == AlertStatus.FIRING else AlertStatus.RESOLVED
    # The row of an alert can have a time of the end although the alert fires in this incident.
    ended = {} if values["status"] == AlertStatus.RESOLVED else {"ended_at": None}
    return Alert.model_validate({**values, **ended, "incident_key": incident.incident_key})
