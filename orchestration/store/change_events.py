"""Change events in the store, and what is known of an incident's past: what was changed before, and its episodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Alert, Incident, latest_start
from orchestration.changes.events import PostedChange, concerns
from orchestration.contracts import ChangeEvent, Episode
from orchestration.redaction import one_line
from orchestration.settings import Settings
from orchestration.store.actions import NOTE
from orchestration.store.models import ChangeEventRow
from orchestration.store.prepared import Prepared, prepared
from orchestration.store.table import as_json

_T = ChangeEventRow
_COLUMNS = (_T.id, _T.at, _T.kind, _T.title, _T.made_by.label("by"), _T.url, _T.labels)
_AFTER = timedelta(minutes=5)
"""How long after the beginning of an incident something still counts: clocks differ, and alerts name their start."""

_READ, _MOST_EVENTS, _MOST_EPISODES, _MOST_NOTES = 200, 10, 5, 3
_NOTE_CHARACTERS = 200

_VALUES = """(sender, sender_id, at, kind, title, made_by, url, labels)
    values (:sender, :sender_id, :at, :kind, :title, :by, :url, cast(:labels as jsonb))"""

_RECORD = text(
    f"""
    insert into change_event as known {_VALUES}
    on conflict (sender, sender_id) do update
    set at = excluded.at, kind = excluded.kind, title = excluded.title, made_by = excluded.made_by,
        url = excluded.url, labels = excluded.labels
    where :replaces and known.at <= excluded.at
    returning id, xmax = 0 as is_new
    """
)


class Recorded(StrEnum):
    """What a posted change did."""

    CREATED = "created"
    UPDATED = "updated"
    REPEATED = "repeated"


async def record_change(tx: AsyncConnection, posted: PostedChange) -> tuple[Recorded, ChangeEvent]:
    """Store a change event. One that is known by its sender's id stays as it was, unless it says that it replaces it
    and is no older."""
    values: dict[str, Any] = posted.model_dump(exclude={"labels"}) | {"labels": as_json_object(posted.labels)}
    row = (await tx.execute(_RECORD, values)).one_or_none()
    done = Recorded.REPEATED if row is None else Recorded.CREATED if row.is_new else Recorded.UPDATED
    known = select(*_COLUMNS).where(_T.sender == posted.sender, _T.sender_id == posted.sender_id)
    return done, _event((await tx.execute(known)).mappings().one())


def as_json_object(value: Mapping[str, str]) -> str:
    """An object as JSON text."""
    return as_json([dict(value)])[1:-1]


async def list_changes(tx: AsyncConnection, *, limit: int) -> list[ChangeEvent]:
    """The change events, the newest first."""
    rows = (await tx.execute(select(*_COLUMNS).order_by(_T.at.desc(), _T.id.desc()).limit(limit))).mappings()
    return [_event(row) for row in rows]


_WITHIN = Prepared(
    select(*_COLUMNS)
    .where(_T.at.between(bindparam("from"), bindparam("to")))
    .order_by(_T.at.desc(), _T.id.desc())
    .limit(_READ)
)


async def changes_before(
    tx: AsyncConnection, began_at: datetime, labels: Collection[tuple[str, str]], environment: str, minutes: float
) -> list[ChangeEvent]:
    """What was changed within so many minutes before a trouble that concerns the target, the newest first.

    Args:
        tx: any transaction.
        began_at: when the trouble began.
        labels: the labels of the target, each a name and a value.
        environment: where it is.
        minutes: the length of the window.
    """
    window = {"from": began_at - timedelta(minutes=minutes), "to": began_at + _AFTER}
    events = (_event(row) for row in await _WITHIN.rows(tx, window))
    return [event for event in events if concerns(event, labels, environment)][:_MOST_EVENTS]


async def changes_of(
    tx: AsyncConnection, incident: Incident, alerts: Sequence[Alert], settings: Settings
) -> list[ChangeEvent]:
    """What was changed shortly before an incident that concerns its alerts, the newest first.

    An alert that joins an incident later may have a change of its own before it: the latest beginning counts.
    """
    firing = [alert for alert in alerts if alert.firing] or list(alerts)
    labels = {pair for alert in firing for pair in (*alert.labels.items(), ("host", alert.place))}
    began_at = max(incident.opened_at, latest_start(firing) or incident.opened_at)
    return await changes_before(tx, began_at, labels, incident.environment, settings.changes_window_minutes)


_EPISODES = prepared(
    """
    (select ended.incident_id as id, began.at as opened_at, ended.at as ended_at, ended.details->>'by' as ended_by,
        array(select details->>'text' from history where incident_id = :id and event = :note
            and at between began.at and reopened.at order by id desc limit :notes) as notes
    from history as ended
    cross join lateral (
        select at from history where incident_id = :id and id < ended.id
            and event in ('incident_opened', 'incident_reopened') order by id desc limit 1
    ) as began
    cross join lateral (
        select at from history where incident_id = :id and id > ended.id and event = 'incident_reopened'
        order by id limit 1
    ) as reopened
    where ended.incident_id = :id and ended.event in ('incident_resolved', 'incident_expired')
    order by ended.id desc limit :episodes)
    union all
    (select incident.id, incident.opened_at, coalesce(incident.resolved_at, incident.closed_at) as ended_at,
        (select details->>'by' from history where incident_id = incident.id and event = 'incident_resolved'
            order by id desc limit 1) as ended_by,
        array(select details->>'text' from history where incident_id = incident.id and event = :note
            order by id desc limit :notes) as notes
    from incident
    where incident_key = (select incident_key from incident where id = :id)
        and environment = (select environment from incident where id = :id) and id < :id
    order by incident.id desc limit :episodes)
    limit :episodes
    """
)


async def earlier_episodes(tx: AsyncConnection, incident: Incident) -> list[Episode]:
    """When it was like this before, the newest first, and how each time ended: before this incident was reopened, and
    the earlier incidents with its key in its environment."""
    values = {"id": int(incident.id), "note": NOTE, "notes": _MOST_NOTES, "episodes": _MOST_EPISODES}
    return [
        Episode(
            id=str(row["id"]),
            began_at=row["opened_at"],
            ended_at=row["ended_at"],
            ended_by=one_line(row["ended_by"] or "", 80),
            notes=[one_line(note, _NOTE_CHARACTERS) for note in row["notes"] if note],
        )
        for row in await _EPISODES.rows(tx, values)
    ]


def _event(row: Any) -> ChangeEvent:
    return ChangeEvent.model_validate({**row, "id": str(row["id"])})
