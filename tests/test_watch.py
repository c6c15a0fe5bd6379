"""What operators set in Prefect, as the worker reads it, and the page that no limit holds up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, FlowRunCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Running, to_state_create

from blocks.channels.resolver import ChannelCache
from orchestration.encryption import load_key
from orchestration.requests import RunOptions
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import EncryptedCache
from orchestration.store.records import new_id
from service.mirror.deployments import POOL_NAME, register
from service.mirror.flow_runs import FlowRunMirror
from service.stack import StackAddresses
from service.worker.breaker import Breaker
from service.worker.watch import OperatorControls, Watch
from tests.inbox_helpers import accept_push
from tests.receivers import HttpReceiver
from tests.worker_helpers import (
    DeafHost,
    at_stage,
    eventually,
    over,
    prefect_at,
    push,
    record_of,
    worker_settings,
    working,
)

pytestmark = pytest.mark.usefixtures("patient")

Set = Callable[..., Awaitable[Any]]
"""Sets `paused` or `limit` at one of the places where operators can."""


@pytest.fixture
async def client(stack: StackAddresses) -> AsyncIterator[PrefectClient]:
    """Prefect, knowing our deployments."""
    async with prefect_at(stack) as one:
        await register(one)
        yield one


@pytest.fixture
async def places(client: PrefectClient) -> AsyncIterator[dict[str, Set]]:
    """The places, each set back at the end."""
    deployment = await client.read_deployment_by_name("alert-pipeline/default")
    queue_id = deployment.work_queue_id
    assert queue_id is not None

    async def of_pool(*, paused: bool = False, limit: int | None = None) -> None:
        await client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=paused, concurrency_limit=limit))

    async def of_queue(*, paused: bool = False, limit: int | None = None) -> None:
        await client.update_work_queue(queue_id, is_paused=paused, concurrency_limit=limit)

    async def of_deployment(*, paused: bool = False, limit: int | None = None) -> None:
        await client.update_deployment(deployment.id, DeploymentUpdate(paused=paused, concurrency_limit=limit))

    there: dict[str, Set] = {"pool": of_pool, "queue": of_queue, "deployment": of_deployment}
    yield there
    for place in there.values():
        await place()


@pytest.fixture
def watch(client: PrefectClient, settings: Settings, database: Database) -> Watch:
    """The worker's watch, without the worker."""
    channels = ChannelCache(EncryptedCache(database), load_key(settings))
    return Watch(client, FlowRunMirror(client), Breaker(), channels, database, lambda: None)


@pytest.mark.parametrize("place", ["pool", "queue", "deployment"])
async def test_a_pause_or_a_limit_is_seen_wherever_it_is_set(places: dict[str, Set], watch: Watch, place: str) -> None:
    await watch.look()
    assert watch.controls == OperatorControls()

    await places[place](paused=True)
    await watch.look()
    assert watch.controls == OperatorControls(paused=True)

    await places[place](limit=3)
    await watch.look()
    assert watch.controls == OperatorControls(limit=3)

    await places[place]()
    await watch.look()
    assert watch.controls == OperatorControls()


async def test_of_several_limits_the_smallest_counts(places: dict[str, Set], watch: Watch) -> None:
    for limit, place in enumerate(places.values(), start=2):
        await place(limit=limit)
    await watch.look()

    assert watch.controls == OperatorControls(limit=2)


@pytest.mark.parametrize("on_deployment", [True, False])
async def test_a_flow_run_that_nobody_executes_is_ended_also_without_a_deployment(
    client: PrefectClient, watch: Watch, on_deployment: bool
) -> None:
    """A worker opens flow runs of the flow alone while no deployment is registered, and may die then."""
    deployment = await client.read_deployment_by_name("alert-pipeline/default")
    wanted = FlowRunCreate(
        flow_id=deployment.flow_id,
        deployment_id=deployment.id if on_deployment else None,
        parameters={"run_id": new_id()},
        state=to_state_create(Running()),
    )
    answer = await client.request("POST", "/flow_runs/", json=wanted.model_dump(mode="json"))
    lost = FlowRun.model_validate(answer.json())

    await watch.look()

    assert (await client.read_flow_run(lost.id)).state_type is StateType.CRASHED


class Failing(FlowRunMirror):
    """Each read of what seldom changes fails in another way."""

    failures: ClassVar = [
        json.JSONDecodeError("Expecting value", "<html>", 0),
        RuntimeError("cannot connect"),
        TimeoutError(),
        AssertionError("a bug"),
    ]
    count = 0

    async def reconcile(self, database: Database, busy: object) -> int:
        self.count += 1
        raise self.failures[self.count % len(self.failures)]


async def test_a_failed_read_of_what_seldom_changes_is_repeated(
    client: PrefectClient, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.watch.RENEW_SECONDS", 0.05)
    mirror = Failing(client)
    channels = ChannelCache(EncryptedCache(database), load_key(settings))
    watching = asyncio.create_task(Watch(client, mirror, Breaker(), channels, database, lambda: None).run())

    async def again_and_again() -> bool:
        return watching.done() or mirror.count > len(mirror.failures)

    await eventually(again_and_again, "several failed reads")
    assert not watching.done()
    watching.cancel()
    await asyncio.wait({watching})


class NeverRenewed(FlowRunMirror):
    """Prefect hangs at what is seldom looked at."""

    renewing = False

    async def reconcile(self, database: Database, live: object) -> None:
        self.renewing = True
        await asyncio.Event().wait()


async def test_a_slow_look_at_what_seldom_changes_makes_nobody_blind(
    places: dict[str, Set],
    client: PrefectClient,
    settings: Settings,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.worker.watch.RENEW_SECONDS", 0.2)
    mirror = NeverRenewed(client)
    channels = ChannelCache(EncryptedCache(database), load_key(settings))
    watch = Watch(client, mirror, Breaker(), channels, database, lambda: None)
    watching = asyncio.create_task(watch.run())

    async def hangs() -> bool:
        return mirror.renewing

    async def sees_the_pause() -> bool:
        return watch.controls.paused

    await eventually(hangs, "the slow look")
    await places["pool"](paused=True)
    await eventually(sees_the_pause, "the pause to be seen")
    watching.cancel()
    await asyncio.wait({watching})


async def test_a_page_that_is_overdue_waits_for_no_limit(
    places: dict[str, Set], database: Database, home: Path, receiver: HttpReceiver, stack: StackAddresses
) -> None:
    host = DeafHost()
    slow = RunOptions(checker_names=["network"], checker_configs={"network": {"hosts": [host.name], "timeout": 50.0}})
    settings = worker_settings(
        home, receiver, page_deadline_seconds=1.0, checkers_timeout_seconds=50, worker_grace_seconds=0
    )
    await places["queue"](limit=1)
    async with working(settings, database.url, stack.prefect_api_url) as worker:
        alert = {"alertname": "Slow", "severity": "warning"}
        (first,) = await accept_push(worker.services, alert, source="generic", environment="test", options=slow)
        await at_stage(database, first, "check")
        warning = await push(worker.services, "Waits", severity="warning", service="shop")
        page = await push(worker.services, "Down", service="till")

        told = await over(database, page)

        assert (told.status, told.engine) == (RunStatus.NOTIFIED, "direct")
        assert (await record_of(database, first)).current_stage == "check"
        assert (await record_of(database, warning)).started_at is None
    host.close()
