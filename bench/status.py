"""Reading runs with few and with many runs stored: lists, filters, a run, a trace, commands, accepts and claims."""

from __future__ import annotations

import asyncio
import http.client
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import psycopg

from bench.commands import fresh_home, run
from bench.figures import Figures, timed
from bench.load import free_port, post_all, push
from bench.seed import seed
from bench.service import NO_PREFECT, TRIGGER, started
from orchestration.settings import load_settings
from orchestration.store.claims import claim_runs
from orchestration.store.database import Database, libpq_url
from service.stack import attach

FEW, MANY = 1_000, 100_000
LISTS = (
    "",
    "?limit=1000",
    "?status=failed",
    "?status=retrying",
    "?source=generic",
    "?environment=development",
    "?environment=nowhere",
    "?stage=check",
    "?status=failed&source=generic&stage=check",
)
_PUSHES_PER_TURN = 500
_RUNS_PER_CLAIM = 8


def measure_reads(times: int) -> list[Figures]:
    """Figures with many runs stored. The name of each row has the factor to the figure with few runs."""
    with fresh_home() as home, attach(load_settings({"home": home}), need_prefect=False) as addresses:
        url, port = addresses.database_url, free_port()
        seed(url, FEW)
        env = {"DATABASE_URL": url, "PREFECT_API_URL": NO_PREFECT}
        with started(["api", "--port", str(port)], env, port, "/health/"):
            few = _measured(home, url, port, times)
            seed(url, MANY - FEW)
            many = _measured(home, url, port, times)
    return [_compared(*rows) for rows in zip(few, many, strict=True)]


def _compared(few: Figures, many: Figures) -> Figures:
    p95 = "" if many.unit == "/s" else f", p95 {many.p95:,.3g}"
    return replace(many, what=f"{many.what}: × {many.median / few.median:.2f}{p95}")


def _measured(home: Path, url: str, port: int, times: int) -> list[Figures]:
    with psycopg.connect(libpq_url(url)) as connection:
        found = connection.execute(
            "select run_id, trace_id from pipeline_run order by id offset 500 limit 1"
        ).fetchone()
    assert found is not None
    run_id, trace_id = found
    pages = {f"GET pipelines/{query}": f"/orchestration/pipelines/{query}" for query in LISTS}
    pages["GET pipelines/, the 10th page"] = f"/orchestration/pipelines/?cursor={_tenth_page(port)}"
    pages["GET pipelines/?trace_id=…"] = f"/orchestration/pipelines/?trace_id={trace_id}"
    pages["GET pipeline/{run_id}/"] = f"/orchestration/pipeline/{run_id}/"
    rows = [
        Figures(what=name, values=_gets(port, path, times * 5), unit="ms", target="≤ 300 ms")
        for name, path in pages.items()
    ]
    commands = {
        "monitor_pipeline": ("monitor_pipeline",),
        "monitor_pipeline --run-id": ("monitor_pipeline", "--run-id", run_id[:12]),
        "alert-pipeline trace": ("alert-pipeline", "trace", trace_id[:12]),
    }
    for name, words in commands.items():
        seconds = [timed(partial(run, home, *words)) for _ in range(times)]
        rows.append(Figures(what=f"{name}, as a process", values=seconds, unit="s", target="≤ 1 s"))
    return rows + asyncio.run(_accepts_and_claims(url, port, max(times // 3, 3)))


def _gets(port: int, path: str, count: int) -> list[float]:
    """Milliseconds of each request over one connection, after two requests to warm up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    found: list[float] = []
    for _ in range(count + 2):
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        found.append((time.perf_counter() - began) * 1000)
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}")
    connection.close()
    return found[2:]


def _tenth_page(port: int) -> str | None:
    cursor = None
    for _ in range(9):
        page = {"limit": 50} | ({"cursor": cursor} if cursor else {})
        answer = httpx.get(f"http://127.0.0.1:{port}/orchestration/pipelines/", params=page, trust_env=False)
        cursor = answer.json()["next_cursor"]
    return cursor


async def _accepts_and_claims(url: str, port: int, turns: int) -> list[Figures]:
    """The rate of pushes over HTTP, and then the time of the claims with which a worker gets their runs."""
    rates, claims = list[float](), list[float]()
    database = Database(url)
    for turn in range(turns + 1):
        bodies = [push(f"{time.time_ns()}-{turn}-{i}") for i in range(_PUSHES_PER_TURN)]
        began = time.perf_counter()
        await post_all(port, TRIGGER, bodies, 16)
        rates.append(len(bodies) / (time.perf_counter() - began))
        while True:
            began = time.perf_counter()
            async with database.transaction() as tx:
                claimed = await claim_runs(
                    tx, process="bench/1/1", limit=_RUNS_PER_CLAIM, lease_seconds=30, deadline_seconds=30
                )
            if not claimed:
                break
            claims.append((time.perf_counter() - began) * 1000)
        async with database.transaction() as tx:
            # Runs that have ended are not claimed again.
            await tx.exec_driver_sql(
                "update pipeline_run set status = 'notified', completed_at = now(), lease_owner = null "
                "where lease_owner like 'bench/%%'"
            )
    await database.close()
    first_turn = _PUSHES_PER_TURN // _RUNS_PER_CLAIM  # warms up, as the first rate does
    return [
        Figures(what="durable accepts, 16 connections", values=rates[1:], unit="/s", target="as with few"),
        Figures(what=f"claim of {_RUNS_PER_CLAIM} runs", values=claims[first_turn:], unit="ms", target="as with few"),
    ]
