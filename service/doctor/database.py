"""Checks of PostgreSQL: whether it answers, its schema fits, the clocks agree, and runs make progress."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

from flows.upkeep import STUCK_SECONDS
from orchestration.policy.parse import parse_policy
from orchestration.policy.schedules import people_at
from orchestration.settings import Settings
from orchestration.store import heartbeats, overview
from orchestration.store.claims import count_waiting, oldest_waiting_seconds
from orchestration.store.database import Database, head_revision, read_clock
from orchestration.store.definitions import find_policy
from orchestration.store.encrypted_cache import read_channel_names
from orchestration.store.oncall import read_schedules, warnings_of
from orchestration.store.workers import list_workers
from service.doctor import Finding, Level, broken, ok, run_check, skipped, warning
from service.doctor.host import clock_is_synchronized

OLDEST_MAJOR = 14
CLOCK_WARNING_SECONDS, CLOCK_BROKEN_SECONDS = 1.0, 10.0

_LATER = ("migrations", "clock", "workers", "inbox", "runs", "heartbeats", "policy", "oncall")
_SHOWN = 5
"""How many warnings of one kind are shown."""

_START = "Start it with `alert-pipeline up`. Other commands start it for their own duration"
_RESTARTS = "The stack restarts it by itself. If it does not, see logs/postgres.log in ALERT_PIPELINE_HOME"


async def database_findings(settings: Settings, url: str | None, *, embedded: bool) -> list[Finding]:
    """The checks of the server, then of its content. `url` None means that the embedded server does not run."""
    if url is None:
        stopped = warning("database", "the embedded PostgreSQL does not run", _START)
        return [stopped, *skipped(_LATER, "no database runs")]
    fix = _RESTARTS if embedded else "Check DATABASE_URL, the server, and the network between"
    database = Database(url, pool_size=4)
    try:
        first = await run_check("database", lambda: _server(database, url if embedded else None), fix=fix)
        if first.level is Level.BROKEN:
            return [first, *skipped(_LATER, "the database cannot be used")]
        schema = await run_check("migrations", lambda: _schema(database), fix=fix)
        clock = run_check("clock", lambda: _clock(database), fix="Let NTP keep the system's clock")
        if schema.level is not Level.OK:
            return [first, schema, await clock, *skipped(_LATER[2:], "the schema is not that of this version")]
        later = (
            run_check("workers", lambda: _workers(database), fix=fix),
            run_check("inbox", lambda: _inbox(database, settings), fix=fix),
            run_check("runs", lambda: _runs(database), fix=fix),
            run_check("heartbeats", lambda: _heartbeats(database), fix=fix),
            run_check("policy", lambda: _policy(database), fix=fix),
            run_check("oncall", lambda: _on_call(database), fix=fix),
        )
        return [first, schema, *await asyncio.gather(clock, *later)]
    finally:
        await database.close()


async def _server(database: Database, embedded_url: str | None) -> Finding:
    async with database.transaction() as tx:
        server = await overview.read_server(tx)
    detail = f"PostgreSQL {server.version}{', embedded' if embedded_url else ''}"
    if server.major < OLDEST_MAJOR:
        return broken("database", detail, f"Use PostgreSQL {OLDEST_MAJOR} or later")
    if server.read_only:
        return broken("database", f"{detail}, read-only", "Point DATABASE_URL at the primary, not at a standby")
    detail += f", {server.connections} of {server.max_connections} connections in use"
    if server.connections > server.max_connections * 0.9:
        return warning("database", detail, "Raise max_connections, or find the clients that have so many open")
    return ok("database", detail + (f"; DATABASE_URL='{embedded_url}'" if embedded_url else ""))


async def _schema(database: Database) -> Finding:
    async with database.transaction() as tx:
        found = await overview.read_revision(tx)
    ours = head_revision()
    if found == ours:
        return ok("migrations", f"the schema is at {found}")
    if found is None or found < ours:
        fix = "Start the API or a worker of this version: it migrates the schema"
        return warning("migrations", f"the schema is at {found or 'nothing'}, this version works with {ours}", fix)
    fix = "Upgrade this installation, or point DATABASE_URL elsewhere"
    return broken("migrations", f"the schema is at {found}, which this version, {ours}, does not know", fix)


async def _clock(database: Database) -> Finding:
    """Compare this clock with the database's, which leases, heartbeats and deadlines use."""
    async with database.transaction() as tx:
        await read_clock(tx)  # opens the connection, so that the next answer takes one round trip
        before = datetime.now(UTC)
        theirs = await read_clock(tx)
        after = datetime.now(UTC)
    off = abs((theirs - (before + (after - before) / 2)).total_seconds())
    synchronized = await clock_is_synchronized()
    detail = f"{off * 1000:.0f} ms off the database's clock"
    fix = "Let NTP keep the clocks of both machines (chrony, systemd-timesyncd)"
    if off > CLOCK_BROKEN_SECONDS:
        return broken("clock", detail, fix)
    if off > CLOCK_WARNING_SECONDS or synchronized is False:
        note = "; NTP does not keep this machine's clock" if synchronized is False else ""
        return warning("clock", detail + note, fix)
    return ok("clock", detail + ("; kept by NTP" if synchronized else ""))


