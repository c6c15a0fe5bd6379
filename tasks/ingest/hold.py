"""Whether something keeps an incident back for now: a silence, a mute window of its route, another alert, or that it is
flapping."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from pydantic import ValidationError

from orchestration.alert import Incident, Severity
from orchestration.policy.active import ActivePolicy
from orchestration.policy.flapping import flapping_hold, has_to_be_said
from orchestration.policy.holding import HeldBy, Hold, hold_of
from orchestration.reasons import Reason
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store.actions import note_event
from orchestration.store.changes import read_changes
from orchestration.store.database import Transaction, read_clock
from orchestration.store.incidents import firing_labels, update_incident
from orchestration.store.present import read_present
from orchestration.store.silences import list_silences
from orchestration.store.standings import channels_told_firing
from orchestration.timing import Timing
from tasks.ingest.incidents import NotifyDecision


async def find_hold(tx: Transaction, incident: Incident, active: ActivePolicy | None) -> Hold | None:
    """What keeps an open incident back now. None means that nothing does."""
    silences = await list_silences(tx)
    if not silences and (active is None or not active.policy.holds_back):
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
    tx: Transaction,
    incident: Incident,
    decision: NotifyDecision,
    active: ActivePolicy | None,
    run_id: str,
    *,
    flapping: Settings | None,
) -> tuple[NotifyDecision, Incident]:
    """Change the decision about an incident if something keeps it back. Returns it, and the incident after that.

    The end of an incident is not kept back, unless nobody was told that it fires, or it is flapping.

    Args:
        tx: a transaction with the lock of the incident's key.
        incident: as it is now.
        decision: the one without a hold.
        active: the present policy. None means that there is none.
        run_id: the run that has decided.
        flapping: the settings. None means that this is told although the incident is flapping.
    """
    if not decision.notify:
        return decision, incident
    held = held_of(incident)
    flaps = held is not None and held.by is HeldBy.FLAPPING
    if incident.status.ended:
        if held is not None and not flaps and not await channels_told_firing(tx, incident.id):
            return NotifyDecision(False, Reason(held.by)), incident
    elif (hold := await find_hold(tx, incident, active)) is not None:
        return NotifyDecision(False, Reason(hold.by)), await hold_incident(tx, incident, hold, run_id)
    found = None if flapping is None else await _find_flapping(tx, incident, active, held, flapping)
    if found is not None:
        hold, says = found
        decision = replace(decision, note=hold.why) if says else NotifyDecision(False, Reason.FLAPPING)
        return decision, await hold_incident(tx, incident, hold, run_id)
    # What is told of a flapping incident all the same does not end its hold, unless it is the end of the incident.
    if held is None or (not flaps if incident.status.ended else flaps and flapping is None):
        return decision, incident
    return await release(tx, incident, decision)


async def _find_flapping(
    tx: Transaction, incident: Incident, active: ActivePolicy | None, held: Hold | None, settings: Settings
) -> tuple[Hold, bool] | None:
    """What keeps a flapping incident back now, and whether this change has to be told all the same.

    None means that it is not flapping.
    """
    if active is None or (rule := active.policy.timing.flapping) is None:
        return None
    known, at = await read_changes(tx, incident.id, rule.within), await read_clock(tx)
    if (hold := flapping_hold(rule, held, known, at)) is None:
        return None
    critical = incident.severity is Severity.CRITICAL and not incident.status.ended
    again_after = timedelta(seconds=Timing.of(settings, "", active.policy.timing).remind_after(incident))
    says = has_to_be_said(hold, known, at, critical=critical, again_after=again_after)
    return (hold.model_copy(update={"said_at": at}) if says else hold), says


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
