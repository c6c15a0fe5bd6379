"""The linear pipeline from end to end, without Prefect: which stages run, what they leave, and how a run goes on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import update

from orchestration.analysis import AnalysisInput
from orchestration.contracts import LINEAR_STAGES, AnalyzeResult, Stage, StageError
from orchestration.engine.execution import DIRECT, DirectTask, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.perform import finish, perform_all
from orchestration.engine.run import ActiveRun, Services
from orchestration.errors import BadInput, DeliveryFailed, Unavailable
from orchestration.requests import RunOptions
from orchestration.signals import Signals, StatsdBackend
from orchestration.states import RunReason, RunStatus, StageStatus
from orchestration.store import attempts
from orchestration.store.models import StageExecutionRow
from orchestration.store.records import Node, RunRecord
from orchestration.store.story import Story, read_story
from tasks.analyze.stage import fallback_result
from tests.conftest import MemoryChannel, RecordedSignals
from tests.engine_helpers import attempt, execute
from tests.inbox_helpers import accept_health_check, accept_push
from tests.notify_helpers import execute_follow_up, execute_redelivery
from tests.receivers import statsd_receiver

HERE = socket.gethostname()
"""The host that runs the pipeline: what the alerts of these tests are about, unless they name another."""


async def do(run: ActiveRun, *stages: Stage) -> None:
    """Do these stages of the linear pipeline, and no more."""
    for stage in stages:
        await DirectTask(run.plan.steps[stage.value])(run, stage.value)


@dataclass
class ScriptedAnalysis:
    """An analysis that fails as often as it is told to."""

    failures: list[Exception] = field(default_factory=list[Exception])
    cases: list[AnalysisInput] = field(default_factory=list[AnalysisInput])
    name: str = "scripted"

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        self.cases.append(case)
        if self.failures:
            raise self.failures.pop(0)
        return AnalyzeResult(summary="A job ran wild", actions=["Stop the job"], confidence=0.5)


def outage(times: int) -> ScriptedAnalysis:
    return ScriptedAnalysis(failures=[Unavailable("the model does not answer") for _ in range(times)])


def changed(services: Services, **settings: Any) -> Services:
    return replace(services, settings=services.settings.model_copy(update=settings))


def alert(**more: Any) -> dict[str, Any]:
    return {"name": "HighCPU", "severity": "critical", "host": HERE} | more


async def accepted(services: Services, payload: object, **more: Any) -> str:
    (run_id,) = await accept_push(services, payload, source="generic", environment="test", **more)
    return run_id


async def run_to_end(services: Services, run_id: str) -> RunRecord:
    """Bring a stored run to its end."""
    return await execute(services, run_id)


async def push(services: Services, payload: object, **more: Any) -> RunRecord:
    return await run_to_end(services, await accepted(services, payload, **more))


async def story_of(services: Services, run: RunRecord) -> Story:
    async with services.database.transaction() as tx:
        return await read_story(tx, run.run_id)


async def rows_of(services: Services, run: RunRecord) -> list[str]:
    """`stage/attempt status`, with the reason of what was skipped."""
    return [
        f"{row.node_id}/{row.attempt} {row.status}"
        + (f": {(row.output_snapshot or {})['skipped']}" if row.status is StageStatus.SKIPPED else "")
        for row in (await story_of(services, run)).attempts
    ]


ALL_GOOD = ["ingest/1 succeeded", "check/1 succeeded", "analyze/1 succeeded", "notify/1 succeeded"]


async def test_an_alert_becomes_a_message(services: Services, channel: MemoryChannel) -> None:
    run = await push(services, alert(), trace_id="trace")

    assert (run.status, run.engine, run.total_attempts, run.trace_id) == (RunStatus.NOTIFIED, "direct", 4, "trace")
    assert run.total_duration_ms is not None
    assert run.total_duration_ms > 0
    assert run.completed_at
    assert run.last_error_type is None
    assert await rows_of(services, run) == ALL_GOOD
    (message,) = channel.messages
    assert message.severity == "critical"
    assert message.run_id == run.run_id


async def test_the_result_of_a_run_is_the_contracts(services: Services) -> None:
    run = await push(services, alert())
    result = (await story_of(services, run)).result()

    assert result.status == "COMPLETED"
    assert result.stages_completed == ["ingest", "check", "analyze", "notify"]
    assert result.ingest
    assert result.check
    assert result.analyze
    assert result.notify
    assert result.incident_id == result.ingest.incident_id
    assert set(result.check.timings) == {"memory", "process"}
    assert result.started_at <= result.completed_at
    assert result.final_error is None


async def test_the_signals_of_a_success_come_in_order(services: Services, signals: RecordedSignals) -> None:
    await push(services, alert())

    stages = [
        f"stage.{what}/{stage}/1"
        for stage in ("ingest", "check", "analyze", "notify")
        for what in ("started", "succeeded")
    ]
    assert signals.names() == ["started/pipeline/1", *stages, "completed/pipeline/1"]


async def test_a_repeat_is_skipped_with_its_reason_and_a_row_for_each_stage(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    await push(services, alert())
    signals.seen.clear()
    run = await push(services, alert())

    assert (run.status, run.skip_reason) == (RunStatus.SKIPPED, "repeat")
    assert await rows_of(services, run) == [
        "ingest/1 succeeded",
        "check/1 skipped: repeat",
        "analyze/1 skipped: repeat",
        "notify/1 skipped: repeat",
    ]
    assert len(channel.messages) == 1
    *_, (_, _, completed) = signals.seen
    assert (completed["status"], completed["reason"]) == ("skipped", "repeat")
    assert (await story_of(services, run)).result().status == "SKIPPED"


async def test_an_all_clear_runs_notify_alone(services: Services, channel: MemoryChannel) -> None:
    await push(services, alert())
    analysis = ScriptedAnalysis()
    run = await push(replace(services, analysis=analysis), alert(status="resolved"))

    assert run.status is RunStatus.NOTIFIED
    assert await rows_of(services, run) == [
        "ingest/1 succeeded",
        "check/1 skipped: resolved",
        "analyze/1 skipped: resolved",
        "notify/1 succeeded",
    ]
    assert analysis.cases == []
    page, all_clear = channel.messages
    assert (page.status, all_clear.status) == ("firing", "resolved")
    assert page.dedup_key == all_clear.dedup_key
    assert page.idempotency_key != all_clear.idempotency_key


async def test_an_all_clear_that_comes_in_another_grouping_reaches_those_who_were_paged(
    services: Services, channel: MemoryChannel
) -> None:
    one = alert(fingerprint="web-1", incident_key="by host")
    await push(services, one)
    await push(services, one | {"incident_key": "by cluster", "status": "resolved"})
    await execute_follow_up(services, RunReason.MEMBER_ENDED)

    page, all_clear = channel.messages
    assert all_clear.status == "resolved"
    assert all_clear.dedup_key == page.dedup_key


async def test_a_page_that_was_refused_is_told_with_its_checks_when_a_part_has_resolved_and_the_rest_fires(
    services: Services, channel: MemoryChannel
) -> None:
    channel.failures = [DeliveryFailed("it answered 404", retryable=False)]
    firing = [alert(fingerprint=f"web-{n}", incident_key="web") for n in range(2)]
    assert (await push(services, {"alerts": firing})).status is RunStatus.FAILED
    assert (await push(services, firing[0] | {"status": "resolved"})).skip_reason == "some_resolved"
    run = await execute_redelivery(services)

    assert run.status is RunStatus.NOTIFIED
    (message,) = channel.messages
    assert message.status == "firing"
    assert message.checks


async def test_checks_only_looks_at_this_host_without_an_alert(services: Services, channel: MemoryChannel) -> None:
    run_id = await accept_health_check(
        services, source="cli", environment="test", trace_id=None, options=RunOptions(checker_names=["memory"])
    )
    run = await run_to_end(services, run_id)

    assert run.status is RunStatus.NOTIFIED
    assert run.incident_id is None
    assert await rows_of(services, run) == [
        "ingest/1 skipped: checks_only",
        "check/1 succeeded",
        "analyze/1 succeeded",
        "notify/1 succeeded",
    ]
    (message,) = channel.messages
    assert len(message.checks) == 1


async def test_an_operator_who_wants_no_checks_gets_none(services: Services, channel: MemoryChannel) -> None:
    run = await push(changed(services, checkers_skip_all=True), alert())

    assert run.status is RunStatus.NOTIFIED
    assert (await rows_of(services, run))[1] == "check/1 skipped: checkers_skip_all"
    assert channel.messages[0].checks == []


async def test_a_run_does_what_was_asked_for(services: Services, channel: MemoryChannel) -> None:
    run = await push(services, alert(), options=RunOptions(checker_names=["process"], notify_driver="memory"))

    result = (await story_of(services, run)).result()
    assert result.check
    assert [check.name for check in result.check.checks] == ["process"]


async def test_the_analysis_is_given_incident_alerts_and_checks(services: Services) -> None:
    analysis = ScriptedAnalysis()
    await push(replace(services, analysis=analysis), alert())

    (case,) = analysis.cases
    assert case.incident
    assert case.check
    assert [one.name for one in case.alerts] == ["HighCPU"]
    assert case.check.checks_run == 2


async def test_a_run_is_analyzed_by_the_provider_that_its_caller_chose(services: Services) -> None:
    usual = ScriptedAnalysis()
    run = await push(replace(services, analysis=usual), alert(), options=RunOptions(provider="local"))

    result = (await story_of(services, run)).result()
    assert result.analyze
    assert result.analyze.model_info == {"provider": "local"}
    assert usual.cases == []


# When the analysis fails


async def test_without_an_analysis_the_page_goes_out_and_says_so(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    run = await push(replace(services, analysis=outage(4)), alert())

    assert run.status is RunStatus.NOTIFIED
    assert run.intelligence_fallback_used
    assert await rows_of(services, run) == [
        "ingest/1 succeeded",
        "check/1 succeeded",
        *(f"analyze/{n} retrying" for n in (1, 2, 3)),
        "analyze/4 failed",
        "analyze/5 succeeded",
        "notify/1 succeeded",
    ]
    (message,) = channel.messages
    assert "AI analysis unavailable" in message.text
    assert "the model does not answer" in message.text
    assert "Manual investigation required" in message.text
    result = (await story_of(services, run)).result()
    assert result.analyze
    assert result.analyze.fallback_used
    assert result.analyze.confidence == 0
    assert result.analyze.errors == ["the model does not answer"]
    told = [name for name, (_, _, fields) in zip(signals.names(), signals.seen, strict=True) if fields.get("fallback")]
    assert told == ["stage.succeeded/analyze/5", "completed/pipeline/1"]


async def test_an_analysis_that_comes_back_in_time_is_no_fallback(services: Services, channel: MemoryChannel) -> None:
    run = await push(replace(services, analysis=outage(3)), alert())

    assert not run.intelligence_fallback_used
    assert "A job ran wild" in channel.messages[0].text
    assert (await rows_of(services, run))[2:6] == [*(f"analyze/{n} retrying" for n in (1, 2, 3)), "analyze/4 succeeded"]


async def test_an_analysis_with_a_bug_is_not_tried_again_and_costs_no_page(
    services: Services, channel: MemoryChannel
) -> None:
    run = await push(replace(services, analysis=ScriptedAnalysis(failures=[KeyError("choices")])), alert())

    assert (run.status, run.intelligence_fallback_used) == (RunStatus.NOTIFIED, True)
    assert (await rows_of(services, run))[2:4] == ["analyze/1 failed", "analyze/2 succeeded"]
    assert "AI analysis unavailable" in channel.messages[0].text


async def test_without_the_fallback_a_failed_analysis_fails_the_run(services: Services, channel: MemoryChannel) -> None:
    services = changed(replace(services, analysis=outage(4)), intelligence_fallback_enabled=False)
    run = await push(services, alert())

    assert run.status is RunStatus.FAILED
    assert (run.last_error_type, run.last_error_message) == ("Unavailable", "the model does not answer")
    assert not run.intelligence_fallback_used
    assert channel.messages == []
    assert (await rows_of(services, run))[-1] == "analyze/4 failed"


async def test_a_fallback_is_on_record_though_the_process_dies_right_after_it(
    services: Services, channel: MemoryChannel
) -> None:
    run_id = await accepted(services, alert())
    async with lease_run(services, run_id, engine=DIRECT) as run:
        await do(run, Stage.INGEST, Stage.CHECK)
        error = StageError(error_type="Unavailable", message="the model does not answer", retryable=True)
        await attempt(run, "analyze", given=fallback_result(error))

    assert (await run_to_end(services, run_id)).intelligence_fallback_used
    assert "AI analysis unavailable" in channel.messages[0].text


# How a run fails and goes on


async def test_a_channel_that_stays_down_fails_the_run_after_four_attempts(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    channel.failures = [DeliveryFailed("it answered 503", retryable=True) for _ in range(4)]
    run = await push(services, alert())

    assert run.status is RunStatus.FAILED
    assert (run.last_error_type, run.last_error_message, run.last_error_retryable) == (
        "DeliveryFailed",
        "memory: it answered 503",
        True,
    )
    assert run.total_attempts == 7
    assert (await rows_of(services, run))[3:] == [*(f"notify/{n} retrying" for n in (1, 2, 3)), "notify/4 failed"]
    assert signals.names()[-3:] == ["stage.started/notify/4", "stage.failed/notify/4", "completed/pipeline/1"]
    result = (await story_of(services, run)).result()
    assert result.status == "FAILED"
    assert result.final_error
    assert result.final_error.message == "memory: it answered 503"


async def test_a_failed_check_stage_fails_the_run(services: Services, channel: MemoryChannel) -> None:
    run = await push(services, alert(), options=RunOptions(checker_names=["weather"]))

    assert (run.status, run.last_error_type, run.last_error_retryable) == (RunStatus.FAILED, BadInput.__name__, False)
    assert await rows_of(services, run) == ["ingest/1 succeeded", "check/1 failed"]
    assert channel.messages == []

    # What failed is not needed for the message, which a later run sends.
    assert (await execute_redelivery(services)).status is RunStatus.NOTIFIED
    assert [message.status for message in channel.messages] == ["firing"]
    assert "check failed, and is left out: unknown checker 'weather'" in channel.messages[0].text


async def test_a_run_that_failed_in_notify_goes_on_there(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    channel.failures = [DeliveryFailed("it answered 503", retryable=True) for _ in range(4)]
    analysis = ScriptedAnalysis()
    services = replace(services, analysis=analysis)
    failed = await push(services, alert())
    signals.seen.clear()
    run = await run_to_end(services, failed.run_id)

    assert run.status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1
    assert "A job ran wild" in channel.messages[0].text
    assert len(analysis.cases) == 1
    assert signals.names() == [
        "started/pipeline/1",
        "stage.started/notify/5",
        "stage.succeeded/notify/5",
        "completed/pipeline/1",
    ]
    _, _, started = signals.seen[0]
    assert started["resumed"] is True
    assert (await rows_of(services, run))[-2:] == ["notify/4 failed", "notify/5 succeeded"]
    assert run.total_attempts == 8
    assert run.last_error_type is None
    assert run.started_at == failed.started_at


async def test_a_resumed_message_is_the_one_that_could_not_be_sent(services: Services, channel: MemoryChannel) -> None:
    """What a resume reads back from the store is what the stages found."""
    channel.failures = [DeliveryFailed("it answered 404", retryable=False)]
    failed = await push(services, alert(description="load is 97 %"))
    async with lease_run(services, failed.run_id, engine=DIRECT) as run, Execution(run).begin() as begun:
        before = dict(begun.results)
        await perform_all(run, DirectTask, at_once=True)
        await finish(run)

    assert list(before) == ["ingest", "check", "analyze"]
    assert "load is 97 %" in channel.messages[0].text
    assert len(channel.messages[0].checks) == 2


async def test_a_stage_whose_result_cannot_be_read_is_done_again(services: Services, channel: MemoryChannel) -> None:
    """Such as one that a newer version wrote, before it was rolled back."""
    channel.failures = [DeliveryFailed("it answered 404", retryable=False)]
    failed = await push(services, alert())
    newer = {"summary": "A job ran wild", "a field of tomorrow": 1}
    async with services.database.transaction() as tx:
        table = StageExecutionRow
        await tx.execute(update(table).where(table.node_id == "analyze").values(output_snapshot=newer))
    assert (await story_of(services, failed)).result().analyze is None

    run = await run_to_end(services, failed.run_id)

    assert run.status is RunStatus.NOTIFIED
    assert (await rows_of(services, run))[-3:] == ["notify/1 failed", "analyze/2 succeeded", "notify/2 succeeded"]
    assert len(channel.messages) == 1


async def test_a_run_that_is_killed_in_check_goes_on_there(services: Services, channel: MemoryChannel) -> None:
    run_id = await accepted(services, alert(name="Hanging"), options=RunOptions(checker_names=["memory"]))
    kill_in_check(services.database.url, run_id)

    run = await run_to_end(services, run_id)

    assert run.status is RunStatus.NOTIFIED
    story = await story_of(services, run)
    assert await rows_of(services, run) == [
        "ingest/1 succeeded",
        "check/1 failed",
        "check/2 succeeded",
        "analyze/1 succeeded",
        "notify/1 succeeded",
    ]
    assert story.attempts[1].error_type == attempts.LOST.error_type
    assert [(delivery.status, delivery.tries) for delivery in story.deliveries] == [("sent", 1)]
    assert len(channel.messages) == 1
    assert run.total_attempts == 5


HANGS_IN_CHECK = """
import asyncio, sys
from dataclasses import replace
from orchestration.engine.execution import Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import NodeKinds, Services
from orchestration.settings import load_settings
from orchestration.signals import Signals
from orchestration.store.database import Database
from tasks.kinds import KINDS

