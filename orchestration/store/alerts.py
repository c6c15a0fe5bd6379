"""What the alerts of a run change in their incident, in one transaction. `recording.py` writes the alerts themselves.

The caller has the lock of the incident's key (`lock_incident`), so two pushes about the same incident are recorded one
after the other, whichever process executes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Alert, AlertStatus, Incident, IncidentStatus, Severity, worst_first
from orchestration.json_text import to_json
from orchestration.news import IncidentChange, News
from orchestration.store import members
from orchestration.store.incidents import (
    INCIDENT_COLUMNS,
    NEXT_STATE,
    NEXT_VERSION,
    UNACKNOWLEDGED,
    get_incident,
    incident_of,
    is_notified,
    update_incident,
)
from orchestration.store.ingest_order import QueuedRun
from orchestration.store.models import IncidentRow
from orchestration.store.prepared import Prepared, prepared
from orchestration.store.recording import (
    CHUNK,
    Recording,
    compare,
    note_alerts,
    write_alerts,
    write_history,
)
from orchestration.store.records import ACKNOWLEDGEMENT_ENDED

_I = IncidentRow

_OMITTED, _GROUP_SIZE = "omitted", "group_size"

_JOINING = frozenset({News.CREATED, News.REFIRED, News.NEW_EPISODE})


@dataclass(frozen=True, kw_only=True)
class RecordedAlerts:
    """What recording the alerts of one run changed."""

    change: IncidentChange
    incident: Incident | None = None
    """The incident as it is now. None means that the alerts belong to none."""
    kept_by: str | None = None
    """Another incident that keeps all of the alerts until they end."""
    alerts_created: int = 0
    alerts_updated: int = 0


async def record_alerts(
    tx: AsyncConnection,
    alerts: Sequence[Alert],
    run: QueuedRun,
    *,
    all_resolved: bool = False,
    omitted: int = 0,
    route: Callable[[], str] | None = None,
) -> RecordedAlerts:
    """Upsert the alerts of one run, and update their incident.

    `alerts` share one incident key and have distinct fingerprints. A firing alert joins the key's open incident,
    reopens a resolved one, or opens a new one; with its last firing member resolved the incident is resolved. An alert
    ends in every incident that it is in. What is older than what is known changes nothing. `omitted` is how many alerts
    of the incident the sender has left out, and `all_resolved` is whether it says that they have ended too. `route`
    names the route that they take, which is noted with an incident that is new.

    Raises:
        RecordedMeanwhile: what the alerts were compared with is no longer what is known. The transaction is of no use.
    """
    recording = await compare(tx, alerts, run)
    recording.omitted = 0 if all_resolved else omitted
    recording.route = route
    fresh = [alert for alert in alerts if recording.news[alert.fingerprint] is not News.STALE]
    elsewhere = await _kept_elsewhere(tx, fresh, recording)
    here = [alert for alert in fresh if alert.fingerprint not in elsewhere]
    is_kept = bool(elsewhere) and not here
    incident, opened, reopened = (None, False, False) if is_kept else await _find_or_open(tx, here, recording)
    incident_id = None if incident is None else int(incident.id)
    ids = await write_alerts(tx, fresh, recording)
    note_alerts(alerts, ids, recording)
    ended = await _end(tx, fresh, ids, incident_id, recording, all_resolved=all_resolved)
    change = IncidentChange(stale=not fresh, elsewhere=is_kept)
    if incident is not None and incident_id is not None:
        change = IncidentChange(
            opened=opened,
            reopened=reopened,
            new_episode=recording.count(News.NEW_EPISODE) > 0,
            new_firing=await _join(tx, here, ids, incident_id, recording),
            newly_resolved=ended,
            known=not opened,
            stale=not fresh,
        )
        change, incident = await _settle(tx, incident, recording, change, listed=len(fresh))
    await write_history(tx, recording, incident_id)
    return RecordedAlerts(
        change=change,
        incident=incident,
        kept_by=str(min(set[int]().union(*elsewhere.values()))) if is_kept else None,
        alerts_created=recording.count(News.CREATED),
        alerts_updated=len(fresh) - recording.count(News.CREATED),
    )


async def settle_members(tx: AsyncConnection, incident_id: int, run: QueuedRun) -> RecordedAlerts:
    """Bring an incident up to date with its members, after one of them has ended in a push about another incident."""
    group = (await tx.execute(select(_I.details).where(_I.id == incident_id))).scalar_one()
    omitted = int(group.get(_OMITTED, 0))
    recording = Recording(run=run, known={}, news={}, moments={}, omitted=omitted, group=group)
    incident = await get_incident(tx, str(incident_id))
    change, incident = await _settle(tx, incident, recording, IncidentChange(known=True))
    await write_history(tx, recording, incident_id)
    return RecordedAlerts(change=change, incident=incident)


async def _kept_elsewhere(
    tx: AsyncConnection, fresh: Sequence[Alert], recording: Recording
) -> Mapping[str, Collection[int]]:
    """The alerts that go on firing in an incident with another key, because the policy's grouping has changed.

    That incident has them until they end. It hears of them here, and learns of a change of their severity.
    """
    run = recording.run
    repeats = {
        alert.fingerprint: alert for alert in fresh if alert.firing and recording.news[alert.fingerprint] is News.REPEAT
    }
    if not repeats:
        return {}
    ids = [recording.known[fingerprint][0] for fingerprint in repeats]
    found = await members.kept_elsewhere(tx, ids, environment=run.environment, key=run.incident_key)
    if found:
        changed = [
            incident_ids
            for fingerprint, incident_ids in found.items()
            if repeats[fingerprint].severity is not recording.known[fingerprint][1].severity
        ]
        all_of = set[int]().union(*found.values())
        await members.heard_elsewhere(tx, all_of, run.created_at, changed=set[int]().union(*changed))
    return found


_LATEST = Prepared(
    select(*INCIDENT_COLUMNS, _I.details.label("group"))
    .where(_I.incident_key == bindparam("key"), _I.environment == bindparam("place"))
    .order_by(_I.id.desc())
    .limit(1)
)


async def _find_or_open(
    tx: AsyncConnection, fresh: Sequence[Alert], recording: Recording
) -> tuple[Incident | None, bool, bool]:
    """The incident that these alerts belong to, and whether it was opened, and reopened, for them.

    None for alerts that belong to none: they are resolved, or say nothing new.
    """
    run = recording.run
    firing = [alert for alert in fresh if alert.firing]
    row = await _LATEST.row(tx, {"key": run.incident_key, "place": run.environment})
    latest, recording.group = (None, {}) if row is None else (incident_of(row), row["group"])
    if latest is not None:
        if not (latest.status.ended and firing and await _fires_again(tx, int(latest.id), firing, recording)):
            return latest, False, False
        if latest.status is IncidentStatus.RESOLVED:
            return await _reopen(tx, int(latest.id), firing, recording), False, True
    return (await _open(tx, firing, recording), True, False) if firing else (None, False, False)


async def _fires_again(tx: AsyncConnection, incident_id: int, firing: Sequence[Alert], recording: Recording) -> bool:
    """Whether firing alerts reopen a resolved incident.

    A mere repeat of an alert whose incident a person has resolved does not.
    """
    if any(recording.news[alert.fingerprint] in _JOINING for alert in firing):
        return True
    ids = [recording.known[alert.fingerprint][0] for alert in firing]
    dismissed = await members.dismissed(tx, incident_id, ids)
    return any(
        recording.known[alert.fingerprint][0] not in dismissed or not recording.only_repeats(alert) for alert in firing
    )


_INSERT = prepared(
    f"""
    insert into incident (environment, incident_key, title, severity, description, metadata, heard_at)
    values (:environment, :incident_key, :title, :severity, :description, cast(:details as jsonb), :heard_at)
    returning {", ".join(column.name for column in INCIDENT_COLUMNS)}
    """
)


async def _open(tx: AsyncConnection, firing: Sequence[Alert], recording: Recording) -> Incident:
    lead, run = worst_first(firing)[0], recording.run
    recording.group = {"source": lead.source, "route": recording.route() if recording.route else ""}
    opened = await _INSERT.one(
        tx,
        {
            "environment": run.environment,
            "incident_key": run.incident_key,
            "title": lead.title or lead.name,
            "severity": Severity.worst(*(alert.severity for alert in firing)).value,
            "description": lead.description,
            "details": to_json(recording.group).decode(),
            "heard_at": run.created_at,
        },
    )
    recording.note("incident_opened", new=IncidentStatus.OPEN)
    return incident_of(opened)


async def _reopen(tx: AsyncConnection, incident_id: int, firing: Sequence[Alert], recording: Recording) -> Incident:
    severity = Severity.worst(*(alert.severity for alert in firing)).value
    cleared = UNACKNOWLEDGED | dict.fromkeys(("resolved_at", "snoozed_until"))
    recording.note("incident_reopened", old=IncidentStatus.RESOLVED, new=IncidentStatus.OPEN)
    return await update_incident(tx, incident_id, severity=severity, **cleared)


async def _join(
    tx: AsyncConnection, fresh: Sequence[Alert], ids: Mapping[str, int], incident_id: int, recording: Recording
) -> int:
    """Make the firing alerts members of the incident. Returns how many fire in it that did not before."""
    firing = [alert for alert in fresh if alert.firing]
    repeats = [ids[alert.fingerprint] for alert in firing if recording.only_repeats(alert)]
    joined = 0
    for start in range(0, len(firing), CHUNK):
        chunk = [ids[alert.fingerprint] for alert in firing[start : start + CHUNK]]
        joined += await members.join(tx, incident_id, chunk, repeats=repeats)
    return joined


async def _end(
    tx: AsyncConnection,
    fresh: Sequence[Alert],
    ids: Mapping[str, int],
    incident_id: int | None,
    recording: Recording,
    *,
    all_resolved: bool,
) -> int:
    """End what the push ends, in every incident that it is in. Returns how many alerts ended in this one."""
    over = [ids[alert.fingerprint] for alert in fresh if not alert.firing]
    if all_resolved and incident_id is not None and over and len(over) == len(fresh):
        over += await _resolve_others(tx, incident_id, over, recording)
    begun = [ids[alert.fingerprint] for alert in fresh if recording.news[alert.fingerprint] is News.NEW_EPISODE]
    return await members.end(tx, over, incident_id, begun=begun)


async def _resolve_others(
    tx: AsyncConnection, incident_id: int, named: Collection[int], recording: Recording
) -> list[int]:
    """Resolve what a push that ends all of an incident does not name. Returns the ids of the alerts."""
    run, latest = recording.run.id, recording.latest
    left_out = await members.resolve_others(tx, incident_id, named, run=run, latest=latest)
    for alert_id in left_out:
        recording.note("alert_resolved", alert_id=alert_id, old=AlertStatus.FIRING, new=AlertStatus.RESOLVED)
    return left_out


def _count_new_omitted(recording: Recording, change: IncidentChange, listed: int, firing: int) -> int:
    """How many more alerts the group has than before, listed or left out, beside the new ones that are listed.

    `listed` is how many alerts the push has, `firing` how many fire in the incident with them.
    """
    if not recording.omitted or change.opened:
        return 0
    before = recording.group.get(_GROUP_SIZE) or firing - change.new_firing + change.newly_resolved
    return max(listed + recording.omitted - int(before) - change.new_firing, 0)


def _group_now(recording: Recording, listed: int) -> dict[str, Any]:
    """The incident's `details` after this push; the sizes of a group are kept as long as it is cut off."""
    kept = {name: value for name, value in recording.group.items() if name not in (_OMITTED, _GROUP_SIZE)}
    size = listed + recording.omitted
    return {**kept, _OMITTED: recording.omitted, _GROUP_SIZE: size} if recording.omitted else kept


