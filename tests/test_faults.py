"""Faults: whatever dies in the middle, no alert is lost and no message is sent twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

import psycopg
from prefect.client.schemas.objects import TERMINAL_STATES, StateType

from flows.flow_run import ENGINE
from flows.services import open_services
from orchestration.engine.run import Services
from orchestration.requests import RunOptions
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.mirror.deployments import register
from service.stack import StackAddresses
from service.worker.process import open_worker
from tests.inbox_helpers import accept_push
from tests.receivers import Answer, HttpReceiver
from tests.stack_fixtures import as_superuser
from tests.worker_helpers import (
    NOWHERE,
    BreakableServer,
    DeafHost,
    WorkerProcess,
    at_stage,
    beside,
    eventually,
    keys,
    over,
    prefect_at,
    push,
    record_of,
    worker_settings,
    working,
)


async def waiting_for_locks(database: Database) -> int:
    def count() -> int:
        with psycopg.connect(database.url) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            ).fetchone()
        return int(row[0]) if row else 0

    return await asyncio.to_thread(count)


class Holds:
    """Locks that a test holds in a transaction of its own, so that a stage waits."""

    def __init__(self, database: Database) -> None:
        owner = as_superuser(database.url).replace("/postgres?", "/alert_pipeline?")
        self._connection = psycopg.connect(owner)  # only the cluster's owner may leave foreign keys unchecked

    def ingest(self, run: RunRecord) -> None:
        """Ingest takes its incident's lock first."""
        lock = f"{run.environment}\n{run.incident_key}"
        self._connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock,))

    def analyze(self, run_id: str) -> None:
        """The row of the first attempt at analyze is being written by somebody who does not commit."""
        self._connection.execute("set local session_replication_role = replica")  # or the run itself would be locked
        self._connection.execute(
            "insert into stage_execution (pipeline_run_id, node_id, stage, attempt, status, idempotency_key) "
            "select id, 'analyze', 'analyze', 1, 'running', run_id || '/analyze/1' from pipeline_run where run_id = %s",
            (run_id,),
        )

    def release(self) -> None:
        self._connection.rollback()
        self._connection.close()


async def test_a_worker_that_is_killed_in_each_of_the_four_stages_loses_nothing(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver, tmp_path: Path
) -> None:
    settings = worker_settings(home, receiver)
    host, holds = DeafHost(), Holds(database)
    receiver.answer_next(Answer(hang=True))
    slow = RunOptions(checker_names=["network"], checker_configs={"network": {"hosts": [host.name], "timeout": 50.0}})
    # On a busy machine Prefect may be slow, which is no outage: each run is to have its flow run.
    environment = {"CHECKERS_TIMEOUT_SECONDS": "50", "ORCHESTRATION_PREFECT_PATIENCE_SECONDS": "30"}
    async with open_services(settings, database.url) as services:
        ingest = await push(services, "InIngest", instance="i")
        analyze = await push(services, "InAnalyze", instance="a")
        notify = await push(services, "InNotify", instance="n")
        checking = {"alertname": "InCheck", "severity": "critical", "instance": "c"}
        (check,) = await accept_push(services, checking, source="generic", environment="test", options=slow)
        every = [ingest, check, analyze, notify]
        holds.ingest(await record_of(database, ingest))
        holds.analyze(analyze)

    with beside(WorkerProcess(settings, stack, tmp_path / "first.log", **environment)) as (first,):
        await at_stage(database, check, "check")
        await eventually(lambda: two_wait_for_locks(database), "ingest and analyze to be held")
        await asyncio.to_thread(receiver.wait_for, 1)
        before = {run_id: await record_of(database, run_id) for run_id in every}
        first.kill()
    holds.release()
    host.close()

    with beside(WorkerProcess(settings, stack, tmp_path / "second.log", **environment)) as (second,):
        after = {run_id: await over(database, run_id) for run_id in every}
        for run_id in every:
            # A Prefect that is too slow for the second worker may hear of the lost flow run only after the run's end.
            states = {StateType.CRASHED} if after[run_id].engine == ENGINE else TERMINAL_STATES
            if flow_run_id := before[run_id].prefect_flow_run_id:  # none: Prefect was too slow for the first one, too
                await assert_ended(stack, flow_run_id, states)
        assert second.end() == 0

    assert {record.status for record in after.values()} == {RunStatus.NOTIFIED}
    # The one that hung was never taken: it comes again under the same key, by which a receiver knows it.
    incident_of = {run_id: record.incident_id for run_id, record in after.items()}
    assert Counter(keys(receiver)) == {
        f"incident-{incident_of[run_id]}/1/notify/generic": 2 if run_id == notify else 1 for run_id in every
    }


