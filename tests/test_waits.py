"""What a run does while it waits: it obeys who asks for time, gives its slot to others, and is continued if it dies."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.schemas.filters import TaskRunFilter
from prefect.client.schemas.objects import State, StateType
from sqlalchemy import text

from flows.services import open_services
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.engine.waits import Slot, Waits, use_slot
from orchestration.requests import RunOptions
from orchestration.states import RunStatus
from orchestration.store.claims import seconds_until_due
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.stack import StackAddresses
from tasks.notify.task import notify
from tasks.retries import with_retries
from tests.inbox_helpers import accept_push
from tests.notify_helpers import change
from tests.receivers import Answer, HttpReceiver, http_receiver
from tests.store_helpers import add_runs, new_run
from tests.worker_helpers import (
    NOWHERE,
    WorkerProcess,
    beside,
    eventually,
    keys,
    over,
    prefect_at,
    push,
    record_of,
    titles,
    worker_settings,
    working,
)

pytestmark = pytest.mark.usefixtures("patient")


def busy(seconds: str) -> Answer:
    return Answer(429, b"slow down", {"Retry-After": seconds})


async def push_to(services: Services, driver: str, name: str, severity: str) -> str:
    """One alert that goes to this channel; the id of its run."""
    alert = {"alertname": name, "severity": severity, "instance": "web-1"}
    options = RunOptions(notify_driver=driver)
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    return run_id


async def waiting(database: Database, run_id: str) -> RunRecord:
    """The run, once it waits for its next attempt."""

    async def look() -> RunRecord | None:
        record = await record_of(database, run_id)
        return record if record.status is RunStatus.RETRYING else None

    return await eventually(look, "the wait for another attempt")


async def states_of_notify(client: object, flow_run_id: str | None) -> list[State[object]]:
    """The states that Prefect has seen the run's notify task in, once it has its end."""

    async def look() -> list[State[object]]:
        of_run = TaskRunFilter.model_validate({"flow_run_id": {"any_": [flow_run_id]}, "name": {"any_": ["notify"]}})
        for task_run in await client.read_task_runs(task_run_filter=of_run):  # type: ignore[attr-defined]
            states = await client.read_task_run_states(task_run.id)  # type: ignore[attr-defined]
            if any(state.type is StateType.COMPLETED for state in states):
                return states
        return []

    return await eventually(look, "the end of the notify task in Prefect")


@pytest.mark.parametrize("engine", ["prefect", "direct"])
async def test_a_channel_that_asks_for_time_gets_it(
    engine: str, database: Database, home: Path, receiver: HttpReceiver, stack: StackAddresses
) -> None:
    receiver.answer_next(busy("2"))
    api_url = stack.prefect_api_url if engine == "prefect" else NOWHERE
    async with working(worker_settings(home, receiver), database.url, api_url) as worker:
        run_id = await push(worker.services, "TooFast")
        wait = await waiting(database, run_id)
        seen = datetime.now(UTC)
        record = await over(database, run_id)

    assert wait.due_at is not None
    assert 0.5 < (wait.due_at - seen).total_seconds() <= 2
    assert (record.status, record.engine, record.due_at) == (RunStatus.NOTIFIED, engine, None)
    assert record.completed_at is not None
    assert 0 <= (record.completed_at - wait.due_at).total_seconds() < 1.5
    assert len(receiver.requests) == 2
    if engine == "prefect":
        async with prefect_at(stack) as client:
            states = await states_of_notify(client, record.prefect_flow_run_id)
        (retry,) = [state for state in states if state.name == "AwaitingRetry"]
        assert retry.state_details.scheduled_time is not None
        assert abs((retry.state_details.scheduled_time - wait.due_at).total_seconds()) < 0.5
        assert retry.state_details.scheduled_time - retry.timestamp > (wait.due_at - seen)


