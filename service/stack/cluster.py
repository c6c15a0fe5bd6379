"""PostgreSQL's data folder: made once, checked at each start, and the rules of who may connect."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestration.errors import BadSetting, Unavailable
from service.stack import process
from service.stack.account import Account, require_passage
from service.stack.binaries import bundled_version
from service.stack.paths import StackPaths, make_folder

if TYPE_CHECKING:
    import psycopg

ROLE = "alert_pipeline"
DATABASE = "alert_pipeline"
PREFECT_DATABASE = "prefect"

NEEDED_BYTES = 200 * 1024 * 1024
"""Room for a new data folder, its write-ahead log and some days of use."""

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

_CONFIGURATION = """\
# Written anew at each start of the stack. For settings of your own use ALTER SYSTEM, which comes after this file.
max_connections = 200
shared_buffers = 128MB
fsync = on
synchronous_commit = on
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_destination = 'stderr'
logging_collector = off
log_min_messages = warning
log_checkpoints = off
log_line_prefix = '%m [%p] %q%u@%d '
"""


def url(paths: StackPaths, database: str, scheme: str = "postgresql") -> str:
    """Address of a database of the stack. The port is only part of the socket's name, and PGPORT may differ."""
    return f"{scheme}://{ROLE}@/{database}?host={quote(str(paths.run), safe='')}&port=5432"


async def ensure_cluster(paths: StackPaths, account: Account, programs: Path) -> None:
    """Make the data folder if there is none, check the one that is there, and write its rules.

    Raises:
        BadSetting: the data belongs to another user or another major version of PostgreSQL.
        Unavailable: initdb failed; its own words are in the message.
    """
    require_passage(paths.postgres, account)
    require_passage(paths.sockets, account)
    _hand_over(paths.run, account)
    if paths.data.exists():
        _check(paths.data, account)
    else:
        await _create(paths, account, programs)
    _write_rules(paths, account)


async def ensure_databases(paths: StackPaths) -> None:
    """Make the two databases that are missing, and the extension that Prefect's server needs."""
    async with await _connect(paths, "postgres") as connection:
        found = {row[0] for row in await (await connection.execute("SELECT datname FROM pg_database")).fetchall()}
        for name in (DATABASE, PREFECT_DATABASE):
            if name not in found:
                await connection.execute(f"CREATE DATABASE {name}".encode())
    async with await _connect(paths, PREFECT_DATABASE) as connection:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")


async def prefect_revision(paths: StackPaths) -> str | None:
    """The revision of Prefect's schema; None when there is none yet."""
    async with await _connect(paths, PREFECT_DATABASE) as connection:
        row = await (await connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL")).fetchone()
        if row is None or not row[0]:
            return None
        revision = await (await connection.execute("SELECT version_num FROM alembic_version")).fetchone()
    return str(revision[0]) if revision else None


def conf_folder(paths: StackPaths) -> Path:
    """Folder of the configuration: beside the data, so that root never writes where the server's user can."""
    return paths.postgres / "conf"


async def _connect(paths: StackPaths, database: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    import psycopg  # while the server starts: it takes longer to load than the server

    return await psycopg.AsyncConnection.connect(url(paths, database), autocommit=True, connect_timeout=10)


async def _create(paths: StackPaths, account: Account, programs: Path) -> None:
    free = shutil.disk_usage(paths.postgres).free
    if free < NEEDED_BYTES:
        raise Unavailable(
            f"A new database needs {NEEDED_BYTES >> 20} MB, and the disk of {paths.home} has {free >> 20} MB left: "
            "make room, or set ALERT_PIPELINE_HOME to another folder."
        )
    half = paths.postgres / "data.part"  # renamed when whole: what is interrupted leaves nothing half
    if half.exists():
        shutil.rmtree(half)
    _hand_over(half, account)
    command = [str(programs / "initdb"), f"--pgdata={half}", f"--username={ROLE}", "--encoding=UTF8"]
    # The built-in provider sorts alike on every machine, whatever locales are installed there.
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    command += ["--auth-local=peer", "--auth-host=reject", "--no-instructions"]
    log = paths.log("postgres")
    child = await process.spawn(
        command, log=log, cwd=Path("/"), env=ENVIRONMENT, death_signal=signal.SIGTERM, account=account
    )
    try:
        code = await child.wait()
    except asyncio.CancelledError:
        await process.end(child, signal.SIGTERM, grace_seconds=5)
        shutil.rmtree(half, ignore_errors=True)
        raise
    if code != 0:
        shutil.rmtree(half, ignore_errors=True)
        raise Unavailable(
            f"PostgreSQL could not make its data folder {paths.data} "
            f"(initdb: {process.describe_exit(code)}): {process.log_tail(log)}"
        )
    half.rename(paths.data)


def _check(data: Path, account: Account) -> None:
    owner = data.lstat().st_uid
    if owner != account.uid:
        raise BadSetting(
            f"The data folder {data} belongs to user {owner}, and PostgreSQL runs as {account.name} "
            f"({account.uid}): set ALERT_PIPELINE_HOME to another folder."
        )
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise BadSetting(f"{data} is no data folder of PostgreSQL: move it away.") from None
    expected = bundled_version().partition(".")[0]
    if found != expected:
        raise BadSetting(
            f"The data folder {data} was made by PostgreSQL {found}, and this is PostgreSQL {expected}: "
            f"carry it over with pg_upgrade or a dump, or move it away."
        )


def _write_rules(paths: StackPaths, account: Account) -> None:
    folder = conf_folder(paths)
    make_folder(folder, 0o755 if account.switches else 0o700)
    mode = 0o644 if account.switches else 0o600
    users = {account.name, account.invoker}
    _write(folder / "postgresql.conf", [_CONFIGURATION], mode)
    # One rule: the kernel says who connects, and only these may. No line for TCP, none for replication.
    _write(folder / "pg_hba.conf", ["local all all peer map=owner\n"], mode)
    _write(folder / "pg_ident.conf", [f"owner {_quoted(user)} {ROLE}\n" for user in sorted(users)], mode)


def _write(file: Path, lines: Iterable[str], mode: int) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_text("".join(lines))
    new.chmod(mode)
    new.replace(file)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _hand_over(folder: Path, account: Account) -> None:
    """Make `folder` for the server's user alone, or check that it is."""
    if folder.is_symlink() or folder.exists():
        make_folder(folder, 0o700, owner=account.uid)
        return
    make_folder(folder, 0o700)
    if account.switches:
        os.chown(folder, account.uid, account.gid)
