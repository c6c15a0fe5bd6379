"""`python -m bench growth`: what a store with many runs costs, beside the same on a young store.

Each size has a PostgreSQL of its own, filled by SQL with the runs of a year, or with the last days of the same year:
the same number of runs a day, so that what is asked of the last day is the same. Each query runs on all stores in turn,
so that a disturbance of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.ext.asyncio import AsyncConnection

from bench.commands import fresh_home
from bench.figures import Figures, show
from bench.growth_reads import READS, Landmarks, find_landmarks
from bench.seed import seed
from flows.services import make_services
from flows.upkeep import delete_old
from orchestration.engine.run import Services
from orchestration.requests import RunRequest
from orchestration.settings import load_settings
from orchestration.store.claims import claim_runs
from orchestration.store.database import Database, libpq_url
from service.stack import attach
from tasks.ingest.inbox import accept

YOUNG = 5_000
"""Runs of the store that is the floor: enough for each list to fill its page."""

DAYS, MONTH_DAYS = 360.0, 30.0
_TARGET = "≤ 1.3 ×"
_FAR = 10_000_000
_PER_CLAIM = 8
_PER_VALUE = 5
"""One ratio compares the medians of so many calls on each store."""

_REMINDERS = """
insert into pipeline_run (
    run_id, trace_id, source, environment, severity, priority, incident_id, incident_key, title, payload, reason, due_at
)
select md5('reminder' || id), md5('reminder-trace' || id), 'timer', environment, severity, 1, id, incident_key, title,
    '{}', 'reminder', now() + interval '1 hour'
from incident where status = 'open'
"""
_END_CLAIMED = """
update pipeline_run set status = 'notified', completed_at = now(), lease_owner = null
where lease_owner like 'bench/%%' and status = 'pending'
"""
_FIRST_YOUNGER = "select min(id) from pipeline_run where created_at >= now() - %s * interval '1 day'"
_DELETE_PLAINLY = (
    "delete from stage_execution where pipeline_run_id < %(run)s",
    "delete from delivery where pipeline_run_id < %(run)s",
    "delete from pipeline_run where id < %(run)s",
    "delete from history where at < now() - %(days)s * interval '1 day'",
    "delete from membership where joined_at < now() - %(days)s * interval '1 day'",
    "delete from incident_channel where sent_at < now() - %(days)s * interval '1 day'",
    "delete from alert where heard_at < now() - %(days)s * interval '1 day'",
    "delete from incident where opened_at < now() - %(days)s * interval '1 day'",
)
_SIZES = """
select relname, pg_relation_size(oid), pg_total_relation_size(oid) from pg_class
where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace
order by 3 desc limit 8
"""


@dataclass(frozen=True, kw_only=True)
class _Store:
    """One of the stores that are compared."""

    runs: int
    url: str
    services: Services
    marks: Landmarks
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Milliseconds by what was measured."""

    @property
    def database(self) -> Database:
        """Its connections."""
        return self.services.database


def main(arguments: Sequence[str]) -> None:
    """Fill throw-away stores with runs, and print how much longer a large one takes than a young one."""
    parser = argparse.ArgumentParser(
        prog="bench growth",
        description=main.__doc__,
        epilog="Example: `bench growth --runs 100000 -n 3` takes some minutes; with 1,000,000 runs it needs about 8 GB "
        "in /tmp and a quarter of an hour. A figure is the ratio to the store of "
        f"{YOUNG:,} runs in the same turn; compare ratios, not milliseconds. {_FAR:,} runs are extrapolated "
        "by a straight line through the stores of a tenth, three tenths and all of the runs: pessimistic for an index.",
    )
    parser.add_argument("--runs", type=int, default=1_000_000, help="runs of the largest store (default 1000000)")
    parser.add_argument("-n", "--times", type=int, default=5, help="how many ratios per row (default 5)")
    parser.add_argument("--only", metavar="WORDS", default="", help="measure only rows whose name contains this")
    chosen = parser.parse_args(arguments)
    if chosen.runs < 10 * YOUNG or chosen.times < 1:
        parser.error(f"--runs must be at least {10 * YOUNG:,}, and --times at least 1")
    show(measure_growth(chosen.runs, chosen.times, chosen.only))


