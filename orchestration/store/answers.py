"""What a vendor says that a person has done there with an incident of ours: done here too, in the vendor's order."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident
from orchestration.contracts import Contract
from orchestration.errors import IllegalTransition, IncidentNotFound
from orchestration.settings import Settings
from orchestration.store import actions
from orchestration.store.actions import Actor
from orchestration.store.incidents import find_incident_of, lock_incident
from orchestration.store.records import ACKNOWLEDGEMENT_ENDED

CLOCKS_DIFFER_SECONDS = 60.0
"""How much a vendor's clock may be behind ours, in seconds."""


class VendorAction(StrEnum):
    """What a person has done at a vendor."""

    ACKNOWLEDGED = "acknowledged"
    UNACKNOWLEDGED = "unacknowledged"
    RESOLVED = "resolved"


class Answered(Contract):
    """What an event of a vendor has changed here."""

    changed: bool
    message: str
    """One sentence for the vendor's log."""


# Events of a vendor may come twice, late, and in another order. Among themselves their own moments count.
_LATEST = text(
    f"""
    select max((details->>'occurred_at')::timestamptz) as theirs, max(at) as ours
    from history
    where incident_id = :incident_id and event in (
        'incident_opened', 'incident_reopened', 'incident_acknowledged', 'incident_unacknowledged',
        '{ACKNOWLEDGEMENT_ENDED}', 'incident_resolved', 'incident_expired', 'incident_closed'
    )
    """
)


async def find_own(tx: AsyncConnection, public_key: str) -> Incident | None:
    """The incident that a vendor names. None means that it is none of ours."""
    try:
        return await find_incident_of(tx, public_key)
    except IncidentNotFound:
        return None


async def answer(
    tx: AsyncConnection,
    incident: Incident,
    action: VendorAction,
    actor: Actor,
    settings: Settings,
    *,
    occurred_at: datetime,
) -> Answered:
    """Do here what a person has done at a vendor, unless something newer is known of the incident."""
    await lock_incident(tx, incident.environment, incident.incident_key)
    latest = (await tx.execute(_LATEST, {"incident_id": int(incident.id)})).one()
    is_old = latest.ours is not None and (latest.ours - occurred_at).total_seconds() > CLOCKS_DIFFER_SECONDS
    if (latest.theirs is not None and occurred_at <= latest.theirs) or is_old:
        return Answered(changed=False, message=f"Incident {incident.id} has changed since: nothing is done")
    try:
        match action:
            case VendorAction.ACKNOWLEDGED:
                done = await actions.acknowledge(tx, incident.id, actor, settings)
            case VendorAction.UNACKNOWLEDGED:
                done = await actions.unacknowledge(tx, incident.id, actor, settings)
            case VendorAction.RESOLVED:
                done = await actions.resolve(tx, incident.id, actor)
    except IllegalTransition as error:
        return Answered(changed=False, message=str(error))
    return Answered(changed=done.changed, message=done.message)
