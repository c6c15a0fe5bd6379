"""Whether something keeps an incident back for now: a silence, a mute window of its route, or another alert."""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

from orchestration.alert import Incident
from orchestration.policy.active import ActivePolicy
from orchestration.policy.holding import Hold, hold_of
from orchestration.reasons import Reason
from orchestration.signals import logger
from orchestration.store.actions import note_event
from orchestration.store.database import Transaction
from orchestration.store.incidents import firing_labels, update_incident
from orchestration.store.present import read_present
from orchestration.store.silences import list_silences
from orchestration.store.standings import channels_told_firing
from tasks.ingest.incidents import NotifyDecision


async def find_hold(tx: Transaction, incident: Incident, active: ActivePolicy | None) -> Hold | None:
    """What keeps an open incident back now. None means that nothing does."""
    silences = await list_silences(tx)
    if active is None and not silences:
        return None
    present = await read_present(tx, incident.id)
    explains = active is not None and bool(active.policy.inhibitions)
    return hold_of(
        active,
        silences,
        [alert for alert in present.alerts if alert.firing],
        await firing_labels(tx, incident.environment) if explains else (),
        environment=incident.environment,
        at=present.at,
    )


async def keep_back(
    tx: Transaction, incident: Incident, decision: NotifyDecision, active: ActivePolicy | None, run_id: str
) -> tuple[NotifyDecision, Incident]:
    """Change the decision about an incident if something keeps it back. Returns it, and the incident after that.

    The end of an incident is not kept back, unless nobody was told that it fires.
    """
    if not decision.notify:
        return decision, incident
    held = held_of(incident)
    if incident.status.ended:
        if held is not None and not await channels_told_firing(tx, incident.id):
            return NotifyDecision(False, Reason(held.by)), incident
        return decision, incident
    hold = await find_hold(tx, incident, active)
    if hold is None:
        return (decision, incident) if held is None else await release(tx, incident, decision)
    return NotifyDecision(False, Reason(hold.by)), await hold_incident(tx, incident, hold, run_id)


async def hold_incident(tx: Transaction, incident: Incident, hold: Hold, run_id: str) -> Incident:
    """Keep an incident back. The history has a line for each thing that does."""
    before = held_of(incident)
    if before is None or before.why != hold.why:
        details = {"held_by": hold.by.value, "why": hold.why}
        await note_event(tx, incident, "incident_held_back", details, run_id=run_id)
    return await update_incident(tx, int(incident.id), held=hold.model_dump(mode="json"))


async def release(tx: Transaction, incident: Incident, decision: NotifyDecision) -> tuple[NotifyDecision, Incident]:
    """End what kept an incident back. The message says what it was."""
    held = held_of(incident)
    note = f"it was kept back: {held.why}" if held is not None else ""
    return replace(decision, note=note), await update_incident(tx, int(incident.id), held=None)


def held_of(incident: Incident) -> Hold | None:
    """What has kept an incident back so far. None also means that this version cannot read it."""
    if incident.held is None:
        return None
    try:
        return Hold.model_validate(incident.held)
    except ValidationError:
        logger.error("What keeps incident %s back cannot be read", incident.id)
        return None
