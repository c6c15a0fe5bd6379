"""Storms in the store: which waiting runs could open an incident, and how many of them become one run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import STORM_KEY, Alert, Severity
from orchestration.contracts import Contract, StormFacts
from orchestration.reasons import Reason
from orchestration.states import RunReason, RunStatus
from orchestration.store.follow_ups import add_follow_up
from orchestration.store.models import CLAIMABLE_STATUSES, OPEN_STATUSES
from orchestration.store.prepared import prepared
from orchestration.store.table import as_json, one_of

SHOW_EVERY_SECONDS = 10.0
"""How often at most the growth of a storm is shown in a message that can be edited."""

MOST_READ = 20_000
"""How many waiting runs are counted, and looked at together, at most."""

HOT_WINDOWS = 5
"""For so many windows after its latest member a storm takes new ones, however few they are."""


@dataclass(frozen=True, kw_only=True)
class WaitingRun:
    """A run with alerts that waits to be claimed for the first time."""

    id: int
    run_id: str
    trace_id: str
    source: str
    environment: str
    incident_key: str
    payload: dict[str, Any]
    options: dict[str, Any]


# Small parts of an index: this is asked before each claim, and mostly nothing waits.
_MANY = prepared(
    f"""
    with known as (
        select count(*) as waiting from (
            select 1 from pipeline_run
            where status in {CLAIMABLE_STATUSES!r} and due_at is null and reason = '{RunReason.PUSH}' and awaits_ingest
            limit {MOST_READ}
        ) as waiting
    )
    select waiting, (select coalesce(max(id), 0) from pipeline_run) as latest,
        waiting > 0 and exists (
            select 1 from incident where status in {OPEN_STATUSES!r} and starts_with(incident_key, '{STORM_KEY}')
        ) as is_open,
        waiting > 0 and exists (
            select 1 from incident where opened_at > clock_timestamp() - interval '1 day'
        ) as has_opened
    from known
    """
)


@dataclass(frozen=True)
class Backlog:
    """What waits to be claimed for the first time, as far as a storm is concerned."""

    runs: int
    """At most `MOST_READ`."""
    latest: int
    """The number of the latest run that was seen."""
    is_open: bool
    """Whether something waits, and a storm is open."""
    has_opened: bool
    """Whether something waits, and an incident was opened within a day."""

    @property
    def is_alone(self) -> bool:
        """Whether whatever waits is no storm by any policy."""
        return self.runs == 0 or (self.runs == 1 and not self.has_opened and not self.is_open)


async def look(tx: AsyncConnection) -> Backlog:
    """What waits now."""
    found = await _MANY.one(tx)
    return Backlog(found["waiting"], found["latest"], found["is_open"], found["has_opened"])


_LOCK = text("select pg_try_advisory_xact_lock(hashtextextended('alert-pipeline/storms', 0))")


async def lock_storms(tx: AsyncConnection) -> bool:
    """Be the only one that folds, until the transaction ends. False: another process folds already."""
    return bool((await tx.execute(_LOCK)).scalar_one())


# A run of a key of which an earlier one is being executed waits for that one: its alerts are recorded in order.
_WAITING = text(
    f"""
    select run.id, run.run_id, run.trace_id, run.source, run.environment, run.incident_key, run.payload, run.options
    from pipeline_run as run
    where run.status = '{RunStatus.PENDING}' and run.due_at is null and run.reason = '{RunReason.PUSH}'
        and run.awaits_ingest and run.started_at is null and not starts_with(run.incident_key, '{STORM_KEY}')
        and (run.lease_owner is null or run.lease_expires_at < clock_timestamp())
        and not exists (
            select 1 from pipeline_run as earlier
            where earlier.incident_key = run.incident_key and earlier.environment = run.environment
                and earlier.awaits_ingest and earlier.id < run.id
                and (earlier.started_at is not null or earlier.lease_expires_at >= clock_timestamp())
        )
    order by run.id limit :limit
    for update skip locked
    """
)


async def list_waiting(tx: AsyncConnection, limit: int) -> list[WaitingRun]:
    """The runs that wait to be claimed for the first time, in the order of acceptance. They are locked."""
    return [WaitingRun(**row) for row in (await tx.execute(_WAITING, {"limit": limit})).mappings()]


_OPENED = text(
    f"""
    select environment, metadata->>'source' as source, metadata->>'route' as route, count(*) as incidents
    from incident
    where opened_at > clock_timestamp() - cast(:window as interval) and not starts_with(incident_key, '{STORM_KEY}')
    group by 1, 2, 3
    """
)


async def count_opened(tx: AsyncConnection, window: timedelta) -> Counter[tuple[str, str, str]]:
    """How many incidents were opened lately, by environment, source and route."""
    found = (await tx.execute(_OPENED, {"window": window})).tuples()
    return Counter({(place, source or "", route or ""): count for place, source, route, count in found})


@dataclass(frozen=True)
class OpenIncident:
    """An incident that is open, as far as folding needs to know it."""

    id: int
    severity: Severity


_OPEN = text(
    f"""
    select environment, incident_key, id, severity from incident
    where status in {OPEN_STATUSES!r} and (environment, incident_key) in (
        select * from unnest(cast(:environments as text[]), cast(:keys as text[]))
    )
    """
)


async def list_open(tx: AsyncConnection, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], OpenIncident]:
    """The open incidents with these environments and keys."""
    keys = {"environments": [place for place, _ in pairs], "keys": [key for _, key in pairs]}
    found = (await tx.execute(_OPEN, keys)).tuples()
    return {(place, key): OpenIncident(number, Severity(severity)) for place, key, number, severity in found}


_HOT = text(
    f"""
    select environment, incident_key, opened_at < clock_timestamp() - cast(:window as interval) as is_old
    from incident
    where status in {OPEN_STATUSES!r} and starts_with(incident_key, '{STORM_KEY}') and exists (
        select 1 from membership
        where membership.incident_id = incident.id
            and membership.joined_at > clock_timestamp() - :windows * cast(:window as interval)
    )
    union
    select environment, incident_key, false from pipeline_run
    where awaits_ingest and starts_with(incident_key, '{STORM_KEY}')
    order by is_old
    """
)


async def list_hot(tx: AsyncConnection, window: timedelta) -> dict[tuple[str, str], bool]:
    """The environments and keys of the open storms that took a member lately, or are about to open.

    The value is whether the storm is older than a window.
    """
    found = (await tx.execute(_HOT, {"window": window, "windows": HOT_WINDOWS})).tuples()
    return {(place, key): is_old for place, key, is_old in found}


_NAMES = text(
    f"""
    select distinct incident.environment, incident.incident_key, alert.name
    from incident
    join membership on membership.incident_id = incident.id
    join alert on alert.id = membership.alert_id
    where incident.status in {OPEN_STATUSES!r} and starts_with(incident.incident_key, '{STORM_KEY}')
        and alert.name = any(:names)
    """
)


async def names_in_storms(tx: AsyncConnection, names: Collection[str]) -> dict[tuple[str, str], set[str]]:
    """Those of these names that alerts of open storms have or had, by environment and key of the storm."""
    found = defaultdict[tuple[str, str], set[str]](set)
    for place, key, name in (await tx.execute(_NAMES, {"names": list(names)})).tuples():
        found[place, key].add(name)
    return found


_IN_STORMS = text(
    f"""
    select alert.environment, alert.source, alert.fingerprint, min(incident.incident_key)
    from membership
    join incident on incident.id = membership.incident_id
    join alert on alert.id = membership.alert_id
    where membership.status = 'firing' and incident.status in {OPEN_STATUSES!r}
        and starts_with(incident.incident_key, '{STORM_KEY}') and alert.fingerprint in {one_of("fingerprints")}
    group by 1, 2, 3
    union
    select environment, alert ->> 'source', alert ->> 'fingerprint', min(incident_key)
    from pipeline_run cross join jsonb_array_elements(payload -> 'alerts') as alert
    where awaits_ingest and starts_with(incident_key, '{STORM_KEY}')
        and alert ->> 'fingerprint' in {one_of("fingerprints")}
    group by 1, 2, 3
    """
)


async def members_of_storms(tx: AsyncConnection, fingerprints: Sequence[str]) -> dict[tuple[str, str, str], str]:
    """The keys of the storms in which these alerts fire, or are about to, by environment, source and fingerprint."""
    if not fingerprints:  # the runs of storms that wait are large
        return {}
    found = (await tx.execute(_IN_STORMS, {"fingerprints": as_json(fingerprints)})).tuples()
    return {(place, source, fingerprint): key for place, source, fingerprint, key in found}


_GATHER = text(
    """
    update pipeline_run set incident_key = :key, payload = cast(:payload as jsonb), title = :title,
        severity = :severity, priority = :priority, content_hash = null, updated_at = clock_timestamp(),
        incident_id = coalesce(:incident_id, incident_id)
    where id = :id
    """
)
_FOLD = text(
    f"""
    update pipeline_run set status = '{RunStatus.SKIPPED}', skip_reason = '{Reason.FOLDED}', duplicate_of = :last,
        incident_id = coalesce(:incident_id, incident_id), awaits_ingest = false, completed_at = clock_timestamp(),
        updated_at = clock_timestamp(),
        total_duration_ms = extract(epoch from clock_timestamp() - created_at) * 1000
    where id = any(:ids)
    """
)


async def fold(
    tx: AsyncConnection,
    runs: Sequence[WaitingRun],
    *,
    key: str,
    payload: bytes,
    title: str,
    severity: Severity,
    incident: OpenIncident | None,
) -> None:
    """Make one run of the storm out of several: the last one, with the alerts of all. The others are over.

    As the last one it comes after whatever was accepted before it. If the storm is open and gets no worse, all other
    runs come first: it says nothing new.

    Args:
        tx: the transaction that has locked the runs.
        runs: they, in the order of acceptance.
        key: the incident key of the storm.
        payload: the `StoredPush` with all of their alerts, as JSON.
        title: of the run.
        severity: the worst of the alerts.
        incident: the storm's incident, if it is open.
    """
    *others, last = runs
    incident_id = None if incident is None else incident.id
    grows = incident is not None and severity.rank <= incident.severity.rank
    values = {"id": last.id, "key": key, "payload": payload.decode(), "title": title, "incident_id": incident_id}
    priority = Severity.INFO.rank if grows else severity.rank
    await tx.execute(_GATHER, {**values, "severity": severity.value, "priority": priority})
    if others:
        ids = [run.id for run in others]
        await tx.execute(_FOLD, {"ids": ids, "last": last.run_id, "incident_id": incident_id})


_ALONE = text("update pipeline_run set due_at = clock_timestamp() where id = any(:ids)")


async def leave_alone(tx: AsyncConnection, runs: Sequence[WaitingRun]) -> None:
    """Let runs be executed by themselves: what is due at a moment, also one that has come, is never folded."""
    if runs:
        await tx.execute(_ALONE, {"ids": [run.id for run in runs]})


_HOLDS = text(
    f"""
    select run_id, incident_key from pipeline_run
    where awaits_ingest and starts_with(incident_key, '{STORM_KEY}') and environment = :environment and exists (
        select from jsonb_array_elements(payload -> 'alerts') as alert
        where alert ->> 'source' = :source and alert ->> 'fingerprint' = any(:fingerprints)
    )
    order by id limit 1
    """
)


async def waiting_storm_of(
    tx: AsyncConnection, environment: str, source: str, fingerprints: Sequence[str]
) -> tuple[str, str] | None:
    """The run of a storm that awaits ingest and has one of these alerts: its id and incident key. None means none."""
    values = {"environment": environment, "source": source, "fingerprints": list(fingerprints)}
    found = (await tx.execute(_HOLDS, values)).first()
    return None if found is None else (found.run_id, found.incident_key)


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

_SHARE = 0.8
"""The part of its members that share a label which a storm names."""


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

_VALUES_SHOWN = 5


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
