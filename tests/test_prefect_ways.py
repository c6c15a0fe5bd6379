"""The ways in that Prefect itself has: its worker command, `prefect deployment run`, and an event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
import yaml
from prefect.automations import AutomationCore
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import AwaitingRetry, Scheduled

from flows.services import open_services
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.mirror.deployments import POOL_NAME, register
from service.stack import StackAddresses
from service.worker.warm import WarmWorker
from tests.api_helpers import all_runs
from tests.conftest import clean_environment
from tests.receivers import HttpReceiver
from tests.worker_helpers import (
    WorkerProcess,
    beside,
    eventually,
    over,
    prefect_at,
    prefect_variables,
    push,
    titles,
    worker_settings,
)


class PrefectsWorkerCommand(WorkerProcess):
    """The worker as a Prefect user starts it."""

    command = ("prefect", "worker", "start", "--pool", "alerts", "--type", "warm")


async def emit(stack: StackAddresses, payload: dict[str, str]) -> None:
    """Emit an event, as a webhook of Prefect Cloud or any other program does."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "alert.received",
        "resource": {"prefect.resource.id": "alert.test"},
        "payload": payload,
    }
    user, _, password = str(stack.prefect_auth_string).partition(":")
    async with httpx.AsyncClient(auth=(user, password)) as client:
        (await client.post(f"{stack.prefect_api_url}/events", json=[event])).raise_for_status()


async def run_deployment(stack: StackAddresses, payload: dict[str, str]) -> None:
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
        env={**clean_environment(), **prefect_variables(stack)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_an_event_and_a_deployment_run_page_through_prefects_own_worker_command(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver, tmp_path: Path
) -> None:
    async with prefect_at(stack) as client:
        await register(client)

    async def both() -> list[RunRecord]:
        found = await all_runs(database)
        return found if len(found) == 2 and all(run.status.final for run in found) else []

    log, settings = tmp_path / "worker.log", worker_settings(home, receiver)
    with beside(PrefectsWorkerCommand(settings, stack, log, **prefect_variables(stack))) as (worker,):
        await run_deployment(stack, {"alertname": "ByHand", "severity": "warning", "instance": "web-2"})
        await emit(stack, {"alertname": "FromEvent", "severity": "critical", "instance": "web-1"})
        found = await eventually(both, "both runs", 80)
        assert worker.end() == 0

    assert {(run.status, run.engine) for run in found} == {(RunStatus.NOTIFIED, "prefect")}
    assert sorted(titles(receiver)) == [
        "[CRITICAL] FromEvent on web-1 (production)",
        "[WARNING] ByHand on web-2 (production)",
    ]


@contextlib.asynccontextmanager
async def warm_worker(settings: Settings, addresses: StackAddresses) -> AsyncIterator[None]:
    """Prefect's worker of our type in this process: it claims runs, and takes what Prefect schedules."""
    serving = asyncio.create_task(
        WarmWorker(POOL_NAME, name="warm ways", settings=settings, addresses=addresses).start(printer=lambda *_: None)
    )
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait({serving})


@pytest.mark.usefixtures("patient")
async def test_the_worker_executes_our_flows_and_refuses_every_other_entry_point_by_name(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver, tmp_path: Path
) -> None:
    executed = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(executed)!r}).touch()\ndef evil(): ...\n")
    addresses = StackAddresses(database_url=database.url, prefect_api_url=stack.prefect_api_url, embedded=frozenset())
    foreign = [f"{tmp_path}/evil.py:evil", "evil.evil", "os.system", "flows/alert_pipeline.py:alert_pipeline", " "]
    ours = "flows.alert_pipeline.alert_pipeline"
    async with prefect_at(stack) as client:
        await register(client)
        flow_id = await client.create_flow_from_name("evil")

        async def deploy(name: str, entrypoint: str) -> FlowRun:
            deployment_id = await client.create_deployment(
                flow_id=flow_id, name=name, entrypoint=entrypoint, work_pool_name=POOL_NAME, path=str(tmp_path)
            )
            payload = {"alertname": "FromMine", "severity": "critical"}
            parameters = {"payload": payload} if entrypoint == ours else {}
            return await client.create_flow_run_from_deployment(deployment_id, parameters=parameters)

        made = [await deploy(f"evil-{number}", entrypoint) for number, entrypoint in enumerate([*foreign, ours])]

        async def ended() -> list[FlowRun]:
            found = [await client.read_flow_run(flow_run.id) for flow_run in made]
            return found if all(one.state is not None and one.state.is_final() for one in found) else []

        async with warm_worker(worker_settings(home, receiver), addresses):
            *refused, own = [one.state for one in await eventually(ended, "the ends of the flow runs") if one.state]
        await client.delete_flow(flow_id)

    assert not executed.exists()
    assert [state.type for state in refused] == [StateType.FAILED] * len(foreign)
    for state, entrypoint in zip(refused, foreign, strict=True):
        message = str(state.message)
        assert message.startswith(f"This worker does not execute {entrypoint!r}: it executes the flows {ours}")
        assert "flows.definition_pipeline.definition_pipeline" in message
        assert "flows.upkeep.upkeep" in message
    assert (own.type, own.name) == (StateType.COMPLETED, "Notified"), "another deployment of our flow is our flow"
    assert len(receiver.requests) == 1