async def test_a_wait_that_is_too_long_ends_the_stage(
    database: Database, home: Path, receiver: HttpReceiver, stack: StackAddresses
) -> None:
    receiver.answer_next(busy("90"), busy("90"))
    for api_url in (stack.prefect_api_url, NOWHERE):
        await change(database, "delete from channel_health")
        async with working(worker_settings(home, receiver), database.url, api_url) as worker:
            run_id = await push(worker.services, "TooLong", severity="info", instance=str(api_url))
            record = await over(database, run_id)

        assert (record.status, record.last_error_retryable, record.due_at) == (RunStatus.FAILED, True, None)
    assert len(receiver.requests) == 2


async def test_the_retries_keep_their_number_whatever_the_channel_asks_for(
    database: Database, home: Path, receiver: HttpReceiver
) -> None:
    receiver.answer_next(*[busy("0.3")] * 4)
    async with working(worker_settings(home, receiver), database.url, NOWHERE) as worker:
        began = time.monotonic()
        record = await over(database, await push(worker.services, "Busy"))

    assert record.status is RunStatus.FAILED
    assert len(receiver.requests) == 4
    assert time.monotonic() - began > 0.9


async def test_a_task_is_made_once_for_all_runs_and_has_the_delays_of_the_settings(services: Services) -> None:
    made = []
    for name in ("One", "Two"):
        async with lease_run(services, await push(services, name), engine="test") as run:
            made.append(with_retries(notify, run))

    assert made[0] is made[1]
    assert list(made[0].retry_delay_seconds) == pytest.approx([0.02, 0.0004, 0.000008])  # type: ignore[attr-defined]


@pytest.mark.parametrize("severity", ["info", "critical"])
async def test_a_channel_that_hangs_delays_no_other(
    severity: str, database: Database, home: Path, receiver: HttpReceiver
) -> None:
    with http_receiver(default=Answer(hang=True)) as deaf:
        settings = worker_settings(
            home, receiver, slack_webhook_url=deaf.url, worker_concurrency=4, worker_grace_seconds=0
        )
        async with working(settings, database.url, NOWHERE) as worker:
            for number in range(12):
                await push_to(worker.services, "slack", f"Hangs{number}", severity)
            await asyncio.to_thread(deaf.wait_for, 4)
            began = time.monotonic()
            run_id = await push_to(worker.services, "generic", "Told", "critical")
            record = await over(database, run_id, seconds=20)

            assert record.status is RunStatus.NOTIFIED
            assert time.monotonic() - began < 8
            assert titles(receiver) == ["[CRITICAL] Told on web-1 (test)"]

            async def only_the_deaf_are_left() -> bool:
                return worker.running == 12

            await eventually(only_the_deaf_are_left, "the run that is over to leave the worker")
            assert worker.working <= 4


async def test_a_run_that_waits_leaves_its_slot(database: Database, home: Path, receiver: HttpReceiver) -> None:
    with http_receiver(default=busy("5")) as limited:
        settings = worker_settings(
            home, receiver, slack_webhook_url=limited.url, worker_concurrency=1, worker_grace_seconds=0
        )
        async with working(settings, database.url, NOWHERE) as worker:
            first = [await push_to(worker.services, "slack", f"Waits{number}", "info") for number in range(2)]
            for run_id in first:
                await waiting(database, run_id)
            told = await over(database, await push_to(worker.services, "generic", "Told", "info"))
            still = [await record_of(database, run_id) for run_id in first]

    assert told.status is RunStatus.NOTIFIED
    assert {record.status for record in still} == {RunStatus.RETRYING}
    # The worker was stopped: whoever is there when they are due continues them.
    for before in still:
        left = await record_of(database, before.run_id)
        assert (left.status, left.lease_owner, left.due_at) == (RunStatus.RETRYING, None, before.due_at)


