"""What people do with an incident: acknowledge, unacknowledge, resolve, close, snooze, note.

Each action is one transaction under the lock of the incident's key. Doing it again changes nothing, and the answer says
so. Who did it, and from where, is in the history. Channels that can bring their message up to date without a new one
show it at once, by a run of the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident, IncidentStatus
from orchestration.contracts import Contract
from orchestration.errors import BadInput, IllegalTransition
from orchestration.escalation import progress_of
from orchestration.reasons import Reason
from orchestration.redaction import one_line, redact_text
from orchestration.responses import SNOOZE_FOR, Response
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store import members
from orchestration.store.database import read_clock
from orchestration.store.follow_ups import add_follow_up, show_state
from orchestration.store.incidents import (
    UNACKNOWLEDGED,
    find_incident,
    get_incident,
    is_notified,
    lock_incident,
    raise_version,
    update_incident,
)
from orchestration.store.models import HistoryRow
from orchestration.store.records import ACKNOWLEDGEMENT_ENDED
from orchestration.store.timers import cancel, reschedule
from orchestration.timing import Timing

MAX_NOTE_CHARACTERS = 2000
MAX_NAME_CHARACTERS = 64
MAX_SNOOZE = timedelta(days=30)

NOTE = "incident_note"
"""The event of a line of history that has a person's note, as `text` in its details."""

_H = HistoryRow


class Via(StrEnum):
    """The door through which a person acts."""

    CLI = "cli"
    HTTP = "http"
    ADMIN = "admin"
    SLACK = "slack"
    LINK = "link"
    PAGERDUTY = "pagerduty"


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who acts on an incident, and from where.

    Raises:
        BadInput: the name is empty, too long, or has characters that cannot be printed.
    """

    by: str
    via: Via
    key: str = ""
    """The name of the API key. Empty means that none was needed."""
    occurred_at: datetime | None = None
    """When it was done, by the clock of a vendor that says so."""
    account: str = ""
    """The person's account where they acted, such as a Slack user id; or the channel whose link they opened."""

    def __post_init__(self) -> None:
        if not self.by.strip() or len(self.by) > MAX_NAME_CHARACTERS or not self.by.isprintable():
            raise BadInput(f"by: expected a name of 1 to {MAX_NAME_CHARACTERS} printable characters")
        # A script may fill it from a variable that has a credential in it. It is stored, shown, and sent to channels.
        object.__setattr__(self, "by", one_line(self.by, MAX_NAME_CHARACTERS))

    @property
    def details(self) -> dict[str, Any]:
        """The actor as the history names it."""
        occurred_at = self.occurred_at.isoformat() if self.occurred_at else ""
        more = {"key": self.key, "account": self.account, "occurred_at": occurred_at}
        return {"by": self.by, "via": self.via.value, **{name: value for name, value in more.items() if value}}


class Done(Contract):
    """What an action has done."""

    incident: Incident
    changed: bool
    """False means that it was so already."""
    message: str
    """One sentence for the person."""


async def acknowledge(tx: AsyncConnection, incident_id: str, actor: Actor, settings: Settings) -> Done:
    """Stop the reminders of an open incident: somebody looks at it.

    Raises:
        IncidentNotFound: there is no such incident.
        IllegalTransition: it has ended.
    """
    incident = await _locked(tx, incident_id)
    if incident.status is IncidentStatus.ACKNOWLEDGED:
        since = f"{_by(incident.acknowledged_by)}since {_moment(incident.acknowledged_at)}"
        return _unchanged(incident, f"is acknowledged already, {since}")
    _ensure_open(incident, "acknowledged")
    values = {"status": IncidentStatus.ACKNOWLEDGED.value, "acknowledged_at": func.clock_timestamp()}
    incident = await _change(tx, incident, "incident_acknowledged", actor, acknowledged_by=actor.by, **values)
    await reschedule(tx, incident, settings)
    await show_state(tx, int(incident.id))
    until = Timing.of(settings, "").acknowledged_until(incident)
    good_for = f"until {_moment(until)}" if until else "until it ends"
    return _changed(incident, f"is acknowledged by {actor.by}: no reminders {good_for}")


async def unacknowledge(tx: AsyncConnection, incident_id: str, actor: Actor, settings: Settings) -> Done:
    """Undo an acknowledgement: reminders go on.

    Raises:
        IncidentNotFound: there is no such incident.
        IllegalTransition: it has ended.
    """
    incident = await _locked(tx, incident_id)
    _ensure_open(incident, "unacknowledged")
    if incident.status is IncidentStatus.OPEN:
        return _unchanged(incident, "is not acknowledged")
    values = UNACKNOWLEDGED | await _from_the_beginning(tx, incident)
    incident = await _change(tx, incident, "incident_unacknowledged", actor, **values)
    await reschedule(tx, incident, settings)
    await show_state(tx, int(incident.id))
    return _changed(incident, "is not acknowledged any more: reminders go on")


