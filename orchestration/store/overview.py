"""How the service and its database are: the last 24 hours, the work that waits, the server. Every query is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import RowMapping, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.states import RunStatus
from orchestration.store.claims import count_leased, count_waiting, oldest_waiting_seconds
from orchestration.store.database import read_clock, seconds_ago
from orchestration.store.deliveries import SENT
from orchestration.store.models import PipelineRunRow
from orchestration.store.records import RunRecord
from orchestration.store.retention import DAY_SECONDS, count_unfinished
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.workers import WorkerRecord, list_workers

HOURS = 24
MOST_RUNS = 100_000
"""How many runs of the last 24 hours are counted at most: the newest."""

MOST_MESSAGES = 20_000
"""How many notified runs of the last 24 hours are looked up at most, for the latency of their messages: the newest."""

_LAST_FAILURES = 5


class Hour(Contract):
    """The runs that were accepted during one hour, by their status now, and the latency of their messages."""

    begins_at: UtcDatetime
    by_status: dict[str, int] = Field(default_factory=dict[str, int])
    p50_ms: float | None = None
    p99_ms: float | None = None


class Overview(Contract):
    """The state of the service. Counts and times are of the last 24 hours, `hours` oldest first."""

    at: UtcDatetime
    waiting: int
    oldest_waiting_seconds: float | None
    running: int
    workers: list[WorkerRecord]
    hours: list[Hour]
    by_status: dict[str, int]
    by_engine: dict[str, int]
    failures: dict[str, int] = Field(description="Failed runs by the stage that they failed at.")
    fallbacks: int
    messages: int
    p50_ms: float | None
    p99_ms: float | None
    cut: bool = Field(description="There were more runs or messages than are counted.")
    last_failures: list[RunRecord]

    @property
    def runs(self) -> int:
        """How many runs were accepted."""
        return sum(self.by_status.values())

    @property
    def told(self) -> int:
        """How many of them notified somebody."""
        return self.by_status.get(RunStatus.NOTIFIED.value, 0)


_RUNS = text(
    f"""
    select
        floor(extract(epoch from created_at - cast(:since as timestamptz)) / 3600)::int as hour,
        status, engine, intelligence_fallback_used as fallback,
        case status when '{RunStatus.FAILED.value}' then coalesce(current_stage, 'before ingest') end as failed_at,
        count(*) as count
    from (
        select created_at, status, engine, intelligence_fallback_used, current_stage
        from pipeline_run
        where created_at > :since and created_at <= clock_timestamp()
        order by created_at desc
        limit {MOST_RUNS}
    ) as newest
    group by 1, 2, 3, 4, 5
    """
)

# The row without an hour, which there always is, summarizes all hours.
_MESSAGES = text(
    f"""
    select
        hour, count(*) as count,
        percentile_cont(0.5) within group (order by ms) as p50_ms,
        percentile_cont(0.99) within group (order by ms) as p99_ms
    from (
        select
            floor(extract(epoch from run.created_at - cast(:since as timestamptz)) / 3600)::int as hour,
            extract(epoch from delivery.settled_at - run.created_at) * 1000 as ms
        from (
            select id, created_at
            from pipeline_run
            where status = '{RunStatus.NOTIFIED.value}' and created_at > :since and created_at <= clock_timestamp()
            order by created_at desc
            limit {MOST_MESSAGES}
        ) as run
        -- Without an offset PostgreSQL may read all deliveries that there are, to join them at once.
        cross join lateral (
            select settled_at from delivery where pipeline_run_id = run.id and status = '{SENT}' offset 0
        ) as delivery
    ) as message
    group by grouping sets ((hour), ())
    """
)


async def read_overview(tx: AsyncConnection) -> Overview:
    """The state of the service now, with the latest runs that failed."""
    now = await read_clock(tx)
    since = now - timedelta(hours=HOURS)
    runs = (await tx.execute(_RUNS, {"since": since})).mappings().all()
    messages = {row["hour"]: dict(row) for row in (await tx.execute(_MESSAGES, {"since": since})).mappings()}
    of_all = messages[None]
    failed = await list_page(tx, RunFilter(status=RunStatus.FAILED), limit=_LAST_FAILURES)
    return Overview(
        at=now,
        waiting=await count_waiting(tx),
        oldest_waiting_seconds=await oldest_waiting_seconds(tx),
        running=await count_leased(tx),
        workers=await list_workers(tx),
        hours=_hours(since, runs, messages),
        by_status=_counted(runs, "status"),
        by_engine=_counted(runs, "engine"),
        failures=_counted(runs, "failed_at"),
        fallbacks=sum(row["count"] for row in runs if row["fallback"]),
        messages=of_all["count"],
        p50_ms=of_all["p50_ms"],
        p99_ms=of_all["p99_ms"],
        cut=sum(row["count"] for row in runs) >= MOST_RUNS or of_all["count"] >= MOST_MESSAGES,
        last_failures=failed.runs,
    )


def _counted(rows: Sequence[RowMapping], name: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for row in rows:
        if row[name] is not None:
            found[row[name]] += row["count"]
    return dict(found)


def _hours(since: datetime, runs: Sequence[RowMapping], messages: Mapping[int | None, dict[str, Any]]) -> list[Hour]:
    hours: list[Hour] = []
    for number in range(HOURS):
        # A run that was accepted after the clock was read belongs to the last hour.
        accepted = [row for row in runs if min(row["hour"], HOURS - 1) == number]
        sent = messages.get(number, {})
        hours.append(
            Hour(
                begins_at=since + timedelta(hours=number),
                by_status=_counted(accepted, "status"),
                p50_ms=sent.get("p50_ms"),
                p99_ms=sent.get("p99_ms"),
            )
        )
    return hours


# The database, for `alert-pipeline doctor`


class Server(Contract):
    """The PostgreSQL server."""

    version: str
    major: int
    read_only: bool
    """The server is a standby, or refuses changes by configuration."""
    connections: int
    max_connections: int
    clock: UtcDatetime


class Trouble(Contract):
    """Runs that a human should look at."""

    stuck: int
    """Runs that are not over and have not changed for long."""
    failed_last_day: int


async def read_server(tx: AsyncConnection) -> Server:
    """The server's version, limits and clock."""
    query = text(
        """
        select current_setting('server_version') as version,
            cast(current_setting('server_version_num') as integer) / 10000 as major,
            pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as read_only,
            (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
            cast(current_setting('max_connections') as integer) as max_connections,
            clock_timestamp() as clock
        """
    )
    return Server.model_validate(dict((await tx.execute(query)).mappings().one()))


async def read_revision(tx: AsyncConnection) -> str | None:
    """The revision of the schema. None means that the database has no schema yet."""
    if (await tx.execute(text("select to_regclass('alembic_version')"))).scalar_one() is None:
        return None
    return (await tx.execute(text("select version_num from alembic_version"))).scalar_one_or_none()


async def read_trouble(tx: AsyncConnection, *, stuck_after_seconds: float) -> Trouble:
    """Count the runs that have not changed for so long, and those that failed within a day."""
    lately = select(func.count()).where(
        PipelineRunRow.status == RunStatus.FAILED.value, PipelineRunRow.created_at > seconds_ago(DAY_SECONDS)
    )
    return Trouble(
        stuck=await count_unfinished(tx, stuck_after_seconds),
        failed_last_day=(await tx.execute(lately)).scalar_one(),
    )