async def test_a_run_with_branches_needs_its_slot_while_one_of_them_works() -> None:
    heard: list[bool] = []
    slot = Slot(lambda: heard.append(slot.idle))
    with use_slot(slot):
        waits = Waits()
    with waits.at("check"), waits.at("notify"):
        waits.retry_in("notify", 0.05)
        assert not slot.idle
        waits.retry_in("check", 20)
        assert slot.idle
        await waits.until_due("notify")
        waits.begin("notify")
        assert not slot.idle
        assert waits.seconds_until_retry == pytest.approx(20, abs=1)
        waits.begin("check")
        assert waits.seconds_until_retry is None
    assert heard == [True, False]


async def test_a_run_leaves_its_slot_only_for_an_answer_that_takes_long() -> None:
    changed = asyncio.Event()
    slot = Slot(changed.set)
    with use_slot(slot):
        waits = Waits()
    with waits.at("notify"):
        async with waits.outside("notify"):
            pass
        assert not changed.is_set()
        async with waits.outside("notify"), waits.outside("notify"):
            await changed.wait()
            assert slot.idle
        assert not slot.idle


async def test_the_number_of_runs_that_wait_is_bounded(
    database: Database, home: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.worker.RUNS_PER_SLOT", 3)
    receiver.answer_next(busy("3"))
    settings = worker_settings(home, receiver, worker_concurrency=1, worker_grace_seconds=0)
    async with working(settings, database.url, NOWHERE) as worker:
        runs = [await push(worker.services, f"Waits{number}", severity="info") for number in range(5)]
        for run_id in runs[:3]:
            await waiting(database, run_id)
        assert (worker.running, worker.working) == (3, 0)
        assert (await record_of(database, runs[3])).status is RunStatus.PENDING
        assert (await over(database, runs[4])).status in (RunStatus.NOTIFIED, RunStatus.FAILED)


async def test_a_run_whose_process_dies_while_it_waits_goes_on_when_it_is_due(
    database: Database, home: Path, receiver: HttpReceiver, stack: StackAddresses, tmp_path: Path
) -> None:
    receiver.answer_next(busy("4"))
    settings = worker_settings(home, receiver)
    async with open_services(settings, database.url) as services:
        run_id = await push(services, "Waits")
    with beside(WorkerProcess(settings, stack, tmp_path / "first.log", PREFECT_API_URL=NOWHERE)) as (first,):
        wait = await waiting(database, run_id)
        first.kill()
    async with working(settings, database.url, NOWHERE):
        record = await over(database, run_id)

    assert record.status is RunStatus.NOTIFIED
    assert wait.due_at is not None
    assert record.completed_at is not None
    assert 0 <= (record.completed_at - wait.due_at).total_seconds() < 5
    assert len(set(keys(receiver))) == 1


async def test_a_worker_claims_each_run_at_the_moment_that_it_is_due(
    database: Database, home: Path, receiver: HttpReceiver
) -> None:
    """Also those that become due between two of its polls."""
    async with working(worker_settings(home, receiver), database.url, NOWHERE) as worker:
        async with database.transaction() as tx:
            assert await seconds_until_due(tx) is None
            later = [new_run(payload={"alerts": []}) for _ in range(3)]
            await add_runs(tx, *later)
            for run, seconds in zip(later, (2.3, 2.7, 3.1), strict=True):
                due = text("update pipeline_run set due_at = clock_timestamp() + :wait where run_id = :run_id")
                await tx.execute(due, {"wait": timedelta(seconds=seconds), "run_id": run.run_id})
            left = await seconds_until_due(tx)
        dues = [(await record_of(database, run.run_id)).due_at for run in later]

        async def started() -> list[datetime]:
            found = [(await record_of(database, run.run_id)).started_at for run in later]
            return [at for at in found if at is not None] if all(found) else []

        started_at = await eventually(started, "the start of the runs")

    assert left == pytest.approx(2.3, abs=0.2)
    late = [(at - due).total_seconds() for at, due in zip(started_at, dues, strict=True) if due is not None]
    assert len(late) == 3
    assert all(0 <= seconds < 0.6 for seconds in late), late
    assert worker.working == 0
