"""The service under load: the rate of accepts, the time to a message, the rate of alerts, the worker's memory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from rich.progress import Progress

from bench.commands import fresh_home
from bench.figures import Figures
from bench.floors import bare_api, four_steps
from bench.load import ALERTS_PER_PUSH, Receiver, answers, free_port, post_all, push, push_many, receiver
from orchestration.settings import load_settings
from service.stack import attach

TRIGGER = "/orchestration/pipeline/"
_QUICK = {"ORCHESTRATION_LOG_LEVEL": "ERROR", "API_RATE_LIMIT_PER_SECOND": "100000", "API_AUTH": "off"}
NO_PREFECT = "http://127.0.0.1:9/api"
"""An address at which no Prefect answers."""

EARLY_RUNS, ALL_RUNS = 500, 10_000
"""After how many runs the worker's memory is measured."""

PUSHES_PER_BATCH = 250
"""The next batch is sent when all messages of a batch have come, so that the queue stays short."""

READY_SECONDS, BATCH_TIMEOUT_SECONDS = 90.0, 600.0


@contextmanager
def started(arguments: list[str], env: Mapping[str, str], port: int, path: str) -> Iterator[None]:
    """Run `alert-pipeline` with these arguments. The block begins when `path` answers 200, and ends the process."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "alert-pipeline"), *arguments],
        env={**os.environ, **_QUICK, **env},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not answers(port, path) and process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"waited {READY_SECONDS:g} s for {arguments[0]} to be ready")
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def measure_accept(times: int) -> list[Figures]:
    """Durable accepts per second over 16 connections, beside the bare insert. Only the API runs."""
    ours, bare, grouped = Accepts(), Accepts(), Accepts()
    with fresh_home() as home, attach(load_settings({"home": home}), need_prefect=False) as addresses:
        port = free_port()
        env = {"DATABASE_URL": addresses.database_url, "PREFECT_API_URL": NO_PREFECT}
        with started(["api", "--port", str(port)], env, port, "/health/"), bare_api(addresses.database_url) as floor:
            for turn in range(-1, max(times // 3, 3)):
                bodies = [push(f"accept{turn}-{i}") for i in range(2000 if turn >= 0 else 400)]
                many = [push_many(f"group{turn}-{i}") for i in range(100)]
                for accepts, to, path, sent in (
                    (bare, floor, "/", bodies),
                    (ours, port, TRIGGER, bodies),
                    (grouped, port, TRIGGER, many),
                ):
                    accepts.measure(to, path, sent, counts=turn >= 0)
    return [
        Figures(
            what="durable accepts, 16 connections", values=ours.rates, unit="/s", target="≥ 1.0 ×", floor=bare.rates
        ),
        Figures(what="  of these, p50", values=ours.p50, unit="ms", floor=bare.p50),
        Figures(what="  of these, p99", values=ours.p99, unit="ms", floor=bare.p99),
        Figures(
            what="alerts in pushes of 100",
            values=[rate * ALERTS_PER_PUSH for rate in grouped.rates],
            unit="/s",
            target="≥ 20 × single ones",
            floor=ours.rates,
        ),
        Figures(what="floor: FastAPI and psycopg, a row a request", values=bare.rates, unit="/s"),
    ]


@dataclass
class Accepts:
    """Requests per second, and how long each took, in milliseconds, turn by turn."""

    rates: list[float] = field(default_factory=list[float])
    p50: list[float] = field(default_factory=list[float])
    p99: list[float] = field(default_factory=list[float])

    def measure(self, port: int, path: str, bodies: list[bytes], *, counts: bool = True) -> None:
        """Send the bodies over 16 connections. The first turn, which does not count, warms up."""
        began = time.perf_counter()
        seconds = sorted(asyncio.run(post_all(port, path, bodies, 16)))
        if counts:
            self.rates.append(len(bodies) / (time.perf_counter() - began))
            self.p50.append(seconds[len(seconds) // 2] * 1000)
            self.p99.append(seconds[int(len(seconds) * 0.99)] * 1000)


ONE_BY_ONE = "timing: {storm: false}"
"""The policy of most benchmarks: each alert is told by itself."""


def apply_policy(home: Path, policy: str, **env: str) -> None:
    """Use this policy from now on."""
    subprocess.run(
        [str(Path(sys.executable).parent / "alert-pipeline"), "policy", "apply", "-"],
        env={**os.environ, "ALERT_PIPELINE_HOME": str(home), **env},
        input=policy.encode(),
        check=True,
        capture_output=True,
    )


def count(url: str, query: str) -> int:
    """The number that a query finds in the database at this URL, which is in libpq's form."""
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def up(home: Path, target: Receiver, **env: str) -> Iterator[int]:
    """Run `alert-pipeline up` in this home with the receiver as its channel. Yields the API's port."""
    port = free_port()
    arguments = ["up", "--port", str(port), "--prefect-port", str(free_port())]
    with started(
        arguments, {"ALERT_PIPELINE_HOME": str(home), "NOTIFY_WEBHOOK_URL": target.url, **env}, port, "/ready/"
    ):
        yield port


