"""Heartbeats: what is expected, the run of each that waits until it is missing, and since when beats are accepted.

A beat moves the run that waits, in one statement, so that a worker claims it only if no beat has come. The statement
locks the heartbeat first and the run second; ingest locks the incident's key, the door, and the heartbeat. What a beat
and a worker do at the same moment is decided by the lock of the heartbeat: a run that was claimed looks again.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import Contract
from orchestration.errors import BadInput, HeartbeatNotFound
from orchestration.heartbeat import (
    DOOR_GAP_SECONDS,
    LOOK_SECONDS,
    SOURCE,
    BeatRequest,
    Heartbeat,
    ending_alert,
)
from orchestration.requests import StoredPush
from orchestration.states import RunReason, RunStatus
from orchestration.store.database import Database
from orchestration.store.models import CLAIMABLE_STATUSES, HeartbeatRow
from orchestration.store.pushes import NewPush, NewRun, write_push
from orchestration.store.records import new_id
from orchestration.store.table import columns_of

_H = HeartbeatRow
_COLUMNS = columns_of(HeartbeatRow, Heartbeat)
_LOOK = timedelta(seconds=LOOK_SECONDS)
_NAMES = ", ".join(column.name for column in _COLUMNS)
_IDENTITY = "name = :name and environment = :environment"

_OF_IT = f"""
    run.reason = '{RunReason.HEARTBEAT}' and run.incident_key = '{SOURCE}:' || due.name
    and run.environment = due.environment
"""
_WAITS = f"run.status = '{RunStatus.PENDING}' and run.due_at is not null"
_PRIORITY = "case due.severity when 'critical' then 2 when 'warning' then 1 else 0 end"

# The run that waits for each heartbeat of `due`, until the moment `due.at`: it is moved, or added if none is about to
# look. `created_at` is that moment as well, because lists and waits count from it. `:but` is the run that adds it.
_MOVE = f"""
    update pipeline_run as run
    set due_at = due.at, created_at = due.at, updated_at = clock_timestamp(), severity = due.severity,
        priority = {_PRIORITY}
    from due
    where {_OF_IT} and {_WAITS}
"""
_ADD = f"""
    insert into pipeline_run (
        run_id, trace_id, reason, due_at, incident_key, title, source, severity, priority, environment, payload,
        created_at
    )
    select replace(cast(gen_random_uuid() as text), '-', ''), replace(cast(gen_random_uuid() as text), '-', ''),
        '{RunReason.HEARTBEAT}', due.at, '{SOURCE}:' || due.name, 'Heartbeat ' || due.name, '{SOURCE}', due.severity,
        {_PRIORITY}, due.environment, '{{}}', due.at
    from due
    where not exists (
        select from pipeline_run as run
        where {_OF_IT} and run.duplicate_of is null and run.status in {CLAIMABLE_STATUSES!r}
            and run.ingest_result is null and run.run_id <> :but
    )
    on conflict do nothing