async def two_wait_for_locks(database: Database) -> bool:
    return await waiting_for_locks(database) >= 2


async def assert_ended(stack: StackAddresses, flow_run_id: str, states: Collection[StateType]) -> None:
    async with prefect_at(stack) as client:

        async def marked() -> bool:
            return (await client.read_flow_run(UUID(flow_run_id))).state_type in states

        await eventually(marked, "the flow run of the dead worker to be marked")


async def test_with_prefect_down_a_critical_alert_is_on_the_channel_within_five_seconds(
    database: Database, home: Path, receiver: HttpReceiver
) -> None:
    async with working(worker_settings(home, receiver), database.url, NOWHERE) as worker:
        began = time.monotonic()
        run_id = await push(worker.services, "Down")
        await asyncio.to_thread(receiver.wait_for, 1)
        took = time.monotonic() - began

        record = await over(database, run_id)

    assert took < 5
    assert (record.status, record.engine) == (RunStatus.NOTIFIED, "direct")
    assert len(receiver.requests) == 1


async def test_a_prefect_that_hangs_keeps_no_place_from_a_critical_alert(
    database: Database, home: Path, receiver: HttpReceiver, tmp_path: Path
) -> None:
    server = BreakableServer(home, tmp_path / "prefect.log")
    # The only place belongs to a run that would wait for Prefect longer than this test does.
    patient = worker_settings(home, receiver, prefect_patience_seconds=60.0, page_deadline_seconds=3600.0)
    try:
        await asyncio.to_thread(server.start)
        async with open_worker(
            patient, database_url=database.url, prefect_api_url=server.api_url, concurrency=1
        ) as worker:
            server.stop()
            worker.start()
            first = await push(worker.services, "Minor", severity="warning")
            critical = await push(worker.services, "Major", instance="web-2")
            assert (await over(database, critical)).status is RunStatus.NOTIFIED
            assert (await over(database, first)).status is RunStatus.NOTIFIED
    finally:
        server.close()


async def test_prefect_dies_during_and_after_a_run_and_comes_back(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver, tmp_path: Path
) -> None:
    server = BreakableServer(home, tmp_path / "prefect.log")
    host = DeafHost()
    try:
        await asyncio.to_thread(server.start)
        async with prefect_at(server.api_url) as client:
            await register(client)
        async with working(worker_settings(home, receiver), database.url, server.api_url) as worker:
            during = await slow_push(worker.services, "During", host.name)
            await at_stage(database, during, "check")
            server.stop()
            assert (await over(database, during)).status is RunStatus.NOTIFIED

            afterwards = await push(worker.services, "After", instance="web-2")
            await asyncio.to_thread(receiver.wait_for, 2)
            assert (await over(database, afterwards)).engine == "direct"

            await asyncio.to_thread(server.start)
            again = await eventually(lambda: through_prefect(worker.services), "a run through Prefect")
            assert (await over(database, again)).status is RunStatus.NOTIFIED
            flow_run_id = UUID((await record_of(database, during)).prefect_flow_run_id)
            async with prefect_at(server.api_url) as client:

                async def told() -> bool:
                    state = (await client.read_flow_run(flow_run_id)).state
                    return state is not None and state.name == "Notified"

                await eventually(told, "Prefect to know how the run ended", 30)
    finally:
        server.close()
        host.close()
    assert set(Counter(keys(receiver)).values()) == {1}


async def slow_push(services: Services, name: str, host: str) -> str:
    """An alert whose check takes two seconds."""
    options = RunOptions(checker_names=["network"], checker_configs={"network": {"hosts": [host], "timeout": 2.0}})
    alert = {"alertname": name, "severity": "critical", "instance": "web-1"}
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    return run_id


async def through_prefect(services: Services) -> str | None:
    """A run that went through Prefect; None while runs do not."""
    run_id = await push(services, "Again", instance=f"web-{time.monotonic_ns()}")
    record = await over(services.database, run_id)
    return run_id if record.engine == "prefect" else None
