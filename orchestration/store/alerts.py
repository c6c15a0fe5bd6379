"""Alerts and incidents: what a push changes, in one transaction, without races.

All changes to one incident key happen under one advisory lock, so two pushes about the same incident
are recorded one after the other, whichever process executes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Alert, AlertStatus, Incident, IncidentStatus, Severity
from orchestration.store.incidents import (
    get_incident,
    get_incident_with_counts,
    is_notified,
    lock_incident,
    update_incident,
)
from orchestration.store.models import OPEN_STATUSES, AlertRow, HistoryRow, IncidentRow, columns_of

_A = AlertRow
_I = IncidentRow
_CHUNK = 1000
_STORED = {column.name for column in columns_of(AlertRow, Alert)}


@dataclass(kw_only=True)
class RecordedAlerts:
    """What recording the alerts of one incident key changed."""

    incident: Incident | None = None
    known: bool = False
    opened: bool = False
    reopened: bool = False
    severity_raised: bool = False
    resolved: bool = False
    told_before: bool = False
    alerts_created: int = 0
    alerts_updated: int = 0
    newly_resolved: int = 0
    new_firing: int = 0
    still_firing: int = 0
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def note(
        self,
        event: str,
        *,
        alert_id: int | None = None,
        incident_id: int | None = None,
        old: str | None = None,
        new: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Add a line to the history. Without an incident's id, it is about the incident of these alerts."""
        line = {"event": event, "alert_id": alert_id, "incident_id": incident_id, "old_status": old, "new_status": new}
        self.history.append({**line, "details": details or {}})


async def record_alerts(
    tx: AsyncConnection, alerts: Sequence[Alert], *, run_id: str, environment: str = "production"
) -> RecordedAlerts:
    """Upsert the alerts of one incident key, and update their incident.

    `alerts` share one incident key and have distinct fingerprints. A firing alert joins the key's open
    incident, reopens a resolved one, or opens a new one; with the last firing alert resolved the incident
    is resolved. Alerts that resolve under another key than they fired under end the incident that they are in.
    """
    key = alerts[0].incident_key
    await lock_incident(tx, key)
    recorded = RecordedAlerts()
    before = await _known_alerts(tx, alerts)
    incident_id = await _find_or_open(tx, key, alerts, before, recorded)
    if recorded.known and incident_id is not None:
        recorded.told_before = await is_notified(tx, incident_id, run_id)
    ids = await _upsert(tx, alerts, incident_id, environment)
    _compare(alerts, before, ids, incident_id, recorded)
    if incident_id is not None:
        await _settle_incident(tx, incident_id, alerts, recorded)
        await _resolve_left_behind(tx, before, incident_id, recorded)
    await _write_history(tx, recorded, run_id)
    return recorded


async def _known_alerts(tx: AsyncConnection, alerts: Sequence[Alert]) -> dict[str, RowMapping]:
    """The rows of these alerts before this push, by fingerprint."""
    known: dict[str, RowMapping] = {}
    for start in range(0, len(alerts), _CHUNK):
        wanted = [alert.fingerprint for alert in alerts[start : start + _CHUNK]]
        query = (
            select(_A.id, _A.fingerprint, _A.status, _A.severity, _A.incident_id, _A.started_at)
            .where(_A.source == alerts[0].source, _A.fingerprint.in_(wanted))
            .order_by(_A.id)
            .with_for_update()
        )
        known |= {row["fingerprint"]: row for row in (await tx.execute(query)).mappings()}
    return known


