"""`alert-pipeline up`: everything answers, a dead process is restarted, and Ctrl-C leaves no process behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from orchestration.embedded_stack import find_running_stack
from orchestration.encryption import load_cipher
from orchestration.store import keys
from orchestration.store.database import open_database
from orchestration.store.keys import Scope
from service.stack import StackAddresses
from tests.api_helpers import alert
from tests.conftest import clean_environment
from tests.stack_fixtures import new_home, processes_of, settings_for, until
from tests.worker_helpers import prefect_variables


@dataclass(frozen=True, kw_only=True)
class Up:
    """The running command."""

    process: subprocess.Popen[str]
    api: str
    """The API's address on this machine."""
    shown: dict[str, str]
    """The printed lines, by their first word."""


@contextmanager
def up(home: Path, log: Path, *options: str, **environment: str) -> Iterator[Up]:
    """The command once it is ready, listening on all addresses."""
    for _ in range(5):
        port = free_port()
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).parent / "alert-pipeline"), "up"),
                    "--host",
                    "0.0.0.0",
                    "--port",
                    str(port),
                    *options,
                ],
                cwd=log.parent,
                env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home), **environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        assert process.stdout is not None
        shown: dict[str, str] = {}
        for line in process.stdout:
            name, _, text = line.strip().partition(" ")
            shown[name.rstrip(".,")] = text.strip()
            if "Ready" in shown:
                break
        if "Ready" in shown:
            break
        # Another program may have opened the port since.
        assert "is in use by another program" in log.read_text(), log.read_text()
    else:
        raise AssertionError("no port stayed free")
    try:
        yield Up(process=process, api=f"http://127.0.0.1:{port}", shown=shown)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)
        process.stdout.close()


def free_port() -> int:
    with socket.create_server(("0.0.0.0", 0)) as server:
        return server.getsockname()[1]


def part(process: subprocess.Popen[str], name: str) -> psutil.Process | None:
    """The child of `up` that runs `api` or `worker`; None means that it does not live."""
    for child in psutil.Process(process.pid).children():
        try:
            if name in child.cmdline():
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def status_of(url: str, key: str | None = None) -> int:
    """The status of the answer; 0 means that none came."""
    try:
        return httpx.get(url, headers={"X-API-Key": key} if key else {}).status_code
    except httpx.TransportError:
        return 0


def keeper_of(home: Path) -> int:
    """Process id of the keeper; 0 means that the state file names none."""
    try:
        return int(json.loads((home / "stack.json").read_text())["pid"])
    except (OSError, ValueError):
        return 0


async def make_key(home: Path) -> str:
    """An API key with all rights, created in the running stack."""
    settings = settings_for(home)
    there = find_running_stack(settings)
    assert there is not None
    async with open_database(there.database_url) as database, database.transaction() as tx:
        return (await keys.create_key(tx, "admin", [Scope.ADMIN], load_cipher(settings))).token


def test_one_command_from_its_first_alert_to_its_end(stack: StackAddresses, tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    # A file in the current folder is not imported, whatever its name.
    (tmp_path / "statsd.py").write_text("raise SystemExit('not a module of ours')")
    prefect = {**prefect_variables(stack), "CHECKERS_ENABLED": "memory"}
    with new_home() as home, up(home, log, NOTIFY_CHANNELS="console", **prefect) as started:
        process, api = started.process, started.api
        assert started.shown["Ready"] == "Ctrl-C ends it."
        assert started.shown["Prefect"].startswith(str(stack.prefect_api_url).removesuffix("/api"))
        found = find_running_stack(settings_for(home))
        assert found is not None
        assert f"DATABASE_URL='{found.database_url}'" in started.shown["Database"]

        # On all addresses it requires a key, and logs requests without one.
        refused = httpx.post(f"{api}/alerts/webhook/", json=alert())
        assert (refused.status_code, refused.json()["error"][:10]) == (401, "No API key")
        until(lambda: "Refused POST /alerts/webhook/ from 127.0.0.1 with 401: No API key" in log.read_text(), "the log")

        key = asyncio.run(make_key(home))
        taken = httpx.post(f"{api}/alerts/webhook/", json=alert(), headers={"Authorization": f"Bearer {key}"})
        assert taken.status_code == 202, taken.text
        shown = f"{api}/orchestration/pipeline/{taken.json()['run_id']}/"
        until(lambda: httpx.get(shown, headers={"X-API-Key": key}).json()["status"] == "notified", "the end of the run")

        # A process that dies is restarted.
        first = part(process, "api")
        assert first is not None
        first.kill()
        until(lambda: part(process, "api") not in (None, first) and status_of(f"{api}/health/") == 200, "a new API")
        assert re.search(r"the API ended \(SIGKILL\); restarting it", log.read_text())

        keeper = keeper_of(home)
        os.kill(keeper, signal.SIGKILL)
        until(lambda: keeper_of(home) not in (0, keeper), "a new keeper")
        until(lambda: status_of(f"{api}/ready/") == 200, "a database that answers again")
        again = httpx.post(f"{api}/alerts/webhook/", json=alert(), headers={"Authorization": f"Bearer {key}"})
        assert again.status_code == 202, again.text
        assert "The keeper of the embedded stack ended; starting the stack again" in log.read_text()

        all_of_it = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        until(lambda: not any(map(lives, all_of_it)), "every process to end")
        until(lambda: not processes_of(home), "the database to end")
        assert find_running_stack(settings_for(home)) is None
        assert not (home / "stack.json").exists()
    assert "Traceback" not in log.read_text()


def test_it_says_when_the_prefect_of_prefect_api_url_does_not_answer(tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    nowhere = "http://127.0.0.1:9/api"
    with new_home() as home, up(home, log, PREFECT_API_URL=nowhere) as started:
        assert started.shown["Prefect"].startswith(f"{nowhere} (PREFECT_API_URL) does not answer: the direct engine ")
        assert "Start that server, or unset PREFECT_API_URL" in started.shown["Prefect"]
        assert started.shown["Ready"] == "without Prefect. Ctrl-C ends it."
        started.process.send_signal(signal.SIGINT)
        assert started.process.wait(60) == 0
