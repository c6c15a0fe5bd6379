"""The state of the service as numbers, for Prometheus: a few statements, each of a bounded part of an index.

All processes see the same state, so only one of them needs to be asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import STORM_KEY, AlertStatus, Severity
from orchestration.errors import Unavailable
from orchestration.signals import logger
from orchestration.store.database import Database
from orchestration.store.models import CLAIMABLE_STATUSES, OPEN_STATUSES
from orchestration.store.workers import WorkerRecord, list_workers

MOST_COUNTED = 20_000
"""Up to this number runs of one priority, and incidents, are counted. Where there are more, this is the number."""

MOST_CHANNELS = 100

FRESH_SECONDS = 1.0
"""For so long a state that was read is good: who scrapes often, or many who scrape, cost the database nothing more."""

READ_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The runs of one priority that are not over and whose time has come."""

    waiting: int = 0
    running: int = 0
    """How many a process executes."""
    oldest_waiting_seconds: float = 0.0
    """0 if none waits."""


@dataclass(frozen=True, kw_only=True)
class PipelineState:
    """What is true now, whichever process looks."""

    queues: Mapping[Severity, Queue]
    incidents: Mapping[tuple[str, str], int]
    """The incidents that have not ended, by severity and status; what is missing is 0."""
    storms: int
    """How many of them are storms."""
    storm_members: int
    """The alerts that fire in a storm."""
    workers: list[WorkerRecord]
    failing_channels: Mapping[str, float]
    """The channels that do not work, and for how many seconds."""


# Of each priority a range of each of the two indexes of runs that are not over.
_RUN = "(lease_owner is null or lease_expires_at < clock_timestamp()) as free, greatest(updated_at, due_at) as since"
_QUEUES = text(
    f"""
    select known.priority, counted.*
    from (values {", ".join(f"({severity.rank})" for severity in Severity)}) as known (priority)
    cross join lateral (
        select count(*) filter (where free) as waiting, count(*) filter (where not free) as running,
            coalesce(extract(epoch from clock_timestamp() - min(since) filter (where free)), 0) as oldest
        from (
            (
                select {_RUN} from pipeline_run
                where status in {CLAIMABLE_STATUSES!r} and due_at is null and priority = known.priority
                order by id limit :most
            )
            union all
            (
                select {_RUN} from pipeline_run
                where status in {CLAIMABLE_STATUSES!r} and due_at <= statement_timestamp()
                    and priority = known.priority
                order by due_at limit :most
            )
        ) as run
    ) as counted
    """
)

_INCIDENTS = text(
    f"""
    select severity, status, count(*)
    from (select severity, status from incident where status in {OPEN_STATUSES!r} limit :most) as incident
    group by severity, status
    """
)

_STORM = f"incident.status in {OPEN_STATUSES!r} and starts_with(incident_key, '{STORM_KEY}')"
_STORMS = text(
    f"""
    select
        (select count(*) from (select 1 from incident where {_STORM} limit :most) as storm),
        (
            select count(*) from (
                select 1 from incident join membership on membership.incident_id = incident.id
                where {_STORM} and membership.status = '{AlertStatus.FIRING.value}' limit :most
            ) as member
        )
    """
)

_CHANNELS = text(
    """
    select name, extract(epoch from clock_timestamp() - failing_since)
    from channel_health where failing_since is not null
    order by failing_since limit :most
    """
)


async def read_state(tx: AsyncConnection) -> PipelineState:
    """Read the state of the service.

    Raises:
        Unavailable: the database does not answer.
    """
    by_rank = {severity.rank: severity for severity in Severity}
    queues = {
        by_rank[priority]: Queue(
            waiting=min(waiting, MOST_COUNTED), running=running, oldest_waiting_seconds=max(0.0, float(oldest))
        )
        for priority, waiting, running, oldest in (await tx.execute(_QUEUES, {"most": MOST_COUNTED})).tuples()
    }
    incidents = (await tx.execute(_INCIDENTS, {"most": MOST_COUNTED})).tuples()
    storms, members = (await tx.execute(_STORMS, {"most": MOST_COUNTED})).tuples().one()
    channels = (await tx.execute(_CHANNELS, {"most": MOST_CHANNELS})).tuples()
    return PipelineState(
        queues=queues,
        incidents={(severity, status): count for severity, status, count in incidents},
        storms=storms,
        storm_members=members,
        workers=await list_workers(tx),
        failing_channels={name: float(seconds) for name, seconds in channels},
    )


class StateReader:
    """Reads the state of the service for whoever scrapes: one at a time, and not more often than `FRESH_SECONDS`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reading = asyncio.Lock()
        self._state: PipelineState | None = None
        self._read_at = -FRESH_SECONDS

    async def read(self) -> PipelineState | None:
        """The state; None if the database does not answer in time."""
        async with self._reading:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                self._state = await self._read()
                self._read_at = time.monotonic()
            return self._state

    async def _read(self) -> PipelineState | None:
        try:
            async with asyncio.timeout(READ_SECONDS), self._database.transaction() as tx:
                return await read_state(tx)
        except (Unavailable, TimeoutError) as error:
            logger.warning("The state of the service is missing in the metrics: %s", error or "it takes too long")
            return None
