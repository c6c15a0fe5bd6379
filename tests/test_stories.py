"""The artifacts of flow runs: they are written when nobody waits for the worker."""

from __future__ import annotations

import asyncio

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from orchestration.engine.run import Services
from orchestration.requests import RunRequest
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.mirror import stories
from service.mirror.stories import StoryWriter
from service.stack import StackAddresses
from tests.cli_helpers import all_runs, eventually, flow_run_of, prefect_of, worker_with
from tests.conftest import MemoryChannel


@pytest.fixture
async def two_runs(
    services: Services, stack: StackAddresses, database: Database, channel: MemoryChannel
) -> list[RunRecord]:
    """Two runs that are over, each with its flow run and its story."""
    del channel
    async with worker_with(services, stack) as worker:
        for name in ("HighCPU", "DiskFull"):
            request = RunRequest(payload={"name": name, "severity": "critical"}, source="generic")
            await worker.execute_all(await worker.accept(request))
    return await all_runs(database)


async def count_stories(client: PrefectClient, run: RunRecord) -> int:
    flow_run = await flow_run_of(client, run)
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    return len(await client.read_artifacts(artifact_filter=only))


async def test_a_story_waits_until_nobody_waits_for_the_worker(
    two_runs: list[RunRecord], stack: StackAddresses, database: Database
) -> None:
    run, _ = two_runs
    async with prefect_of(stack) as client:
        flow_run, idle, looked = await flow_run_of(client, run), asyncio.Event(), asyncio.Event()

        def is_idle() -> bool:
            looked.set()
            return idle.is_set()

        writer = StoryWriter(client, database)
        writing = asyncio.create_task(writer.run(is_idle))
        writer.add(flow_run.id, run)
        await looked.wait()
        assert await count_stories(client, run) == 1
        idle.set()
        assert await eventually(lambda: count_stories(client, run), lambda count: count == 2) == 2
        writing.cancel()


async def test_what_waits_at_the_end_is_written_and_of_too_many_the_oldest_is_left_out(
    two_runs: list[RunRecord], stack: StackAddresses, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stories, "MOST_WAITING", 1)
    async with prefect_of(stack) as client:
        writer = StoryWriter(client, database)
        for run in two_runs:
            writer.add((await flow_run_of(client, run)).id, run)
        await writer.end()
        assert [await count_stories(client, run) for run in two_runs] == [1, 2]