async def hang(context, config):
    print("CHECKING", flush=True)
    await asyncio.Event().wait()

async def execute(url, run_id):
    hanging = replace(KINDS.by_type["context"], function=hang)
    kinds = NodeKinds(by_type={**KINDS.by_type, "context": hanging}, linear=KINDS.linear)
    services = Services(
        database=Database(url), signals=Signals([]), settings=load_settings(), channels=None, analysis=None, kinds=kinds
    )
    async with lease_run(services, run_id, engine="direct") as run:
        await Execution(run).execute_directly()

asyncio.run(execute(*sys.argv[1:]))
"""


def kill_in_check(database_url: str, run_id: str) -> None:
    """Let another process execute the run up to check, and kill it there."""
    command = [sys.executable, "-c", HANGS_IN_CHECK, database_url, run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "CHECKING\n"
        process.kill()


async def test_a_process_that_dies_between_the_message_and_the_end_leaves_only_the_end_to_do(
    services: Services, channel: MemoryChannel
) -> None:
    run_id = await accepted(services, alert())
    async with lease_run(services, run_id, engine=DIRECT) as run:
        await do(run, *LINEAR_STAGES)
    ended = await run_to_end(services, run_id)

    assert ended.status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1
    assert await rows_of(services, ended) == ALL_GOOD


async def test_a_process_that_dies_while_it_skips_leaves_only_the_end_to_do(services: Services) -> None:
    await push(services, alert())
    run_id = await accepted(services, alert())
    async with lease_run(services, run_id, engine=DIRECT) as run:
        await do(run, Stage.INGEST)
        for stage in (Stage.CHECK, Stage.ANALYZE):
            await run.skip(Node.of(stage), "repeat")
    ended = await run_to_end(services, run_id)

    assert (ended.status, ended.skip_reason) == (RunStatus.SKIPPED, "repeat")
    assert len(await rows_of(services, ended)) == 4


async def test_runs_of_one_process_go_on_side_by_side(services: Services, channel: MemoryChannel) -> None:
    alerts = [alert(name=f"Alert {n}", incident_key=str(n)) for n in range(6)]
    run_ids = await accept_push(services, {"alerts": alerts}, source="generic", environment="test")
    ended = await asyncio.gather(*(run_to_end(services, run_id) for run_id in run_ids))

    assert {run.status for run in ended} == {RunStatus.NOTIFIED}
    assert {message.run_id for message in channel.messages} == set(run_ids)
    assert len({run.incident_id for run in ended}) == 6


async def test_a_run_that_is_a_test_says_so_in_its_message(services: Services, channel: MemoryChannel) -> None:
    await push(services, alert(), options=RunOptions(test=True))
    await push(services, alert(host="web-2"))

    titles = [message.title for message in channel.messages]
    assert titles == [f"[TEST] [CRITICAL] HighCPU on {HERE} (test)", "[CRITICAL] HighCPU on web-2 (test)"]


# What statsd is sent


STAGE_OK = [
    line
    for stage in ("ingest", "check", "analyze")
    for line in (
        f"pipeline.stage.started.{stage}.generic:1|c",
        f"pipeline.stage.succeeded.{stage}.generic:1|c",
        f"pipeline.stage.duration.{stage}.generic:MS|ms",
    )
]


def ended_as(status: str) -> list[str]:
    return [
        "pipeline.completed.generic:1|c",
        f"pipeline.completed.{status}.generic:1|c",
        "pipeline.engine.direct.generic:1|c",
        "pipeline.duration.generic:MS|ms",
    ]


FAILED_TRY = [
    "pipeline.stage.started.notify.generic:1|c",
    "pipeline.stage.failed.notify.generic:1|c",
    "pipeline.stage.duration.notify.generic:MS|ms",
]
GOOD_TRY = [
    "pipeline.stage.started.notify.generic:1|c",
    "pipeline.stage.succeeded.notify.generic:1|c",
    "pipeline.stage.duration.notify.generic:MS|ms",
]
RETRYING = ["pipeline.stage.retrying.notify.generic:1|c"]


@pytest.mark.parametrize(
    ("failures", "notify_lines"),
    [
        pytest.param([], [*GOOD_TRY, *ended_as("notified")], id="success"),
        pytest.param([True], [*FAILED_TRY, *RETRYING, *GOOD_TRY, *ended_as("notified")], id="retry"),
        pytest.param([False], [*FAILED_TRY, *ended_as("failed")], id="failure"),
    ],
)
async def test_statsd_is_sent_every_step_of_a_run(
    services: Services, channel: MemoryChannel, failures: list[bool], notify_lines: list[str]
) -> None:
    channel.failures = [DeliveryFailed("it answered so", retryable=retryable) for retryable in failures]
    expected = ["pipeline.started.generic:1|c", *STAGE_OK, *notify_lines]
    with statsd_receiver() as receiver:
        to_statsd = Signals([StatsdBackend(receiver.host, receiver.port, "pipeline")])
        await push(replace(services, signals=to_statsd), alert())
        lines = receiver.wait_for(len(expected))

    assert [without_milliseconds(line) for line in lines] == expected


def without_milliseconds(line: str) -> str:
    """The line with MS in the place of a number of milliseconds, which must be one."""
    name, value = line.rsplit(":", 1)
    if value.endswith("|ms"):
        assert float(value.removesuffix("|ms")) > 0
        return f"{name}:MS|ms"
    return line
