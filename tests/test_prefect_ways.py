"""The ways in that Prefect itself has: its worker command, `prefect deployment run`, and an event."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.mirror.deployments import register
from service.stack import StackAddresses
from tests.api_helpers import all_runs
from tests.conftest import clean_environment
from tests.receivers import HttpReceiver, http_receiver
from tests.worker_helpers import WorkerProcess, beside, eventually, prefect_at, titles, worker_settings


class PrefectsWorkerCommand(WorkerProcess):
    """The worker as a Prefect user starts it."""

    command = ("prefect", "worker", "start", "--pool", "alerts", "--type", "warm")


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as one:
        yield one


async def emit(api_url: str, payload: dict[str, str]) -> None:
    """Emit an event, as a webhook of Prefect Cloud or any other program does."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "alert.received",
        "resource": {"prefect.resource.id": "alert.test"},
        "payload": payload,
    }
    async with httpx.AsyncClient() as client:
        (await client.post(f"{api_url}/events", json=[event])).raise_for_status()


async def run_deployment(api_url: str, payload: dict[str, str]) -> None:
    """`prefect deployment run`, with the words that its user types."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "prefect"),
        *(
            "deployment",
            "run",
            "alert-pipeline/default",
            "-p",
            f"payload={json.dumps(payload)}",
            "-p",
            "source=grafana",
        ),
        env={**clean_environment(), "PREFECT_API_URL": api_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_an_event_and_a_deployment_run_page_through_prefects_own_worker_command(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver, tmp_path: Path
) -> None:
    api_url = str(stack.prefect_api_url)
    async with prefect_at(api_url) as client:
        await register(client)

    async def both() -> list[RunRecord]:
        found = await all_runs(database)
        return found if len(found) == 2 and all(run.status.final for run in found) else []

    with beside(PrefectsWorkerCommand(worker_settings(home, receiver), stack, tmp_path / "worker.log")) as (worker,):
        await run_deployment(api_url, {"alertname": "ByHand", "severity": "warning", "instance": "web-2"})
        await emit(api_url, {"alertname": "FromEvent", "severity": "critical", "instance": "web-1"})
        found = await eventually(both, "both runs", 80)
        assert worker.end() == 0

    assert {(run.status, run.engine) for run in found} == {(RunStatus.NOTIFIED, "prefect")}
    assert sorted(titles(receiver)) == [
        "[CRITICAL] FromEvent on web-1 (production)",
        "[WARNING] ByHand on web-2 (production)",
    ]
