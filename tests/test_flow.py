"""The flow as Prefect has it, read back from a real server: names, tags, tasks, states, retries and the story."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import Task
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.states import Failed

from orchestration.analysis import AnalysisInput
from orchestration.contracts import AnalyzeResult, Stage, StageError
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services, StageFailed
from orchestration.errors import DeliveryFailed, Unavailable
from orchestration.requests import RunRequest
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.records import Node
from service.stack import StackAddresses
from tasks.ingest.task import ingest
from tasks.retries import with_retries, worth_another_attempt
from tests.cli_helpers import (
    HIGH_CPU,
    Orchestrators,
    all_runs,
    flow_run_of,
    prefect_of,
    row_counts,
    story_of,
    task_runs_of,
    three_incidents,
    tries,
    worker_with,
)
from tests.conftest import MemoryChannel, RecordedSignals, clean_environment
from tests.inbox_helpers import accept_push
from tests.receivers import http_receiver, statsd_receiver
from tests.stack_fixtures import until
from tests.worker_helpers import prefect_variables

pytest_plugins = ["tests.cli_helpers"]

TASKS = {"ingest", "check", "analyze", "notify"}
SECRET = "hunter2xyzzy"


class BrokenAnalysis:
    """A model that is down."""

    name = "model"

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        raise Unavailable("the model answered 503")


async def executed(services: Services, stack: StackAddresses, payload: dict[str, Any], **more: Any) -> list[Any]:
    """The results of a push."""
    async with worker_with(services, stack) as worker:
        where = {"source": "generic", "environment": "production", "trace_id": "trace-1", **more}
        return await worker.execute_all(await worker.accept(RunRequest(payload=payload, **where)))


# What Prefect shows


async def test_prefect_shows_who_it_was_about_and_how_it_ended(
    services: Services, stack: StackAddresses, database: Database, channel: MemoryChannel
) -> None:
    alert = {**HIGH_CPU, "host": "web-1", "description": f"load {{high}} <b>| password={SECRET}", "api_key": SECRET}
    await executed(services, stack, alert)
    assert len(channel.messages) == 1
    (run,) = await all_runs(database)
    async with prefect_of(stack) as client:
        flow_run = await flow_run_of(client, run)
        assert flow_run.name == "critical · HighCPU on web-1"
        assert set(flow_run.tags) == {"generic", "critical", "production", "trace:trace-1"}
        assert flow_run.parameters == {"run_id": run.run_id}
        assert flow_run.state is not None
        assert (flow_run.state.type.value, flow_run.state.name) == ("COMPLETED", "Notified")
        task_runs = await task_runs_of(client, flow_run, TASKS)
        assert set(task_runs) == TASKS
        assert {one.state and one.state.type.value for one in task_runs.values()} == {"COMPLETED"}
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
        (artifact,) = await client.read_artifacts(artifact_filter=only)
    story = str(artifact.data)
    assert (artifact.type, artifact.key) == ("markdown", f"incident-{run.incident_id}")
    assert story.startswith("# HighCPU on web-1\n")
    for told in (
        run.run_id,
        "trace-1",
        "Notified (opened)",
        "## Checks",
        "## Analysis",
        "## Deliveries",
        "## Attempts",
    ):
        assert told in story
    assert "| notify | 1 | succeeded |" in story
    seen = story + flow_run.model_dump_json() + "".join(one.model_dump_json() for one in task_runs.values())
    assert SECRET not in seen


async def test_retries_and_failure_are_seen_in_prefect(
    services: Services, stack: StackAddresses, database: Database, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    down = DeliveryFailed("web answered 503", retryable=True)
    channel.failures += [down] * 2
    await executed(services, stack, {"name": "Retried"})
    channel.failures += [down] * 4
    await executed(services, stack, {"name": "Failed"})
    failed, retried = await all_runs(database)
    assert (retried.status, failed.status) == (RunStatus.NOTIFIED, RunStatus.FAILED)
    async with prefect_of(stack) as client:
        first, second = await flow_run_of(client, retried), await flow_run_of(client, failed)
        of_first = await task_runs_of(client, first, TASKS)
        of_second = await task_runs_of(client, second, TASKS)
    assert (of_first["notify"].run_count, of_second["notify"].run_count) == (3, 4)
    assert first.state is not None
    assert first.state.name == "Notified"
    assert second.state is not None
    assert (second.state.type.value, second.state.name) == ("FAILED", "Failed")
    assert "web answered 503" in (second.state.message or "")
    assert of_second["notify"].state is not None
    assert of_second["notify"].state.type.value == "FAILED"
    notified = [name for name in signals.names() if "/notify/" in name][:8]
    assert notified == [
        "stage.started/notify/1",
        "stage.failed/notify/1",
        "stage.retrying/notify/1",
        "stage.started/notify/2",
        "stage.failed/notify/2",
        "stage.retrying/notify/2",
        "stage.started/notify/3",
        "stage.succeeded/notify/3",
    ]


async def test_a_run_that_tells_nobody_ends_skipped(
    services: Services, stack: StackAddresses, database: Database, channel: MemoryChannel
) -> None:
    await executed(services, stack, HIGH_CPU)
    (result,) = await executed(services, stack, HIGH_CPU)
    assert (result.status, result.skip_reason, result.stages_completed) == ("SKIPPED", "repeat", ["ingest"])
    assert len(channel.messages) == 1
    repeated, _ = await all_runs(database)
    assert tries(await story_of(database, repeated.run_id)) == [
        "ingest 1 succeeded",
        "check 1 skipped",
        "analyze 1 skipped",
        "notify 1 skipped",
    ]
    async with prefect_of(stack) as client:
        flow_run = await flow_run_of(client, repeated)
        assert flow_run.state is not None
        assert (flow_run.state.type.value, flow_run.state.name) == ("COMPLETED", "Skipped")
        assert flow_run.state.message == "Nobody is notified: repeat."
        assert set(await task_runs_of(client, flow_run, {"ingest"})) == {"ingest"}


# When the analysis is down


async def test_without_an_analysis_the_page_goes_out_and_says_so(
    services: Services, stack: StackAddresses, database: Database, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    (result,) = await executed(replace(services, analysis=BrokenAnalysis()), stack, HIGH_CPU)
    assert (result.status, result.final_error) == ("COMPLETED", None)
    (message,) = channel.messages
    assert "AI analysis unavailable" in message.text
    assert message.severity == "critical"
    (run,) = await all_runs(database)
    assert run.intelligence_fallback_used
    story = await story_of(database, run.run_id)
    retried = [f"analyze {n} retrying" for n in (1, 2, 3)] + ["analyze 4 failed"]
    assert tries(story)[2:] == [*retried, "analyze 5 succeeded", "notify 1 succeeded"]
    assert result.analyze.fallback_used
    assert result.analyze.errors == ["the model answered 503"]
    assert [fields.get("fallback") for signal, tags, fields in signals.seen if tags.stage == "analyze"][-1] is True
    async with prefect_of(stack) as client:
        flow_run = await flow_run_of(client, run)
    assert flow_run.state is not None
    assert (flow_run.state.name, "AI analysis was unavailable" in (flow_run.state.message or "")) == ("Notified", True)


async def test_with_the_fallback_switched_off_the_run_fails(
    services: Services, stack: StackAddresses, database: Database, channel: MemoryChannel, settings: Settings
) -> None:
    strict = settings.model_copy(update={"intelligence_fallback_enabled": False, "max_retries_per_stage": 0})
    (result,) = await executed(replace(services, analysis=BrokenAnalysis(), settings=strict), stack, HIGH_CPU)
    assert (result.status, channel.messages) == ("FAILED", [])
    assert result.final_error.message == "the model answered 503"


# As Prefect starts it


PROGRAM = """
import asyncio, json, sys
from flows.alert_pipeline import alert_pipeline
state = asyncio.run(alert_pipeline(**json.loads(sys.argv[1]), return_state=True))
print(state.type.value, state.name, state.message)
"""


def started_by_prefect(stack: StackAddresses, **parameters: Any) -> subprocess.CompletedProcess[str]:
    """The flow in a process of its own, which has nothing but its environment."""
    env = {"DATABASE_URL": stack.database_url, **prefect_variables(stack)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(parameters)],
        env={**clean_environment(), **env, "CHECKERS_ENABLED": "memory"},
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_a_payload_given_to_prefect_becomes_a_run_for_each_incident(
    stack: StackAddresses, database: Database
) -> None:
    finished = started_by_prefect(stack, payload=three_incidents(), trace_id="from-prefect", notify_driver="console")
    assert finished.stdout.startswith("COMPLETED Notified Run "), finished.stderr
    found = await all_runs(database)
    assert [(run.status, run.trace_id) for run in found] == [(RunStatus.NOTIFIED, "from-prefect")] * 3
    async with prefect_of(stack) as client:
        names = {(await flow_run_of(client, run)).name for run in found}
    assert names == {f"warning · Disk{n}Full on db-{n}" for n in (1, 2, 3)}
    assert len({run.prefect_flow_run_id for run in found}) == 3


SCRIPT = """
import asyncio
from flows.alert_pipeline import alert_pipeline
for channel in ("console", "nosuch"):
    state = asyncio.run(alert_pipeline(payload={"name": channel}, notify_driver=channel))
    print(type(state).__name__, state.type.value, state.name)
