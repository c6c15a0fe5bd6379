"""The embedded stack, with real processes: it is there when needed, closed to others, and gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from orchestration.errors import BadSetting, PipelineError, Unavailable
from service.stack import attach, running
from service.stack.account import server_account
from service.stack.binaries import postgres_bin
from service.stack.paths import SOCKET_PATH_LIMIT, stack_paths
from tests.stack_fixtures import Command, new_home, processes_of, settings_for, until

ROOT = os.geteuid() == 0


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as place:
        yield place


@pytest.fixture
def command(home: Path) -> Iterator[type[Command]]:
    """Starts commands that are gone when the test is."""
    with contextlib.ExitStack() as started:

        class Started(Command):
            def __init__(self, home: Path) -> None:
                super().__init__(home)
                started.callback(self.close)

        yield Started


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, connect_timeout=10) as connection:
        return connection.execute(sql.encode()).fetchall()


def answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return query(url, "SELECT 1") == [(1,)]
    return False


def state_of(home: Path) -> dict[str, object]:
    return json.loads((home / "stack.json").read_text())


def part_pid(home: Path, part: str) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        parts = state_of(home)["parts"]
        assert isinstance(parts, dict)
        return parts.get(part)
    return None


# It is there when needed


def test_both_databases_answer_and_nothing_is_left(home: Path) -> None:
    said: list[str] = []
    with attach(settings_for(home), need_prefect=False, progress=said.append) as addresses:
        assert addresses.embedded == {"postgres"}
        assert addresses.prefect_api_url is None
        assert query(addresses.database_url, "SELECT current_user, current_database()") == [
            ("alert_pipeline", "alert_pipeline")
        ]
        prefect_url = addresses.database_url.replace("/alert_pipeline?", "/prefect?")
        assert query(prefect_url, "SELECT extname FROM pg_extension WHERE extname = 'pg_trgm'")
        assert query(prefect_url, "SHOW fsync") == [("on",)]
    assert said[0] == "Starting PostgreSQL …"
    assert said[-1].startswith("Stack ready in ")
    assert not processes_of(home)
    assert not (home / "stack.json").exists()
    assert not stack_paths(home).control.exists()
    assert running(settings_for(home)) is None


def test_data_is_there_again_the_next_time(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False) as addresses, psycopg.connect(addresses.database_url) as c:
        c.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with attach(settings_for(home), need_prefect=False) as addresses:
        assert query(addresses.database_url, "SELECT answer FROM kept") == [(42,)]


def test_prefect_server_comes_up_on_the_embedded_database(home: Path) -> None:
    with attach(settings_for(home)) as addresses:
        assert addresses.embedded == {"postgres", "prefect"}
        assert addresses.prefect_api_url is not None
        assert get(addresses.prefect_api_url + "/health") == (200, b"true")
        server = psutil.Process(part_pid(home, "prefect"))
        assert {one.laddr.ip for one in server.net_connections() if one.status == "LISTEN"} == {"127.0.0.1"}
        assert running(settings_for(home)) == addresses
        # A server that dies is started again on its port; who asks meanwhile waits.
        server.kill()
        until(lambda: part_pid(home, "prefect") not in (None, server.pid), "a new server")
        assert get(addresses.prefect_api_url + "/health") == (200, b"true")
        # And one whose database went away comes round.
        psutil.Process(part_pid(home, "postgres")).kill()
        until(lambda: get(addresses.prefect_api_url + "/ready")[0] == 200, "the server to find its database again")
    assert not processes_of(home)


def test_what_a_setting_names_is_not_started(home: Path) -> None:
    both = settings_for(
        home, database_url="postgresql://u:p@db.example/alerts", prefect_api_url="http://prefect.example/api"
    )
    with attach(both) as addresses:
        assert addresses.database_url == "postgresql://u:p@db.example/alerts"
        assert addresses.prefect_api_url == "http://prefect.example/api"
        assert addresses.embedded == frozenset()
    assert not home.exists()
    with attach(settings_for(home, prefect_api_url="http://prefect.example/api")) as addresses:
        assert addresses.prefect_api_url == "http://prefect.example/api"
        assert addresses.embedded == {"postgres"}
        assert part_pid(home, "prefect") is None


async def test_can_be_used_from_asyncio(home: Path) -> None:
    stack = attach(settings_for(home), need_prefect=False)
    addresses = await asyncio.to_thread(stack.__enter__)
    try:
        assert answers(addresses.database_url)
    finally:
        await asyncio.to_thread(stack.__exit__, None, None, None)
    assert not processes_of(home)


# One stack for all


def test_second_command_shares_and_the_last_one_out_ends_it(home: Path, command: type[Command]) -> None:
    other = command(home)
    other.read_until("READY")
    said: list[str] = []
    with attach(settings_for(home), need_prefect=False, progress=said.append) as addresses:
        assert said == []
        pid = part_pid(home, "postgres")
        assert other.leave() == 0
        assert answers(addresses.database_url)
        assert part_pid(home, "postgres") == pid
    assert not processes_of(home)


def test_two_at_once_share_one_stack(home: Path, command: type[Command]) -> None:
    commands = [command(home) for _ in range(4)]
    assert len({one.read_until("READY") for one in commands}) == 1
    keepers = [line for line in processes_of(home) if "service.stack.keeper" in line]
    assert len(keepers) == 1, keepers
    assert [one.leave() for one in commands] == [0] * 4
    assert not processes_of(home)


def test_commands_that_come_while_the_last_one_leaves_get_a_stack(home: Path, command: type[Command]) -> None:
    first = command(home)
    first.read_until("READY")
    for _ in range(5):
        second = command(home)
        assert first.process.stdin is not None
        first.process.stdin.close()
        second.read_until("READY")
        assert first.process.wait(30) == 0
        first = second
    assert first.leave() == 0
    assert not processes_of(home)


# Whatever is killed, nothing is left


def test_killed_command_ends_the_stack(home: Path, command: type[Command]) -> None:
    killed = command(home)
    killed.read_until("READY")
    killed.process.kill()
    until(lambda: not processes_of(home), "the stack to end")
    assert not (home / "stack.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signal_during_the_start_leaves_nothing(home: Path, command: type[Command], number: signal.Signals) -> None:
    started = command(home)
    started.read_until("Starting PostgreSQL")
    started.process.send_signal(number)
    assert started.process.wait(30) != 0
    until(lambda: not processes_of(home), "the stack to end", seconds=10 if number == signal.SIGKILL else 0.2)
    assert not (home / "postgres" / "data.part").exists()
    with attach(settings_for(home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)


def test_killed_keeper_takes_its_children_along_and_the_next_command_works(home: Path, command: type[Command]) -> None:
    first = command(home)
    first.read_until("READY")
    os.kill(int(str(state_of(home)["pid"])), signal.SIGKILL)
    # Straight away: the old server may still be writing its last lines, the state file and sockets are stale.
    with attach(settings_for(home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)
    assert first.leave() == 0
    until(lambda: not processes_of(home), "the children to end")


def test_terminated_keeper_ends_everything(home: Path, command: type[Command]) -> None:
    first = command(home)
    first.read_until("READY")
    os.kill(int(str(state_of(home)["pid"])), signal.SIGTERM)
    until(lambda: not any("postgres" in line or "keeper" in line for line in processes_of(home)[1:]), "the end")
    assert first.leave() == 0
    assert not processes_of(home)


def test_killed_database_is_started_again(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with attach(settings_for(home), need_prefect=False) as addresses:
        pid = part_pid(home, "postgres")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: part_pid(home, "postgres") not in (None, pid), "a new server")
        assert answers(addresses.database_url)
        until(lambda: "PostgreSQL runs again" in caplog.text, "the notice")
        assert "PostgreSQL ended (SIGKILL); restarting it" in caplog.text
    assert not processes_of(home)


def test_stale_files_of_a_crash_are_recognised(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)
    paths = stack_paths(home)
    # After a crash of the machine; the number of the dead server now belongs to a stranger: this process.
    (paths.data / "postmaster.pid").write_text(f"{os.getpid()}\n{paths.data}\n1\n5432\n{paths.run}\n\n0 0\nready\n")
    (paths.run / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    paths.state.write_text('{"pid": 1, "parts": {"postgres": 1}, "database_url": "x", "prefect_api_url": null}')
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(paths.control))
    stale.close()
    (paths.postgres / "data.part").mkdir()
    assert running(settings_for(home)) is None
    with attach(settings_for(home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)


# Closed to others


def test_opens_no_tcp_port_and_lets_only_its_owner_in(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False) as addresses:
        server = psutil.Process(part_pid(home, "postgres"))
        assert server.net_connections("inet") == []
        assert query(addresses.database_url, "SHOW listen_addresses") == [("",)]
        rules = query(
            addresses.database_url, "SELECT type, database, user_name, auth_method, options FROM pg_hba_file_rules"
        )
        assert rules == [("local", ["all"], ["all"], "peer", ["map=owner"])]
        mapped = query(addresses.database_url, "SELECT sys_name, pg_username FROM pg_ident_file_mappings")
        me = pwd.getpwuid(os.geteuid()).pw_name
        assert set(mapped) == {(name, "alert_pipeline") for name in ({me, "alert-pipeline"} if ROOT else {me})}
        paths = stack_paths(home)
        for folder in (paths.run, paths.data):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(paths.control.stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(paths.state.stat().st_mode) == 0o600


@pytest.mark.skipif(not ROOT, reason="only root can act as another user")
def test_another_user_is_refused_by_the_folder_and_by_the_server(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False) as addresses:
        psql = postgres_bin(stack_paths(home), server_account()) / "psql"

        def as_nobody() -> str:
            result = subprocess.run(
                [psql, addresses.database_url, "-c", "SELECT 1"],
                user="nobody",
                group=pwd.getpwnam("nobody").pw_gid,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                text=True,
            )
            assert result.returncode != 0
            return result.stderr

        assert "Permission denied" in as_nobody()
        run = stack_paths(home).run
        run.chmod(0o755)
        (run / ".s.PGSQL.5432").chmod(0o777)
        assert "Peer authentication failed" in as_nobody()


@pytest.mark.skipif(ROOT, reason="root's home has to be open for PostgreSQL's own user")
def test_modes_of_parents_stay_as_they_are(home: Path) -> None:
    home.parent.chmod(0o700)
    with attach(settings_for(home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


# Errors that people meet


@pytest.mark.skipif(not ROOT, reason="only root needs a user of its own for PostgreSQL")
def test_closed_parent_is_named_and_stays_closed(home: Path) -> None:
    home.parent.chmod(0o700)
    with pytest.raises(BadSetting, match=rf"cannot pass through {home.parent}: set ALERT_PIPELINE_HOME"):
        enter(home)
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert not processes_of(home)


def test_port_in_use_is_named_before_anything_starts(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said: list[str] = []
        with (
            pytest.raises(BadSetting, match=f"Port {port} is in use"),
            attach(settings_for(home), prefect_port=port, progress=said.append),
        ):
            pass
    assert said == []
    assert not (home / "postgres" / "data").exists()
    assert not processes_of(home)


def test_port_cannot_be_chosen_beside_prefect_api_url(home: Path) -> None:
    settings = settings_for(home, prefect_api_url="http://prefect.example/api")
    with (
        pytest.raises(BadSetting, match=r"PREFECT_API_URL='http://prefect\.example/api' is set"),
        attach(settings, prefect_port=4200),
    ):
        pass


def test_data_of_another_version_is_refused(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False):
        pass
    (home / "postgres" / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(BadSetting, match="was made by PostgreSQL 15, and this is PostgreSQL 18"):
        enter(home)


def test_damaged_data_gives_the_words_of_the_server(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False):
        pass
    (home / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(Unavailable, match=r"PostgreSQL did not start .*could not find the database system"):
        enter(home)
    assert not processes_of(home)


@pytest.mark.parametrize("bad", ["a file", "writable by others", "below a file", "a link at postgres", "no rights"])
def test_home_that_cannot_be_used_is_one_sentence(home: Path, bad: str) -> None:
    if bad == "a file":
        home.write_text("")
    elif bad == "below a file":
        home.write_text("")
        home = home / "below"
    elif bad == "no rights":
        if ROOT:
            pytest.skip("root has all rights")
        home.mkdir(mode=0o500)
    else:
        home.mkdir(mode=0o711)
        if bad == "writable by others":
            home.chmod(0o777)
        else:
            (home / "postgres").symlink_to("/tmp")
    with pytest.raises(PipelineError) as caught:
        enter(home)
    assert str(home) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not processes_of(home)


def test_home_of_somebody_else_is_refused() -> None:
    theirs = Path("/usr") if not ROOT else None
    if theirs is None:
        pytest.skip("everything may belong to root here")
    with pytest.raises(BadSetting, match="belongs to user 0"):
        enter(theirs)


def test_long_path_of_the_home_works(home: Path) -> None:
    home = home / ("long-" * 20) / ("name-" * 20)
    if ROOT:
        home.mkdir(mode=0o711, parents=True)
        for folder in (home, home.parent, home.parent.parent):
            folder.chmod(0o711)
    paths = stack_paths(home)
    try:
        with attach(settings_for(home), need_prefect=False) as addresses:
            assert answers(addresses.database_url)
            assert len(os.fsencode(paths.run / ".s.PGSQL.5432")) < SOCKET_PATH_LIMIT
            assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700
            assert paths.sockets.lstat().st_uid == os.geteuid()
        assert not processes_of(home)
    finally:
        paths.run.rmdir()
        paths.sockets.rmdir()


def enter(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False):
        pass


def get(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()