@pytest.mark.usefixtures("patient")
async def test_deployments_that_somebody_deletes_are_there_again_and_work(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.warm.SYNC_SECONDS", 0.2)
    addresses = StackAddresses(database_url=database.url, prefect_api_url=stack.prefect_api_url, embedded=frozenset())
    async with prefect_at(stack) as client:
        await register(client)

        async def names() -> set[str | None]:
            return {one.entrypoint for one in await client.read_deployments() if one.work_pool_name == POOL_NAME}

        async def complete() -> bool:
            return await names() >= {"flows.alert_pipeline.alert_pipeline", "flows.upkeep.upkeep"}

        async def automated() -> bool:
            there = {str(one.id) for one in await client.read_deployments()}
            found = await client.read_automations_by_name("alert-pipeline: alert received")  # none while it is replaced
            starts = {str(action["deployment_id"]) for one in found for action in one.model_dump()["actions"]}
            return bool(starts) and starts <= there

        async def notified() -> list[RunRecord]:
            return [run for run in await all_runs(database) if run.status.final]

        async with warm_worker(worker_settings(home, receiver), addresses):
            await eventually(complete, "the registration at the start")
            await client.request("POST", "/deployments/bulk_delete", json={"deployments": {}})
            assert not await automated()
            await eventually(complete, "the deployments to be registered again")
            await eventually(automated, "the automation that was left behind to start the new deployment")
            await emit(stack, {"alertname": "FromEvent", "severity": "critical", "instance": "web-1"})
            (run,) = await eventually(notified, "the run of the event", 60)

            await client.delete_work_pool(POOL_NAME)
            assert not await complete()
            await eventually(complete, "the deployments to have their work pool again")

    assert (run.status, run.engine) == (RunStatus.NOTIFIED, "prefect")


# The Retry button of Prefect's UI and `prefect flow-run retry` schedule the flow run again, under different names.
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("scheduled", [AwaitingRetry(), Scheduled(message="Retried via CLI")], ids=["ui", "cli"])
async def test_a_notified_run_that_is_retried_in_prefect_ends_as_notified_and_pages_nobody_again(
    database: Database,
    home: Path,
    stack: StackAddresses,
    receiver: HttpReceiver,
    scheduled: State[None],
) -> None:
    addresses = StackAddresses(database_url=database.url, prefect_api_url=stack.prefect_api_url, embedded=frozenset())
    settings = worker_settings(home, receiver)
    async with prefect_at(stack) as client:
        await register(client)
        async with warm_worker(settings, addresses):
            async with open_services(settings, database.url) as services:
                run_id = await push(services, "Down")
            record = await over(database, run_id)
            assert record.prefect_flow_run_id is not None
            flow_run_id = UUID(record.prefect_flow_run_id)

            async def ended(run_count: int) -> FlowRun | None:
                found = await client.read_flow_run(flow_run_id)
                final = found.state is not None and found.state.is_final()
                return found if final and found.run_count >= run_count else None

            await eventually(lambda: ended(1), "the first end")
            await client.set_flow_run_state(flow_run_id, scheduled, force=True)
            retried = await eventually(lambda: ended(2), "the second end")

    assert retried.state is not None
    assert (retried.state.type, retried.state.name) == (StateType.COMPLETED, "Notified")
    assert (await over(database, run_id)).status is RunStatus.NOTIFIED
    assert len(receiver.requests) == 1


@pytest.mark.usefixtures("patient")
async def test_the_automation_of_the_docs_fires_for_a_page_that_failed(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver
) -> None:
    addresses = StackAddresses(database_url=database.url, prefect_api_url=stack.prefect_api_url, embedded=frozenset())
    settings = worker_settings(home, receiver)
    page = (Path(__file__).parent.parent / "docs" / "prefect.md").read_text()
    (declared,) = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert declared["actions"][0]["type"] == "send-notification"
    declared["actions"] = [{"type": "do-nothing"}]
    receiver.answer_next(404)
    async with prefect_at(stack) as client:
        await register(client)
        automation = await client.create_automation(AutomationCore.model_validate(declared))
        fired = {
            "event": {"name": ["prefect.automation.triggered"]},
            "resource": {"id": [f"prefect.automation.{automation}"]},
        }

        async def events() -> int:
            return (await client.request("POST", "/events/filter", json=fired)).json()["total"]

        try:
            async with warm_worker(settings, addresses):
                async with open_services(settings, database.url) as services:
                    run_id = await push(services, "Down")
                assert (await over(database, run_id)).status is RunStatus.FAILED
                await eventually(events, "the automation to fire", 60)
        finally:
            await client.delete_automation(automation)


async def test_the_deployment_of_the_docs_names_the_module(stack: StackAddresses) -> None:
    page = (Path(__file__).parent.parent / "docs" / "prefect.md").read_text()
    (script,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if ".deploy(" in text]
    async with prefect_at(stack) as client:
        await register(client)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script),
            env={**clean_environment(), **prefect_variables(stack)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
        deployment = await client.read_deployment_by_name("alert-pipeline/staging")
        await client.delete_deployment(deployment.id)

    assert (deployment.entrypoint, deployment.work_pool_name) == ("flows.alert_pipeline.alert_pipeline", POOL_NAME)
    assert deployment.parameters == {"environment": "staging"}