def measure_growth(runs: int, times: int, only: str = "") -> list[Figures]:
    """Fill the stores and measure all of them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        sizes = [YOUNG, runs // 10, runs * 3 // 10, runs]
        filling = progress.add_task("Filling stores", total=sum(sizes))
        urls: list[str] = []
        for size in sizes:
            progress.update(filling, description=f"Filling a store with {size:,} runs")
            home = stack.enter_context(fresh_home())
            addresses = stack.enter_context(attach(load_settings({"home": home}), need_prefect=False))
            urls.append(addresses.database_url)
            _fill(urls[-1], size, days=DAYS * size / runs)
            progress.advance(filling, size)
        return asyncio.run(_measured(list(zip(sizes, urls, strict=True)), times, only, progress))


def _fill(url: str, runs: int, *, days: float) -> None:
    seed(url, runs, days=days)
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        connection.execute(_REMINDERS)
        connection.execute("checkpoint" if _may_checkpoint(connection) else "select 1")


def _may_checkpoint(connection: psycopg.Connection) -> bool:
    row = connection.execute("select pg_has_role(current_user, 'pg_checkpoint', 'member')").fetchone()
    return bool(row and row[0])


async def _measured(urls: Sequence[tuple[int, str]], times: int, only: str, progress: Progress) -> list[Figures]:
    async with AsyncExitStack() as stack:
        stores: list[_Store] = []
        for size, url in urls:
            database = Database(url, pool_size=2)
            stack.push_async_callback(database.close)
            async with database.transaction() as tx:
                marks = await find_landmarks(tx)
            services = make_services(load_settings(), database)
            stores.append(_Store(runs=size, url=url, services=services, marks=marks))
        works = {name: work for name, work in _WORKS.items() if only in name}
        measuring = progress.add_task("Measuring", total=len(works))
        for name, work in works.items():
            progress.update(measuring, description=f"Measuring {name}")
            await _in_turn(stores, name, work, times * _PER_VALUE)
            progress.advance(measuring)
        rows = [_compared(stores, name) for name in works]
        if only in "retention":
            rows += await _retention(stores[-1], progress)
        return rows + _sizes(stores[-1])


async def _accept(store: _Store, turn: int) -> None:
    body = {"name": "Fresh", "severity": "critical", "host": f"h-{time.time_ns()}-{turn}"}
    await accept(store.services, RunRequest(payload=body, source="generic"))


async def _claim(store: _Store, _: int) -> None:
    async with store.database.statement() as tx:
        claimed = await claim_runs(tx, process="bench/1/1", limit=_PER_CLAIM, lease_seconds=60, deadline_seconds=30)
    if len(claimed) != _PER_CLAIM:
        raise SystemExit(f"{len(claimed)} runs were claimed")


async def _before_claim(store: _Store, turn: int) -> None:
    async with store.database.transaction() as tx:
        await tx.exec_driver_sql(_END_CLAIMED)
    for number in range(_PER_CLAIM):
        await _accept(store, turn * _PER_CLAIM + number)


Work = Callable[[_Store, int], Awaitable[object]]


def _reads(read: Callable[[AsyncConnection, Landmarks], Awaitable[object]]) -> Work:
    async def work(store: _Store, _: int) -> None:
        async with store.database.transaction() as tx:
            await read(tx, store.marks)

    return work


_WORKS: dict[str, Work] = {
    "accept": _accept,
    "claim of 8": _claim,
    **{name: _reads(one) for name, one in READS.items()},
}


async def _in_turn(stores: Sequence[_Store], name: str, work: Work, rounds: int) -> None:
    """Call the work on one store after the other, again and again. The first two rounds warm up."""
    for turn in range(rounds + 2):
        for store in stores:
            if work is _claim:
                await _before_claim(store, turn)
            began = time.perf_counter()
            await work(store, turn)
            if turn >= 2:
                store.samples.setdefault(name, []).append((time.perf_counter() - began) * 1000)


def _compared(stores: Sequence[_Store], name: str) -> Figures:
    """The ratios of the largest store to the young one, with the milliseconds and the extrapolation in the name."""
    young, large = stores[0].samples[name], stores[-1].samples[name]
    ratios = [
        statistics.median(large[at : at + _PER_VALUE]) / statistics.median(young[at : at + _PER_VALUE])
        for at in range(0, len(large), _PER_VALUE)
    ]
    floor, now = statistics.median(young), statistics.median(large)
    line = statistics.linear_regression(
        [store.runs for store in stores[1:]], [statistics.median(store.samples[name]) for store in stores[1:]]
    )
    far = now + max(line.slope, 0) * (_FAR - stores[-1].runs)
    what = f"{name}: {now:,.3g} ms beside {floor:,.3g}; {_FAR // 10**6} million extrapolated × {far / floor:,.3g}"
    return Figures(what=what, values=ratios, unit="×", target=_TARGET)


async def _retention(store: _Store, progress: Progress) -> list[Figures]:
    """Delete the oldest month as upkeep does, while alerts are accepted, and look again when nothing is left to do."""
    bar = progress.add_task("Deleting a month", total=None)
    batches, idle = list[float](), list[float]()
    rows = 0
    accepted = asyncio.create_task(_accept_until(store, done := asyncio.Event()))
    began = since = time.perf_counter()
    async for _, count in delete_old(store.database, DAYS - MONTH_DAYS):
        batches.append((time.perf_counter() - since) * 1000)
        rows += count
        progress.update(bar, completed=rows)
        since = time.perf_counter()
    month = time.perf_counter() - began
    done.set()
    meanwhile = await accepted
    for _ in range(3):
        began = time.perf_counter()
        async for _ in delete_old(store.database, DAYS - MONTH_DAYS):
            pass
        idle.append((time.perf_counter() - began) * 1000)
    plain = _delete_plainly(store.url)
    usual = [await _timed_accept(store) for _ in range(20)]
    what = f"retention of a month at once ({rows:,} rows and what refers to them)"
    return [
        Figures(what=what, values=[month], unit="s", target="≤ 1 s", floor=[plain]),
        Figures(what="floor: the rows of the next month by plain DELETE", values=[plain], unit="s"),
        Figures(what="its transactions", values=batches, unit="ms", target="≤ 100 ms"),
        Figures(what="accept meanwhile", values=meanwhile, unit="ms", floor=usual),
        Figures(what="retention, nothing to delete", values=idle, unit="ms"),
    ]


async def _accept_until(store: _Store, done: asyncio.Event) -> list[float]:
    return [await _timed_accept(store) for _ in iter(done.is_set, True)]


async def _timed_accept(store: _Store) -> float:
    began = time.perf_counter()
    await _accept(store, 0)
    return (time.perf_counter() - began) * 1000


def _delete_plainly(url: str) -> float:
    """Seconds that PostgreSQL needs to delete a month, whatever belongs to whom. It is not committed."""
    days = DAYS - 2 * MONTH_DAYS
    with psycopg.connect(libpq_url(url)) as connection:
        first = connection.execute(_FIRST_YOUNGER, (days,)).fetchone()
        began = time.perf_counter()
        for statement in _DELETE_PLAINLY:
            connection.execute(statement, {"days": days, "run": first and first[0]})
        seconds = time.perf_counter() - began
        connection.rollback()
    return seconds


def _sizes(store: _Store) -> list[Figures]:
    """The largest tables, with and without their indexes."""
    with psycopg.connect(libpq_url(store.url)) as connection:
        found = connection.execute(_SIZES).fetchall()
    return [
        Figures(what=f"size of {name}, {bare / 2**20:,.0f} without indexes", values=[total / 2**20], unit="MiB")
        for name, bare, total in found
    ]
