"""The direct engine: the same stages, retries and records as through Prefect, without it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from orchestration.contracts import Contract
from orchestration.engine.execution import DIRECT, DirectTask, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import ActiveRun, Services, StageFailed
from orchestration.errors import DeliveryFailed
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, claims, runs
from orchestration.store.records import AttemptRecord, RunRecord
from tests.conftest import MemoryChannel, MemoryChannels, RecordedSignals
from tests.engine_helpers import attempt, execute_leased
from tests.inbox_helpers import accept_health_check, accept_push


@asynccontextmanager
async def begun(services: Services) -> AsyncGenerator[ActiveRun]:
    """The run that waits, claimed and begun as a worker does it that executes it at once."""
    async with services.database.statement() as tx:
        (claim,) = await claims.claim_runs(tx, process="worker/1/a@b", limit=1, lease_seconds=30, deadline_seconds=30)
    async with lease_run(
        services, claim.run_id, engine=DIRECT, owner=claim.owner, claimed=claim.record, at_once=True
    ) as run:
        yield run


async def execute_alert(services: Services, name: str = "HighCPU") -> tuple[RunRecord, list[AttemptRecord]]:
    """One alert through the direct engine; the run, and its attempts at notify."""
    (run_id,) = await accept_push(
        services, {"alertname": name, "severity": "critical"}, source="generic", environment="test"
    )
    async with begun(services) as run:
        await Execution(run).execute_directly()
    async with services.database.transaction() as tx:
        tries = [attempt for attempt in await attempts.list_attempts(tx, run_id) if attempt.node_id == "notify"]
        return await runs.get_run(tx, run_id), tries


async def test_an_alert_goes_out_and_says_which_engine_carried_it(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    record, _ = await execute_alert(services)

    assert (record.status, record.engine) == (RunStatus.NOTIFIED, "direct")
    assert len(channel.messages) == 1
    assert {fields["engine"] for _, _, fields in signals.seen} == {"direct"}
    stages = ("ingest", "check", "analyze", "notify")
    each = [f"stage.{what}/{stage}/1" for stage in stages for what in ("started", "succeeded")]
    assert signals.names() == ["started/pipeline/1", *each, "completed/pipeline/1"]


@pytest.mark.parametrize("checks_only", [False, True])
async def test_the_first_attempt_begins_with_the_run_unless_it_may_be_left_out(
    services: Services, channel: MemoryChannel, *, checks_only: bool
) -> None:
    if checks_only:
        run_id = await accept_health_check(services, source="health", environment="test")
    else:
        (run_id,) = await accept_push(services, {"alertname": "HighCPU"}, source="generic", environment="test")
    async with begun(services) as run:
        async with services.database.transaction() as tx:
            opened = [(one.node_id, one.attempt, one.status) for one in await attempts.list_attempts(tx, run_id)]
        await Execution(run).execute_directly()

    assert opened == ([] if checks_only else [("ingest", 1, StageStatus.RUNNING)])
    async with services.database.transaction() as tx:
        ended = await attempts.list_attempts(tx, run_id)
    assert {one.node_id for one in ended} == {"ingest", "check", "analyze", "notify"}
    tried = [one for one in ended if one.status is not StageStatus.SKIPPED]
    assert {(one.attempt, one.status) for one in tried} == {(1, StageStatus.SUCCEEDED)}
    assert run.record.total_attempts == len(tried)


async def test_a_failure_that_can_pass_is_tried_again(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    channel.failures = [DeliveryFailed("busy", retryable=True)] * 3

    record, tries = await execute_alert(services)

    assert record.status is RunStatus.NOTIFIED
    assert [one.status for one in tries] == [StageStatus.RETRYING] * 3 + [StageStatus.SUCCEEDED]
    assert signals.names().count("stage.retrying/notify/1") == 1
    assert len(channel.messages) == 1


async def test_after_the_last_retry_the_run_fails(services: Services, channel: MemoryChannel) -> None:
    channel.failures = [DeliveryFailed("busy", retryable=True)] * 4

    record, tries = await execute_alert(services)

    assert (record.status, record.last_error_type) == (RunStatus.FAILED, "DeliveryFailed")
    assert [one.status for one in tries] == [StageStatus.RETRYING] * 3 + [StageStatus.FAILED]


async def test_a_failure_that_stays_is_not_tried_again(services: Services, channel: MemoryChannel) -> None:
    channel.failures = [DeliveryFailed("no such channel", retryable=False)]

    record, tries = await execute_alert(services)

    assert record.status is RunStatus.FAILED
    assert len(tries) == 1


async def test_the_direct_engine_goes_on_where_another_one_stood(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    broken = replace(services, channels=MemoryChannels({}))
    channel.failures = [DeliveryFailed("gone", retryable=False)]
    failed, _ = await execute_alert(services)
    del broken

    async with lease_run(services, failed.run_id, engine="prefect") as run:
        await Execution(run).execute_directly()
        record = run.record

    assert (record.status, record.engine) == (RunStatus.NOTIFIED, "direct")
    assert signals.names().count("stage.started/ingest/1") == 1
    assert len(channel.messages) == 1


class BreaksAtCheck(DirectTask):
    """An engine that breaks off."""

    async def __call__(self, run: ActiveRun, node_id: str, /) -> Contract:
        if node_id == "check":
            raise ConnectionError("the engine is gone")
        return await super().__call__(run, node_id)


async def test_who_comes_second_waits_for_the_end(services: Services, channel: MemoryChannel) -> None:
    (run_id,) = await accept_push(services, {"alertname": "X"}, source="generic", environment="test")
    async with lease_run(services, run_id, engine=DIRECT) as run:
        execution = Execution(run)
        first = await execute_leased(execution)
        second = await execute_leased(execution)

    assert first == second
    assert len(channel.messages) == 1


async def test_an_engine_that_breaks_off_leaves_the_rest_to_the_next(
    services: Services, channel: MemoryChannel
) -> None:
    (run_id,) = await accept_push(services, {"alertname": "X"}, source="generic", environment="test")
    async with lease_run(services, run_id, engine="prefect") as run:
        execution = Execution(run)
        with pytest.raises(ConnectionError):
            await execute_leased(execution, BreaksAtCheck)
        assert isinstance(execution.error, ConnectionError)
        await execution.execute_directly()
        record = run.record

    assert record.status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1


class BreaksWhileItWaits(DirectTask):
    """An engine that breaks off while a node waits for its next attempt."""

    async def __call__(self, run: ActiveRun, node_id: str, /) -> Contract:
        try:
            return await attempt(run, node_id, retries_left=3)
        except StageFailed as failure:
            raise ConnectionError("the engine is gone") from failure


async def test_the_next_engine_waits_as_long_as_the_channel_has_asked_for(
    services: Services, channel: MemoryChannel
) -> None:
    channel.failures = [DeliveryFailed("too fast", retryable=True, retry_after_seconds=0.7)]
    (run_id,) = await accept_push(services, {"alertname": "X"}, source="generic", environment="test")
    async with lease_run(services, run_id, engine="prefect") as run:
        execution = Execution(run)
        with pytest.raises(ConnectionError):
            await execute_leased(execution, BreaksWhileItWaits)
        assert (run.record.status, run.record.due_at is not None) == (RunStatus.RETRYING, True)
        await execution.execute_directly()

    async with services.database.transaction() as tx:
        first, second = [one for one in await attempts.list_attempts(tx, run_id) if one.node_id == "notify"]
    assert (run.record.status, run.record.due_at) == (RunStatus.NOTIFIED, None)
    assert first.completed_at is not None
    assert second.started_at is not None
    assert (second.started_at - first.completed_at).total_seconds() >= 0.65


async def test_a_cancelled_run_fails_and_goes_on_when_it_is_resumed(services: Services, channel: MemoryChannel) -> None:
    (run_id,) = await accept_push(services, {"alertname": "X"}, source="generic", environment="test")
    async with lease_run(services, run_id, engine="prefect") as run:
        execution = Execution(run)
        execution.cancel()
        record = await execute_leased(execution)
    assert (record.status, record.last_error_type) == (RunStatus.FAILED, "Cancelled")
    assert channel.messages == []

    async with lease_run(services, run_id, engine=DIRECT) as run:
        await Execution(run).execute_directly()

    assert run.record.status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1
