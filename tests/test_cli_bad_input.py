"""Bad input to the commands: one clear line on standard error, an exit code, and nothing written."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestration.store.database import Database
from service.stack import StackAddresses
from tests.cli_helpers import Orchestrators, all_runs, row_counts, says_in_one_line, side_by_side
from tests.conftest import Command
from tests.receivers import Answer, http_receiver

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
        '{"hello": "world"}': "no source recognises the payload (its fields: hello); expected ",
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
        ("CHECKERS_ENABLED", "memory,gpu", "CHECKERS_ENABLED: unknown checker 'gpu'; there are: cpu, disk, memory"),
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
    )
    assert all("hunter2" not in finished.stdout + finished.stderr for finished in done)
    # Without Prefect the direct engine executes the run. Its channels may be blocks, which only Prefect knows.
    without_prefect = done.pop(1)
    assert without_prefect.returncode == 1
    assert "✗ PrefectUnavailable: Prefect's API does not answer" in without_prefect.stdout
    (run,) = await all_runs(database)
    assert f"Resume it with: alert-pipeline resume {run.run_id}" in without_prefect.stdout
    said = [says_in_one_line(finished, 1) for finished in done]
    assert said[0].startswith("The database cannot be used: ")
    assert said[1].startswith("Prefect's API does not answer")
    assert said[2].startswith("The database cannot be used: ")
    assert str(busy_port) in said[3]


async def test_a_prefect_that_breaks_off_leaves_a_run_to_resume(
    command: Command, database: Database, orchestrators: Orchestrators
) -> None:
    # It says who it is, takes the flow, and then fails for good.
    with http_receiver(Answer.json("3.8.8"), default=Answer.json({"detail": "broken"}, status=500)) as prefect:
        finished = command(
            *("run_pipeline", "--sample"),
            env={"PREFECT_API_URL": f"{prefect.url}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"},
        )
    assert finished.returncode == 1
    (run,) = await all_runs(database)
    # The direct engine goes on, but the default channels may be blocks, which only Prefect knows.
    assert "✗ PrefectUnavailable: Prefect's API does not answer" in finished.stdout
    assert f"Resume it with: alert-pipeline resume {run.run_id}" in finished.stdout
    assert orchestrators().resume_pipeline(run.run_id).status == "COMPLETED"


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
