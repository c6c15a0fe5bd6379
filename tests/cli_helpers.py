"""What the end-to-end tests share: commands that run beside the test, an orchestrator in it, and Prefect's own view."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import temporary_settings
from sqlalchemy import text

from orchestration.engine.run import Services
from orchestration.states import RunReason
from orchestration.store.database import Database
from orchestration.store.models import Base
from orchestration.store.records import RunRecord
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.story import Story, read_story
from service.mirror.flow_runs import FlowRunMirror
from service.mirror.stories import StoryWriter
from service.orchestrator import PipelineOrchestrator
from service.stack import StackAddresses
from service.worker.bounded import BoundedWorker
from service.worker.breaker import Breaker
from service.worker.executor import RunExecutor
from service.worker.process import prefect_settings
from tests.conftest import Command, clean_environment
from tests.stack_fixtures import settings_for, until
from tests.worker_helpers import client_settings

HIGH_CPU = {"alertname": "HighCPU", "severity": "critical"}
"""The spec's own example."""

QUICK = {"ORCHESTRATION_BACKOFF_FACTOR": "0.05", "CHECKERS_ENABLED": "memory"}
"""A command whose retries do not take seconds."""

Finished = subprocess.CompletedProcess[str]
Call = tuple[Sequence[str], Mapping[str, str]]


def three_incidents() -> dict[str, Any]:
    """A push over three incidents."""
    return {"alerts": [{"name": f"Disk{n}Full", "severity": "warning", "host": f"db-{n}"} for n in (1, 2, 3)]}


def side_by_side(command: Command, *calls: Call) -> list[Finished]:
    """Run commands two at a time, each `(words, env)`; the results in the same order."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda call: command(*call[0], env=call[1]), calls))


def says_in_one_line(finished: Finished, code: int) -> str:
    """The one line on standard error with which a command ended; nothing else was said, on either stream."""
    assert finished.stdout == ""
    lines = finished.stderr.splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("Error: "), lines[0]
    assert finished.returncode == code, lines[0]
    return lines[0].removeprefix("Error: ")


def without_log(stderr: str) -> list[str]:
    """Standard error without the signals."""
    return [line for line in stderr.splitlines() if line and "signal=pipeline." not in line]


async def row_counts(database: Database) -> dict[str, int]:
    """How many rows each of our tables has, without the empty ones, and without what an API notes of itself."""
    counts: dict[str, int] = {}
    async with database.transaction() as tx:
        for table in (one for one in Base.metadata.sorted_tables if one.name != "door"):
            counts[table.name] = (await tx.execute(text(f"select count(*) from {table.name}"))).scalar_one()
    return {name: count for name, count in counts.items() if count}


async def all_runs(database: Database) -> list[RunRecord]:
    """Every run that somebody asked for, the newest first."""
    async with database.transaction() as tx:
        found = (await list_page(tx, RunFilter(), limit=1000)).runs
    return [run for run in found if run.reason is RunReason.PUSH]


async def story_of(database: Database, run_id: str) -> Story:
    """A run with its attempts and deliveries."""
    async with database.transaction() as tx:
        return await read_story(tx, run_id)


def tries(story: Story) -> list[str]:
    """`stage attempt status`, in the order in which they were opened."""
    return [f"{attempt.node_id} {attempt.attempt} {attempt.status.value}" for attempt in story.attempts]


class Beside:
    """A command that runs beside the test, in a process group of its own."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.stderr_file = folder / "stderr"
        self._stdout_file = folder / "stdout"
        with self.stderr_file.open("w") as stderr, self._stdout_file.open("w") as stdout:
            self.process = subprocess.Popen(
                words, env=dict(env), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    @property
    def stdout(self) -> str:
        return self._stdout_file.read_text()

    def wait_until_it_prints(self, text: str) -> None:
        """Wait for this on standard output."""
        until(lambda: text in self.stdout or self.process.poll() is not None, repr(text))
        assert text in self.stdout, self.stderr

    def wait_until_it_says(self, *words: str) -> None:
        """Wait for a line on standard error with all of these words."""
        until(lambda: any(all(word in line for word in words) for line in self.stderr.splitlines()), repr(words))

    def end(self, by: signal.Signals) -> Finished:
        """Send it a signal and wait for its end."""
        self.process.send_signal(by)
        code = self.process.wait(30)
        return subprocess.CompletedProcess(self.process.args, code, self._stdout_file.read_text(), self.stderr)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)


