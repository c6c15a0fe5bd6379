"""Flow runs through Prefect's real server: they start at once, end as people expect, and leave each other alone."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Pool, eventually
from prefect import Flow, flow, get_run_logger, runtime, task
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import Cancelling, Scheduled, Suspended


@task
async def double(number: int) -> int:
    return 2 * number


@flow
async def doubling(number: int) -> int:
    return await double(number)


@flow
def plain(number: int) -> None:
    seen["thread"] = threading.current_thread().name
    seen["deployment"] = str(runtime.deployment.id)
    seen["number"] = number


@flow
async def failing() -> None:
    raise RuntimeError("it went wrong")


class Odd(BaseException):
    """What nobody expects."""


LEAVING = {"exit": SystemExit, "interrupt": KeyboardInterrupt, "cancel": asyncio.CancelledError, "odd": Odd}


@flow
async def leaving(how: str) -> None:
    raise LEAVING[how]


@flow
def leaving_a_thread(how: str) -> None:
    raise LEAVING[how]


@flow(log_prints=True)
async def printing(text: str) -> None:
    await asyncio.sleep(0.01)
    print(text)
    get_run_logger().info("logged %s", text)


@flow
async def child() -> None:
    await asyncio.Event().wait()


@flow
async def parent() -> None:
    seen["parent"] = True
    await child()


@flow
async def waiting(name: str = "") -> None:
    seen[f"began{name}"] = True
    await asyncio.Event().wait()


@flow
def turning() -> None:
    seen["turning"] = True
    while True:
        time.sleep(0.01)


@flow
async def blocking() -> None:
    time.sleep(0.6)


@flow
async def stepping() -> None:
    seen["stepping"] = True
    while True:
        await double(1)
        await asyncio.sleep(0.05)


seen: dict[str, object] = {}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()


async def began(what: str) -> None:
    async def look() -> bool:
        return what in seen

    await eventually(look, what)


async def test_a_run_starts_long_before_the_next_poll_and_ends_as_its_flow_does(pool: Pool) -> None:
    async with pool.worker_of(doubling, failing) as worker:
        good = await pool.start(doubling, {"number": 21})
        assert (await pool.end_of(good)).type is StateType.COMPLETED
        bad = await pool.end_of(await pool.start(failing))
        assert (bad.type, "it went wrong" in str(bad.message)) == (StateType.FAILED, True)
        assert worker.free_slots == 20

    assert pool.said[0] == "This worker executes flows.doubling, flows.failing, at most 20 runs at once"


async def test_wrong_parameters_fail_the_run_and_say_which(pool: Pool) -> None:
    async with pool.worker_of(doubling):
        state = await pool.end_of(await pool.start(doubling, {"number": "many"}))
    assert state.type is StateType.FAILED
    assert "number" in str(state.message)


async def test_a_plain_flow_gets_a_thread_of_its_own_and_knows_its_deployment(pool: Pool) -> None:
    async with pool.worker_of(plain):
        started = await pool.start(plain, {"number": 1})
        assert (await pool.end_of(started)).type is StateType.COMPLETED

    assert seen == {"thread": started.name, "deployment": str(started.deployment_id), "number": 1}


async def test_a_flow_that_leaves_python_ends_its_own_run_alone(pool: Pool) -> None:
    async with pool.worker_of(leaving, leaving_a_thread, doubling):
        for each in (leaving, leaving_a_thread):
            for how in LEAVING:
                ended = await pool.end_of(await pool.start(each, {"how": how}))
                assert ended.type in (StateType.CRASHED, StateType.FAILED), (each.name, how)
        assert (await pool.end_of(await pool.start(doubling, {"number": 1}))).type is StateType.COMPLETED


class LogLines(logging.Handler):
    """What flow runs log, by the run's id, as Prefect's own handlers get it."""

    def __init__(self) -> None:
        super().__init__()
        self.found = defaultdict[str, list[str]](list)

    def emit(self, record: logging.LogRecord) -> None:
        self.found[str(getattr(record, "flow_run_id", ""))].append(record.getMessage())


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Iterator[LogLines]:
    handler, names = LogLines(), ("prefect.flow_runs", "prefect.flow_runs.worker")
    for name in names:
        caplog.set_level(logging.INFO, logger=name)  # whatever the environment says
        logging.getLogger(name).addHandler(handler)
    yield handler
    for name in names:
        logging.getLogger(name).removeHandler(handler)


async def test_what_runs_at_the_same_time_prints_into_its_own_log(
    pool: Pool, client: PrefectClient, log_lines: LogLines
) -> None:
    async with pool.worker_of(printing):
        deployment = await pool.deploy(printing)
        texts = [f"text {number}" for number in range(4)]
        started = [
            await client.create_flow_run_from_deployment(deployment, parameters={"text": text}) for text in texts
        ]
        for flow_run in started:
            assert (await pool.end_of(flow_run)).type is StateType.COMPLETED
    for text, flow_run in zip(texts, started, strict=True):
        lines = log_lines.found[str(flow_run.id)]
        assert {line for line in lines if "text" in line} == {text, f"logged {text}"}
        assert any("executes this flow run in its own process" in line for line in lines)


@pytest.mark.parametrize("stuck", [waiting, turning], ids=["async", "thread"])
async def test_a_run_that_is_cancelled_in_the_ui_is_cancelled_within_seconds(
    pool: Pool, stuck: Flow[..., Any], client: PrefectClient
) -> None:
    async with pool.worker_of(stuck):
        flow_run = await pool.start(stuck)
        await began("began" if stuck is waiting else "turning")
        await client.set_flow_run_state(flow_run.id, Cancelling())
        state = await pool.end_of(flow_run, 20)
        assert (state.type, state.name) == (StateType.CANCELLED, "Cancelled")
        names = [one.name for one in await client.read_flow_run_states(flow_run.id)]
        assert "Crashed" not in names


async def test_a_cancelled_run_cancels_the_flows_that_it_called(pool: Pool, client: PrefectClient) -> None:
    async with pool.worker_of(parent):
        flow_run = await pool.start(parent)
        await began("parent")

        async def called() -> list[FlowRun]:
            return [
                one
                for one in await client.read_flow_runs(limit=50)
                if one.parent_task_run_id and one.state_type is StateType.RUNNING
            ]

        (inner,) = await eventually(called, "the flow that is called")
        await client.set_flow_run_state(flow_run.id, Cancelling())
        assert (await pool.end_of(flow_run, 20)).type is StateType.CANCELLED
        assert (await pool.end_of(inner)).type is StateType.CANCELLED


async def test_a_run_that_is_suspended_in_the_ui_leaves_the_worker(pool: Pool, client: PrefectClient) -> None:
    async with pool.worker_of(stepping) as worker:
        flow_run = await pool.start(stepping)
        await began("stepping")
        await client.set_flow_run_state(flow_run.id, Suspended(timeout_seconds=600))

        async def left() -> bool:
            return worker.free_slots == 20

        await eventually(left, "the run to leave", 8)
        state = (await client.read_flow_run(flow_run.id)).state
    assert state is not None
    assert state.name == "Suspended"


@pytest.mark.parametrize("of_pool", [False, True], ids=["worker", "pool"])
async def test_a_limit_is_obeyed_and_the_next_run_follows_at_once(
    pool: Pool, client: PrefectClient, of_pool: bool
) -> None:
    async with pool.worker_of(waiting, limit=None if of_pool else 1) as worker:
        if of_pool:
            await client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=1))
            await worker.sync_with_backend()
        deployment = await pool.deploy(waiting)
        first = await client.create_flow_run_from_deployment(deployment, parameters={"name": "1"})
        await began("began1")
        second = await client.create_flow_run_from_deployment(deployment, parameters={"name": "2"})
        assert await worker.get_and_submit_flow_runs() == []
        assert (await client.read_flow_run(second.id)).state_type is StateType.SCHEDULED
        await client.set_flow_run_state(first.id, Cancelling())
        await began("began2")
        await client.set_flow_run_state(second.id, Cancelling())
        await pool.end_of(second)


async def test_a_paused_pool_starts_nothing(pool: Pool, client: PrefectClient) -> None:
    with temporary_settings({PREFECT_WORKER_QUERY_SECONDS: 1.0}):
        async with pool.worker_of(doubling) as worker:
            deployment = await pool.deploy(doubling)
            await client.update_work_pool(pool.name, WorkPoolUpdate(is_paused=True))
            held = await client.create_flow_run_from_deployment(deployment, parameters={"number": 1})
            assert await worker.get_and_submit_flow_runs() == []
            assert (await client.read_flow_run(held.id)).state_type is StateType.SCHEDULED
            await client.update_work_pool(pool.name, WorkPoolUpdate(is_paused=False))
            assert (await pool.end_of(held)).type is StateType.COMPLETED


async def test_a_scheduled_run_starts_at_its_time_and_not_at_a_poll(pool: Pool, client: PrefectClient) -> None:
    async with pool.worker_of(doubling):
        deployment, due = await pool.deploy(doubling), datetime.now(UTC) + timedelta(seconds=2)
        planned = await client.create_flow_run_from_deployment(
            deployment, parameters={"number": 1}, state=Scheduled(scheduled_time=due)
        )
        await pool.end_of(planned)
        start = (await client.read_flow_run(planned.id)).start_time
    assert start is not None
    assert 0 <= (start - due).total_seconds() < 5


async def test_code_that_blocks_all_runs_is_named(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    async with pool.worker_of(blocking, blocked_seconds=0.2):
        assert (await pool.end_of(await pool.start(blocking))).type is StateType.COMPLETED
    said = [record.getMessage() for record in caplog.records if "has been blocked" in record.getMessage()]
    assert any(f"{__file__}, line " in one and "in blocking" in one for one in said)
