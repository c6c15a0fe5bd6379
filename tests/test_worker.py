"""The warm worker: from the inbox to the person, as Prefect shows it and as operators want it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling

from orchestration.errors import Unavailable
from orchestration.requests import RunOptions
from orchestration.states import RunStatus
from orchestration.store import runs, workers
from orchestration.store.database import Database
from orchestration.store.runs import RunFilter, list_page
from service.mirror.deployments import POOL_NAME, register
from service.stack import StackAddresses
from service.worker.warm import WarmWorker
from service.worker.worker import Worker
from tasks.ingest.storms import BATCH, Folded
from tests.inbox_helpers import accept_push
from tests.receivers import Answer, HttpReceiver
from tests.worker_helpers import (
    DeafHost,
    at_stage,
    eventually,
    keys,
    over,
    prefect_at,
    push,
    worker_settings,
    working,
)

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture(scope="session")
async def registered(stack: StackAddresses) -> StackAddresses:
    """The stack, with our deployments on it."""
    async with prefect_at(stack) as client:
        await register(client)
    return stack


@pytest.fixture
async def worker(
    database: Database, home: Path, receiver: HttpReceiver, registered: StackAddresses
) -> AsyncIterator[Worker]:
    """A worker at work."""
    settings = worker_settings(home, receiver)
    async with working(settings, database.url, registered.prefect_api_url) as one:
        yield one


async def flow_run_of(stack: StackAddresses, flow_run_id: str | None) -> FlowRun:
    async with prefect_at(stack) as client:
        return await client.read_flow_run(UUID(flow_run_id))


async def ended(stack: StackAddresses, flow_run_id: str | None) -> FlowRun:
    """The flow run, once Prefect has its end."""

    async def look() -> FlowRun | None:
        found = await flow_run_of(stack, flow_run_id)
        return found if found.state is not None and found.state.is_final() else None

    return await eventually(look, "the end of the flow run")


async def test_an_alert_in_the_inbox_becomes_a_message_and_a_flow_run(
    worker: Worker, database: Database, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    run_id = await push(worker.services, "HighCPU")

    record = await over(database, run_id)

    assert (record.status, record.engine) == (RunStatus.NOTIFIED, "prefect")
    assert len(receiver.requests) == 1
    flow_run = await ended(registered, record.prefect_flow_run_id)
    assert flow_run.name == "critical · HighCPU on web-1"
    assert {"generic", "critical", "test", f"trace:{record.trace_id}"} <= set(flow_run.tags)
    assert flow_run.parameters == {"run_id": run_id}
    assert flow_run.idempotency_key == run_id
    assert flow_run.deployment_id is not None
    assert flow_run.work_pool_name == POOL_NAME
    assert flow_run.state is not None
    assert flow_run.state.name == "Notified"


async def test_in_a_storm_a_critical_alert_does_not_wait_for_prefect(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stormy(_: object) -> Folded:
        return Folded(storm=True)

    monkeypatch.setattr("service.worker.worker.fold_storms", stormy)

    critical, minor = await push(worker.services, "DiskFull"), await push(worker.services, "Slow", severity="warning")

    assert (await over(database, critical)).engine == "direct"
    assert (await over(database, minor)).engine == "prefect"


async def test_a_storm_in_one_push_is_one_flow_run(worker: Worker, database: Database) -> None:
    alerts = [{"alertname": f"Disk{n}", "severity": "warning"} for n in range(3 * BATCH)]
    ids = await accept_push(worker.services, {"alerts": alerts}, source="generic", environment="test")
    first, *others = [await over(database, run_id) for run_id in ids]
    assert (first.status, first.engine) == (RunStatus.NOTIFIED, "prefect")
    assert len(others) == 2
    assert all((one.engine, one.prefect_flow_run_id) == ("direct", None) for one in others)


async def test_a_resumed_run_gets_a_flow_run_of_its_own(
    worker: Worker, database: Database, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    receiver.answer_next(404)
    run_id = await push(worker.services, "DiskFull")
    failed = await over(database, run_id)
    assert failed.status is RunStatus.FAILED

    async with database.transaction() as tx:
        await runs.request_resume(tx, run_id)

    async def notified() -> bool:
        return (await over(database, run_id)).status is RunStatus.NOTIFIED

    await eventually(notified, "the resumed run")
    resumed = await over(database, run_id)
    assert resumed.prefect_flow_run_id != failed.prefect_flow_run_id
    assert (await ended(registered, failed.prefect_flow_run_id)).state_type is StateType.FAILED
    assert (await ended(registered, resumed.prefect_flow_run_id)).state_type is StateType.COMPLETED
    assert len(set(keys(receiver))) == 1


async def test_a_run_that_is_cancelled_in_prefect_stops_and_can_be_resumed(
    worker: Worker, database: Database, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    receiver.answer_next(Answer(hang=True))
    run_id = await push(worker.services, "HighMemory")
    waiting = await at_stage(database, run_id, "notify")

    async with prefect_at(registered) as client:
        await client.set_flow_run_state(UUID(waiting.prefect_flow_run_id), Cancelling())
    record = await over(database, run_id)

    assert (record.status, record.last_error_type) == (RunStatus.FAILED, "Cancelled")
    assert (await ended(registered, record.prefect_flow_run_id)).state_type is StateType.CANCELLED
    async with database.transaction() as tx:
        await runs.request_resume(tx, run_id)

    async def notified() -> bool:
        return (await over(database, run_id)).status is RunStatus.NOTIFIED

    await eventually(notified, "the resumed run")


async def test_a_paused_pool_stops_claims_but_not_an_overdue_page(
    database: Database, home: Path, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    async with prefect_at(registered) as client:
        await client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=True))
        try:
            settings = worker_settings(home, receiver, page_deadline_seconds=1.0)
            async with working(settings, database.url, registered.prefect_api_url) as worker:
                warning = await push(worker.services, "Slow", severity="warning")
                critical = await push(worker.services, "Down", service="shop")

                page = await over(database, critical)

                assert (page.status, page.engine) == (RunStatus.NOTIFIED, "direct")
                async with database.transaction() as tx:
                    assert (await runs.get_run(tx, warning)).status is RunStatus.PENDING
                await client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=False))
                assert (await over(database, warning)).engine == "prefect"
        finally:
            await client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=False))


async def test_the_limit_of_the_deployment_bounds_the_claims(
    database: Database, home: Path, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    host = DeafHost()
    async with prefect_at(registered) as client:
        deployment = await client.read_deployment_by_name("alert-pipeline/default")
        await client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=1))
        try:
            async with working(worker_settings(home, receiver), database.url, registered.prefect_api_url) as worker:
                first = await push_with_check(worker, "One", host.name, seconds=1.0)
                second = await push(worker.services, "Two", severity="warning")

                one, two = await over(database, first), await over(database, second)

                assert one.completed_at is not None
                assert two.started_at is not None
                assert two.started_at >= one.completed_at
                assert {one.status, two.status} == {RunStatus.NOTIFIED}
        finally:
            await client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=None))
            host.close()


async def test_a_worker_that_ends_lets_its_runs_end(
    database: Database, home: Path, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    host = DeafHost()
    settings = worker_settings(home, receiver, checkers_enabled=("network",))
    async with working(settings, database.url, registered.prefect_api_url) as worker:
        run_id = await push_with_check(worker, "Busy", host.name, seconds=2.0)
        await at_stage(database, run_id, "check")
        late = await late_push_after_the_end(worker)
    host.close()

    assert (await over(database, run_id)).status is RunStatus.NOTIFIED
    async with database.transaction() as tx:
        assert (await runs.get_run(tx, late)).status is RunStatus.PENDING
        assert await workers.list_workers(tx) == []


async def test_what_does_not_end_in_time_is_given_back_as_it_stands(
    database: Database, home: Path, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    host = DeafHost()
    settings = worker_settings(home, receiver, worker_grace_seconds=0, checkers_timeout_seconds=30)
    async with working(settings, database.url, registered.prefect_api_url) as worker:
        run_id = await push_with_check(worker, "Long", host.name, seconds=30.0)
        left = await at_stage(database, run_id, "check")
    host.close()

    async with database.transaction() as tx:
        record = await runs.get_run(tx, run_id)
    assert (record.status, record.lease_owner) == (RunStatus.INGESTED, None)
    assert (await ended(registered, left.prefect_flow_run_id)).state_type is StateType.CRASHED


async def test_a_run_that_prefect_starts_with_several_incidents_leaves_the_others_to_the_worker(
    database: Database, home: Path, receiver: HttpReceiver, registered: StackAddresses
) -> None:
    settings = worker_settings(home, receiver)
    addresses = StackAddresses(
        database_url=database.url, prefect_api_url=registered.prefect_api_url, embedded=frozenset()
    )
    warm = WarmWorker(POOL_NAME, name="warm test", settings=settings, addresses=addresses)

    def closed(*_: object) -> None:
        raise BrokenPipeError  # as when whoever read its output has ended

    serving = asyncio.create_task(warm.start(printer=closed))
    try:
        async with prefect_at(registered) as client:

            async def lives() -> bool:
                async with database.transaction() as tx:
                    return bool(await workers.list_workers(tx))

            await eventually(lives, "the worker")
            deployment = await client.read_deployment_by_name("alert-pipeline/default")
            alerts = [{"alertname": "A", "instance": "1"}, {"alertname": "B", "instance": "2"}]
            started = await client.create_flow_run_from_deployment(
                deployment.id, parameters={"payload": {"alerts": alerts}, "source": "generic"}
            )

            async def both() -> list[runs.RunRecord]:
                async with database.transaction() as tx:
                    found = (await list_page(tx, RunFilter(), limit=5)).runs
                return found if len(found) == 2 and all(record.status.final for record in found) else []

            found = await eventually(both, "both runs")
    finally:
        serving.cancel()
        await asyncio.wait({serving})

    assert [record.status for record in found] == [RunStatus.NOTIFIED] * 2
    assert len(receiver.requests) == 2
    flow_runs = {record.prefect_flow_run_id for record in found}
    assert len(flow_runs) == 2
    assert str(started.id) in flow_runs


async def test_a_worker_without_a_database_says_so(home: Path, receiver: HttpReceiver) -> None:
    settings = worker_settings(home, receiver)
    with pytest.raises(Unavailable):
        async with working(settings, "postgresql://nobody@127.0.0.1:1/none", None):
            pass


async def push_with_check(worker: Worker, name: str, host: str, *, seconds: float) -> str:
    """An alert whose check takes so long."""
    options = RunOptions(checker_names=["network"], checker_configs={"network": {"hosts": [host], "timeout": seconds}})
    (run_id,) = await accept_push(
        worker.services,
        {"alertname": name, "severity": "critical"},
        source="generic",
        environment="test",
        options=options,
    )
    return run_id


async def late_push_after_the_end(worker: Worker) -> str:
    """End the worker while it is busy, and give it one more alert."""
    ending = asyncio.create_task(worker.end(5))
    await asyncio.sleep(0)
    run_id = await push(worker.services, "TooLate")
    await ending
    return run_id
