"""The worker itself: what it refuses, how it ends, what it does while Prefect is away, and Prefect's own commands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cable, Pool, eventually
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Pending

seen: set[str] = set()
ending = asyncio.Event()


@flow
async def quick() -> None: ...


@flow
async def slow(name: str) -> None:
    seen.add(name)
    await asyncio.Event().wait()


@flow
async def until_told(name: str) -> None:
    seen.add(name)
    await ending.wait()


async def began(name: str) -> None:
    async def look() -> bool:
        return name in seen

    await eventually(look, f"{name} to begin")


async def test_other_flows_and_job_variables_fail_with_the_reason_and_the_worker_goes_on(
    pool: Pool, client: PrefectClient
) -> None:
    async with pool.worker_of(quick):
        other = await pool.end_of(await pool.start(quick, entrypoint="os.system"))
        message = "This worker does not execute 'os.system': it executes the flows flows.quick and nothing else."
        assert (other.type, str(other.message).startswith(message)) == (StateType.FAILED, True)

        deployment = await pool.deploy(quick)
        with pytest.raises(Exception, match="Additional properties are not allowed"):
            await client.create_flow_run_from_deployment(deployment, job_variables={"env": {"A": "1"}})
        assert (await pool.end_of(await client.create_flow_run_from_deployment(deployment))).is_completed()


async def test_runs_have_the_grace_time_to_end_and_the_others_crash(pool: Pool, client: PrefectClient) -> None:
    ending.clear()
    async with pool.worker_of(slow, until_told, grace_seconds=2):
        started = [await pool.start(one, {"name": one.name}) for one in (slow, until_told)]
        await began("slow")
        await began("until-told")
        asyncio.get_running_loop().call_later(0.5, ending.set)

    stuck, good = [await client.read_flow_run(one.id) for one in started]
    assert (stuck.state_type, good.state_type) == (StateType.CRASHED, StateType.COMPLETED)
    assert "Waiting for 2 runs, 2 s at most" in pool.said


async def test_a_run_is_scheduled_again_if_prefect_is_told_so(
    pool: Pool, client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR", "reschedule")
    async with pool.worker_of(slow, grace_seconds=0):
        started = await pool.start(slow, {"name": "again"})
        await began("again")
    state = (await client.read_flow_run(started.id)).state
    assert state is not None
    assert (state.type, state.name) == (StateType.SCHEDULED, "AwaitingRetry")
    names = [one.name for one in await client.read_flow_run_states(started.id)]
    assert "Crashed" not in names
    await client.set_flow_run_state(started.id, Pending(), force=True)


async def test_runs_go_on_while_prefect_is_away_and_others_start_when_it_is_back(
    pool: Pool, client: PrefectClient, cable: Cable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_warm_worker.watch.LISTEN_AGAIN_SECONDS", 0.2)
    ending.clear()

    def said(words: str) -> Any:
        async def look() -> bool:
            return any(words in record.getMessage() for record in caplog.records)

        return look

    with temporary_settings({PREFECT_API_URL: cable.api_url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        async with pool.worker_of(until_told, quick) as worker:
            caplog.set_level(logging.INFO, logger=worker._logger.name)  # whatever the environment says
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 5}):  # SQLite is busy now and then
                lost = await pool.start(until_told, {"name": "lost"})
            await began("lost")
            cable.cut()
            await worker.get_and_submit_flow_runs()
            await eventually(said("Prefect is asked again, until it answers"), "the outage to be noticed")
            assert len(worker._executions) == 1, "what runs goes on"
            ending.set()  # and ends, which Prefect cannot be told

            async def over() -> bool:
                return not worker._executions

            await eventually(over, "the run to end")
            await cable.repair()
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 5}):
                assert (await pool.end_of(lost)).type is StateType.CRASHED
                assert (await pool.end_of(await pool.start(quick))).is_completed()
            await eventually(said("Prefect answers again"), "the end of the outage")


@contextlib.contextmanager
def worker_command(
    folder: Path, api_url: str, home: Path, pool: str, *, in_background: bool = False, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`prefect worker start`, as its user types it, or as a script starts it with `&`."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "warm-process"],
            env={**os.environ, "PREFECT_API_URL": api_url, "PREFECT_HOME": str(home), **environment},
            cwd=folder,
            stdout=log,
            stderr=log,
            preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if in_background else None,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("in_background", [False, True], ids=["terminal", "background"])
async def test_prefects_own_commands_start_a_worker_that_ends_in_order(
    client: PrefectClient, pool: Pool, api_url: str, prefect_home: Path, tmp_path: Path, *, in_background: bool
) -> None:
    (tmp_path / "mine.py").write_text(
        "import asyncio\nfrom prefect import flow\n@flow\nasync def short(): print('hello')\n"
        "@flow\nasync def long(): await asyncio.sleep(60)\n"
    )
    flows = {"WARM_WORKER_FLOWS": "mine.py:short, mine.py:long", "WARM_WORKER_GRACE_SECONDS": "0.5"}
    command = worker_command(tmp_path, api_url, prefect_home, pool.name, in_background=in_background, **flows)
    with command as process:

        async def there() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            return "started!" in (tmp_path / "log").read_text()

        await eventually(there, "the worker")
        assert (await pool.end_of(await pool.start(quick, entrypoint="mine.py:short"))).is_completed()
        long = await pool.start(slow, entrypoint="mine.py:long")

        async def runs() -> bool:
            return (await client.read_flow_run(long.id)).state_type is StateType.RUNNING

        await eventually(runs, "the long run")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert (await client.read_flow_run(long.id)).state_type is StateType.CRASHED
    assert (await client.read_work_pool(pool.name)).type == "warm-process"


@pytest.mark.parametrize(
    ("flows", "says"), [("", "No flow is allowed"), ("nowhere.flows.x", "No module named 'nowhere'")]
)
async def test_a_worker_that_could_run_nothing_says_why_and_ends(
    client: PrefectClient, pool: Pool, api_url: str, prefect_home: Path, tmp_path: Path, flows: str, says: str
) -> None:
    with worker_command(tmp_path, api_url, prefect_home, pool.name, WARM_WORKER_FLOWS=flows) as process:
        assert await asyncio.to_thread(process.wait, 60) == 1
    said = " ".join((tmp_path / "log").read_text().split())
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "name",
    [
        "prefect.flow_engine.capture_sigterm",
        "prefect.flow_engine._termination_intent",
        "prefect._flow_run_suspension.mark_flow_run_suspension_requested",
    ],
)
async def test_a_worker_does_not_start_without_a_name_of_prefect_that_it_uses(
    pool: Pool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(name)
    with pytest.raises(AttributeError, match=f"has no {name}, which prefect-warm-worker uses"):
        async with pool.worker_of(quick):
            pass
