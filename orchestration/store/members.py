"""`membership`: which alerts are in which incident, and which of them fire there. An alert can be in several."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import AlertStatus, Severity, named
from orchestration.contracts import Contract
from orchestration.places import host_of
from orchestration.policy.grouping import KEY_START
from orchestration.states import RunReason
from orchestration.store.follow_ups import add_follow_up
from orchestration.store.models import OPEN_STATUSES, AlertRow, MembershipRow
from orchestration.store.prepared import prepared

_A = AlertRow
_M = MembershipRow

EXPIRED = "expired"
"""The status of a member whose incident has expired. The next push that says so makes it fire again."""

DISMISSED = "dismissed"
"""The status of a member whose incident a person has resolved while the sender still says that it fires."""


_KEPT_ELSEWHERE = text(
    f"""
    select alert.fingerprint, membership.incident_id
    from membership
    join incident on incident.id = membership.incident_id
    join alert on alert.id = membership.alert_id
    where membership.alert_id = any(:alert_ids) and membership.status = '{AlertStatus.FIRING}'
        and incident.status in {OPEN_STATUSES!r} and incident.environment = :environment
        and incident.incident_key <> :key
        and (starts_with(incident.incident_key, '{KEY_START}') or starts_with(:key, '{KEY_START}'))
    """
)


async def kept_elsewhere(
    tx: AsyncConnection, alert_ids: Collection[int], *, environment: str, key: str
) -> dict[str, set[int]]:
    """Which of these alerts fire in open incidents that the policy's grouping has made, or would not make any more.

    Returns the numbers of those incidents by the alert's fingerprint. Two keys of senders are no such case: they say
    themselves that an alert is in two incidents. `key` is the present incident key of the alerts.
    """
    values = {"alert_ids": list(alert_ids), "environment": environment, "key": key}
    found = dict[str, set[int]]()
    for fingerprint, incident_id in (await tx.execute(_KEPT_ELSEWHERE, values)).tuples():
        found.setdefault(fingerprint, set()).add(incident_id)
    return found


_HEARD = text(
    """
    update incident set heard_at = greatest(heard_at, :at), updated_at = clock_timestamp() where id = any(:incident_ids)
    """
)


async def heard_elsewhere(
    tx: AsyncConnection, incident_ids: Collection[int], at: datetime, *, changed: Collection[int]
) -> None:
    """Note that a push spoke of other incidents. Those in which its alerts have `changed` get a run of their own."""
    await tx.execute(_HEARD, {"incident_ids": sorted(incident_ids), "at": at})
    for incident_id in sorted(changed):
        await add_follow_up(tx, incident_id, RunReason.MEMBER_ENDED)


_JOIN = prepared(
    f"""
    insert into membership (incident_id, alert_id, status)
    select :incident_id, alert_id, '{AlertStatus.FIRING}' from unnest(cast(:alert_ids as bigint[])) as alert_id
    on conflict (incident_id, alert_id) do update
    set status = excluded.status, updated_at = clock_timestamp()
    where membership.status <> excluded.status
        and not (membership.status = '{DISMISSED}' and membership.alert_id = any(:repeats))
    returning alert_id
    """
)


async def join(tx: AsyncConnection, incident_id: int, alert_ids: Collection[int], *, repeats: Collection[int]) -> int:
    """Let these alerts, at least one, fire in an incident. Returns how many of them did not fire in it before.

    An alert in `repeats` that a person has dismissed stays dismissed: the push repeats the same firing.
    """
    values = {"incident_id": incident_id, "alert_ids": list(alert_ids), "repeats": list(repeats)}
    return len(await _JOIN.rows(tx, values))


async def dismissed(tx: AsyncConnection, incident_id: int, alert_ids: Collection[int]) -> set[int]:
    """Those of the alerts that fired in the incident when a person resolved it."""
    query = select(_M.alert_id).where(_M.incident_id == incident_id, _M.alert_id.in_(alert_ids), _M.status == DISMISSED)
    return set((await tx.execute(query)).scalars())


async def count_firing(tx: AsyncConnection, incident_id: int) -> tuple[int, Severity]:
    """How many alerts fire in an incident, and the severity of the worst of them."""
    query = (
        select(_A.severity, func.count())
        .join(_M, _M.alert_id == _A.id)
        .where(_M.incident_id == incident_id, _M.status == AlertStatus.FIRING.value)
        .group_by(_A.severity)
    )
    found = {Severity(severity): count for severity, count in (await tx.execute(query)).tuples()}
    return sum(found.values()), Severity.worst(*found)


_WORST = text(
    f"""
    select alert.name, alert.labels, alert.description, count(*) over () as members,
        count(*) filter (where membership.status = '{AlertStatus.FIRING}') over () as firing
    from membership join alert on alert.id = membership.alert_id
    where membership.incident_id = :incident_id
    order by membership.status = '{AlertStatus.FIRING}' desc,
        case alert.severity when 'critical' then 0 when 'warning' then 1 else 2 end,
        alert.started_at nulls last, alert.id
    limit 1
    """
)


class Member(Contract):
    """An alert that is or was in an incident, and how it stands there."""

    name: str
    labels: dict[str, str]
    severity: Severity
    status: str


_MEMBERS = text(
    f"""
    select alert.name, alert.labels, alert.severity, membership.status, count(*) over () as members
    from membership join alert on alert.id = membership.alert_id
    where membership.incident_id = :incident_id
    order by membership.status = '{AlertStatus.FIRING}' desc,
        case alert.severity when 'critical' then 0 when 'warning' then 1 else 2 end, alert.id
    limit :most
    """
)


async def list_members(tx: AsyncConnection, incident_id: int, most: int) -> tuple[list[Member], int]:
    """The alerts of an incident, those that fire and are worst first, `most` at most; and how many there are."""
    found = (await tx.execute(_MEMBERS, {"incident_id": incident_id, "most": most})).all()
    members = [Member(name=row.name, labels=row.labels, severity=row.severity, status=row.status) for row in found]
    return members, found[0].members if found else 0


async def named_now(tx: AsyncConnection, incident_id: int) -> dict[str, str]:
    """Title and description of an incident in which several alerts are or were: those of the worst that fires, and how
    many others do.

    Empty for an incident that is about one alert, and keeps what that said.
    """
    worst = (await tx.execute(_WORST, {"incident_id": incident_id})).one_or_none()
    if worst is None or worst.members == 1:
        return {}
    title = named(worst.name, host_of(worst.labels), f" and {worst.firing - 1} more" if worst.firing > 1 else "")
    return {"title": title, "description": worst.description}


_END = text(
    """
    update membership set status = 'resolved', updated_at = clock_timestamp()
    from (
        select incident_id, alert_id, status from membership
        where alert_id = any(:alert_ids) and status <> 'resolved'
            or alert_id = any(:begun) and status = 'dismissed'
        for update
    ) as before
    where before.incident_id = membership.incident_id and before.alert_id = membership.alert_id
    returning membership.incident_id, before.status = 'firing' as fired
    """
)


async def end(
    tx: AsyncConnection, alert_ids: Collection[int], incident_id: int | None, *, begun: Collection[int] = ()
) -> int:
    """End alerts in every incident that they are in. Returns how many ended in the one whose lock the caller has.

    Each other incident gets a run of its own, which brings it up to date under its own lock. `begun` are alerts with a
    new episode: where a person has dismissed the previous one, that one is over too.
    """
    if not (alert_ids or begun):
        return 0
    values = {"alert_ids": [*alert_ids], "begun": [*begun]}
    ended = [row.incident_id for row in await tx.execute(_END, values) if row.fired]
    for other in sorted({*ended} - {incident_id}):
        await add_follow_up(tx, other, RunReason.MEMBER_ENDED)
    return ended.count(incident_id)


# A push that arrives late knows nothing of what has begun since, so it does not end that.
_RESOLVE_OTHERS = text(
    """
    with others as (
        select alert.id
        from membership join alert on alert.id = membership.alert_id
        where membership.incident_id = :incident_id and membership.status = 'firing' and alert.id <> all(:named)
            and (alert.last_run > :run) is not true
            and (coalesce(alert.episode_at, alert.occurred_at) > cast(:latest as timestamptz)) is not true
        order by alert.id for update of alert
    )
    update alert
    set status = 'resolved', ended_at = coalesce(cast(:latest as timestamptz), clock_timestamp()), last_run = :run,
        received_at = (select run.created_at from pipeline_run as run where run.id = :run),
        updated_at = clock_timestamp()
    from others where others.id = alert.id
    returning alert.id
    """
)


async def resolve_others(
    tx: AsyncConnection, incident_id: int, named: Collection[int], *, run: int, latest: datetime | None
) -> list[int]:
    """Resolve the alerts that fire in an incident, except those that the push names. Returns the ids of their rows.

    Args:
        tx: the transaction that has the lock of the incident's key.
        incident_id: the incident. Its sender says that every alert of it has ended.
        named: the ids of the alerts that the push names.
        run: the number of the push's run.
        latest: the latest moment that the push names. What began later is left alone.
    """
    values = {"incident_id": incident_id, "named": [*named], "run": run, "latest": latest}
    return sorted((await tx.execute(_RESOLVE_OTHERS, values)).scalars())


async def end_all(tx: AsyncConnection, incident_id: int, status: str) -> None:
    """Give each alert that fires in an incident another status there. The alert itself is what its sender says."""
    firing = (_M.incident_id == incident_id, _M.status == AlertStatus.FIRING.value)
    await tx.execute(update(_M).where(*firing).values(status=status, updated_at=func.clock_timestamp()))