"""
_LATE = f"make_interval(secs => every_seconds + grace_seconds + {LOOK_SECONDS})"

_BEAT = text(
    f"""
    with beaten as (
        update heartbeat
        set last_beat_at = clock_timestamp(), every_seconds = coalesce(cast(:every as float), every_seconds),
            grace_seconds = coalesce(cast(:grace as float), grace_seconds),
            severity = coalesce(cast(:severity as text), severity)
        where {_IDENTITY} and missing_since is null
        returning {_NAMES}
    ),
    due as (select *, last_beat_at + {_LATE} as at from beaten),
    moved as ({_MOVE} returning run.id),
    added as ({_ADD})
    select {_NAMES} from beaten
    """
)

_RETURN = text(
    f"""
    update heartbeat
    set last_beat_at = clock_timestamp(), missing_since = null,
        every_seconds = coalesce(cast(:every as float), every_seconds),
        grace_seconds = coalesce(cast(:grace as float), grace_seconds),
        severity = coalesce(cast(:severity as text), severity)
    where {_IDENTITY}
    returning {_NAMES}
    """
)

_CREATE = text(
    f"""
    insert into heartbeat (name, environment, every_seconds, grace_seconds, severity, last_beat_at)
    values (:name, :environment, :every, :grace, :severity, clock_timestamp())
    returning {_NAMES}
    """
)

_WAIT = text(f"with due as (select *, cast(:at as timestamptz) as at from heartbeat where {_IDENTITY}) {_ADD}")

# A run that waits is never brought forward here: it may wait for a reason that this statement does not know.
_RESUME = text(
    f"""
    with due as (
        select heartbeat.*, greatest(last_beat_at, door.open_since) + {_LATE} as at
        from heartbeat cross join door
        where missing_since is null
    ),
    moved as ({_MOVE} and run.due_at < due.at returning run.id)
    {_ADD}
    """
)

_SEE = text(
    f"""
    insert into door (id, open_since, seen_at)
    select 1, now.at, now.at from (select clock_timestamp() as at) as now
    on conflict (id) do update set
        seen_at = greatest(door.seen_at, excluded.seen_at),
        open_since = case
            when :opens or door.seen_at < excluded.seen_at - make_interval(secs => {DOOR_GAP_SECONDS})
                then greatest(door.seen_at, excluded.seen_at)
            else door.open_since
        end
    returning open_since = seen_at as opened
    """
)

_DOOR = text(
    f"""
    select open_since, seen_at, clock_timestamp() as now,
        seen_at > clock_timestamp() - make_interval(secs => {DOOR_GAP_SECONDS}) as is_open
    from door
    """
)
_DOOR_LOCKED = text(f"{_DOOR.text} for share")


class Beaten(StrEnum):
    """What a beat has done."""

    CREATED = "created"
    """The heartbeat is expected from now on."""
    KEPT = "ok"
    """It is not missing."""
    RETURNED = "returned"
    """It was missing, and its alert ends."""


class Door(Contract):
    """Since when heartbeats can be accepted, and whether they can now."""

    open_since: datetime
    seen_at: datetime
    now: datetime
    is_open: bool


async def beat(database: Database, wanted: BeatRequest, *, most: int) -> tuple[Beaten, Heartbeat]:
    """Note a beat: the heartbeat is expected again, and its alert ends if it was missing.

    `most` is how many heartbeats there may be.

    Raises:
        BadInput: it is not known, and the beat does not say how often it comes; or there are too many.
        Unavailable: the database does not answer; the beat may or may not be noted.
    """
    values = _values(wanted)
    async with database.statement() as tx:  # one statement: it is a transaction of its own
        row = (await tx.execute(_BEAT, values)).mappings().one_or_none()
    if row is not None:
        return Beaten.KEPT, Heartbeat.model_validate(dict(row))
    async with database.transaction() as tx:
        # Nobody else creates a heartbeat until this ends, so that two first beats are one heartbeat.
        await tx.execute(text("select pg_advisory_xact_lock(hashtextextended('alert-pipeline/heartbeats', 0))"))
        known = await get_heartbeat(tx, wanted.name, wanted.environment, lock=True)
        if known is None:
            return Beaten.CREATED, await _create(tx, wanted, most)
        row = (await tx.execute(_RETURN, values)).mappings().one()
        found = Heartbeat.model_validate(dict(row))
        if known.missing_since is not None:
            await _end_alert(tx, known, found.last_beat_at, "It beats again.")
        await wait(tx, found)
        return Beaten.RETURNED if known.missing_since is not None else Beaten.KEPT, found


def _values(wanted: BeatRequest) -> dict[str, Any]:
    return {
        "name": wanted.name,
        "environment": wanted.environment,
        "every": wanted.every_seconds,
        "grace": wanted.grace_seconds,
        "severity": None if wanted.severity is None else wanted.severity.value,
        "but": "",
    }


async def _create(tx: AsyncConnection, wanted: BeatRequest, most: int) -> Heartbeat:
    values = _values(wanted)
    if wanted.every_seconds is None:
        raise BadInput(
            f"There is no heartbeat {wanted.name!r} in the environment {wanted.environment!r} yet: its first beat says "
            "how often it comes, such as ?every=5m"
        )
    if (await tx.execute(select(func.count()).select_from(_H))).scalar_one() >= most:
        raise BadInput(
            f"There are {most} heartbeats already, as many as HEARTBEATS_MAX allows: remove those that nobody needs "
            "with alert-pipeline heartbeats remove"
        )
    row = (await tx.execute(_CREATE, values)).mappings().one()
    created = Heartbeat.model_validate(dict(row))
    await wait(tx, created)
    return created


async def wait(tx: AsyncConnection, heartbeat: Heartbeat, *, until: datetime | None = None, but: str = "") -> None:
    """Queue the run that looks whether the heartbeat is missing, unless one is about to.

    Args:
        tx: a transaction that has the heartbeat locked.
        heartbeat: as it is now.
        until: from when on it may be missing. None means as its last beat says.
        but: the run that looks now, and does not count.
    """
    due_at = (until or heartbeat.missing_after()) + _LOOK
    await tx.execute(_WAIT, {"name": heartbeat.name, "environment": heartbeat.environment, "at": due_at, "but": but})


async def _end_alert(tx: AsyncConnection, heartbeat: Heartbeat, at: datetime, why: str) -> None:
    """Accept the push that ends the alert of a heartbeat that was missing."""
    alert = ending_alert(heartbeat, at, why)
    push = StoredPush(alerts=[alert])
    run = NewRun(
        run_id=new_id(),
        trace_id=new_id(),
        source=alert.source,
        environment=heartbeat.environment,
        payload=push.model_dump_json().encode(),
        incident_key=alert.incident_key,
        title=alert.title,
        alert_fingerprint=alert.fingerprint,
        severity=alert.severity,
        awaits_ingest=True,
    )
    await write_push(tx, NewPush(runs=(run,)))


async def get_heartbeat(tx: AsyncConnection, name: str, environment: str, *, lock: bool = False) -> Heartbeat | None:
    """The heartbeat with this name in this environment; None if there is none. Its row is locked if `lock` is true."""
    query = select(*_COLUMNS).where(_H.name == name, _H.environment == environment)
    row = (await tx.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
    return None if row is None else Heartbeat.model_validate(dict(row))


async def list_heartbeats(tx: AsyncConnection) -> list[Heartbeat]:
    """All heartbeats: those that are missing first, then by environment and name."""
    ordered = select(*_COLUMNS).order_by(_H.missing_since.is_(None), _H.environment, _H.name)
    return [Heartbeat.model_validate(dict(row)) for row in (await tx.execute(ordered)).mappings()]


async def mark_missing(tx: AsyncConnection, heartbeat: Heartbeat) -> None:
    """Note that a heartbeat is missing. The caller has its lock, and records the alert."""
    changed = text(f"update heartbeat set missing_since = clock_timestamp() where {_IDENTITY}")
    await tx.execute(changed, {"name": heartbeat.name, "environment": heartbeat.environment})


_FORGET = text(
    f"""
    delete from pipeline_run as run
    using (select cast(:name as text) as name, cast(:environment as text) as environment) as due
    where {_OF_IT} and {_WAITS} and run.lease_owner is null
    """
)


async def remove(tx: AsyncConnection, name: str, environment: str, *, by: str) -> Heartbeat:
    """Expect a heartbeat no more; its alert ends if it is missing. Returns it as it was.

    Raises:
        HeartbeatNotFound: there is none with this name in this environment.
    """
    known = await get_heartbeat(tx, name, environment, lock=True)
    if known is None:
        raise HeartbeatNotFound(
            f"There is no heartbeat {name[:80]!r} in the environment {environment[:80]!r}; "
            "`alert-pipeline heartbeats list` shows what there is"
        )
    await tx.execute(delete(_H).where(_H.name == name, _H.environment == environment))
    # A run that is claimed at this moment finds no heartbeat, and ends.
    await tx.execute(_FORGET, {"name": name, "environment": environment})
    if known.missing_since is not None:
        now: datetime = (await tx.execute(select(func.clock_timestamp()))).scalar_one()
        await _end_alert(tx, known, now, f"It is not expected any more: {by} has removed it.")
    return known


# Whether beats can be accepted


async def see_door(tx: AsyncConnection, *, opens: bool) -> bool:
    """Note that beats can be accepted now. Returns whether the time counts anew from now on.

    It does if `opens` says that they could not be accepted until now, or if nobody has noted for some time that they
    could. Then each heartbeat gets its full time again, and its run waits for it.
    """
    opened: bool = (await tx.execute(_SEE, {"opens": opens})).scalar_one()
    if opened:
        # A statement of its own: it sees what the transactions have committed that had the door locked.
        await tx.execute(_RESUME, {"but": ""})
    return opened


async def read_door(tx: AsyncConnection, *, lock: bool = False) -> Door | None:
    """Since when beats can be accepted. None means that they never could. With `lock` it stays so until the end of the
    transaction."""
    row = (await tx.execute(_DOOR_LOCKED if lock else _DOOR)).mappings().one_or_none()
    return None if row is None else Door.model_validate(dict(row))


async def resume_waiting(tx: AsyncConnection) -> None:
    """Queue a run for each heartbeat that lacks one, because its run has failed. Nothing, while no beat is accepted."""
    await tx.execute(text("select from door for update"))
    door = await read_door(tx)
    if door is not None and door.is_open:
        await tx.execute(_RESUME, {"but": ""})
