"""How often an incident has changed of late, and who was notified of it: what decides whether it is flapping."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.policy.flapping import Changes

CHANGES = (
    "incident_opened",
    "incident_reopened",
    "incident_resolved",
    "incident_severity_raised",
    "incident_severity_lowered",
    "alert_began_anew",
    "alert_refired",
)
"""The events of the history that are changes. What a push changes counts once. Alerts that join an incident for the
first time, or leave it one after the other, are no flapping."""

_READ = text(
    f"""
    select count(distinct change.run_id) as count, max(change.at) as latest, (
            select coalesce(bool_or(known.version > 0), false) from incident_channel as known
            where known.incident_id = :incident_id
        ) as notified, (
            select coalesce(bool_or(known.severity = 'critical'), false) from incident_channel as known
            where known.incident_id = :incident_id
        ) as notified_critical
    from history as change
    where change.incident_id = :incident_id and change.event in {CHANGES!r} and change.at > clock_timestamp() - :within
    """
)


async def read_changes(tx: AsyncConnection, incident_id: str, within: timedelta) -> Changes:
    """The changes of an incident within this time, and what of it somebody was notified of so far."""
    row = (await tx.execute(_READ, {"incident_id": int(incident_id), "within": within})).mappings().one()
    return Changes(**row)