async def _workers(database: Database) -> Finding:
    async with database.transaction() as tx:
        alive = await list_workers(tx)
    if not alive:
        fix = "Start one with `alert-pipeline worker`, or everything with `alert-pipeline up`"
        return broken("workers", "no worker has a fresh heartbeat: alerts that arrive over HTTP wait", fix)
    detail = ", ".join(f"{worker.host}/{worker.pid} with {worker.running} runs" for worker in alive)
    without = [worker for worker in alive if not worker.prefect_ok]
    if without:
        return warning("workers", f"{detail}; {len(without)} without Prefect", "Repair Prefect: see `prefect` below")
    return ok("workers", detail)


async def _inbox(database: Database, settings: Settings) -> Finding:
    async with database.transaction() as tx:
        waiting, oldest = await count_waiting(tx), await oldest_waiting_seconds(tx)
    if not waiting or oldest is None:
        return ok("inbox", "empty")
    detail = f"{waiting} waiting, the oldest for {oldest:.0f} s"
    fix = "Check that workers run and that the pool is not paused. More workers execute more runs at once"
    if oldest > STUCK_SECONDS:
        return broken("inbox", detail, fix)
    deep = waiting >= settings.inbox_warning or oldest > settings.page_deadline_seconds
    return warning("inbox", detail, fix) if deep else ok("inbox", detail)


async def _runs(database: Database) -> Finding:
    async with database.transaction() as tx:
        trouble = await overview.read_trouble(tx, stuck_after_seconds=STUCK_SECONDS)
    failed = f"{trouble.failed_last_day or 'none'} failed within a day"
    if trouble.stuck:
        return broken(
            "runs",
            f"{trouble.stuck} unfinished and without progress for {STUCK_SECONDS / 60:.0f} minutes; {failed}",
            "List them with `monitor_pipeline`. `alert-pipeline trace` shows what they wait for",
        )
    if trouble.failed_last_day:
        fix = "List them with `monitor_pipeline --status failed`, and resume them with `alert-pipeline resume`"
        return warning("runs", failed, fix)
    return ok("runs", failed)


async def _policy(database: Database) -> Finding:
    """Whether each route, step and person of the policy has a channel that exists."""
    async with database.transaction() as tx:
        record, channels = await find_policy(tx), await read_channel_names(tx)
    if record is None:
        return ok("policy", "there is none: alerts go to the default channels")
    detail = f"version {record.version}"
    warnings = list(parse_policy(record.config, channels=channels).warnings)
    if not warnings:
        return ok("policy", detail)
    fix = "Set the channel up (docs/channels.md), or change the policy: `alert-pipeline policy show`"
    return warning("policy", f"{detail}: {_some(map(str, warnings))}", fix)


async def _on_call(database: Database) -> Finding:
    async with database.transaction() as tx:
        now = await read_clock(tx)
        found = await read_schedules(tx, now)
        channels = await read_channel_names(tx)
    if not found.rosters:
        return ok("oncall", "the policy has no schedules")
    people = "; ".join(
        f"{name}: {', '.join(people_at(roster, now)) or 'nobody'}" for name, roster in found.rosters.items()
    )
    warnings = warnings_of(found, now, channels=channels)
    if not warnings:
        return ok("oncall", people)
    fix = "See all of it with `alert-pipeline oncall`, and change the policy, or add an override (docs/oncall.md)"
    return warning("oncall", f"{people}; {_some(map(str, warnings))}", fix)


def _some(found: Iterable[str]) -> str:
    """The first of some warnings, each once, and how many more there are."""
    texts = list(dict.fromkeys(found))
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return f"{'; '.join(texts[:_SHOWN])}{more}"


async def _heartbeats(database: Database) -> Finding:
    async with database.transaction() as tx:
        found, door = await heartbeats.list_heartbeats(tx), await heartbeats.read_door(tx)
    missing = [one.name for one in found if one.missing_since is not None]
    if not found:
        return ok("heartbeats", "none is expected")
    if door is None or not door.is_open:
        since = "" if door is None else f" since {door.seen_at:%Y-%m-%d %H:%M:%S} UTC"
        fix = "Start the API (`alert-pipeline api` or `up`): until then no heartbeat is found to be missing"
        return broken("heartbeats", f"{len(found)} are expected, and no API has accepted beats{since}", fix)
    detail = f"{len(found)} expected, {len(missing)} missing"
    if missing:
        names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        return warning("heartbeats", f"{detail}: {names}", "`alert-pipeline heartbeats list` shows since when")
    return ok("heartbeats", detail)
