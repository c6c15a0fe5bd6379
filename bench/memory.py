"""The worker's memory: what it holds after 500 runs and after 10,000, through Prefect and without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil
from rich.progress import Progress

from bench.figures import Figures
from bench.load import Receiver, post_all, push, receiver
from bench.service import TRIGGER, direct_service, whole_service

FIRST, LAST = 500, 10_000
AT_ONCE = 250
"""How many pushes are under way, so that the inbox stays shallow."""

PATIENCE_SECONDS = 600.0


def measure_direct_memory(_times: int) -> list[Figures]:
    """Resident memory of a worker to which no Prefect answers, once: 10,000 runs take some minutes."""
    with receiver() as target, direct_service(target) as port:
        return _growth(port, target, "direct engine")


def measure_memory(_times: int) -> list[Figures]:
    """Resident memory of a worker whose runs go through Prefect, once: 10,000 runs take half an hour."""
    with receiver() as target, whole_service(target, CHECKERS_ENABLED="memory") as port:
        return _growth(port, target, "through Prefect")


def _growth(port: int, target: Receiver, how: str) -> list[Figures]:
    worker = _worker()
    already = len(target.arrived)
    with Progress(transient=True) as progress:
        done = progress.add_task(how, total=LAST)
        _run(port, target, already, range(FIRST), lambda: progress.advance(done, AT_ONCE))
        early = worker.memory_info().rss / 2**20
        _run(port, target, already, range(FIRST, LAST), lambda: progress.advance(done, AT_ONCE))
        late = worker.memory_info().rss / 2**20
    return [
        Figures(what=f"worker, {how}, after {FIRST} runs", values=[early], unit="MiB"),
        Figures(what=f"worker, {how}, after {LAST:,} runs", values=[late], unit="MiB"),
        Figures(what="  growth", values=[100 * (late / early - 1)], unit="%", target="≤ 10 %"),
    ]


def _run(port: int, target: Receiver, already: int, numbers: range, advance: Callable[[], None]) -> None:
    for first in numbers[::AT_ONCE]:
        bodies = [push(f"memory{already}-{number}") for number in range(first, first + AT_ONCE)]
        asyncio.run(post_all(port, TRIGGER, bodies, 16))
        if not target.wait_for(already + first + AT_ONCE, PATIENCE_SECONDS):
            raise SystemExit(f"{len(target.arrived) - already} of {first + AT_ONCE} messages came")
        advance()


def _worker() -> psutil.Process:
    own = psutil.Process().children(recursive=True)
    return next(process for process in own if "worker" in process.cmdline())