async def _settle(
    tx: AsyncConnection, incident: Incident, recording: Recording, change: IncidentChange, *, listed: int = 0
) -> tuple[IncidentChange, Incident]:
    """Give the incident the severity of the worst alert that fires in it, or resolve it when none fires.

    `listed` is how many alerts the push has.
    """
    incident_id = int(incident.id)
    # Of an incident that is new nothing fires but what has just joined it.
    firing, worst = (
        (change.new_firing, incident.severity) if change.opened else await members.count_firing(tx, incident_id)
    )
    found: dict[str, Any] = {"still_firing": firing or recording.omitted}
    found["new_firing"] = change.new_firing + _count_new_omitted(recording, change, listed, firing)
    values: dict[str, Any] = {} if change.stale or change.opened else {"heard_at": recording.run.created_at}
    if not incident.status.ended:
        values |= _apply_firing(incident, firing, worst, recording, found)
        changed = change.newly_resolved or change.reopened or "severity" in values
        if firing and changed:
            values |= await members.named_now(tx, incident_id)
    found["snoozed"] = incident.snoozed_until is not None and incident.snoozed_until > datetime.now(UTC)
    settled = replace(change, **found)
    if incident.status is IncidentStatus.ACKNOWLEDGED and (settled.new_episode or settled.severity_raised):
        values |= UNACKNOWLEDGED
        recording.note(ACKNOWLEDGEMENT_ENDED, old=IncidentStatus.ACKNOWLEDGED, new=IncidentStatus.OPEN)
    if settled.material and not settled.opened:
        values |= NEXT_STATE if incident.is_storm and settled.only_grew else NEXT_VERSION
    if listed and (recording.omitted or _OMITTED in recording.group):
        values["details"] = _group_now(recording, listed)
    if values:
        incident = await update_incident(tx, incident_id, **values)
    if settled.known and not settled.material:
        notified = await is_notified(tx, incident_id, recording.run.run_id)
        settled = replace(settled, notified_before=notified)
    return settled, incident


def _apply_firing(
    incident: Incident, firing: int, worst: Severity, recording: Recording, found: dict[str, Any]
) -> dict[str, Any]:
    """The new values of an open incident in which `firing` alerts fire. What has changed is added to `found`.

    While the sender leaves out alerts, and does not say that all have ended, it stays open: one of those may fire.
    """
    if not firing and not recording.omitted:
        found["resolved"] = True
        recording.note("incident_resolved", old=incident.status, new=IncidentStatus.RESOLVED)
        resolved = {"status": IncidentStatus.RESOLVED.value, "resolved_at": func.clock_timestamp()}
        return {**resolved, "snoozed_until": None}
    if not firing or worst is incident.severity:
        return {}
    found["severity_raised"] = worst.rank > incident.severity.rank
    found["severity_lowered"] = not found["severity_raised"]
    event = "incident_severity_raised" if found["severity_raised"] else "incident_severity_lowered"
    recording.note(event, old=incident.severity, new=worst)
    return {"severity": worst.value}
