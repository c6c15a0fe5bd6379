"""When the escalation of an incident begins, goes on, and begins again."""

from __future__ import annotations

from datetime import datetime

from orchestration.alert import Incident
from orchestration.escalation import EscalationProgress, progress_of
from orchestration.policy.active import ActivePolicy
from orchestration.policy.escalating import notified_by, plan
from orchestration.reasons import Reason
from orchestration.store.actions import note_event
from orchestration.store.database import Transaction, read_clock
from orchestration.store.incidents import get_incident, raise_version, raise_version_for, update_incident
from orchestration.store.present import read_present
from tasks.ingest.incidents import NotifyDecision


async def begin_escalation(tx: Transaction, incident: Incident, active: ActivePolicy | None, run_id: str) -> Incident:
    """Begin the escalation that the policy's route names. Its first step is told with what has changed.

    Returns the incident after that.
    """
    if incident.escalation is None and (active is None or not active.policy.escalations):
        return incident
    present = await read_present(tx, incident.id)
    progress = None
    if active is not None:
        decision = active.route(present.alerts, environment=incident.environment, at=present.at)
        progress = plan(active.policy, decision, incident.severity, present.at)
    if progress is None:
        return await update_incident(tx, int(incident.id), escalation=None) if incident.escalation else incident
    if (before := progress_of(incident)) is not None:
        # Whoever was told before hears of the end, too.
        progress = progress.model_copy(update={"told": before.told})
    return await _save(tx, incident, _take_due(progress, active, present.at), run_id)


async def restart_escalation(tx: Transaction, incident: Incident, active: ActivePolicy | None, run_id: str) -> None:
    """Begin the escalation of an incident again, whose acknowledgement or snooze has ended."""
    if (progress := progress_of(incident)) is not None:
        now = await read_clock(tx)
        await _save(tx, incident, _take_due(progress.restarted(now), active, now), run_id)


async def escalate(tx: Transaction, incident: Incident, active: ActivePolicy | None, run_id: str) -> NotifyDecision:
    """Take the step that is due. Only the channels of the step are notified: the others know of the incident."""
    progress = progress_of(incident)
    if progress is None:
        return NotifyDecision(False, Reason.NOT_DUE)
    progress = _take_due(progress, active, await read_clock(tx))
    await _save(tx, incident, progress, run_id)
    channels = [name for step in progress.last for name in step.channels]
    if None in channels:
        # Which the default channels are is known when they are notified.
        await raise_version(tx, incident.id)
    else:
        await raise_version_for(tx, incident.id, [name for name in channels if name])
    return NotifyDecision(True, Reason.ESCALATION_ENDED if progress.steps and progress.is_over else Reason.ESCALATED)


def _take_due(progress: EscalationProgress, active: ActivePolicy | None, at: datetime) -> EscalationProgress:
    return progress.take_due(at, lambda step, number: notified_by(step, number, at, active, progress))


async def _save(tx: Transaction, incident: Incident, progress: EscalationProgress, run_id: str) -> Incident:
    for step in progress.last:
        channels = [name or "the default channels" for name in step.channels]
        said = {"to": ", ".join(step.people or channels), "why": step.note}
        whom = {"number": step.number, "people": list(step.people), "channels": channels}
        details = {"escalation": progress.name, **whom, **said}
        await note_event(tx, incident, "incident_escalated", details, run_id=run_id)
    await update_incident(tx, int(incident.id), escalation=progress.model_dump(mode="json"))
    return await get_incident(tx, incident.id)
