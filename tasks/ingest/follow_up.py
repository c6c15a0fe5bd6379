"""What ingest does in a run that no push has started: a step of an escalation, a reminder, an expiry, an action.

The incident may have changed since the run was queued. So the state of now decides, read under the lock of its key.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from orchestration.alert import Incident, IncidentStatus
from orchestration.escalation import progress_of
from orchestration.policy.active import ActivePolicy
from orchestration.reasons import Reason
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store import members
from orchestration.store.actions import clear_acknowledgement, note_event
from orchestration.store.database import Transaction
from orchestration.store.incidents import get_incident, is_notified, raise_version, update_incident
from orchestration.store.timers import Known, awaits_ingest, cancel, following, read_known, reschedule, schedule
from orchestration.timing import FollowUp, is_due, is_quiet
from tasks.ingest.escalate import begin_escalation, escalate, restart_escalation
from tasks.ingest.hold import find_hold, hold_incident, keep_back, release
from tasks.ingest.incidents import NotifyDecision

LOOK_AGAIN = timedelta(minutes=5)
"""The delay of an expiry that is due while a push about the incident waits to be recorded."""


async def follow_up(
    tx: Transaction,
    incident: Incident,
    run_id: str,
    reason: RunReason,
    settings: Settings,
    active: ActivePolicy | None = None,
) -> NotifyDecision:
    """Do what a run is for, if it is still due, and schedule what comes next. The caller has the lock of the key.

    Args:
        tx: the transaction of the lock.
        incident: as it is now, read under that lock.
        run_id: the run.
        reason: that of the run: escalation, reminder, expiry or action.
        settings: have the times of reminders and expiry.
        active: the present policy. None means that there is none.
    """
    if reason is RunReason.ACTION:
        return await _after_action(tx, incident, run_id)
    if incident.status.ended and not incident.is_flapping:
        return NotifyDecision(False, Reason.ALREADY_RESOLVED)
    known = await read_known(tx, incident, run_id)
    timing = known.timing(settings)
    due = following(incident, timing, known)
    if due is None or not is_due(due, incident, timing, known.now):
        await schedule(tx, incident, due, follows=run_id)
        return NotifyDecision(False, _why_not(reason, incident))
    if due.reason is not RunReason.EXPIRY and (hold := await find_hold(tx, incident, active)) is not None:
        incident = await hold_incident(tx, incident, hold, run_id)
        await reschedule(tx, incident, settings, run_id=run_id)
        return NotifyDecision(False, Reason(hold.by))
    if due.reason is RunReason.ESCALATION:
        decision = await escalate(tx, incident, active, run_id)
        incident = await get_incident(tx, incident.id)
        await schedule(tx, incident, following(incident, timing, replace(known, notified_at=known.now)), follows=run_id)
        return decision
    if due.reason is RunReason.REMINDER:
        return await _remind(tx, incident, run_id, settings, active)
    return await _expire(tx, incident, run_id, known, active)


async def _after_action(tx: Transaction, incident: Incident, run_id: str) -> NotifyDecision:
    """What a person's action makes known: that it is over, or what happened during a snooze that has been ended."""
    if incident.status.ended:
        return NotifyDecision(True, Reason.RESOLVED_BY_HAND)
    if incident.snoozed_until is not None or await is_notified(tx, int(incident.id), run_id):
        return NotifyDecision(False, Reason.HEARD_OF)
    return NotifyDecision(True, Reason.UNTOLD)


def _why_not(reason: RunReason, incident: Incident) -> Reason:
    if reason is RunReason.EXPIRY:
        return Reason.HEARD_OF
    if incident.status is IncidentStatus.ACKNOWLEDGED:
        return Reason.ACKNOWLEDGED
    if incident.is_flapping:
        return Reason.FLAPPING
    return Reason.SNOOZED if is_quiet(incident) else Reason.NOT_DUE


async def _remind(
    tx: Transaction, incident: Incident, run_id: str, settings: Settings, active: ActivePolicy | None
) -> NotifyDecision:
    """Send the incident again, because it still fires, and end its acknowledgement and its snooze.

    One that was kept back begins now, for whoever is notified. One that was flapping is told as it is now, be it over.
    """
    decision = NotifyDecision(True, Reason.REMINDER)
    if incident.is_flapping:
        progress = progress_of(incident)
        decision, incident = await release(tx, incident, replace(decision, reason=Reason.QUIET_AGAIN))
        if not incident.status.ended and (progress is None or progress.is_over):
            await begin_escalation(tx, incident, active, run_id)
    elif incident.held is not None:
        decision, incident = await release(tx, incident, replace(decision, reason=Reason.HELD_BACK))
        await begin_escalation(tx, incident, active, run_id)
    elif is_quiet(incident):
        await restart_escalation(tx, incident, active, run_id)
    await clear_acknowledgement(tx, incident.id, "it has timed out")
    await update_incident(tx, int(incident.id), snoozed_until=None)
    await raise_version(tx, incident.id)
    await note_event(tx, incident, "incident_reminded", {}, run_id=run_id)
    await reschedule(tx, await get_incident(tx, incident.id), settings, run_id=run_id)
    return decision


async def _expire(
    tx: Transaction, incident: Incident, run_id: str, known: Known, active: ActivePolicy | None
) -> NotifyDecision:
    """End the incident, because no push has named it for a long time; later, if one waits to be recorded."""
    if await awaits_ingest(tx, incident):
        later = FollowUp(reason=RunReason.EXPIRY, due_at=known.now + LOOK_AGAIN)
        await schedule(tx, incident, later, follows=run_id)
        return NotifyDecision(False, Reason.HEARD_OF)
    await members.end_all(tx, int(incident.id), members.EXPIRED)
    ended = {"status": IncidentStatus.RESOLVED.value, "resolved_at": known.now, "snoozed_until": None}
    await update_incident(tx, int(incident.id), **ended)
    await raise_version(tx, incident.id)
    heard_at = incident.heard_at or incident.opened_at
    details = {"heard_at": heard_at.isoformat(), "silent_seconds": round((known.now - heard_at).total_seconds())}
    await note_event(tx, incident, "incident_expired", details, new=IncidentStatus.RESOLVED, run_id=run_id)
    await cancel(tx, incident.id, Reason.ALREADY_RESOLVED)
    expired = NotifyDecision(True, Reason.EXPIRED)
    decision, _ = await keep_back(tx, await get_incident(tx, incident.id), expired, active, run_id, flapping=None)
    return decision
