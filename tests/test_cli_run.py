"""`run_pipeline` as a user runs it: real processes, a real stack, real receivers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orchestration.contracts import PipelineResult
from orchestration.states import RunStatus
from orchestration.store.database import Database
from service.cli.terminal import INTERRUPTED, Stopped, resumable
from tests.cli_helpers import (
    HIGH_CPU,
    QUICK,
    Orchestrators,
    Start,
    all_runs,
    json_of,
    row_counts,
    says_in_one_line,
    side_by_side,
    story_of,
    three_incidents,
    tries,
    without_log,
)
from tests.conftest import Command
from tests.receivers import Answer, http_receiver, slack_receiver, smtp_receiver

pytest_plugins = ["tests.cli_helpers"]

ALL_FOUR = ["ingest", "check", "analyze", "notify"]


# What comes in


async def test_a_sample_of_every_source_is_carried_to_a_person(command: Command, database: Database) -> None:
    sources = {"alertmanager": "critical", "grafana": "warning", "generic": "critical"}
    done = side_by_side(command, *((["run_pipeline", "--sample", "--source", source], {}) for source in sources))
    for finished, (source, severity) in zip(done, sources.items(), strict=True):
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.startswith("✓ Pipeline COMPLETED (notified)\n")
        assert f"✓ {source}, {severity}: opened" in finished.stdout
        assert "not executed" not in finished.stdout
        assert "✓ console via console: sent" in finished.stdout
        assert f"[{severity.upper()}]" in finished.stderr  # the console channel, which leaves standard output alone
    found = await all_runs(database)
    assert {(run.source, run.status, run.environment) for run in found} == {
        (source, RunStatus.NOTIFIED, "development") for source in sources
    }
    assert all(run.options.test for run in found)  # the message of a sample says that it is a test


async def test_the_specs_own_payload_is_recognised_and_pages_as_critical(
    command: Command, database: Database, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"name": "FromTheFile", "severity": "info"}')
    payload = json.dumps(HIGH_CPU | {"host": socket.gethostname()})
    with http_receiver() as receiver:
        finished = command(
            *("run_pipeline", "--payload", payload, "--file", str(other), "--sample", "--json"),
            *("--notify-driver", "generic", "--trace-id", "my-trace-123", "--environment", "production"),
            env={"NOTIFY_WEBHOOK_URL": f"{receiver.url}/hook", "CHECKERS_ENABLED": "memory,disk"},
        )
    assert finished.returncode == 0, finished.stderr
    result = PipelineResult.model_validate(json_of(finished))
    assert (result.trace_id, result.status) == ("my-trace-123", "COMPLETED")
    assert result.stages_completed == ALL_FOUR
    assert result.ingest is not None
    assert (result.ingest.source, result.ingest.severity, result.ingest.reason) == ("generic", "critical", "opened")
    assert result.check is not None
    assert set(result.check.timings) == {"memory", "disk"}
    assert result.analyze is not None
    assert result.analyze.actions
    assert result.notify is not None
    assert result.notify.channels_succeeded == 1
    assert result.total_duration_ms > 0
    (sent,) = receiver.requests
    assert (sent.method, sent.path) == ("POST", "/hook")
    assert (sent.json["severity"], sent.json["trace_id"]) == ("critical", "my-trace-123")
    assert "HighCPU" in sent.json["title"]
    (run,) = await all_runs(database)
    assert (run.trace_id, run.environment, run.run_id) == ("my-trace-123", "production", result.run_id)
    assert not run.options.test
    assert [node.id for node in result.nodes if node.status == "succeeded"] == ALL_FOUR
    assert not any(node.result for node in result.nodes)  # the answer has each result only once


async def test_a_file_and_standard_input_are_read(command: Command, database: Database, tmp_path: Path) -> None:
    alert = tmp_path / "alert.json"
    alert.write_text('{"name": "Test", "status": "firing", "severity": "warning"}', encoding="utf-8-sig")
    first = command("run_pipeline", "--file", str(alert), "--sample", env=QUICK)
    assert first.returncode == 0, first.stderr
    assert "✓ generic, warning: opened" in first.stdout
    assert "[WARNING] Test" in first.stderr
    # The same alert again is nothing new, and notifies nobody.
    second = command("run_pipeline", "--file", "-", "--json", env=QUICK, stdin=alert.read_text())
    assert second.returncode == 0, second.stderr
    assert (json_of(second)["status"], json_of(second)["skip_reason"]) == ("SKIPPED", "repeat")
    assert "[WARNING]" not in second.stderr
    assert [run.status for run in await all_runs(database)] == [RunStatus.SKIPPED, RunStatus.NOTIFIED]


async def test_a_push_over_three_incidents_is_three_runs_of_one_trace(command: Command, database: Database) -> None:
    push = json.dumps(three_incidents())
    finished = command("run_pipeline", "--payload", push, "--trace-id", "push-7", "--json", env=QUICK)
    assert finished.returncode == 0, finished.stderr
    results = [PipelineResult.model_validate(one) for one in json_of(finished)]
    assert [(result.status, result.trace_id) for result in results] == [("COMPLETED", "push-7")] * 3
    assert len({result.incident_id for result in results}) == 3
    assert {result.run_id for result in results} == {run.run_id for run in await all_runs(database)}
    assert all(f"[WARNING] Disk{n}Full on db-{n}" in finished.stderr for n in (1, 2, 3))


async def test_ten_thousand_alerts_of_one_group_are_one_run_and_one_message(
    command: Command, database: Database, tmp_path: Path
) -> None:
    push = tmp_path / "push.json"
    alerts = [
        {"status": "firing", "labels": {"alertname": "Down", "instance": f"web-{n}"}, "fingerprint": f"{n:016x}"}
        for n in range(10_000)
    ]
    push.write_text(json.dumps({"version": "4", "groupKey": "{}:{}", "status": "firing", "alerts": alerts}))
    with http_receiver() as receiver:
        finished = command("run_pipeline", "--file", str(push), env={**QUICK, "NOTIFY_WEBHOOK_URL": receiver.url})
    assert finished.returncode == 0, finished.stderr
    assert "alerts: 10000 new" in finished.stdout
    assert len(receiver.requests) == 1
    counts = await row_counts(database)
    assert (counts["alert"], counts["incident"], len(await all_runs(database))) == (10_000, 1, 1)


async def test_checks_only_reports_this_host_without_an_alert(command: Command, database: Database) -> None:
    finished = command("run_pipeline", "--sample", "--checks-only", "--json", env={"CHECKERS_ENABLED": "memory,disk"})
    assert finished.returncode == 0, finished.stderr
    result: dict[str, Any] = json_of(finished)
    assert set(result) == set(PipelineResult.model_fields)
    assert (result["status"], result["ingest"]) == ("COMPLETED", None)
    assert result["stages_completed"] == ["check", "analyze", "notify"]
    assert set(result["check"]["timings"]) == {"memory", "disk"}
    assert datetime.fromisoformat(result["started_at"]).tzinfo is not None
    assert set(await row_counts(database)) == {"pipeline_run", "stage_execution", "delivery", "channel_health"}
    (run,) = await all_runs(database)
    assert (run.title, run.incident_id, run.options.test) == ("Host health", None, True)
    story = await story_of(database, run.run_id)
    assert tries(story) == ["ingest 1 skipped", "check 1 succeeded", "analyze 1 succeeded", "notify 1 succeeded"]
    assert story.attempts[0].output_snapshot == {"skipped": "checks_only"}


# Where it goes


def test_a_message_reaches_slack_by_webhook_and_by_bot_and_a_mailbox(
    command: Command, database: Database, orchestrators: Orchestrators
) -> None:
    words = ["run_pipeline", "--payload", json.dumps(HIGH_CPU), "--notify-driver"]
    with slack_receiver(Answer(body=b"ok")) as hook, slack_receiver() as api, smtp_receiver() as mailbox:
        mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mailbox.port), "SMTP_SECURITY": "none"}
        mail["EMAIL_TO"] = "oncall@example.com"
        done = side_by_side(
            command,
            ([*words, "slack"], {**QUICK, "SLACK_WEBHOOK_URL": f"{hook.url}/services/T0/B0/hooksecret"}),
            (["run_pipeline", "--sample", "--notify-driver", "email"], {**QUICK, **mail}),
        )
        bot = {"slack_bot_token": "xoxb-1-secret", "slack_channel": "#oncall", "slack_api_url": f"{api.url}/api/"}
        posted_by_bot = orchestrators(**bot).run_pipeline({"name": "ByBot"}, notify_driver="slack")
        assert posted_by_bot.status == "COMPLETED"
    for finished in done:
        assert finished.returncode == 0, finished.stderr
        assert "secret" not in finished.stdout + finished.stderr
    (posted,) = hook.requests
    assert posted.path == "/services/T0/B0/hooksecret"
    assert "HighCPU" in posted.json["text"]
    (called,) = api.requests
    assert called.path == "/api/chat.postMessage"
    assert called.headers["authorization"] == "Bearer xoxb-1-secret"
    (received,) = mailbox.mails
    assert received.recipients == ["oncall@example.com"]
    assert "CRITICAL" in received.message["Subject"]
    assert "✓ slack via slack: sent" in done[0].stdout
    assert "✓ email via email: sent" in done[1].stdout


async def test_a_channel_that_is_not_there_is_one_line_and_no_run(command: Command, database: Database) -> None:
    words = ["run_pipeline", "--sample", "--notify-driver"]
    drivers = {
        "slack": "The driver 'slack' is not set up: set SLACK_WEBHOOK_URL",
        "[/red]": "There is no channel or driver '[/red]'. Known: console, slack, email, generic",
        "email": "EMAIL_TO: the email driver needs SMTP_HOST and EMAIL_TO",
    }
    env = {**QUICK, "SMTP_HOST": "127.0.0.1"}
    done = side_by_side(command, *(([*words, driver], env) for driver in drivers))
    for finished, said in zip(done, drivers.values(), strict=True):
        assert says_in_one_line(finished, 1).startswith(said)
    assert await row_counts(database) == {}


async def test_a_channel_that_fails_is_tried_four_times_and_each_try_is_shown(
    command: Command, database: Database
) -> None:
    with http_receiver(default=500) as receiver:
        finished = command("run_pipeline", "--sample", env={**QUICK, "NOTIFY_WEBHOOK_URL": receiver.url})
        assert len(receiver.requests) == 4
    assert finished.returncode == 1
    assert "✗ Pipeline FAILED" in finished.stdout
    assert re.search(r"^  Notify: failed, \d+ ms, 4 attempts$", finished.stdout, re.MULTILINE)
    assert "\n    ✗ generic: 127.0.0.1 answered 500" in finished.stdout
    assert "not executed" not in finished.stdout
    assert "Traceback" not in finished.stderr
    assert [line for line in without_log(finished.stderr) if " failed in stage notify: " not in line] == []
    (run,) = await all_runs(database)
    assert run.status is RunStatus.FAILED
    assert f"alert-pipeline resume {run.run_id}" in finished.stdout
    story = await story_of(database, run.run_id)
    assert tries(story)[3:] == [f"notify {n} retrying" for n in (1, 2, 3)] + ["notify 4 failed"]
    assert [(one.status, one.tries) for one in story.deliveries] == [("failed", 4)]
    shown = command("monitor_pipeline", "--run-id", run.run_id)
    for attempt in (1, 2, 3, 4):
        assert f"✗ notify   attempt {attempt}" in shown.stdout
    assert shown.stdout.count("generic: 127.0.0.1 answered 500") == 5  # each try, and the last error
    assert "✗ generic to 127.0.0.1: failed after 4 tries" in shown.stdout


# How it ends


def test_wrong_usage_is_two_and_says_what_is_missing(command: Command) -> None:
    both, checks = ["--definition", "mine", "--config", "my.json"], ["--definition", "mine", "--checks-only"]
    words = [both, checks, [], ["--sample", "--nonsense"]]
    done = side_by_side(command, *((["run_pipeline", *more], {}) for more in words))
    said = [says_in_one_line(finished, 2) for finished in done[:3]]
    assert said[0].startswith("--definition and --config both name a definition: give one of them")
    assert said[1].startswith("--checks-only runs no definition: leave one of them out")
    assert said[2].startswith("Nothing to run: give --sample, --payload, --file, --checks-only or --definition")
    assert done[3].returncode == 2
    assert "No such option: --nonsense" in done[3].stderr
    assert "Traceback" not in done[3].stderr


def test_who_stops_a_push_over_many_incidents_learns_what_becomes_of_them() -> None:
    with pytest.raises(Stopped) as stopped, resumable(["a1", "b2", "c3"]):
        raise Stopped(INTERRUPTED, "Interrupted")
    assert stopped.value.exit_code == INTERRUPTED
    assert stopped.value.message == (
        "Interrupted. Resume it with: alert-pipeline resume a1; "
        "a worker executes those of the push's 2 other runs that have not started"
    )


@pytest.mark.parametrize(
    ("by", "code", "word"),
    [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")],
    ids=["ctrl-c", "sigterm"],
)
async def test_a_run_that_is_stopped_closes_its_rows_and_can_be_resumed(
    start: Start, command: Command, database: Database, by: signal.Signals, code: int, word: str
) -> None:
    with http_receiver(Answer(hang=True)) as receiver:
        env = {**QUICK, "NOTIFY_WEBHOOK_URL": receiver.url}
        beside = start("run_pipeline", "--sample", env=env)
        receiver.wait_for(1, timeout=30)
        ended = beside.end(by)
        assert ended.returncode == code
        assert ended.stdout == ""
        (run,) = await all_runs(database)
        assert without_log(ended.stderr) == [f"Error: {word}. Resume it with: alert-pipeline resume {run.run_id}"]
        story = await story_of(database, run.run_id)
        assert tries(story)[3:] == ["notify 1 failed"]
        assert story.attempts[3].error_type == "Cancelled"
        assert story.run.lease_owner is None
        with pytest.raises(ProcessLookupError):
            os.killpg(beside.process.pid, 0)  # nothing of its group is left
        if by is signal.SIGTERM:  # once is enough
            resumed = command("alert-pipeline", "resume", run.run_id, "--json", env=env)
            assert resumed.returncode == 0, resumed.stderr
            assert json_of(resumed)["status"] == "COMPLETED"
            assert len(receiver.requests) == 2
            assert tries(await story_of(database, run.run_id))[3:] == ["notify 1 failed", "notify 2 succeeded"]
