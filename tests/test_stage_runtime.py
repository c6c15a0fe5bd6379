"""The stage runtime: what every attempt at a stage leaves behind, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestration.contracts import AnalyzeResult, Check, CheckResult, CheckStatus, Contract, Stage, StageContext
from orchestration.engine.attempt import describe
from orchestration.engine.lease import lease_run
from orchestration.engine.run import ActiveRun, Plan, Services, StageFailed, Step
from orchestration.errors import BadInput, IllegalTransition, RunBusy, Unavailable
from orchestration.signals import Signal
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, runs
from orchestration.store.records import AttemptRecord, Node, RunRecord
from orchestration.store.story import Story, read_story
from tasks.check.stage import CHECK
from tests.conftest import RecordedSignals
from tests.engine_helpers import attempt, with_kind
from tests.inbox_helpers import accept_push
from tests.store_helpers import open_attempts

SECRET = "hunter2xyzzy"

Try = Callable[[StageContext], Awaitable[CheckResult]]


def scripted(*tries: Exception | CheckResult) -> Try:
    """A check stage whose tries end so, one after the other."""
    script: Iterator[Exception | CheckResult] = iter(tries)

    async def one(_context: StageContext) -> CheckResult:
        ends = next(script)
        if isinstance(ends, Exception):
            raise ends
        return ends

    return one


def checking(services: Services, function: Try) -> Services:
    """Services whose check stage is this function."""

    async def set_up(_run: ActiveRun, _step: Step) -> None:
        return None

    async def run(context: StageContext, _setup: None) -> CheckResult:
        return await function(context)

    return with_kind(services, CHECK, function=run, set_up=set_up)


async def forever(_context: StageContext) -> CheckResult:
    await asyncio.Event().wait()
    raise AssertionError("it waits for ever")


async def accepted(services: Services, **more: Any) -> str:
    payload = {"name": "HighCPU", "severity": "critical", "host": "web-1"} | more
    (run_id,) = await accept_push(services, payload, source="generic", environment="test", trace_id="trace")
    return run_id


async def story_of(services: Services, run_id: str) -> Story:
    async with services.database.transaction() as tx:
        return await read_story(tx, run_id)


async def rows_of(services: Services, run_id: str) -> list[AttemptRecord]:
    return (await story_of(services, run_id)).attempts


async def record_of(services: Services, run_id: str) -> RunRecord:
    return (await story_of(services, run_id)).run


async def fail_at_check(run: ActiveRun, *, retries_left: int) -> StageFailed:
    """A try of the check stage that must fail; its error."""
    with pytest.raises(StageFailed) as failed:
        await attempt(run, "check", retries_left=retries_left)
    return failed.value


def quick(services: Services, **settings: Any) -> Services:
    return replace(services, settings=services.settings.model_copy(update=settings))


async def test_in_a_row_a_success_is_written_with_the_next_beginning(
    services: Services, signals: RecordedSignals
) -> None:
    run_id = await accepted(services)
    async with lease_run(services, run_id, engine="test") as run:
        run.in_a_row = True
        await attempt(run, "ingest")
        (ingesting,) = await rows_of(services, run_id)
        at_check = list[list[tuple[str, StageStatus]]]()

        async def look(_context: StageContext) -> CheckResult:
            at_check.append([(row.node_id, row.status) for row in await rows_of(services, run_id)])
            return CheckResult()

        run.adopt(Plan(run.plan.definition, checking(services, look).kinds))
        await attempt(run, "check")

    assert ingesting.status is StageStatus.RUNNING
    assert at_check == [[("ingest", StageStatus.SUCCEEDED), ("check", StageStatus.RUNNING)]]
    assert [signal for signal, _, _ in signals.seen] == [
        Signal.STAGE_STARTED,
        Signal.STAGE_SUCCEEDED,
        Signal.STAGE_STARTED,
        Signal.STAGE_SUCCEEDED,
    ]
    # Nothing came after the check: who leaves the run writes what it has found.
    assert [row.status for row in await rows_of(services, run_id)] == [StageStatus.SUCCEEDED] * 2
    assert (await record_of(services, run_id)).status is RunStatus.CHECKED


async def test_a_success_is_a_row_with_its_input_and_output(services: Services) -> None:
    run_id = await accepted(services)
    async with lease_run(services, run_id, engine="test") as run:
        await attempt(run, "ingest", retries_left=0)
        await attempt(run, "check", retries_left=0)

    ingested, checked = await rows_of(services, run_id)
    assert [(row.node_id, row.stage, row.status, row.attempt) for row in (ingested, checked)] == [
        ("ingest", Stage.INGEST, StageStatus.SUCCEEDED, 1),
        ("check", Stage.CHECK, StageStatus.SUCCEEDED, 1),
    ]
    assert checked.idempotency_key == f"{run_id}/check/1"
    assert (ingested.input_ref, ingested.output_ref) == (f"payload/{run_id}", f"output/{run_id}/ingest/1")
    assert (checked.input_ref, checked.output_ref) == (ingested.output_ref, f"output/{run_id}/check/1")
    assert checked.error_type is checked.error_message is checked.error_stack is checked.error_retryable is None
    assert checked.started_at
    assert checked.completed_at
    assert checked.completed_at >= checked.started_at
    assert checked.duration_ms is not None
    assert checked.duration_ms > 0


async def test_all_references_of_a_run_resolve(services: Services) -> None:
    run_id = await accepted(services)
    async with lease_run(services, run_id, engine="test") as run:
        for node_id in ("ingest", "check", "analyze"):
            await attempt(run, node_id)

    story = await story_of(services, run_id)
    async with services.database.transaction() as tx:
        for row in story.attempts:
            assert await attempts.resolve(tx, str(row.input_ref))
            assert await attempts.resolve(tx, str(row.output_ref)) == row.output_snapshot
        normalized = await attempts.resolve(tx, str(story.run.normalized_payload_ref))
        checked = await attempts.resolve(tx, str(story.run.checker_output_ref))
        analyzed = await attempts.resolve(tx, str(story.run.intelligence_output_ref))
    assert [alert["name"] for alert in normalized["alerts"]] == ["HighCPU"]
    assert CheckResult.model_validate(checked).checker_output_ref == story.run.checker_output_ref
    assert AnalyzeResult.model_validate(analyzed).ai_output_ref == story.run.intelligence_output_ref


async def test_a_stage_is_told_what_came_before_it(services: Services) -> None:
    told: list[StageContext] = []

    async def listen(context: StageContext) -> CheckResult:
        told.append(context)
        return CheckResult()

    run_id = await accepted(services)
    async with lease_run(checking(services, listen), run_id, engine="test") as run:
        ingested = await attempt(run, "ingest", retries_left=0)
        await attempt(run, "check")

    (context,) = told
    assert (context.run_id, context.trace_id, context.environment, context.source) == (
        run_id,
        "trace",
        "test",
        "generic",
    )
    assert (context.attempt, context.incident_id) == (1, ingested.incident_id)
    assert context.alert_fingerprint == ingested.alert_fingerprint
    assert context.previous_results == {"ingest": ingested.model_dump(mode="json")}


async def test_tries_are_numbered_and_failures_say_what_failed(services: Services) -> None:
    run_id = await accepted(services)
    failing = checking(services, scripted(Unavailable("nobody answers"), ValueError("no such metric"), CheckResult()))
    async with lease_run(failing, run_id, engine="test") as run:
        first = await fail_at_check(run, retries_left=2)
        second = await fail_at_check(run, retries_left=1)
        await attempt(run, "check")

    assert (first.retryable, second.retryable) == (True, False)
    assert str(first) == "check: nobody answers"
    one, two, three = await rows_of(services, run_id)
    assert [row.attempt for row in (one, two, three)] == [1, 2, 3]
    assert [row.status for row in (one, two, three)] == [
        StageStatus.RETRYING,
        StageStatus.FAILED,
        StageStatus.SUCCEEDED,
    ]
    assert (one.error_type, one.error_message, one.error_retryable) == ("Unavailable", "nobody answers", True)
    assert (two.error_type, two.error_message, two.error_retryable) == ("ValueError", "no such metric", False)
    assert "ValueError: no such metric" in str(two.error_stack)
    assert one.output_ref is one.output_snapshot is None
    assert (await record_of(services, run_id)).total_attempts == 3


async def test_a_run_shows_retrying_while_it_waits_and_then_where_it_was(services: Services) -> None:
    seen: list[tuple[str | None, ...]] = []
    run_id = await accepted(services)

    async def look(_context: StageContext) -> CheckResult:
        if not seen:
            seen.append(())
            raise Unavailable("nobody answers")
        record = await record_of(services, run_id)
        seen.append((record.status, record.current_stage, record.last_error_message))
        return CheckResult()

    async with lease_run(checking(services, look), run_id, engine="test") as run:
        await attempt(run, "ingest", retries_left=0)
        await fail_at_check(run, retries_left=1)
        waiting = await record_of(services, run_id)
        await attempt(run, "check")
        after = await record_of(services, run_id)

    assert (waiting.status, waiting.current_stage) == (RunStatus.RETRYING, "check")
    assert (waiting.last_error_type, waiting.last_error_message, waiting.last_error_retryable) == (
        "Unavailable",
        "nobody answers",
        True,
    )
    assert seen[1:] == [("ingested", "check", "nobody answers")]
    assert (after.status, after.last_error_type, after.last_error_message) == (RunStatus.CHECKED, None, None)


async def test_the_current_stage_moves(services: Services) -> None:
    run_id = await accepted(services)
    stages: list[str | None] = [(await record_of(services, run_id)).current_stage]
    async with lease_run(services, run_id, engine="test") as run:
        for node_id in ("ingest", "check", "analyze"):
            await attempt(run, node_id)
            stages.append((await record_of(services, run_id)).current_stage)

    assert stages == [None, "ingest", "check", "analyze"]


async def test_signals_tell_of_success_failure_and_retry_in_order(services: Services, signals: RecordedSignals) -> None:
    run_id = await accepted(services)
    failing = checking(services, scripted(Unavailable("nobody answers"), CheckResult(), Unavailable("still not")))
    async with lease_run(failing, run_id, engine="test") as run:
        await attempt(run, "ingest", retries_left=1)
        await fail_at_check(run, retries_left=1)
        await attempt(run, "check")
        await fail_at_check(run, retries_left=0)
        await run.end(RunStatus.FAILED)

    assert signals.names() == [
        "stage.started/ingest/1",
        "stage.succeeded/ingest/1",
        "stage.started/check/1",
        "stage.failed/check/1",
        "stage.retrying/check/1",
        "stage.started/check/2",
        "stage.succeeded/check/2",
        "stage.started/check/3",
        "stage.failed/check/3",
        "completed/pipeline/1",
    ]
    failed = next(fields for signal, _, fields in signals.seen if signal.value == "pipeline.stage.failed")
    assert (failed["error_type"], failed["message"], failed["retryable"]) == ("Unavailable", "nobody answers", True)
    assert isinstance(failed["duration_ms"], float)
    *_, (_, _, completed) = signals.seen
    assert (completed["status"], completed["error_type"], completed["engine"]) == ("failed", "Unavailable", "test")
    assert isinstance(completed["duration_ms"], float)


async def test_every_signal_has_all_its_tags_once_they_are_known(services: Services, signals: RecordedSignals) -> None:
    run_id = await accepted(services)
    async with lease_run(services, run_id, engine="test") as run:
        ingested = await attempt(run, "ingest", retries_left=0)
        await attempt(run, "check", retries_left=0)

    for _, tags, _ in signals.seen:
        assert (tags.trace_id, tags.run_id, tags.source, tags.environment) == ("trace", run_id, "generic", "test")
        assert tags.alert_fingerprint == ingested.alert_fingerprint
    assert [tags.incident_id for _, tags, _ in signals.seen] == [""] + [ingested.incident_id] * 3


async def test_a_stage_that_takes_too_long_is_stopped_and_worth_another_try(
    services: Services, signals: RecordedSignals
) -> None:
    services = quick(services, stage_timeout_seconds=0.05)
    run_id = await accepted(services)
    async with lease_run(checking(services, forever), run_id, engine="test") as run:
        failed = await fail_at_check(run, retries_left=1)

    assert failed.retryable
    (row,) = await rows_of(services, run_id)
    assert (row.status, row.error_type, row.error_message) == (
        StageStatus.RETRYING,
        "TimeoutError",
        "Took longer than 0.05 s",
    )
    assert row.duration_ms is not None
    assert row.duration_ms >= 50
    assert signals.names()[-2:] == ["stage.failed/check/1", "stage.retrying/check/1"]


async def test_a_time_out_within_a_stage_is_not_taken_for_the_stages_own(services: Services) -> None:
    run_id = await accepted(services)
    async with lease_run(checking(services, scripted(TimeoutError())), run_id, engine="test") as run:
        failed = await fail_at_check(run, retries_left=0)

    assert "60" not in failed.error.message
    assert failed.error.message == "Something in it took too long"


async def test_a_cancelled_attempt_is_closed(services: Services, signals: RecordedSignals) -> None:
    run_id = await accepted(services)
    at_work = asyncio.Event()

    async def work(context: StageContext) -> CheckResult:
        at_work.set()
        return await forever(context)

    async def execute_check() -> None:
        async with lease_run(checking(services, work), run_id, engine="test") as run:
            await attempt(run, "check", retries_left=3)

    executing = asyncio.create_task(execute_check())
    await at_work.wait()
    executing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await executing

    (row,) = await rows_of(services, run_id)
    assert (row.status, row.error_type, row.error_retryable) == (StageStatus.FAILED, "Cancelled", True)
    assert row.completed_at is not None
    assert signals.names()[-1] == "stage.failed/check/1"
    record = await record_of(services, run_id)
    assert (record.lease_owner, record.last_error_type) == (None, "Cancelled")


async def test_an_attempt_that_a_dead_process_left_is_closed_as_lost_by_the_next(services: Services) -> None:
    run_id = await accepted(services)
    await open_attempts(services.database, run_id, Node.of(Stage.CHECK))

    async with lease_run(services, run_id, engine="test") as run:
        await attempt(run, "check", retries_left=0)

    lost, done = await rows_of(services, run_id)
    assert (lost.status, lost.error_type, lost.error_retryable) == (StageStatus.FAILED, "ProcessLost", True)
    assert lost.completed_at is not None
    assert (done.status, done.attempt) == (StageStatus.SUCCEEDED, 2)


async def test_bad_input_is_not_worth_another_try(services: Services, signals: RecordedSignals) -> None:
    run_id = await accepted(services)
    async with lease_run(checking(services, scripted(BadInput("no such checker"))), run_id, engine="test") as run:
        failed = await fail_at_check(run, retries_left=3)
        status = (await record_of(services, run_id)).status

    assert not failed.retryable
    assert status is RunStatus.PENDING, "it does not wait for anything"
    (row,) = await rows_of(services, run_id)
    assert row.status is StageStatus.FAILED
    assert "stage.retrying/check/1" not in signals.names()


async def test_what_sets_a_stage_up_fails_like_the_stage(services: Services) -> None:
    async def set_up(_run: ActiveRun, _step: Step) -> None:
        raise Unavailable("the channels are unknown")

    async def never(_context: StageContext, _setup: None) -> Contract:
        raise AssertionError("it is not set up")

    run_id = await accepted(services)
    async with lease_run(with_kind(services, CHECK, function=never, set_up=set_up), run_id, engine="test") as run:
        failed = await fail_at_check(run, retries_left=0)

    assert failed.error.message == "the channels are unknown"
    assert [row.status for row in await rows_of(services, run_id)] == [StageStatus.FAILED]


@pytest.mark.parametrize("ends", [RunStatus.FAILED, RunStatus.SKIPPED])
async def test_no_stage_runs_in_a_run_that_is_over(services: Services, ends: RunStatus) -> None:
    run_id = await accepted(services)
    async with lease_run(services, run_id, engine="test") as run:
        await run.end(ends)
        with pytest.raises(IllegalTransition):
            await attempt(run, "check", retries_left=0)

    assert await rows_of(services, run_id) == []


async def test_secrets_are_not_in_what_a_run_leaves_behind(services: Services, signals: RecordedSignals) -> None:
    leaky = CheckResult(
        checks=[
            Check(
                name="process",
                status=CheckStatus.OK,
                message=f"postgres --password {SECRET}",
                metrics={"cmdline": f"curl -H 'Authorization: Bearer {SECRET}'", "api_key": SECRET},
            )
        ]
    )
    run_id = await accepted(services, labels={"password": SECRET, "url": f"https://me:{SECRET}@example.com/"})
    failing = checking(services, scripted(Unavailable(f"postgresql://me:{SECRET}@db refused"), leaky))
    async with lease_run(failing, run_id, engine="test") as run:
        await attempt(run, "ingest", retries_left=0)
        await fail_at_check(run, retries_left=1)
        await attempt(run, "check")
        await attempt(run, "analyze", retries_left=0)

    rows = await rows_of(services, run_id)
    assert len(rows) == 4
    assert SECRET not in "".join(row.model_dump_json() for row in rows)
    assert SECRET not in (await record_of(services, run_id)).model_dump_json()
    assert SECRET not in repr([fields for _, _, fields in signals.seen])


async def test_output_that_postgresql_cannot_hold_costs_no_attempt(services: Services) -> None:
    found = Check(name="process", status=CheckStatus.OK, message="nul\x00 \ud800", metrics={"load": float("nan")})
    failing = checking(services, scripted(CheckResult(checks=[found]), ValueError("nul\x00 \ud800")))
    run_id = await accepted(services)
    async with lease_run(failing, run_id, engine="test") as run:
        await attempt(run, "check")
        await fail_at_check(run, retries_left=0)

    assert [row.status for row in await rows_of(services, run_id)] == [StageStatus.SUCCEEDED, StageStatus.FAILED]


def test_the_end_of_a_long_stack_is_kept_without_its_secrets() -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise ValueError(f"{'x' * 7980} password={SECRET} the end")

    with pytest.raises(ValueError, match="the end") as failed:
        fail(50)
    stack = str(describe(failed.value).stack_trace)

    assert stack.rstrip().endswith("the end")
    assert len(stack) <= 8000
    assert SECRET[4:] not in stack


async def test_a_worker_that_lost_its_run_writes_nothing_over_the_others_work(services: Services) -> None:
    run_id = await accepted(services)

    async def lose(_context: StageContext) -> CheckResult:
        async with services.database.transaction() as tx:
            await runs.change(tx, run_id, values={"lease_owner": "elsewhere/1/2/3"})
        return CheckResult()

    async with lease_run(checking(services, lose), run_id, engine="test") as run:
        with pytest.raises(RunBusy, match="taken over by elsewhere"):
            await attempt(run, "check", retries_left=1)
        with pytest.raises(RunBusy, match="taken over by elsewhere"):
            await run.end(RunStatus.FAILED)

    record = await record_of(services, run_id)
    assert (record.status, record.last_error_type, record.lease_owner) == (RunStatus.PENDING, None, "elsewhere/1/2/3")
    (row,) = await rows_of(services, run_id)
    assert row.status is StageStatus.RUNNING, "the one who has the run closes it"
