"""What ingest does in a run that no push has started: a reminder, an expiry, or what a person has done.

The run was queued for what was true then. What is true now decides, by the lock of the incident's key.
"""

from __future__ import annotations

from datetime import timedelta

from orchestration.alert import Incident, IncidentStatus
from orchestration.reasons import Reason
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store.actions import OPEN_INCIDENT, clear_acknowledgement, end_members, note_event
from orchestration.store.database import AsyncConnection
from orchestration.store.incidents import get_incident, raise_version, update_incident
from orchestration.store.records import RunRecord
from orchestration.store.timers import Known, awaits_ingest, cancel, following, read_known, reschedule, schedule
from orchestration.timing import FollowUp, Timing, is_due, is_quiet
from tasks.ingest.incidents import NotifyDecision

EXPIRED = "expired"
"""The status of a member that nobody had heard of for long. If it is heard of again, it fires again."""

LOOK_AGAIN = timedelta(minutes=5)
"""When an incident that is due to expire is looked at again, because a push about it is not recorded yet."""


async def follow_up(tx: AsyncConnection, run: RunRecord, settings: Settings) -> NotifyDecision:
    """Do what the run is for, if it is still due, and schedule what comes next. The caller has the lock of the key.

    `run` is a run with an incident and the reason `reminder`, `expiry` or `action`.
    """
    incident = await get_incident(tx, run.incident_id or "")
    if run.reason is RunReason.ACTION:
        return _after_action(incident)
    if incident.status not in OPEN_INCIDENT:
        await cancel(tx, incident.id, Reason.ALREADY_RESOLVED)
        return NotifyDecision(False, Reason.ALREADY_RESOLVED)
    timing = Timing.of(settings, run.source)
    known = await read_known(tx, incident)
    due = following(incident, timing, known)
    if due is None or not is_due(due, incident, timing, known.now):
        await schedule(tx, incident, due, follows=run.run_id)
        return NotifyDecision(False, _why_not(run, incident))
    if due.reason is RunReason.REMINDER:
        return await _remind(tx, run, incident, settings)
    if await awaits_ingest(tx, incident):
        later = FollowUp(reason=RunReason.EXPIRY, due_at=known.now + LOOK_AGAIN)
        await schedule(tx, incident, later, follows=run.run_id)
        return NotifyDecision(False, Reason.HEARD_OF)
    return await _expire(tx, run, incident, known)


def _after_action(incident: Incident) -> NotifyDecision:
    if incident.status in OPEN_INCIDENT:
        return NotifyDecision(False, Reason.HEARD_OF)
    return NotifyDecision(True, Reason.RESOLVED_BY_HAND)


def _why_not(run: RunRecord, incident: Incident) -> Reason:
    if run.reason is RunReason.EXPIRY:
        return Reason.HEARD_OF
    if incident.status is IncidentStatus.ACKNOWLEDGED:
        return Reason.ACKNOWLEDGED
    return Reason.SNOOZED if is_quiet(incident) else Reason.NOT_DUE


async def _remind(tx: AsyncConnection, run: RunRecord, incident: Incident, settings: Settings) -> NotifyDecision:
    """The incident still fires: it is spoken of again, and its acknowledgement and its snooze are over."""
    await clear_acknowledgement(tx, incident.id, "it has timed out")
    await update_incident(tx, int(incident.id), snoozed_until=None)
    await raise_version(tx, incident.id)
    await note_event(tx, incident, "incident_reminded", {}, run_id=run.run_id)
    await reschedule(tx, await get_incident(tx, incident.id), run, settings)
    return NotifyDecision(True, Reason.REMINDER)


async def _expire(tx: AsyncConnection, run: RunRecord, incident: Incident, known: Known) -> NotifyDecision:
    """Nobody has heard of the incident for long: it counts as over."""
    await end_members(tx, incident, EXPIRED)
    ended = {"status": IncidentStatus.RESOLVED.value, "resolved_at": known.now, "snoozed_until": None}
    await update_incident(tx, int(incident.id), **ended)
    await raise_version(tx, incident.id)
    heard_at = incident.heard_at or incident.opened_at
    details = {"heard_at": heard_at.isoformat(), "silent_seconds": round((known.now - heard_at).total_seconds())}
    await note_event(tx, incident, "incident_expired", details, new=IncidentStatus.RESOLVED, run_id=run.run_id)
    await cancel(tx, incident.id, Reason.ALREADY_RESOLVED)
    return NotifyDecision(True, Reason.EXPIRED)