async def clear_acknowledgement(tx: AsyncConnection, incident_id: str, why: str) -> None:
    """End the acknowledgement of an incident, if it has one. `why` is for the history.

    The caller has the lock of the incident's key.
    """
    incident = await get_incident(tx, incident_id)
    if incident.status is IncidentStatus.ACKNOWLEDGED:
        await update_incident(tx, int(incident_id), **UNACKNOWLEDGED)
        details = {"why": why, "by": incident.acknowledged_by}
        await note_event(tx, incident, ACKNOWLEDGEMENT_ENDED, details, new=IncidentStatus.OPEN)


async def resolve(tx: AsyncConnection, incident_id: str, actor: Actor) -> Done:
    """End an open incident, whatever its alerts say. Everybody who knows of it is notified, by a run of the queue.

    A repeat of the same firing does not open it again, if the sender names when its firing began.

    Raises:
        IncidentNotFound: there is no such incident.
    """
    incident = await _locked(tx, incident_id)
    if incident.status.ended:
        ended_at = incident.closed_at or incident.resolved_at
        return _unchanged(incident, f"is {incident.status.value} already, since {_moment(ended_at)}")
    await members.end_all(tx, int(incident.id), members.DISMISSED)
    await raise_version(tx, incident.id)
    values = {"status": IncidentStatus.RESOLVED.value, "resolved_at": func.clock_timestamp(), "snoozed_until": None}
    incident = await _change(tx, incident, "incident_resolved", actor, **values)
    await cancel(tx, incident.id, Reason.ALREADY_RESOLVED)
    await add_follow_up(tx, int(incident.id), RunReason.ACTION)
    return _changed(incident, f"is resolved by {actor.by}")


async def close(tx: AsyncConnection, incident_id: str, actor: Actor) -> Done:
    """Close a resolved incident for good: its alerts open a new one when they fire again. Nobody is notified.

    Raises:
        IncidentNotFound: there is no such incident.
        IllegalTransition: it has not ended.
    """
    incident = await _locked(tx, incident_id)
    if incident.status is IncidentStatus.CLOSED:
        return _unchanged(incident, f"is closed already, since {_moment(incident.closed_at)}")
    if incident.status is not IncidentStatus.RESOLVED:
        raise IllegalTransition(f"{_name(incident)} is {incident.status.value}: resolve it before you close it")
    values = {"status": IncidentStatus.CLOSED.value, "closed_at": func.clock_timestamp()}
    incident = await _change(tx, incident, "incident_closed", actor, **values)
    return _changed(incident, f"is closed by {actor.by}")


async def snooze(
    tx: AsyncConnection, incident_id: str, actor: Actor, settings: Settings, *, until: datetime | timedelta
) -> Done:
    """Send nothing about an open incident until then, unless it gets worse or ends. Then it is spoken of again.

    `until` is a moment, or a time from now. No time at all ends a snooze.

    Raises:
        BadInput: the moment is in the past, or more than 30 days away.
        IncidentNotFound: there is no such incident.
        IllegalTransition: it has ended.
    """
    incident = await _locked(tx, incident_id)
    _ensure_open(incident, "snoozed")
    now = await read_clock(tx)
    ends_at = until if isinstance(until, datetime) else None if not until else now + until
    if ends_at is None:
        return await _end_snooze(tx, incident, actor, settings)
    if not now < ends_at <= now + MAX_SNOOZE:
        raise BadInput(f"A snooze ends in the future, after {MAX_SNOOZE.days} days at most, not at {_moment(ends_at)}")
    if incident.snoozed_until == ends_at:
        return _unchanged(incident, f"is snoozed already until {_moment(ends_at)}")
    details = {"until": ends_at.isoformat()}
    incident = await _change(tx, incident, "incident_snoozed", actor, details, snoozed_until=ends_at)
    await reschedule(tx, incident, settings)
    await show_state(tx, int(incident.id))
    return _changed(incident, f"is snoozed by {actor.by} until {_moment(ends_at)}")


