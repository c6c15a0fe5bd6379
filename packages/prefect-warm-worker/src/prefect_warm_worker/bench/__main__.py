"""The benchmark: the time from `prefect deployment run` to the first line of the flow, and runs a second of a burst."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import prefect
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from prefect_warm_worker.bench.flows import first_line
from prefect_warm_worker.bench.server import open_server
from prefect_warm_worker.worker import WarmProcessWorker

ENTRYPOINT = "prefect_warm_worker.bench.flows.first_line"
PYTHON = sys.executable
PROCESSES = 5
"""How many processes at once the others may start: what `serve()` has by default. More would not fit many a machine."""

WAIT_SECONDS = 180.0
"""How long a run may take to its first line, before the benchmark gives up."""


@dataclass(frozen=True)
class Contender:
    """One way to execute deployments."""

    name: str
    kind: str
    """`warm-process` and `process` are types of work pools; `serve` needs none."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def command(self) -> list[str]:
        """The command that a user starts."""
        if self.kind == "serve":
            return [PYTHON, "-m", "prefect_warm_worker.bench.flows", self.deployment, str(PROCESSES)]
        start = [PYTHON, "-m", "prefect", "worker", "start", "--pool", self.deployment, "--type", self.kind]
        return start if self.kind == WarmProcessWorker.type else [*start, "--limit", str(PROCESSES)]

    @property
    def deployment(self) -> str:
        """The name of its deployment, and of its work pool."""
        return f"bench-{self.name}".replace(" ", "-").replace(",", "")


CONTENDERS = (
    Contender("warm worker", WarmProcessWorker.type, {"WARM_WORKER_FLOWS": ENTRYPOINT}),
    Contender("process worker", "process"),
    Contender("process worker, polls each second", "process", {"PREFECT_WORKER_QUERY_SECONDS": "1"}),
    Contender("flow.serve", "serve"),
    Contender("flow.serve, polls each second", "serve", {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}),
)


@dataclass
class Figures:
    """What was measured of one contender."""

    name: str
    seconds: list[float]
    per_second: float
    load: float


class Arrivals:
    """The moments at which flows execute their first line: each sends a datagram."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._came: dict[int, float] = {}
        self._next = 0

    def number(self) -> int:
        """The number of a new run."""
        self._next += 1
        return self._next

    async def of(self, number: int) -> float:
        """The moment at which this run began."""
        async with asyncio.timeout(WAIT_SECONDS):
            while number not in self._came:
                came, moment = (await asyncio.get_running_loop().sock_recv(self._socket, 100)).split()
                self._came[int(came)] = float(moment)
        return self._came[number]


async def main() -> None:
    """Measure, and print a table in Markdown."""
    options = _options()
    with ExitStack() as opening:
        place = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="warm-bench-")))
        api_url = os.environ.get("PREFECT_API_URL")
        if not api_url:
            _say("Starting a Prefect server with an empty database …")
            api_url = opening.enter_context(open_server(place))
        opening.enter_context(temporary_settings({PREFECT_API_URL: api_url}))
        measured = [
            await _measure(contender, api_url, place, options)
            for contender in CONTENDERS
            if not options.only or any(word in contender.name for word in options.only)
        ]
    _print_table(measured, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m prefect_warm_worker.bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="runs one after the other, for the latency (default 10)")
    parser.add_argument("--burst", type=int, default=20, help="runs at once, for the throughput (default 20)")
    parser.add_argument("--only", action="append", help="measure the contenders with this word in their name")
    return parser.parse_args()


async def _measure(contender: Contender, api_url: str, place: Path, options: argparse.Namespace) -> Figures:
    _say(f"{contender.name}: starting")
    arrivals = Arrivals()
    async with get_client() as client:
        with _running(contender, api_url, place):
            deployment = await _ensure_deployment(client, contender)
            await _measure_latency(client, deployment, arrivals)
            seconds = list[float]()
            for number in range(options.runs):
                seconds.append(await _measure_latency(client, deployment, arrivals))
                _say(f"{contender.name}: run {number + 1} of {options.runs} began after {seconds[-1]:.2f} s")
                # Not in step with the other's polling: a run comes at any moment of its interval.
                await asyncio.sleep(0.37 * (number % 7))
            per_second = await _measure_burst(client, deployment, arrivals, options.burst)
            _say(f"{contender.name}: {per_second:.2f} runs a second, {options.burst} at once")
    return Figures(contender.name, seconds, per_second, os.getloadavg()[0])


@contextmanager
def _running(contender: Contender, api_url: str, place: Path) -> Generator[None]:
    log = place / f"{contender.deployment}.log"
    environment = {**os.environ, "PREFECT_HOME": str(place), "PREFECT_API_URL": api_url, **contender.environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            contender.command(), env=environment, stdout=output, stderr=output, cwd=place, start_new_session=True
        )
    try:
        yield
    except BaseException:
        _say(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _ensure_deployment(client: PrefectClient, contender: Contender) -> UUID:
    """The id of the deployment of a contender. `serve()` creates its own."""
    if contender.kind == "serve":
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    return (await client.read_deployment_by_name(f"{first_line.name}/{contender.deployment}")).id
                except ObjectNotFound:
                    await asyncio.sleep(0.2)
    try:
        await client.read_work_pool(contender.deployment)
    except ObjectNotFound:
        pool = WorkPoolCreate(name=contender.deployment, type=contender.kind, base_job_template={})
        await client.create_work_pool(pool)
    return await client.create_deployment(
        flow_id=await client.create_flow_from_name(first_line.name),
        name=contender.deployment,
        entrypoint=ENTRYPOINT,
        work_pool_name=contender.deployment,
        parameter_openapi_schema=parameter_schema(first_line).model_dump_for_openapi(),
    )


async def _measure_latency(client: PrefectClient, deployment: UUID, arrivals: Arrivals) -> float:
    """Start a run. Returns the seconds from the request to its first line."""
    number, began = arrivals.number(), time.time()
    await client.create_flow_run_from_deployment(deployment, parameters={"port": arrivals.port, "number": number})
    return await arrivals.of(number) - began


async def _measure_burst(client: PrefectClient, deployment: UUID, arrivals: Arrivals, runs: int) -> float:
    """Start so many runs at once. Returns the runs a second, from the first request to the last first line."""
    numbers, began = [arrivals.number() for _ in range(runs)], time.time()
    starting = [
        client.create_flow_run_from_deployment(deployment, parameters={"port": arrivals.port, "number": number})
        for number in numbers
    ]
    await asyncio.gather(*starting)
    ended = max([await arrivals.of(number) for number in numbers])
    return runs / (ended - began)


def _print_table(measured: Sequence[Figures], options: argparse.Namespace) -> None:
    print(f"Prefect {prefect.__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} processors, ", end="")
    print(f"{options.runs} runs one after the other, then {options.burst} at once\n")
    print("| | median | fastest to slowest | runs/s of a burst | load |\n| --- | --- | --- | --- | --- |")
    for one in measured:
        spread = f"{min(one.seconds):.2f} to {max(one.seconds):.2f} s"
        median = statistics.median(one.seconds)
        print(f"| {one.name} | {median:.2f} s | {spread} | {one.per_second:.2f} | {one.load:.1f} |")


def _end(number: int, frame: object) -> None:
    """End on a signal, with what was started."""
    del frame
    sys.exit(128 + number)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    asyncio.run(main())
