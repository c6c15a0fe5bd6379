"""Processes that end again and again, as when memory runs out: the run that does it is found, and no other pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestration.contracts import Stage, StageError
from orchestration.engine.lease import new_lease_owner
from orchestration.engine.run import Services
from orchestration.states import RunStatus, StageStatus
from orchestration.store import alerts as alert_store
from orchestration.store import attempts, runs
from orchestration.store.database import Database
from orchestration.store.records import AttemptRecord, Node
from service.worker.executor import DEADLY, MAX_KILLED
from service.worker.worker import Worker
from tests.api_helpers import all_runs
from tests.inbox_helpers import accept_push
from tests.receivers import Answer, HttpReceiver
from tests.store_helpers import open_attempts
from tests.worker_helpers import NOWHERE, eventually, over, worker_settings, working


@pytest.fixture
async def worker(database: Database, home: Path, receiver: HttpReceiver) -> AsyncIterator[Worker]:
    """A worker at work, without Prefect."""
    async with working(worker_settings(home, receiver), database.url, NOWHERE) as one:
        yield one


async def suspect(services: Services, name: str, lost: Sequence[StageError]) -> str:
    """A run that waits, and at whose check processes have ended."""
    (run_id,) = await accept_push(
        services,
        {"alertname": name, "severity": "critical"},
        source="generic",
        environment="test",
        reserved_by=new_lease_owner(),
    )
    for error in lost:
        await open_attempts(services.database, run_id, Node.of(Stage.CHECK))
        async with services.database.transaction() as tx:
            await attempts.close_lost(tx, run_id, error)
    async with services.database.transaction() as tx:
        record = await runs.get_run(tx, run_id)
        await runs.change(tx, run_id, values={"started_at": record.created_at, "lease_owner": None})
    return run_id


async def attempts_of(database: Database, run_id: str) -> list[AttemptRecord]:
    async with database.transaction() as tx:
        return await attempts.list_attempts(tx, run_id)


def processes_alone() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "multiprocessing.spawn" in " ".join(one.cmdline())]


async def test_a_run_during_which_processes_ended_pages_without_its_checks_from_a_process_of_its_own(
    worker: Worker, database: Database, receiver: HttpReceiver
) -> None:
    receiver.answer_next(Answer(hang=True))
    run_id = await suspect(worker.services, "Innocent", [attempts.LOST] * 20)
    worker.wake()
    await asyncio.to_thread(receiver.wait_for, 1)
    (alone,) = processes_alone()
    assert worker.working == 0, "who only waits for that process needs no slot"
    alone.kill()
    record = await over(database, run_id)

    assert (record.status, record.engine) == (RunStatus.NOTIFIED, "direct")
    found = await attempts_of(database, run_id)
    at_notify_stage = [(one.status, one.error_type) for one in found if one.node_id == "notify"]
    assert at_notify_stage == [(StageStatus.FAILED, "ProcessKilled"), (StageStatus.SUCCEEDED, None)]
    assert "Innocent" in receiver.requests[-1].json["title"]
    assert "Checks:" not in receiver.requests[-1].json["text"]


async def test_a_run_that_kills_every_process_of_its_own_is_given_up_and_that_is_told(
    worker: Worker, database: Database, receiver: HttpReceiver
) -> None:
    run_id = await suspect(worker.services, "Deadly", [attempts.KILLED] * MAX_KILLED)
    worker.wake()
    record = await over(database, run_id)

    assert (record.status, record.last_error_type) == (RunStatus.FAILED, DEADLY.error_type)
    (told,) = await asyncio.to_thread(receiver.wait_for, 1)
    assert "Run given up: " in told.json["title"]
    assert f"alert-pipeline why {run_id[:8]}" in told.json["text"]


async def test_an_alert_that_cannot_be_recorded_is_told_as_a_run_that_was_given_up(
    worker: Worker, database: Database, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> Any:
        raise ValueError("nobody expects this")

    # The alert that reports it fails too, and is not reported in its turn.
    monkeypatch.setattr(alert_store, "record_alerts", fails)
    (run_id,) = await accept_push(
        worker.services, {"alertname": "Strange", "severity": "critical"}, source="generic", environment="test"
    )
    assert (await over(database, run_id)).status is RunStatus.FAILED

    async def all_failed() -> bool:
        found = await all_runs(database)
        return len(found) == 2 and all(run.status is RunStatus.FAILED for run in found)

    await eventually(all_failed, "the report to fail too")
    monkeypatch.undo()
    (report,) = [run for run in await all_runs(database) if run.run_id != run_id]
    async with database.transaction() as tx:
        await runs.request_resume(tx, report.run_id)
    (told,) = await asyncio.to_thread(receiver.wait_for, 1)

    assert "Run given up: Strange" in told.json["title"]
    assert "nobody expects this" in told.json["text"]
    assert told.json["severity"] == "critical"