async def _find_or_open(
    tx: AsyncConnection, key: str, alerts: Sequence[Alert], before: Mapping[str, RowMapping], recorded: RecordedAlerts
) -> int | None:
    """The incident that these alerts belong to; None for resolved alerts that belong to none."""
    firing = [alert for alert in alerts if alert.firing]
    query = select(_I.id, _I.status).where(_I.incident_key == key).order_by(_I.id.desc()).limit(1)
    latest = (await tx.execute(query)).mappings().one_or_none()
    if latest is not None and latest["status"] in OPEN_STATUSES:
        recorded.known = True
        return latest["id"]
    if not firing and (home := await _open_home(tx, before)) is not None:
        recorded.known = True
        return home
    if latest is not None and latest["status"] == IncidentStatus.RESOLVED:
        recorded.known = True
        if firing:
            await _reopen(tx, latest["id"], firing, recorded)
        return latest["id"]
    return await _open(tx, key, firing, recorded) if firing else None


async def _open_home(tx: AsyncConnection, before: Mapping[str, RowMapping]) -> int | None:
    """The open incident of these alerts under another key: a sender may change their grouping while they fire."""
    homes = {row["incident_id"] for row in before.values()} - {None}
    query = (
        select(_I.id, _I.incident_key)
        .where(_I.id.in_(homes), _I.status.in_(OPEN_STATUSES))
        .order_by(_I.id.desc())
        .limit(1)
    )
    home = (await tx.execute(query)).mappings().one_or_none()
    if home is None:
        return None
    await lock_incident(tx, home["incident_key"])
    return home["id"]


async def _open(tx: AsyncConnection, key: str, firing: Sequence[Alert], recorded: RecordedAlerts) -> int:
    lead = firing[0]
    opened = await tx.execute(
        insert(_I)
        .values(
            incident_key=key,
            title=lead.title or lead.name,
            severity=Severity.worst(*(alert.severity for alert in firing)).value,
            description=lead.description,
            details={"source": lead.source},
        )
        .returning(_I.id)
    )
    recorded.opened = True
    recorded.note("incident_opened", new=IncidentStatus.OPEN)
    return opened.scalar_one()


async def _reopen(tx: AsyncConnection, incident_id: int, firing: Sequence[Alert], recorded: RecordedAlerts) -> None:
    severity = Severity.worst(*(alert.severity for alert in firing)).value
    times = {"resolved_at": None, "acknowledged_at": None}
    await update_incident(tx, incident_id, status=IncidentStatus.OPEN.value, severity=severity, **times)
    recorded.reopened = True
    recorded.note("incident_reopened", old=IncidentStatus.RESOLVED, new=IncidentStatus.OPEN)


async def _upsert(
    tx: AsyncConnection, alerts: Sequence[Alert], incident_id: int | None, environment: str
) -> dict[str, int]:
    """Write the alerts; their ids by fingerprint."""
    ids: dict[str, int] = {}
    for start in range(0, len(alerts), _CHUNK):
        chunk = alerts[start : start + _CHUNK]
        own = {"incident_id": incident_id, "environment": environment}
        rows = [{**alert.model_dump(mode="json", include=_STORED), **own} for alert in chunk]
        statement = _insert_many(_A, rows)
        kept = {"source", "environment", "fingerprint", "incident_id"}
        changes: dict[str, Any] = {name: statement.excluded[name] for name in rows[0] if name not in kept}
        upsert = statement.on_conflict_do_update(
            index_elements=[_A.source, _A.environment, _A.fingerprint],
            set_={
                **changes,
                # A resolved alert may come without the time at which it began.
                "started_at": func.coalesce(statement.excluded.started_at, _A.started_at),
                "incident_id": func.coalesce(statement.excluded.incident_id, _A.incident_id),
                "received_at": func.clock_timestamp(),
                "updated_at": func.clock_timestamp(),
            },
        ).returning(_A.fingerprint, _A.id)
        ids |= {row[0]: row[1] for row in await tx.execute(upsert)}
    return ids


def _insert_many(table: type[AlertRow | HistoryRow], rows: Sequence[dict[str, Any]]) -> Insert:
    """A statement that gets its rows as one JSON value.

    SQLAlchemy would compile thousands of parameters anew for each push, and block the event loop for seconds.
    """
    columns = [table.__table__.columns[name] for name in rows[0]]
    given = (
        func.jsonb_to_recordset(bindparam(None, rows, JSONB()))
        .table_valued(*(column(one.name, one.type) for one in columns))
        .render_derived(name="given", with_types=True)
    )
    return insert(table).from_select([one.name for one in columns], select(*given.c))


