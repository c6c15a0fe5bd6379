"""How storms begin: which waiting runs would open an incident, and how many of them become one run of a storm."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import STORM_KEY, Severity
from orchestration.reasons import Reason
from orchestration.states import RunReason, RunStatus
from orchestration.store.models import CLAIMABLE_STATUSES, OPEN_STATUSES
from orchestration.store.prepared import prepared
from orchestration.store.table import as_json, one_of

MOST_READ = 20_000
"""How many waiting runs are counted, and looked at together, at most."""

HOT_WINDOWS = 5
"""For so many windows after its latest members a storm takes new ones, also if they are fewer than the threshold."""


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
    """Be the only one that folds, until the transaction ends. False means that another process folds already."""
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
    where status in {OPEN_STATUSES!r} and starts_with(incident_key, '{STORM_KEY}') and (
        select count(*) from (
            select 1 from membership
            where membership.incident_id = incident.id
                and membership.joined_at > clock_timestamp() - :windows * cast(:window as interval)
            limit :many
        ) as lately
    ) = :many
    union
    select environment, incident_key, false from pipeline_run
    where awaits_ingest and starts_with(incident_key, '{STORM_KEY}')
    order by is_old
    """
)


async def list_hot(tx: AsyncConnection, threshold: int, window: timedelta) -> dict[tuple[str, str], bool]:
    """The environments and keys of the open storms that took members lately, or are about to open.

    One alert now and then is no storm any more, however long the members of the storm fire: a quarter of the threshold
    is. What comes to a storm that is not hot has a message of its own.

    The value is whether the storm is older than a window.
    """
    values = {"window": window, "windows": HOT_WINDOWS, "many": ceil(threshold / 4)}
    found = (await tx.execute(_HOT, values)).tuples()
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
        runs: the runs to fold, in the order of acceptance.
        key: the incident key of the storm.
        payload: the `StoredPush` with all of their alerts, as JSON.
        title: of the run.
        severity: the worst of the alerts.
        incident: the storm's incident, if it is open.
    """
    *others, last = runs
    incident_id = None if incident is None else incident.id
    only_grows = incident is not None and severity.rank <= incident.severity.rank
    values = {"id": last.id, "key": key, "payload": payload.decode(), "title": title, "incident_id": incident_id}
    priority = Severity.INFO.rank if only_grows else severity.rank
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
        where alert ->> 'source' = :source and alert ->> 'fingerprint' in {one_of("fingerprints")}
    )
    order by id limit 1
    """
)


async def waiting_storm_of(
    tx: AsyncConnection, environment: str, source: str, fingerprints: Sequence[str]
) -> tuple[str, str] | None:
    """The id and incident key of the first run of a storm that awaits ingest and has one of these alerts, if any."""
    values = {"environment": environment, "source": source, "fingerprints": as_json(fingerprints)}
    found = (await tx.execute(_HOLDS, values)).first()
    return None if found is None else (found.run_id, found.incident_key)