"""


async def test_a_plain_script_finds_the_embedded_stack_and_gets_the_states(
    home: Path, stack: StackAddresses, database: Database
) -> None:
    finished = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT],
        env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home), "CHECKERS_ENABLED": "memory"},
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert finished.stdout.splitlines() == ["State COMPLETED Notified", "State FAILED Failed"], finished.stderr
    assert sorted(run.status.value for run in await all_runs(database)) == ["failed", "notified"]


async def test_a_payload_that_is_no_alert_fails_the_flow_and_leaves_no_run(
    stack: StackAddresses, database: Database
) -> None:
    finished = started_by_prefect(stack, payload={"hello": "world"})
    assert finished.stdout.startswith("FAILED Failed ")
    assert "no source recognizes the payload (its fields: hello)" in finished.stdout
    assert await row_counts(database) == {}


# How it retries


async def test_the_waits_are_those_of_the_settings(services: Services) -> None:
    (run_id,) = await accept_push(services, HIGH_CPU, source="generic", environment="test")
    for retries, delays in ((3, [2.0, 4.0, 8.0]), (0, [])):
        own = services.settings.model_copy(update={"max_retries_per_stage": retries, "backoff_factor": 2.0})
        async with lease_run(replace(services, settings=own), run_id, engine="test") as run:
            task = cast("Task[..., Any]", with_retries(ingest, run))
        assert (task.name, task.retries, task.retry_delay_seconds) == ("ingest", retries, delays)
        assert task.retry_condition_fn is worth_another_attempt
    assert ingest.retries == 0  # the task itself stays as it was


NOTIFY_NODE = Node.of(Stage.NOTIFY)
FAILURE = StageError(error_type="DeliveryFailed", message="answered 500", retryable=True)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StageFailed(NOTIFY_NODE, FAILURE, retry_in_seconds=2.0), True),
        (StageFailed(NOTIFY_NODE, FAILURE, retry_in_seconds=0.0), True),
        (StageFailed(NOTIFY_NODE, FAILURE), False),
        (ValueError("a bug"), False),
        (None, False),
    ],
)
def test_a_failure_says_itself_whether_it_is_tried_again(error: Exception | None, again: bool) -> None:
    state: State[Any] = Failed(data=error)
    assert worth_another_attempt(None, None, state) is again  # type: ignore[arg-type]


async def test_a_refused_message_is_one_attempt_and_an_error_of_the_server_four(
    orchestrators: Orchestrators, database: Database
) -> None:
    with http_receiver(404, default=500) as receiver, statsd_receiver() as statsd:
        orchestrator = orchestrators(
            webhook_url=receiver.url, metrics_backend="statsd", statsd_host=statsd.host, statsd_port=statsd.port
        )
        assert orchestrator.run_pipeline({"name": "Refused"}, source="generic").status == "FAILED"
        assert len(receiver.requests) == 1
        assert orchestrator.run_pipeline({"name": "Broken"}, source="generic").status == "FAILED"
        assert len(receiver.requests) == 5
        ended = "pipeline.completed.failed.generic:1|c"
        until(lambda: statsd.lines.count(ended) == 2, "the second run's last signal")
        lines = statsd.lines
    broken, refused = await all_runs(database)
    assert (refused.total_attempts, refused.last_error_retryable) == (4, False)
    assert (broken.total_attempts, broken.last_error_retryable) == (7, True)
    assert lines.count("pipeline.started.generic:1|c") == 2
    assert lines.count("pipeline.stage.failed.notify.generic:1|c") == 5
    assert lines.count("pipeline.stage.retrying.notify.generic:1|c") == 3
    assert lines.count("pipeline.stage.succeeded.check.generic:1|c") == 2
