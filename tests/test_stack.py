"""The embedded stack, with real processes: commands start it, share it, and leave no process behind."""

# ruff: noqa: F401, F811  (fixtures are imported by name, and named again by the tests)

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from orchestration.embedded_stack import find_running_stack
from service.stack import attach
from service.stack.paths import stack_paths
from service.stack.process import Supervisor
from tests.stack_fixtures import (
    Command,
    answers,
    get,
    part_pid,
    processes_of,
    query,
    settings_for,
    stack_command,
    stack_home,
    state_of,
    until,
)

# A command starts the stack that it needs


def test_both_databases_answer_and_nothing_is_left(stack_home: Path) -> None:
    shown: list[str] = []
    with attach(settings_for(stack_home), need_prefect=False, progress=shown.append) as addresses:
        assert addresses.embedded == {"postgres"}
        assert addresses.prefect_api_url is None
        assert query(addresses.database_url, "SELECT current_user, current_database()") == [
            ("alert_pipeline", "alert_pipeline")
        ]
        prefect_url = addresses.database_url.replace("alert_pipeline@/alert_pipeline?", "prefect@/prefect?")
        assert query(prefect_url, "SELECT extname FROM pg_extension WHERE extname = 'pg_trgm'")
        assert query(prefect_url, "SHOW fsync") == [("on",)]
    assert shown[0] == "Starting PostgreSQL …"
    assert shown[-1].startswith("Stack ready in ")
    assert not processes_of(stack_home)
    assert not (stack_home / "stack.json").exists()
    assert not stack_paths(stack_home).control.exists()
    assert find_running_stack(settings_for(stack_home)) is None


def test_data_survives_the_end_of_the_stack(stack_home: Path) -> None:
    with (
        attach(settings_for(stack_home), need_prefect=False) as addresses,
        psycopg.connect(addresses.database_url) as c,
    ):
        c.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        assert query(addresses.database_url, "SELECT answer FROM kept") == [(42,)]


def test_prefect_server_comes_up_on_the_embedded_database(stack_home: Path) -> None:
    with attach(settings_for(stack_home)) as addresses:
        assert addresses.embedded == {"postgres", "prefect"}
        assert addresses.prefect_api_url is not None
        assert get(addresses.prefect_api_url + "/health") == (200, b"true")
        server = psutil.Process(part_pid(stack_home, "prefect"))
        assert {one.laddr.ip for one in server.net_connections() if one.status == "LISTEN"} == {"127.0.0.1"}
        assert find_running_stack(settings_for(stack_home)) == addresses
        # A server that dies is restarted on the same port; requests wait meanwhile.
        server.kill()
        until(lambda: part_pid(stack_home, "prefect") not in (None, server.pid), "a new server")
        assert get(addresses.prefect_api_url + "/health") == (200, b"true")
        # A server whose database was restarted connects again.
        psutil.Process(part_pid(stack_home, "postgres")).kill()
        until(lambda: get(addresses.prefect_api_url + "/ready")[0] == 200, "the server to find its database again")
    assert not processes_of(stack_home)


def test_a_server_that_a_setting_names_is_not_started(stack_home: Path) -> None:
    both = settings_for(
        stack_home, database_url="postgresql://u:p@db.example/alerts", prefect_api_url="http://prefect.example/api"
    )
    with attach(both) as addresses:
        assert addresses.database_url == "postgresql://u:p@db.example/alerts"
        assert addresses.prefect_api_url == "http://prefect.example/api"
        assert addresses.embedded == frozenset()
    assert not stack_home.exists()
    with attach(settings_for(stack_home, prefect_api_url="http://prefect.example/api")) as addresses:
        assert addresses.prefect_api_url == "http://prefect.example/api"
        assert addresses.embedded == {"postgres"}
        assert part_pid(stack_home, "prefect") is None


async def test_can_be_used_from_asyncio(stack_home: Path) -> None:
    stack = attach(settings_for(stack_home), need_prefect=False)
    addresses = await asyncio.to_thread(stack.__enter__)
    try:
        assert answers(addresses.database_url)
    finally:
        await asyncio.to_thread(stack.__exit__, None, None, None)
    assert not processes_of(stack_home)


# Commands share one stack


def test_second_command_shares_the_stack_and_the_last_command_ends_it(
    stack_home: Path, stack_command: type[Command]
) -> None:
    other = stack_command(stack_home)
    other.read_until("READY")
    shown: list[str] = []
    with attach(settings_for(stack_home), need_prefect=False, progress=shown.append) as addresses:
        assert shown == []
        pid = part_pid(stack_home, "postgres")
        assert other.leave() == 0
        assert answers(addresses.database_url)
        assert part_pid(stack_home, "postgres") == pid
    assert not processes_of(stack_home)