@contextmanager
def full_service(target: Receiver, **env: str) -> Iterator[int]:
    """The same in a home of its own, which tells each alert by itself."""
    with fresh_home() as home, up(home, target, **env) as port:
        apply_policy(home, ONE_BY_ONE)
        yield port


def _latencies(port: int, target: Receiver, names: list[str]) -> list[float]:
    """Milliseconds from each push to its message. The next push is sent after that."""
    found: list[float] = []
    for name in names:
        before = len(target.arrived)
        sent = time.perf_counter()
        asyncio.run(post_all(port, TRIGGER, [push(name, severity="critical")], 1))
        target.wait_for(before + 1, 60)
        found.append((target.arrived[before] - sent) * 1000)
    return found


def _rate(port: int, target: Receiver, count: int, prefix: str) -> float:
    """Distinct alerts per second, from the first push to the last message."""
    before = len(target.arrived)
    began = time.perf_counter()
    asyncio.run(post_all(port, TRIGGER, [push(f"{prefix}{i}") for i in range(count)], 16))
    target.wait_for(before + count, 180)
    return count / (target.arrived[before + count - 1] - began)


def measure_message(times: int) -> list[Figures]:
    """The time from accept to message on an idle service, and the sustained rate, both through Prefect."""
    with receiver() as target:
        with full_service(target, CHECKERS_ENABLED="memory") as port:
            _latencies(port, target, [f"warm{i}" for i in range(3)])
            fast = _latencies(port, target, [f"fast{i}" for i in range(times)])
            rates = [_rate(port, target, 60, f"rate{turn}-") for turn in range(max(times // 3, 3))]
        with full_service(target) as port:
            _latencies(port, target, [f"warmer{i}" for i in range(3)])
            default = _latencies(port, target, [f"default{i}" for i in range(times)])
    empty = measure_empty_flow(times)
    called, deployed, alone = (figures.values for figures in empty)
    return [
        Figures(what="accept to message, fast checks", values=fast, unit="ms", target="≤ 1.3 ×", floor=alone),
        Figures(what="accept to message, all five checks", values=default, unit="ms", target="≤ 500 ms"),
        Figures(what="distinct alerts through Prefect", values=rates, unit="/s", target="≥ 0.95 ×", floor=deployed),
        Figures(what="  beside the flow that is called", values=rates, unit="/s", target="≥ 0.7 ×", floor=called),
        *empty,
    ]


@contextmanager
def direct_service(target: Receiver) -> Iterator[int]:
    """Run the API and a worker without Prefect, and the receiver as the channel. Yields the API's port."""
    with fresh_home() as home, attach(load_settings({"home": home}), need_prefect=False) as addresses:
        port = free_port()
        env = {
            "ALERT_PIPELINE_HOME": str(home),
            "DATABASE_URL": addresses.database_url,
            "PREFECT_API_URL": NO_PREFECT,
            "NOTIFY_WEBHOOK_URL": target.url,
            "CHECKERS_ENABLED": "memory",
        }
        apply_policy(home, ONE_BY_ONE, **env)
        with started(["api", "--port", str(port)], env, port, "/health/"), started(["worker"], env, port, "/ready/"):
            yield port


def measure_direct(times: int) -> list[Figures]:
    """The time from accept to message and the sustained rate on the direct engine, in turns with the floor."""
    fourth, workflows, latencies, rates = list[float](), list[float](), list[float](), list[float]()
    with (
        receiver() as target,
        direct_service(target) as port,
        fresh_home() as home,
        attach(load_settings({"home": home}), need_prefect=False) as addresses,
    ):
        _latencies(port, target, [f"warm{i}" for i in range(3)])
        _rate(port, target, 100, "warm-up-")
        for turn in range(max(times // 3, 3)):
            latencies += _latencies(port, target, [f"direct{turn}-{i}" for i in range(7)])
            rates.append(_rate(port, target, 200, f"rate{turn}-"))
            milliseconds, per_second = four_steps(addresses.database_url)
            fourth += milliseconds
            workflows += per_second
    return [
        Figures(what="accept to message, direct engine", values=latencies, unit="ms", target="≤ 2 ×", floor=fourth),
        Figures(what="distinct alerts, direct engine", values=rates, unit="/s", target="≥ 1.2 ×", floor=workflows),
        Figures(what="floor: to the fourth of four empty steps, DBOS", values=fourth, unit="ms"),
        Figures(what="floor: workflows of four empty steps, DBOS", values=workflows, unit="/s"),
    ]


def measure_empty_flow(times: int) -> list[Figures]:
    """The floors under what goes through Prefect: flows of four empty tasks in one warm process, eight at a time, and
    one alone."""
    from bench.empty_flow import latencies, rate

    with fresh_home() as home, attach(load_settings({"home": home})) as addresses:
        settings, turns = load_settings({"home": home}), range(max(times // 3, 3))
        url = addresses.prefect_api_url
        called = [rate(settings, url, 60, deployed=False) for _ in turns]
        deployed = [rate(settings, url, 60, deployed=True) for _ in turns]
        alone = latencies(settings, url, times)
    return [
        Figures(what="empty four-task flows, called", values=called, unit="/s"),
        Figures(what="empty four-task flows, on a deployment in a pool", values=deployed, unit="/s"),
        Figures(what="  one of them alone, from asking for it to its end", values=alone, unit="ms"),
    ]


def measure_direct_memory(_times: int) -> list[Figures]:
    """Resident memory of a worker on the direct engine, measured once: 10,000 runs take some minutes."""
    with receiver() as target, direct_service(target) as port:
        return _memory_growth(port, target, "direct engine")


def measure_memory(_times: int) -> list[Figures]:
    """Resident memory of a worker with Prefect, measured once: 10,000 runs take half an hour."""
    with receiver() as target, full_service(target, CHECKERS_ENABLED="memory") as port:
        return _memory_growth(port, target, "through Prefect")


def _memory_growth(port: int, target: Receiver, engine: str) -> list[Figures]:
    """The worker's resident memory in MiB after few and after many runs, and the growth in percent."""
    worker = next(process for process in psutil.Process().children(recursive=True) if "worker" in process.cmdline())
    before = len(target.arrived)
    mebibytes: list[float] = []
    with Progress(transient=True) as progress:
        measuring = progress.add_task(engine, total=ALL_RUNS)
        for done in range(PUSHES_PER_BATCH, ALL_RUNS + 1, PUSHES_PER_BATCH):
            bodies = [push(f"memory{before}-{number}") for number in range(done - PUSHES_PER_BATCH, done)]
            asyncio.run(post_all(port, TRIGGER, bodies, 16))
            target.wait_for(before + done, BATCH_TIMEOUT_SECONDS)
            progress.advance(measuring, PUSHES_PER_BATCH)
            if done in (EARLY_RUNS, ALL_RUNS):
                mebibytes.append(worker.memory_info().rss / 2**20)
    early, late = mebibytes
    return [
        Figures(what=f"worker, {engine}, after {EARLY_RUNS} runs", values=[early], unit="MiB"),
        Figures(what=f"worker, {engine}, after {ALL_RUNS:,} runs", values=[late], unit="MiB"),
        Figures(what="  growth", values=[100 * (late / early - 1)], unit="%", target="≤ 10 %"),
    ]