Start = Callable[..., Beside]


@pytest.fixture
def start(home: Path, stack: StackAddresses, tmp_path: Path) -> Iterator[Start]:
    """Starts a command on the session's stack: `start("run_pipeline", "--sample", env={…})`; `python` is the tests'."""
    with ExitStack() as started:

        def begin(name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Beside:
            folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            words = [str(Path(sys.executable).parent / name), *arguments]
            beside = Beside(words, {**clean_environment(), "ALERT_PIPELINE_HOME": str(home), **(env or {})}, folder)
            started.callback(beside.close)
            return beside

        yield begin


Orchestrators = Callable[..., PipelineOrchestrator]


@pytest.fixture
def orchestrators(home: Path, stack: StackAddresses) -> Iterator[Orchestrators]:
    """Makes orchestrators in this process on the session's stack, as a command does: quick retries, these settings."""
    with ExitStack() as opened:

        def make(**settings: Any) -> PipelineOrchestrator:
            quick = {"backoff_factor": 0.02, "checkers_enabled": ("memory",)}
            return opened.enter_context(PipelineOrchestrator(settings_for(home, **{**quick, **settings}), console=True))

        yield make


@asynccontextmanager
async def worker_with(services: Services, stack: StackAddresses) -> AsyncIterator[BoundedWorker]:
    """A bounded worker in this event loop, with services of the test's own."""
    # On a busy machine Prefect may be slow, which is no outage.
    settings = services.settings.model_copy(update={"prefect_patience_seconds": 30.0})
    services = replace(services, settings=settings)
    with temporary_settings(prefect_settings(settings, stack.prefect_api_url)):
        async with AsyncClientContext.get_or_create() as context:
            with SyncClientContext.get_or_create():
                results = services.settings.home / "results"
                mirror, stories = FlowRunMirror(context.client), StoryWriter(context.client, services.database)
                executor = RunExecutor(services, mirror, stories, Breaker(), results)
                yield BoundedWorker(services, executor)
                await executor.close()


@asynccontextmanager
async def prefect_of(stack: StackAddresses) -> AsyncIterator[PrefectClient]:
    """A client of the session's Prefect server."""
    with temporary_settings(client_settings(stack)):
        async with get_client() as client:
            yield client


async def eventually(read: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool], seconds: float = 40) -> Any:
    """What `read` gives, once it holds: Prefect's server records events a little after they happened."""
    async with asyncio.timeout(seconds):
        while not holds(value := await read()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the server tells nobody when it has recorded something
    return value


async def flow_run_of(client: PrefectClient, run: RunRecord) -> FlowRun:
    """The flow run of a run, once Prefect knows its end."""
    assert run.prefect_flow_run_id is not None
    return await eventually(
        lambda: client.read_flow_run(run.prefect_flow_run_id),
        lambda flow_run: flow_run.state is not None and flow_run.state.is_final(),
    )


async def task_runs_of(client: PrefectClient, flow_run: FlowRun, names: set[str]) -> dict[str, TaskRun]:
    """The task runs of a flow run by name, once all of these are at their ends."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    found = await eventually(
        lambda: client.read_task_runs(flow_run_filter=only),
        lambda found: {one.name for one in found if one.state and one.state.is_final()} >= names,
    )
    return {one.name: one for one in found}


def json_of(finished: Finished) -> Any:
    """Standard output as JSON, of a command that printed nothing else there."""
    return json.loads(finished.stdout)