def test_commands_that_start_together_share_one_stack(stack_home: Path, stack_command: type[Command]) -> None:
    commands = [stack_command(stack_home) for _ in range(4)]
    assert len({one.read_until("READY") for one in commands}) == 1
    keepers = [line for line in processes_of(stack_home) if "service.stack.keeper" in line]
    assert len(keepers) == 1, keepers
    assert [one.leave() for one in commands] == [0] * 4
    assert not processes_of(stack_home)


def test_commands_that_start_while_the_last_command_leaves_get_a_stack(
    stack_home: Path, stack_command: type[Command]
) -> None:
    first = stack_command(stack_home)
    first.read_until("READY")
    for _ in range(3):
        second = stack_command(stack_home)
        assert first.process.stdin is not None
        first.process.stdin.close()
        second.read_until("READY")
        assert first.process.wait(30) == 0
        first = second
    assert first.leave() == 0
    assert not processes_of(stack_home)


# A kill leaves no process behind


def test_killed_command_ends_the_stack(stack_home: Path, stack_command: type[Command]) -> None:
    killed = stack_command(stack_home)
    killed.read_until("READY")
    killed.process.kill()
    until(lambda: not processes_of(stack_home), "the stack to end")
    assert not (stack_home / "stack.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signal_during_the_start_leaves_nothing(
    stack_home: Path, stack_command: type[Command], number: signal.Signals
) -> None:
    started = stack_command(stack_home)
    started.read_until("Starting PostgreSQL")
    started.process.send_signal(number)
    assert started.process.wait(30) != 0
    until(lambda: not processes_of(stack_home), "the stack to end", seconds=30)
    assert not (stack_home / "postgres" / "data.part").exists()
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)


def test_killed_keeper_ends_its_children_and_the_next_command_works(
    stack_home: Path, stack_command: type[Command]
) -> None:
    first = stack_command(stack_home)
    first.read_until("READY")
    os.kill(int(str(state_of(stack_home)["pid"])), signal.SIGKILL)
    # At once: the old server may still be ending, and the state file and the sockets are stale.
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)
    assert first.leave() == 0
    until(lambda: not processes_of(stack_home), "the children to end")


def test_terminated_keeper_ends_everything(stack_home: Path, stack_command: type[Command]) -> None:
    first = stack_command(stack_home)
    first.read_until("READY")
    os.kill(int(str(state_of(stack_home)["pid"])), signal.SIGTERM)
    until(lambda: not any("postgres" in line or "keeper" in line for line in processes_of(stack_home)[1:]), "the end")
    assert first.leave() == 0
    assert not processes_of(stack_home)


def test_killed_database_is_restarted(stack_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        pid = part_pid(stack_home, "postgres")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: part_pid(stack_home, "postgres") not in (None, pid), "a new server")
        assert answers(addresses.database_url)
        until(lambda: "PostgreSQL runs again" in caplog.text, "the notice")
        assert "PostgreSQL ended (SIGKILL); restarting it" in caplog.text
    assert not processes_of(stack_home)


def test_stale_files_of_a_crash_are_recognised(stack_home: Path) -> None:
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)
    paths = stack_paths(stack_home)
    # As after a crash of the machine; the pid of the dead server now belongs to an unrelated process: this one.
    (paths.data / "postmaster.pid").write_text(f"{os.getpid()}\n{paths.data}\n1\n5432\n{paths.run}\n\n0 0\nready\n")
    (paths.run / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    paths.state.write_text('{"pid": 1, "parts": {"postgres": 1}, "database_url": "x", "prefect_api_url": null}')
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(paths.control))
    stale.close()
    (paths.postgres / "data.part").mkdir()
    assert find_running_stack(settings_for(stack_home)) is None
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)


async def test_slow_start_reports_the_time_that_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.stack.process.PROGRESS_SECONDS", 0.01)
    shown: list[str] = []
    reported = asyncio.Event()

    class SlowServer:
        name, stop_signal, stop_seconds = "the server", signal.SIGTERM, 5.0

        async def start(self, progress: Callable[[str], None]) -> Process:
            progress("Starting the server …")
            await reported.wait()
            return await asyncio.create_subprocess_exec("sleep", "60")

    def progress(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            reported.set()

    supervisor = Supervisor(SlowServer(), progress=progress, notice=shown.append, changed=lambda: None)
    try:
        await supervisor.ensure()
        assert shown == ["Starting the server …", *["Starting the server … 0 s"] * 2]
        assert supervisor.pid is not None
    finally:
        await supervisor.stop()
