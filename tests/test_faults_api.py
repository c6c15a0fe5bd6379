"""Processes that die under load: every push with a 202 is handled, and no message is sent twice."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from contextlib import closing
from itertools import count
from pathlib import Path

import httpx

from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database, open_database
from service.stack import attach
from tests.api_helpers import all_runs, until
from tests.oncall_helpers import switch_storms_off
from tests.receivers import HttpReceiver
from tests.service_helpers import ApiProcess, Sender
from tests.stack_fixtures import answers, new_home, part_pid
from tests.worker_helpers import NOWHERE, eventually, over, titles, worker_settings, working

PUSHES = 24


def told(receiver: HttpReceiver) -> Counter[int]:
    """The number of messages about each numbered alert."""
    return Counter(int(number) for title in titles(receiver) for number in re.findall(r"Load(\d+) on", title))


async def test_an_api_that_is_killed_right_after_its_answers_has_lost_none_of_them(
    database: Database, home: Path, receiver: HttpReceiver, tmp_path: Path
) -> None:
    settings = worker_settings(home, receiver)
    await switch_storms_off(database)
    with closing(ApiProcess(settings, database.url, tmp_path / "first.log")) as api:
        sender = Sender(api)
        async with httpx.AsyncClient(timeout=20) as client:

            async def push(number: int) -> None:
                await sender.push(client, number)
                if len(sender.taken) >= PUSHES // 3:
                    api.process.kill()

            await asyncio.gather(*(push(number) for number in range(PUSHES)))
    assert sender.refused == []
    stored = {run.run_id: run.status for run in await all_runs(database)}
    assert {stored.get(run_id) for run_id in sender.taken.values()} == {RunStatus.PENDING}

    # A sender without an answer pushes again, whether or not its first push was stored.
    with closing(ApiProcess(settings, database.url, tmp_path / "second.log")) as api:
        sender.url = api.url
        async with httpx.AsyncClient(timeout=20) as client:
            await asyncio.gather(*(sender.push_until_taken(client, number) for number in range(PUSHES)))
    async with working(settings, database.url, NOWHERE):
        ends = [await over(database, run.run_id) for run in await all_runs(database)]

    assert {run.run_id for run in ends} >= set(sender.taken.values())
    assert {run.status for run in ends} <= {RunStatus.NOTIFIED, RunStatus.SKIPPED}
    assert told(receiver) == Counter(range(PUSHES))


async def test_postgresql_restarts_under_load(receiver: HttpReceiver, tmp_path: Path) -> None:
    with new_home() as home:
        settings = worker_settings(home, receiver)
        with attach(settings, need_prefect=False) as addresses:
            async with open_database(addresses.database_url) as database:
                await switch_storms_off(database)
                with closing(ApiProcess(settings, database.url, tmp_path / "api.log")) as api:
                    await restart_under_load(settings, database, Sender(api), receiver)


async def restart_under_load(settings: Settings, database: Database, sender: Sender, receiver: HttpReceiver) -> None:
    numbers, enough = count(), asyncio.Event()

    async def load(client: httpx.AsyncClient) -> None:
        while not enough.is_set():
            await sender.push_until_taken(client, next(numbers))
            await asyncio.sleep(0.2)  # the pace of the load, not a wait

    async with working(settings, database.url, NOWHERE), httpx.AsyncClient(timeout=20) as client:
        loads = [asyncio.create_task(load(client)) for _ in range(2)]
        await asyncio.to_thread(receiver.wait_for, 3)
        while not sender.refused:
            await restart_postgresql(settings.home, database)
        before = len(sender.taken)
        await until(lambda: len(sender.taken) >= before + 4, "pushes to be taken after the restart", 30)
        enough.set()
        await asyncio.gather(*loads)
        ends = [await over(database, run.run_id, 40) for run in await all_runs(database)]

    assert {answer.status_code for answer in sender.refused} == {503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in sender.refused)
    assert {run.run_id for run in ends} >= set(sender.taken.values())
    assert {run.status for run in ends} <= {RunStatus.NOTIFIED, RunStatus.SKIPPED}
    assert told(receiver) == Counter(sender.taken.keys())


async def restart_postgresql(home: Path, database: Database) -> None:
    """Restart it with SIGQUIT, which ends every session at once."""
    pid = part_pid(home, "postgres")
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)

    async def back() -> bool:
        return part_pid(home, "postgres") not in (None, pid) and await asyncio.to_thread(answers, database.url)

    await eventually(back, "PostgreSQL to run again", 30)
