"""The lease: one process at a time works on a run, and a run whose process died is not lost with it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest

from orchestration.engine.lease import lease_run, process_name
from orchestration.engine.run import ActiveRun, Services
from orchestration.errors import BadInput, RunBusy, RunNotFound
from orchestration.states import RunStatus
from orchestration.store import runs
from orchestration.store.records import RunRecord
from tests.inbox_helpers import accept_push

ELSEWHERE = "another-host/4711/99/abcd1234"

HOLDER = """
import asyncio, sys
from orchestration.settings import load_settings
from orchestration.signals import Signals
from orchestration.store.database import Database
from orchestration.engine.run import Services
from orchestration.engine.lease import lease_run
from tasks.kinds import KINDS

async def hold(url, run_id):
    database = Database(url)
    services = Services(
        database=database, signals=Signals([]), settings=load_settings(), channels=None, analysis=None, kinds=KINDS
    )
    async with lease_run(services, run_id, engine="test"):
        print("TAKEN", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold(*sys.argv[1:]))
"""
"""A process that takes a run and goes on working on it."""


@pytest.fixture
async def run_id(services: Services) -> str:
    payload = {"name": "HighCPU", "host": "web-1"}
    return (await accept_push(services, payload, source="generic", environment="test"))[0]


@contextmanager
def holder(services: Services, run_id: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, services.database.url, run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "TAKEN\n"
            yield process
        finally:
            process.kill()


async def record_of(services: Services, run_id: str) -> RunRecord:
    async with services.database.transaction() as tx:
        return await runs.get_run(tx, run_id)


async def give_to(services: Services, run_id: str, owner: str, *, seconds: float) -> None:
    values = {"lease_owner": owner, "lease_expires_at": datetime.now(UTC) + timedelta(seconds=seconds)}
    async with services.database.transaction() as tx:
        await runs.change(tx, run_id, values=values)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - what is waited for is in the database
            await asyncio.sleep(0.01)


def with_lease(services: Services, seconds: float) -> Services:
    return replace(services, settings=services.settings.model_copy(update={"lease_seconds": seconds}))


async def take(services: Services, run_id: str) -> ActiveRun:
    async with lease_run(services, run_id, engine="test") as run:
        return run


async def test_a_second_taker_is_refused_and_told_who_has_it(services: Services, run_id: str) -> None:
    async with lease_run(services, run_id, engine="test") as run:
        with pytest.raises(RunBusy) as busy:
            await take(services, run_id)

    assert str(run.record.lease_owner) in str(busy.value)
    assert f"{socket.gethostname()}/{os.getpid()}/" in str(busy.value)


async def test_of_many_takers_at_once_one_gets_the_run(services: Services, run_id: str) -> None:
    held = asyncio.Event()

    async def work() -> None:
        async with lease_run(services, run_id, engine="test"):
            await held.wait()

    takers = [asyncio.create_task(work()) for _ in range(6)]

    async def all_but_one_are_refused() -> bool:
        return sum(taker.done() for taker in takers) == 5

    await until(all_but_one_are_refused)
    held.set()
    ends = await asyncio.gather(*takers, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["NoneType", *["RunBusy"] * 5]


async def test_the_lease_is_given_back_at_the_end(services: Services, run_id: str) -> None:
    assert (await take(services, run_id)).record.lease_owner

    record = await record_of(services, run_id)
    assert (record.lease_owner, record.lease_expires_at) == (None, None)
    await take(services, run_id)


async def test_the_lease_is_given_back_when_the_work_breaks_off(services: Services, run_id: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with lease_run(services, run_id, engine="test"):
            _ = 1 / 0

    assert (await record_of(services, run_id)).lease_owner is None


async def test_the_lease_of_another_host_holds_until_it_expires(services: Services, run_id: str) -> None:
    await give_to(services, run_id, ELSEWHERE, seconds=60)
    with pytest.raises(RunBusy, match=ELSEWHERE):
        await take(services, run_id)

    await give_to(services, run_id, ELSEWHERE, seconds=-1)
    assert (await take(services, run_id)).record.lease_owner != ELSEWHERE


async def test_a_process_at_work_keeps_its_run_and_a_killed_one_loses_it_at_once(
    services: Services, run_id: str
) -> None:
    with holder(services, run_id) as process:
        with pytest.raises(RunBusy, match=f"/{process.pid}/"):
            await take(services, run_id)

        process.kill()
        process.wait(30)
        await take(services, run_id)


async def test_a_killed_process_is_dead_before_its_parent_looks(services: Services, run_id: str) -> None:
    with holder(services, run_id) as process:
        process.kill()
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE

        await take(services, run_id)


async def test_a_process_with_the_id_of_a_dead_one_is_not_taken_for_it(services: Services, run_id: str) -> None:
    host, pid, incarnation = process_name().split("/")
    where = incarnation.partition("@")[2]
    await give_to(services, run_id, f"{host}/{pid}/1@{where}/abcd1234", seconds=60)

    await take(services, run_id)


def owners_that_nobody_here_can_judge() -> list[str]:
    """Names with this host's name and an id that no process has here, of which nothing else is known."""
    boot, namespace = process_name().partition("@")[2].split(".")
    places = [f"@{boot}.1", f"@{'0' * len(boot)}.{namespace}", "@", "", f"@{boot}.{namespace}x"]
    names = [f"{socket.gethostname()}/4194304/99{place}/abcd1234" for place in places]
    return [*names, f"{socket.gethostname()}/x/99@{boot}.{namespace}/abcd1234", "somebody", "a/b/c/d/e", ""]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PID namespaces")