async def respond(tx: AsyncConnection, incident_id: str, response: Response, actor: Actor, settings: Settings) -> Done:
    """Do what a message offers.

    Raises:
        IncidentNotFound: there is no such incident.
        IllegalTransition: it has ended.
    """
    match response:
        case Response.ACKNOWLEDGE:
            return await acknowledge(tx, incident_id, actor, settings)
        case Response.SNOOZE:
            return await snooze(tx, incident_id, actor, settings, until=SNOOZE_FOR)
        case Response.RESOLVE:
            return await resolve(tx, incident_id, actor)


async def _end_snooze(tx: AsyncConnection, incident: Incident, actor: Actor, settings: Settings) -> Done:
    if incident.snoozed_until is None:
        return _unchanged(incident, "is not snoozed")
    values = {"snoozed_until": None} | await _from_the_beginning(tx, incident)
    incident = await _change(tx, incident, "incident_snooze_ended", actor, **values)
    await reschedule(tx, incident, settings)
    await show_state(tx, int(incident.id))
    # The reminder at the end of the snooze would have said what came during it.
    if not await is_notified(tx, int(incident.id)):
        await add_follow_up(tx, int(incident.id), RunReason.ACTION)
    return _changed(incident, "is not snoozed any more")


async def _from_the_beginning(tx: AsyncConnection, incident: Incident) -> dict[str, Any]:
    """The columns of an incident whose escalation begins again, if it has one."""
    progress = progress_of(incident)
    return {} if progress is None else {"escalation": progress.restarted(await read_clock(tx)).model_dump(mode="json")}


async def note(tx: AsyncConnection, incident_id: str, actor: Actor, text: str) -> Done:
    """Add a note to the history of an incident, whatever its status. The latest note is not added twice.

    Raises:
        BadInput: the note is empty or too long.
        IncidentNotFound: there is no such incident.
    """
    text = "".join(character for character in text if character.isprintable() or character in "\n\t").strip()
    if not 1 <= len(text) <= MAX_NOTE_CHARACTERS:
        raise BadInput(f"A note has 1 to {MAX_NOTE_CHARACTERS} characters, not {len(text)}")
    text = redact_text(text)
    incident = await _locked(tx, incident_id)
    query = select(_H.details).where(_H.incident_id == int(incident.id), _H.event == NOTE).order_by(_H.id.desc())
    latest = (await tx.execute(query.limit(1))).scalar_one_or_none()
    if latest is not None and (latest.get("text"), latest.get("by")) == (text, actor.by):
        return _unchanged(incident, "has this note already")
    await note_event(tx, incident, NOTE, {**actor.details, "text": text})
    return _changed(incident, "has a new note")


# What the actions share with each other, and with reminders and expiry


async def note_event(
    tx: AsyncConnection,
    incident: Incident,
    event: str,
    details: Mapping[str, Any],
    *,
    new: IncidentStatus | None = None,
    run_id: str | None = None,
) -> None:
    """Add a line to the history of an incident. `incident` is as it was before; `new` is its new status, if any."""
    changed = new is not None and new is not incident.status
    values = {
        "incident_id": int(incident.id),
        "run_id": run_id,
        "event": event,
        "old_status": incident.status.value if changed else None,
        "new_status": new.value if new is not None and changed else None,
        "details": dict(details),
    }
    await tx.execute(insert(_H).values(values))


async def _locked(tx: AsyncConnection, incident_id: str) -> Incident:
    """Lock the incident's key, and read the incident under that lock: it cannot change until the transaction ends."""
    incident = await find_incident(tx, incident_id)
    await lock_incident(tx, incident.environment, incident.incident_key)
    return await get_incident(tx, incident_id)


async def _change(
    tx: AsyncConnection,
    incident: Incident,
    event: str,
    actor: Actor,
    details: Mapping[str, Any] | None = None,
    /,
    **values: Any,
) -> Incident:
    await update_incident(tx, int(incident.id), **values)
    changed = await get_incident(tx, incident.id)
    await note_event(tx, incident, event, {**actor.details, **(details or {})}, new=changed.status)
    return changed


def _ensure_open(incident: Incident, wanted: str) -> None:
    if incident.status.ended:
        ended_at = incident.closed_at or incident.resolved_at
        raise IllegalTransition(
            f"{_name(incident)} is {incident.status.value} since {_moment(ended_at)}: it cannot be {wanted}"
        )


def _changed(incident: Incident, says: str) -> Done:
    return Done(incident=incident, changed=True, message=f"{_name(incident)} {says}")


def _unchanged(incident: Incident, says: str) -> Done:
    return Done(incident=incident, changed=False, message=f"{_name(incident)} {says}")


def _name(incident: Incident) -> str:
    return f"Incident {incident.id} ({incident.title[:80]})"


def _by(name: str | None) -> str:
    return f"by {name} " if name else ""


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "an unknown time"
