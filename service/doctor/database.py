"""PostgreSQL: does it answer, is the schema ours, do the clocks agree, does the work go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from flows.upkeep import STUCK_SECONDS
from orchestration.settings import Settings
from orchestration.store import overview
from orchestration.store.claims import count_waiting, oldest_waiting_seconds
from orchestration.store.database import Database, head_revision, read_clock
from orchestration.store.workers import list_workers
from service.doctor.finding import Finding, Level, broken, look, ok, skipped, warning
from service.doctor.host import clock_is_kept

OLDEST_MAJOR = 14
CLOCK_WARNING_SECONDS, CLOCK_BROKEN_SECONDS = 1.0, 10.0

_LATER = ("migrations", "clock", "workers", "inbox", "runs")
_START = "Start it with `alert-pipeline up`; other commands start it for their own duration"


async def database_findings(settings: Settings, url: str | None, *, embedded: bool) -> list[Finding]:
    """The database, and what is in it. `url` None: the embedded server does not run."""
    if url is None:
        idle = warning("database", "the embedded PostgreSQL does not run", _START)
        return [idle, *skipped(_LATER, "no database runs")]
    mend = _START if embedded else "Look at DATABASE_URL, at the server, and at the network between"
    database = Database(url, pool_size=4)
    try:
        first = await look("database", lambda: _server(database, embedded=embedded), mend=mend)
        if first.level is Level.BROKEN:
            return [first, *skipped(_LATER, "the database cannot be used")]
        schema = await look("migrations", lambda: _schema(database), mend=mend)
        clock = look("clock", lambda: _clock(database), mend="Let the system keep its clock by NTP")
        if schema.level is not Level.OK:
            return [first, schema, await clock, *skipped(_LATER[2:], "the schema is not the one of this version")]
        parts: dict[str, Callable[[], Awaitable[Finding]]] = {
            "workers": lambda: _workers(database),
            "inbox": lambda: _inbox(database, settings),
            "runs": lambda: _runs(database),
        }
        looks = (look(check, work, mend=mend) for check, work in parts.items())
        return [first, schema, *await asyncio.gather(clock, *looks)]
    finally:
        await database.close()


async def _server(database: Database, *, embedded: bool) -> Finding:
    async with database.transaction() as tx:
        server = await overview.read_server(tx)
    detail = f"PostgreSQL {server.version}{', embedded' if embedded else ''}"
    if server.major < OLDEST_MAJOR:
        return broken("database", detail, f"Take PostgreSQL {OLDEST_MAJOR} or later")
    if server.read_only:
        return broken("database", f"{detail}, takes no changes", "Point DATABASE_URL at the primary, not at a standby")
    detail += f", {server.connections} of {server.max_connections} connections in use"
    if server.connections > server.max_connections * 0.9:
        return warning("database", detail, "Raise max_connections, or look at who holds so many")
    return ok("database", detail)


async def _schema(database: Database) -> Finding:
    async with database.transaction() as tx:
        found = await overview.read_revision(tx)
    ours = head_revision()
    if found == ours:
        return ok("migrations", f"the schema is at {found}")
    if found is None or found < ours:
        then = "Start the API or a worker of this version: it brings the schema up to date"
        return warning("migrations", f"the schema is at {found or 'nothing'}, this version works with {ours}", then)
    return broken(
        "migrations",
        f"the schema is at {found}, which this version, {ours}, does not know",
        "Upgrade this installation, or point DATABASE_URL elsewhere",
    )


async def _clock(database: Database) -> Finding:
    """Against the database's, by which leases, heartbeats and deadlines go."""
    async with database.transaction() as tx:
        await read_clock(tx)  # the connection is there now, and the next answer takes one round trip
        before = datetime.now(UTC)
        theirs = await read_clock(tx)
        after = datetime.now(UTC)
    off = abs((theirs - (before + (after - before) / 2)).total_seconds())
    kept = await clock_is_kept()
    detail = f"{off * 1000:.0f} ms off the database's"
    mend = "Let both machines keep their clocks by NTP (chrony, systemd-timesyncd)"
    if off > CLOCK_BROKEN_SECONDS:
        return broken("clock", detail, mend)
    if off > CLOCK_WARNING_SECONDS or kept is False:
        return warning("clock", detail + ("; NTP does not keep this machine's clock" if kept is False else ""), mend)
    return ok("clock", detail + ("; kept by NTP" if kept else ""))


async def _workers(database: Database) -> Finding:
    async with database.transaction() as tx:
        alive = await list_workers(tx)
    if not alive:
        return broken(
            "workers",
            "no worker has a fresh heartbeat: what comes in over HTTP waits",
            "Start one with `alert-pipeline worker`, or everything with `alert-pipeline up`",
        )
    detail = ", ".join(f"{worker.host}/{worker.pid} with {worker.running} runs" for worker in alive)
    without = [worker for worker in alive if not worker.prefect_ok]
    if without:
        return warning("workers", f"{detail}; {len(without)} without Prefect", "Look at Prefect's server, see below")
    return ok("workers", detail)


async def _inbox(database: Database, settings: Settings) -> Finding:
    async with database.transaction() as tx:
        waiting, oldest = await count_waiting(tx), await oldest_waiting_seconds(tx)
    if not waiting or oldest is None:
        return ok("inbox", "empty")
    detail = f"{waiting} waiting, the oldest for {oldest:.0f} s"
    mend = "Look whether workers live and whether the pool is paused; more of them carry more at once"
    if oldest > STUCK_SECONDS:
        return broken("inbox", detail, mend)
    deep = waiting >= settings.inbox_warning or oldest > settings.page_deadline_seconds
    return warning("inbox", detail, mend) if deep else ok("inbox", detail)


async def _runs(database: Database) -> Finding:
    async with database.transaction() as tx:
        trouble = await overview.read_trouble(tx, stuck_after_seconds=STUCK_SECONDS)
    failed = f"{trouble.failed_last_day or 'none'} failed within a day"
    if trouble.stuck:
        return broken(
            "runs",
            f"{trouble.stuck} not over, and without a move for {STUCK_SECONDS / 60:.0f} minutes; {failed}",
            "`monitor_pipeline` shows them, `alert-pipeline trace` what they wait for",
        )
    if trouble.failed_last_day:
        mend = "`monitor_pipeline --status failed` shows them, `alert-pipeline resume` goes on with them"
        return warning("runs", failed, mend)
    return ok("runs", failed)