async def test_a_process_of_another_namespace_or_boot_holds_its_lease_until_it_expires(
    services: Services, run_id: str
) -> None:
    for owner in owners_that_nobody_here_can_judge():
        await give_to(services, run_id, owner, seconds=60)
        with pytest.raises(RunBusy):
            await take(services, run_id)

    boot, namespace = process_name().partition("@")[2].split(".")
    await give_to(services, run_id, f"{socket.gethostname()}/4194304/99@{boot}.{namespace}/abcd1234", seconds=60)
    await take(services, run_id)


async def test_a_clock_that_is_set_makes_nobody_dead(
    services: Services, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LaterBoot(psutil.Process):
        """What psutil says after the wall clock was put forward by an hour."""

        def create_time(self) -> float:
            return super().create_time() + 3600

    async with lease_run(services, run_id, engine="test"):
        monkeypatch.setattr(psutil, "Process", LaterBoot)
        with pytest.raises(RunBusy):
            await take(services, run_id)


async def test_the_lease_is_renewed_while_the_work_goes_on(services: Services, run_id: str) -> None:
    short = with_lease(services, 1.5)
    async with lease_run(short, run_id, engine="test") as run:
        first = run.record.lease_expires_at
        assert first is not None

        async def renewed() -> bool:
            later = (await record_of(services, run_id)).lease_expires_at
            return later is not None and later > first

        await until(renewed)
        with pytest.raises(RunBusy):
            await take(short, run_id)


async def test_whoever_loses_the_lease_is_stopped(services: Services, run_id: str) -> None:
    stopped_in: list[str] = []

    async def work() -> None:
        async with lease_run(with_lease(services, 0.1), run_id, engine="test"):
            await give_to(services, run_id, ELSEWHERE, seconds=60)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped_in.append("the middle of its work")
                raise

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())

    assert stopped_in == ["the middle of its work"]
    assert (await record_of(services, run_id)).lease_owner == ELSEWHERE, "it is the other's to give back"


async def test_a_run_that_another_process_ended_under_the_same_lease_is_no_loss(
    services: Services, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    # A suspect ends so: in a process of its own, under the lease that the worker has.
    async with lease_run(with_lease(services, 0.3), run_id, engine="test") as run:
        (keeper,) = [task for task in asyncio.all_tasks() if "_keep_lease" in repr(task)]
        async with services.database.transaction() as tx:
            await runs.finish(tx, run_id, RunStatus.SKIPPED, owner=run.owner)
        await asyncio.wait_for(keeper, 10)

    assert "another process" not in caplog.text


async def test_a_run_that_does_not_exist_is_named(services: Services) -> None:
    with pytest.raises(RunNotFound, match="'nobody'"):
        await take(services, "nobody")


@pytest.mark.parametrize("status", [RunStatus.NOTIFIED, RunStatus.SKIPPED])
async def test_a_run_that_is_over_is_not_taken_up_again(services: Services, run_id: str, status: RunStatus) -> None:
    async with lease_run(services, run_id, engine="test") as run:
        await run.end(status)

    with pytest.raises(BadInput, match=f"is over: {status.value}"):
        await take(services, run_id)
    assert (await record_of(services, run_id)).status is status


async def test_a_taker_that_waited_while_the_run_ended_learns_that_it_is_over(services: Services, run_id: str) -> None:
    async with services.database.transaction() as tx:
        await runs.get_run(tx, run_id, lock=True)
        waiting = asyncio.create_task(take(services, run_id))
        await until(lambda: somebody_waits_for_a_lock(services))
        await runs.finish(tx, run_id, RunStatus.NOTIFIED)

    with pytest.raises(BadInput, match="is over: notified"):
        await waiting
    assert (await record_of(services, run_id)).lease_owner is None


async def somebody_waits_for_a_lock(services: Services) -> bool:
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with services.database.transaction() as tx:
        found: Any = (await tx.exec_driver_sql(query)).scalar_one()
    return bool(found)