def _compare(
    alerts: Sequence[Alert],
    before: Mapping[str, RowMapping],
    ids: Mapping[str, int],
    incident_id: int | None,
    recorded: RecordedAlerts,
) -> None:
    """Count the new and the changed alerts, and add a line of history for each; a repeated alert gets none."""
    for alert in alerts:
        was = before.get(alert.fingerprint)
        alert_id = ids[alert.fingerprint]
        if was is None:
            recorded.alerts_created += 1
            recorded.new_firing += alert.firing
            recorded.note("alert_created", alert_id=alert_id, new=alert.status)
            continue
        recorded.alerts_updated += 1
        was_firing = was["status"] == AlertStatus.FIRING
        recorded.new_firing += alert.firing and not (was_firing and was["incident_id"] == incident_id)
        recorded.newly_resolved += was_firing and not alert.firing
        if was["status"] != alert.status:
            event = "alert_refired" if alert.firing else "alert_resolved"
            recorded.note(event, alert_id=alert_id, old=was["status"], new=alert.status)
        elif was["severity"] != alert.severity:
            recorded.note("alert_severity_changed", alert_id=alert_id, old=was["severity"], new=alert.severity)


async def _settle_incident(
    tx: AsyncConnection, incident_id: int, alerts: Sequence[Alert], recorded: RecordedAlerts
) -> None:
    """Raise the incident's severity, or resolve it when nothing fires any more."""
    incident, firing, _ = await get_incident_with_counts(tx, str(incident_id))
    recorded.incident, recorded.still_firing = incident, firing
    worst = Severity.worst(*(alert.severity for alert in alerts if alert.firing))
    if firing and worst.rank > incident.severity.rank:
        recorded.severity_raised = True
        recorded.note("incident_severity_raised", old=incident.severity, new=worst)
        await update_incident(tx, incident_id, severity=worst.value)
    elif not firing and incident.status.value in OPEN_STATUSES:
        recorded.resolved = True
        await _resolve(tx, incident, recorded)
    else:
        return
    recorded.incident = await get_incident(tx, str(incident_id))


async def _resolve_left_behind(
    tx: AsyncConnection, before: Mapping[str, RowMapping], incident_id: int, recorded: RecordedAlerts
) -> None:
    """Resolve the incidents that these alerts have left for a new key, if no alert of theirs fires any more."""
    left = {row["incident_id"] for row in before.values()} - {incident_id, None}
    for old_id in sorted(left):
        await lock_incident(tx, (await get_incident(tx, str(old_id))).incident_key)
        old, firing, _ = await get_incident_with_counts(tx, str(old_id))
        if not firing and old.status.value in OPEN_STATUSES:
            await _resolve(tx, old, recorded, details={"alerts_moved_to": incident_id})


async def _resolve(
    tx: AsyncConnection, incident: Incident, recorded: RecordedAlerts, *, details: dict[str, Any] | None = None
) -> None:
    await update_incident(
        tx, int(incident.id), status=IncidentStatus.RESOLVED.value, resolved_at=func.clock_timestamp()
    )
    recorded.note(
        "incident_resolved",
        incident_id=int(incident.id),
        old=incident.status,
        new=IncidentStatus.RESOLVED,
        details=details,
    )


async def _write_history(tx: AsyncConnection, recorded: RecordedAlerts, run_id: str) -> None:
    incident_id = int(recorded.incident.id) if recorded.incident else None
    for start in range(0, len(recorded.history), _CHUNK):
        rows = [
            {**line, "incident_id": line["incident_id"] or incident_id, "run_id": run_id}
            for line in recorded.history[start : start + _CHUNK]
        ]
        await tx.execute(_insert_many(HistoryRow, rows))
