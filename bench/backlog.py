"""A long backlog: the claim with few and with many runs waiting, and ingest behind many runs of one incident."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import psycopg

from bench.commands import fresh_home
from bench.figures import Figures
from flows.services import make_services
from orchestration.engine.lease import lease_run
from orchestration.engine.run import ActiveRun, Services
from orchestration.requests import RunRequest
from orchestration.settings import load_settings
from orchestration.store.claims import claim_runs
from orchestration.store.database import Database, libpq_url, open_database
from service.stack import attach
from tasks.ingest.inbox import accept
from tasks.ingest.stage import INGEST

FEW, MANY = 1_000, 100_000
ONE_KEY = 10
"""One run in so many is of one incident."""
_RUNS_PER_CLAIM = 8
_DRAINED = 500

# Waiting runs as pushes leave them: one in ten is of one incident, which fires and is resolved in turn. As many timers
# wait for their time.
_WAITING = """
insert into pipeline_run (
    run_id, trace_id, source, environment, severity, priority, incident_key, title, payload, awaits_ingest
)
select md5(%(salt)s || i), md5(%(salt)s || 'trace' || i), 'generic', 'production', severity,
    case severity when 'critical' then 2 when 'warning' then 1 else 0 end, key, key,
    jsonb_build_object('alerts', jsonb_build_array(jsonb_build_object(
        'name', 'QueueStuck', 'source', 'generic', 'fingerprint', key, 'incident_key', key, 'severity', severity,
        'status', case when i / %(one)s %% 2 = 0 then 'firing' else 'resolved' end, 'labels', '{}'::jsonb
    ))), true
from (
    select i, case when i %% %(one)s = 0 then 'one' else %(salt)s || i end as key,
        (array['critical', 'warning', 'info'])[1 + i %% 3] as severity
    from generate_series(1, %(runs)s) as i
) as plan
"""
_TIMERS = """
insert into pipeline_run (run_id, trace_id, source, environment, severity, priority, payload, reason, due_at)
select md5(%(salt)s || 'timer' || i), 'timer', 'generic', 'production', 'critical', 2, '{}', 'reminder',
    now() + interval '1 hour'
from generate_series(1, %(runs)s) as i
"""


def measure_backlog(times: int) -> list[Figures]:
    """Figures with many runs waiting. The name of each row has the factor to the figure with few runs."""
    with fresh_home() as home, attach(load_settings({"home": home}), need_prefect=False) as addresses:
        url = addresses.database_url
        asyncio.run(_migrate(url))
        rows: list[list[Figures]] = []
        for number, runs in enumerate((FEW, MANY - FEW)):
            add_waiting(url, runs, salt=f"s{number}-")
            rows.append(asyncio.run(_measured(url, times)))
        drained = asyncio.run(_drained(url))
    few, many = rows
    return [
        *(
            replace(last, what=f"{last.what}, {MANY:,} waiting: × {last.median / first.median:.2f}")
            for first, last in zip(few, many, strict=True)
        ),
        drained,
    ]


def add_waiting(url: str, runs: int, *, salt: str = "") -> None:
    """Add so many runs that wait for a worker, one in ten of one incident, and as many timers of an hour."""
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        for statement in (_WAITING, _TIMERS):
            connection.execute(statement, {"salt": salt, "runs": runs, "one": ONE_KEY})
        connection.execute("vacuum analyze pipeline_run")


async def _migrate(url: str) -> None:
    async with open_database(url):
        return


async def _measured(url: str, times: int) -> list[Figures]:
    """Milliseconds of a claim, and of ingest of a new critical alert."""
    database = Database(url)
    services = make_services(load_settings(), database)
    claims, ingests = list[float](), list[float]()
    for turn in range(times * 5 + 5):
        began = time.perf_counter()
        async with database.transaction() as tx:
            claimed = await claim_runs(
                tx, process="bench/1/1", limit=_RUNS_PER_CLAIM, lease_seconds=30, deadline_seconds=30
            )
        claims.append((time.perf_counter() - began) * 1000)
        if len(claimed) != _RUNS_PER_CLAIM:
            raise SystemExit(f"{len(claimed)} runs were claimed")
        async with database.transaction() as tx:
            await tx.exec_driver_sql("update pipeline_run set lease_owner = null where lease_owner like 'bench/%%'")
        body = {"name": "Fresh", "severity": "critical", "host": f"h-{time.time_ns()}-{turn}"}
        written = await accept(services, RunRequest(payload=body, source="generic"))
        ingests.append(await _ingest(services, written.run_ids[0]))
    await database.close()
    return [
        Figures(what=f"claim of {_RUNS_PER_CLAIM} runs", values=claims[5:], unit="ms", target="as with few"),
        Figures(what="ingest of a new alert", values=ingests[5:], unit="ms", target="as with few"),
    ]


async def _drained(url: str) -> Figures:
    """Milliseconds a run, for a run that records all that wait before it in its incident."""
    database = Database(url)
    services = make_services(load_settings({"stage_timeout_seconds": 3600}), database)
    with psycopg.connect(libpq_url(url)) as connection:
        last = connection.execute(
            "select run_id from pipeline_run where incident_key = 'one' order by id offset %s limit 1", (_DRAINED - 1,)
        ).fetchone()
    assert last is not None
    took = await _ingest(services, last[0])
    await database.close()
    what = f"ingest behind {_DRAINED:,} of {MANY // ONE_KEY:,} runs of one incident, a run"
    return Figures(what=what, values=[took / _DRAINED], unit="ms")


async def _ingest(services: Services, run_id: str) -> float:
    async with lease_run(services, run_id, engine="bench") as run:
        began = time.perf_counter()
        await _attempt(run)
        return (time.perf_counter() - began) * 1000


async def _attempt(run: ActiveRun) -> None:
    step = run.plan.steps["ingest"]
    await INGEST.function(run.context(step, 1), await INGEST.set_up(run, step))
