"""Open storms: how they grow and calm down, and what fires in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import STORM_KEY, Alert
from orchestration.contracts import Contract, StormFacts
from orchestration.states import RunReason, RunStatus
from orchestration.store.follow_ups import add_follow_up
from orchestration.store.models import OPEN_STATUSES
from orchestration.store.storms import HOT_WINDOWS

SHOW_EVERY_SECONDS = 10.0
"""How often at most the growth of a storm is shown in a message that can be edited."""

_SHARE = 0.8
"""The part of its members that share a label which a storm names."""

_VALUES_SHOWN = 5


_LINK = text("update pipeline_run set incident_id = :incident_id where run_id = any(:run_ids) and incident_id is null")


async def link_folded(tx: AsyncConnection, run_ids: Sequence[str], incident_id: str) -> None:
    """Let folded runs name the storm in which their alerts are."""
    await tx.execute(_LINK, {"run_ids": list(run_ids), "incident_id": int(incident_id)})


_FOLLOWS = text(
    f"""
    select run_id from incident_channel as known
    where incident_id = :incident_id and shows_state and version > 0 and not exists (
        select 1 from pipeline_run
        where incident_id = :incident_id and reason = '{RunReason.STATE}' and status = '{RunStatus.PENDING}'
    )
    order by sent_at desc nulls last limit 1
    """
)


async def show_growth(tx: AsyncConnection, incident_id: str) -> None:
    """Queue the run that shows how a storm has grown, where a message can be edited and no such run waits."""
    follows = (await tx.execute(_FOLLOWS, {"incident_id": int(incident_id)})).scalar_one_or_none()
    if follows is not None:
        options: dict[str, object] = {"follows": follows}
        await add_follow_up(
            tx, int(incident_id), RunReason.STATE, follows=follows, due_in_seconds=SHOW_EVERY_SECONDS, options=options
        )


# A member whose alert fires no more has ended here already.
_CALM = text(
    f"""
    select incident.id, incident.environment, incident.incident_key
    from incident
    join lateral (
        select count(*) as firing from membership
        where membership.incident_id = incident.id and membership.status = 'firing'
    ) as known on true
    where incident.status in {OPEN_STATUSES!r} and starts_with(incident.incident_key, '{STORM_KEY}')
        and known.firing between 1 and :threshold
        and not exists (
            select 1 from membership where membership.incident_id = incident.id
                and joined_at > clock_timestamp() - :windows * cast(:window as interval)
        )
    """
)


async def list_calm(tx: AsyncConnection, threshold: int, window: timedelta) -> list[tuple[int, str, str]]:
    """The open storms that took no member for long, and in which few alerts still fire: id, environment and key."""
    values = {"threshold": threshold, "window": window, "windows": HOT_WINDOWS}
    return [(row.id, row.environment, row.incident_key) for row in await tx.execute(_CALM, values)]


_LEAVE = text(
    """
    with left_it as (
        update membership set status = 'released', updated_at = clock_timestamp()
        where incident_id = :incident_id and status = 'firing'
        returning alert_id
    )
    select said.alert from left_it
    join alert as left_alert on left_alert.id = left_it.alert_id
    join pipeline_run as run on run.id = left_alert.last_run
    cross join lateral (
        select alert from jsonb_array_elements(run.payload->'alerts') as alert
        where alert->>'fingerprint' = left_alert.fingerprint limit 1
    ) as said
    order by left_alert.id
    """
)


async def leave_storm(tx: AsyncConnection, incident_id: int) -> list[Alert]:
    """Let what still fires leave a storm. Returns the alerts, as a push said them last.

    The caller has the lock of the storm's key.
    """
    return [Alert.model_validate(said) for said in (await tx.execute(_LEAVE, {"incident_id": incident_id})).scalars()]


_SHARED = text(
    """
    with firing as (
        select alert.labels from membership join alert on alert.id = membership.alert_id
        where membership.incident_id = :incident_id and membership.status = 'firing'
    )
    select label.key, label.value, count(*)::float / (select count(*) from firing) as share
    from firing cross join lateral jsonb_each_text(firing.labels) as label
    group by 1, 2 having count(*) >= :least * (select count(*) from firing)
    order by share desc, 1 limit 10
    """
)

_BY_LABEL = text(
    """
    with counted as (
        select label.key, label.value, count(*) as alerts
        from membership join alert on alert.id = membership.alert_id
        cross join lateral jsonb_each_text(alert.labels || jsonb_build_object('alertname', alert.name)) as label
        where membership.incident_id = :incident_id and membership.status = 'firing'
        group by 1, 2
    ), ranked as (
        select *, count(*) over (partition by key) as different,
            row_number() over (partition by key order by alerts desc, value) as place
        from counted
    )
    select key, value, alerts, different from ranked where place <= :most order by different, key, place
    """
)


class LabelCount(Contract):
    """How the alerts that fire in a storm divide by one label."""

    label: str
    different: int = Field(description="How many values it has among them.")
    most: dict[str, int] = Field(description="The most frequent values, and how many alerts have each.")


async def count_by_label(tx: AsyncConnection, incident_id: str) -> list[LabelCount]:
    """The labels of what fires in a storm, those with the fewest values first: they tell most."""
    values = {"incident_id": int(incident_id), "most": _VALUES_SHOWN}
    found: dict[str, LabelCount] = {}
    for name, value, alerts, different in (await tx.execute(_BY_LABEL, values)).tuples():
        known = found.setdefault(name, LabelCount(label=name, different=different, most={}))
        known.most[value] = alerts
    return list(found.values())


_RELEASED = text("select count(*) from membership where incident_id = :incident_id and status = 'released'")


async def read_storm(tx: AsyncConnection, incident_id: str) -> StormFacts:
    """What is true of a storm now."""
    values = {"incident_id": int(incident_id)}
    found = (await tx.execute(_SHARED, {**values, "least": _SHARE})).tuples()
    released = (await tx.execute(_RELEASED, values)).scalar_one()
    return StormFacts(shared={name: value for name, value, _ in found}, released=released)
