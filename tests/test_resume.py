"""A run that failed, was stopped or lost its process goes on where it stood, and tells nobody twice."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from orchestration.contracts import PipelineOutcome
from orchestration.errors import BadInput, RunNotFound
from orchestration.states import RunStatus
from orchestration.store.database import Database
from tests.cli_helpers import (
    HIGH_CPU,
    QUICK,
    Orchestrators,
    Start,
    all_runs,
    says_in_one_line,
    side_by_side,
    story_of,
    tries,
)
from tests.conftest import Command
from tests.receivers import http_receiver

pytest_plugins = ["tests.cli_helpers"]

EARLIER = ["ingest 1 succeeded", "check 1 succeeded", "analyze 1 succeeded"]


async def test_after_the_channel_came_back_one_message_goes_out(
    orchestrators: Orchestrators, database: Database
) -> None:
    with http_receiver(500, 500, 500, 500) as receiver:
        orchestrator = orchestrators(webhook_url=receiver.url)
        failed = orchestrator.run_pipeline(HIGH_CPU, source="generic")
        assert (failed.status, failed.stages_completed) == ("FAILED", ["ingest", "check", "analyze"])
        assert failed.final_error is not None
        assert failed.final_error.retryable
        resumed = orchestrator.resume_pipeline(failed.run_id)
        assert len(receiver.requests) == 5
        keys = {request.headers["idempotency-key"] for request in receiver.requests}
    assert (resumed.status, resumed.run_id, resumed.trace_id) == ("COMPLETED", failed.run_id, failed.trace_id)
    assert resumed.final_error is None
    assert len(keys) == 1  # so that the other side can tell, too
    story = await story_of(database, failed.run_id)
    failures = [f"notify {n} retrying" for n in (1, 2, 3)] + ["notify 4 failed"]
    assert tries(story) == [*EARLIER, *failures, "notify 5 succeeded"]
    assert [(one.channel, one.status, one.tries) for one in story.deliveries] == [("generic", "sent", 5)]
    assert (story.run.status, story.run.total_attempts) == (RunStatus.NOTIFIED, 8)
    with pytest.raises(BadInput, match=f"Run {failed.run_id} is over: notified"):
        orchestrator.resume_pipeline(failed.run_id)
    with pytest.raises(RunNotFound):
        orchestrator.resume_pipeline("no-such-run")


async def test_what_one_channel_has_is_not_sent_to_it_again(orchestrators: Orchestrators, database: Database) -> None:
    with http_receiver() as slack, http_receiver(404) as generic:
        orchestrator = orchestrators(webhook_url=generic.url, slack_webhook_url=f"{slack.url}/services/x")
        failed = orchestrator.run_pipeline(HIGH_CPU)
        assert failed.status == "FAILED"
        assert failed.final_error is not None
        assert "(1 of 2 channels have it)" in failed.final_error.message
        assert tries(await story_of(database, failed.run_id))[3:] == ["notify 1 failed"]  # a 404 is not tried again
        resumed = orchestrator.resume_pipeline(failed.run_id)
        assert resumed.notify is not None
        assert {one.channel: one.status for one in resumed.notify.deliveries} == {
            "slack": "already_sent",
            "generic": "sent",
        }
        assert (len(slack.requests), len(generic.requests)) == (1, 2)


async def test_the_command_resumes_and_says_when_it_cannot(
    command: Command, orchestrators: Orchestrators, database: Database
) -> None:
    with http_receiver(404) as receiver:
        run_id = orchestrators(webhook_url=receiver.url).run_pipeline(HIGH_CPU).run_id
        env = {**QUICK, "NOTIFY_WEBHOOK_URL": receiver.url}
        resumed, unknown = side_by_side(
            command, (["alert-pipeline", "resume", run_id[:8]], env), (["alert-pipeline", "resume", "no-such-run"], env)
        )
        assert len(receiver.requests) == 2
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.startswith("✓ Pipeline COMPLETED")
    assert says_in_one_line(unknown, 1).startswith("There is no pipeline run 'no-such-run'")


@contextmanager
def silent_server() -> Iterator[str]:
    """An address of loopback that never answers a connection: its queue is full."""
    with ExitStack() as held:
        server = held.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


PROGRAM = """
import sys, json
from service.orchestrator import PipelineOrchestrator
payload, host = json.loads(sys.argv[1]), sys.argv[2]
PipelineOrchestrator().run_pipeline(
    payload, checker_names=["network"], checker_configs={"network": {"hosts": [host], "timeout": 60}}
)
"""


async def test_a_process_killed_during_check_is_taken_over_and_tells_once(
    start: Start, orchestrators: Orchestrators, database: Database
) -> None:
    with http_receiver() as receiver:
        with silent_server() as host:
            env = {"NOTIFY_WEBHOOK_URL": receiver.url, "CHECKERS_TIMEOUT_SECONDS": "60"}
            beside = start("python", "-c", PROGRAM, json.dumps(HIGH_CPU), host, env=env)
            beside.wait_until_it_says("signal=pipeline.stage.started", "stage=check")
            assert beside.end(signal.SIGKILL).returncode == -signal.SIGKILL
        (run,) = await all_runs(database)
        assert run.status is RunStatus.INGESTED
        assert run.lease_owner is not None  # nobody gave it back
        assert tries(await story_of(database, run.run_id)) == ["ingest 1 succeeded", "check 1 running"]
        result = orchestrators(webhook_url=receiver.url).resume_pipeline(run.run_id)
        assert len(receiver.requests) == 1
    assert result.status is PipelineOutcome.COMPLETED
    story = await story_of(database, run.run_id)
    assert tries(story) == [
        "ingest 1 succeeded",
        "check 1 failed",
        "check 2 succeeded",
        "analyze 1 succeeded",
        "notify 1 succeeded",
    ]
    assert story.attempts[1].error_type == "ProcessLost"
    assert [(one.status, one.tries) for one in story.deliveries] == [("sent", 1)]
