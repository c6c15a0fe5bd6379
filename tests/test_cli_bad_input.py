"""Bad input to the commands: one clear line on standard error, an exit code, and nothing written."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestration.states import RunStatus
from orchestration.store.database import Database
from service.stack import StackAddresses
from tests.cli_helpers import all_runs, row_counts, says_in_one_line, side_by_side
from tests.conftest import Command, clean_environment
from tests.receivers import http_receiver
from tests.worker_helpers import BreakableServer, DeafHost, eventually

pytest_plugins = ["tests.cli_helpers"]


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port of loopback that somebody listens at."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port of loopback that nobody listens at, and that nobody else gets."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_a_payload_that_is_no_alert(command: Command, database: Database) -> None:
    nulls = {"alerts": [{"labels": None, "annotations": None, "status": None, "fingerprint": None}], "name": None}
    refused = {
        '{"alertname": ': "--payload is not JSON: ",
        "": "--payload is not JSON: ",
        "[]": "--payload is a list, not a JSON object such as ",
        "null": "--payload is null, not a JSON object",
        '"HighCPU"': "--payload is a string, not a JSON object",
        "17": "--payload is a number, not a JSON object",
        "{}": "the payload is an empty object; expected ",
        json.dumps(nulls): "no alert of the payload can be used: ",
        '{"hello": "world"}': "no source recognizes the payload (its fields: hello); expected ",
        '{"name": "a\\ud800", "severity": [[]]': "--payload is not JSON: ",
    }
    done = side_by_side(command, *((["run_pipeline", "--payload", payload], {}) for payload in refused))
    for finished, said in zip(done, refused.values(), strict=True):
        assert says_in_one_line(finished, 1).startswith(said)
    assert await row_counts(database) == {}


async def test_a_file_that_cannot_be_used(command: Command, database: Database, tmp_path: Path) -> None:
    big, deep, deeper, binary, closed = (tmp_path / name for name in ("big", "deep", "deeper", "binary", "closed"))
    big.write_text(json.dumps({"name": "Big", "text": "x" * 5_000_000}))
    deep.write_text('{"name": "Deep", "a": ' + "[" * 900 + "]" * 900 + "}")
    deeper.write_text("[" * 1_000_000)
    binary.write_bytes(bytes(range(256)) * 100)
    closed.write_text("{}")
    closed.chmod(0)
    refused = {
        str(big): "has more than the 4,194,304 bytes that ORCHESTRATION_MAX_PAYLOAD_BYTES allows",
        str(deep): "the payload is nested more than 64 levels deep",
        str(deeper): "is not JSON: depth limit exceeded",
        str(binary): "is not JSON: ",
        str(tmp_path): "cannot be read: Is a directory",
        str(tmp_path / "none.json"): "cannot be read: No such file or directory",
        "/proc/self/mem": "cannot be read: Input/output error",
    }
    if os.geteuid() != 0:  # root reads what is closed to all
        refused[str(closed)] = "cannot be read: Permission denied"
    done = side_by_side(command, *((["run_pipeline", "--file", file], {}) for file in refused))
    for finished, said in zip(done, refused.values(), strict=True):
        assert said in says_in_one_line(finished, 1)
    assert await row_counts(database) == {}


def test_a_setting_that_is_wrong(command: Command, database: Database) -> None:
    wrong = [
        ("STATSD_PORT", "eighty", "STATSD_PORT='eighty': input should be a valid integer"),
        ("DATABASE_URL", "mysql://u:hunter2@db/x", "DATABASE_URL: expected postgresql://user:password@host/database"),
        (
            "CHECKERS_ENABLED",
            "memory,gpu",
            "CHECKERS_ENABLED='memory,gpu': unknown checker 'gpu'; there are: cpu, disk",
        ),
    ]
    words = ["run_pipeline", "--sample", "--dry-run"]
    done = side_by_side(command, *((words, {name: value}) for name, value, _ in wrong))
    for finished, (_, _, said) in zip(done, wrong, strict=True):
        assert says_in_one_line(finished, 1).startswith(said)
        assert "hunter2" not in finished.stderr


async def test_servers_that_do_not_answer(
    command: Command, database: Database, stack: StackAddresses, free_port: int, busy_port: int
) -> None:
    nobody = f"postgresql://u:hunter2@127.0.0.1:{free_port}/x"
    prefect = f"http://127.0.0.1:{free_port}/api"
    sample = ["run_pipeline", "--sample"]
    done = side_by_side(
        command,
        (sample, {"DATABASE_URL": nobody, "PREFECT_API_URL": str(stack.prefect_api_url)}),
        (sample, {"PREFECT_API_URL": prefect}),
        ([*sample, "--dry-run"], {"PREFECT_API_URL": prefect}),
        (["monitor_pipeline"], {"DATABASE_URL": nobody}),
        (["alert-pipeline", "up", "--prefect-port", str(busy_port)], {}),
        (["alert-pipeline", "up", "--prefect-port", "4200"], {"PREFECT_API_URL": prefect}),
    )
    assert all("hunter2" not in finished.stdout + finished.stderr for finished in done)
    # Only Prefect knows the channel blocks: without it nobody knows where the message goes, and nothing is stored.
    assert done[1].stderr.splitlines()[-1].startswith("Error: The channel blocks are not known: Prefect's API does not")
    assert done[1].returncode == 1
    said = [says_in_one_line(finished, 1) for finished in (done[0], *done[2:])]
    assert said[0].startswith("The database cannot be used: ")
    assert said[1].startswith("Prefect's API does not answer")
    assert said[2].startswith("The database cannot be used: ")
    assert str(busy_port) in said[3]
    assert said[4].startswith("--prefect-port 4200 is for a Prefect that is started here")
    assert await row_counts(database) == {}


def test_a_prefect_that_does_not_answer_stops_no_message_to_a_channel_of_the_environment(
    command: Command, database: Database, free_port: int
) -> None:
    with http_receiver() as receiver:
        environment = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port}/api", "NOTIFY_WEBHOOK_URL": receiver.url}
        finished = command("run_pipeline", "--sample", "--json", env=environment)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["status"] == "COMPLETED"
    assert len(receiver.requests) == 1


async def test_a_prefect_that_is_killed_in_the_middle_of_a_run_costs_no_message(
    home: Path, database: Database, tmp_path: Path
) -> None:
    host, server = DeafHost(), BreakableServer(home, tmp_path / "prefect.log")
    checks = {"checker_names": ["network"], "checker_configs": {"network": {"hosts": [host.name], "timeout": 2.0}}}
    nodes = [
        {"id": "ingest", "type": "ingest"},
        {"id": "check", "type": "context", "config": checks},
        {"id": "analyze", "type": "intelligence"},
        {"id": "notify", "type": "notify"},
    ]
    slow = tmp_path / "slow.json"
    slow.write_text(json.dumps({"name": "slow", "nodes": nodes}))
    try:
        await asyncio.to_thread(server.start)
        environment = {
            **clean_environment(),
            "ALERT_PIPELINE_HOME": str(home),
            "DATABASE_URL": database.url,
            "PREFECT_API_URL": server.api_url,
        }
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "run_pipeline"),
            *("--sample", "--config", str(slow)),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

        async def checking() -> bool:
            return any(run.current_stage == "check" for run in await all_runs(database))

        await eventually(checking, "the run to be at its check")
        server.stop()
        output, errors = await process.communicate()
    finally:
        host.close()
        server.close()
    assert process.returncode == 0, errors.decode()
    assert "✓ Pipeline COMPLETED" in output.decode()
    assert errors.decode().count("[TEST] [CRITICAL]") == 1, "one message, on the console"
    (run,) = await all_runs(database)
    assert run.status is RunStatus.NOTIFIED


def test_questions_of_the_monitor_that_have_no_answer(command: Command, database: Database) -> None:
    done = side_by_side(
        command,
        (["monitor_pipeline", "--status", "sleeping"], {}),
        (["monitor_pipeline", "--run-id", "abc123"], {}),
        (["monitor_pipeline", "--limit", "0"], {}),
    )
    assert says_in_one_line(done[0], 1).startswith("There is no status 'sleeping'. Known: pending, ingested, ")
    assert says_in_one_line(done[1], 1).startswith("There is no pipeline run 'abc123'")
    assert done[2].returncode == 2
    assert "Traceback" not in done[2].stderr
