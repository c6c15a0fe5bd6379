"""The connection to PostgreSQL: transactions, notifications, the clock, and migrations of the schema."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg.errors import UndefinedTable
from psycopg.sql import SQL, Identifier
from sqlalchemy import ColumnElement, Connection, event, func, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from orchestration.errors import Unavailable
from orchestration.redaction import redact_text

Transaction = AsyncConnection
"""What `Database.transaction()` and `Database.statement()` yield, for code that only passes it on."""

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x616C657274
"""The advisory lock under which one process migrates while the others wait ("alert" in ASCII)."""

CONNECT_TIMEOUT_SECONDS = 5

IDLE_SECONDS = 1.0
"""A connection that was used so many seconds ago, or less, is not tested before it is used again."""

_KEPT_AT = "kept_at"
"""Since when a connection is kept for the next statement, as `time.monotonic()` counts."""


class Database:
    """A pool of connections to our PostgreSQL database. It belongs to the event loop in which it was made.

    With `relaxed`, a commit does not wait until it is on disk, unless a statement in it says `FLUSHED`, which brings to
    disk whatever was committed before it as well. If the machine loses power, the last moments (0.6 s at most) before
    that are as if they had not happened yet. That suits whoever executes runs: what was accepted is on disk, and so is
    what was sent, so the rest is done again. Statements are planned once for each connection then, the first time.
    """

    def __init__(self, url: str, *, pool_size: int = 10, relaxed: bool = False) -> None:
        self.url = url
        self.engine: AsyncEngine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_use_lifo=True,  # few connections, which know the statements already
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "application_name": "alert-pipeline",
                **(_PREPARE_AT_ONCE if relaxed else {}),
            },
        )
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._kept: list[AsyncConnection] = []
        self._most_kept = pool_size // 2
        if relaxed:
            event.listen(self.engine.sync_engine, "connect", _relax)
        event.listen(self.engine.sync_engine, "checkin", _note_use)
        event.listen(self.engine.sync_engine, "checkout", _ping_idle)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction: committed at the end, rolled back when the body raises.

        Raises:
            Unavailable: the database does not answer, or the connection breaks.
        """
        async with self.statement() as connection:
            driver = driver_of(connection)
            await driver.execute("begin", prepare=False)
            yield connection
            await driver.commit()

    @asynccontextmanager
    async def statement(self) -> AsyncGenerator[AsyncConnection]:
        """A connection whose statements are committed one by one, without the round trips of BEGIN and COMMIT.

        Raises:
            Unavailable: the database does not answer, or the connection breaks.
        """
        with _outages():
            connection = await self._acquire()
            try:
                yield connection
                if connection.in_transaction():  # as SQLAlchemy sees it; in the database there is none any more
                    await connection.rollback()
            except BaseException:
                await asyncio.shield(self._release_failed(connection))
                raise
            if connection.invalidated or len(self._kept) >= self._most_kept:
                await asyncio.shield(_release(connection))
                return
            connection.info[_KEPT_AT] = time.monotonic()
            self._kept.append(connection)

    async def _acquire(self) -> AsyncConnection:
        """A connection: the one that was used last, or else one of the pool.

        To return it to the pool each time, and to get it again, would cost almost as much as a statement.
        """
        while self._kept:
            connection = self._kept.pop()
            if time.monotonic() - connection.info[_KEPT_AT] < IDLE_SECONDS:
                del connection.info[_KEPT_AT]
                return connection
            await asyncio.shield(_release(connection))  # the pool tests it before anybody uses it
        return await self._autocommit.connect()

    async def _release_failed(self, connection: AsyncConnection) -> None:
        """Release a connection whose statement failed. If it is broken, so are those that are kept."""
        is_broken = connection.invalidated or driver_of(connection).closed
        await _release(connection)
        if is_broken:
            kept = list(self._kept)
            self._kept.clear()
            for other in kept:
                await other.invalidate()
                await other.close()

    @property
    def in_use(self) -> int:
        """How many connections somebody uses now."""
        return cast("QueuePool", self.engine.pool).checkedout() - len(self._kept)

    async def close(self) -> None:
        """Close all connections; those that are in use, as soon as they are not."""
        self._most_kept = 0
        while self._kept:
            await self._kept.pop().close()
        await self.engine.dispose()


async def _release(connection: AsyncConnection) -> None:
    """Return a connection to the pool, which rolls back what it may have begun."""
    if not connection.invalidated and driver_of(connection).closed:
        await connection.invalidate()
    await connection.close()


def driver_of(connection: AsyncConnection) -> psycopg.AsyncConnection:
    """psycopg's own connection."""
    return cast("psycopg.AsyncConnection", cast("Connection", connection.sync_connection).connection.driver_connection)


class NoTables(Unavailable):
    """The database answers, and does not have our tables."""


@contextmanager
def _outages() -> Generator[None]:
    """Raise `Unavailable` for the driver's errors that mean that the database does not answer."""
    try:
        yield
    except (OperationalError, psycopg.OperationalError, PoolTimeout, OSError) as error:
        raise Unavailable(f"The database does not answer: {reason_of(error)}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(f"The connection to the database broke: {reason_of(error)}") from error
        if isinstance(error.orig, UndefinedTable):
            raise NoTables("The database has no tables yet: it is being set up, or it is another one") from error
        raise


@asynccontextmanager
async def open_database(url: str, *, pool_size: int = 10, relaxed: bool = False) -> AsyncGenerator[Database]:
    """A database whose schema is up to date; its connections are closed at the end.

    Raises:
        Unavailable: the database does not answer, or a newer version has migrated its schema.
    """
    await asyncio.to_thread(migrate, url)
    database = Database(url, pool_size=pool_size, relaxed=relaxed)
    try:
        yield database
    finally:
        await database.close()


FLUSHED = "set_config('synchronous_commit', 'on', true)"
"""An expression in SQL: the transaction in which it is evaluated is on disk when its commit returns."""

UNFLUSHED = "set_config('synchronous_commit', 'off', true)"
"""An expression in SQL: the commit does not wait for the disk. For what is simply done again if it is lost."""

_PREPARE_AT_ONCE = {"prepare_threshold": 0}


def _relax(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("set synchronous_commit = off")
    # Else PostgreSQL plans a statement ten times before it keeps the plan: a third of the time of the first messages.
    cursor.execute("set plan_cache_mode = force_generic_plan")
    cursor.close()
    connection.commit()


def _note_use(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = record.info.pop(_KEPT_AT, None) or time.monotonic()


def _ping_idle(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """Test a connection that was idle: its server may have been restarted since.

    SQLAlchemy's own `pool_pre_ping` tests it before each use, which costs each transaction of a run a round trip.
    """
    if time.monotonic() - record.info.get("used_at", 0.0) < IDLE_SECONDS:
        return
    try:
        cursor = connection.cursor()
        cursor.execute("select 1")
        cursor.close()
        connection.commit()  # after a rollback psycopg would prepare every statement anew
    except psycopg.Error as error:
        raise DisconnectionError(str(error)) from error


def in_seconds(seconds: float) -> ColumnElement[Any]:
    """The moment so many seconds from now, or ago if negative, on the database's clock, which decides on all ages."""
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def seconds_ago(seconds: float) -> ColumnElement[Any]:
    """The moment so many seconds before the transaction. Unlike `in_seconds()` it can be looked up in an index."""
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


async def read_clock(tx: AsyncConnection) -> datetime:
    """The time on the database's clock."""
    return (await tx.execute(select(func.clock_timestamp()))).scalar_one()


async def notifications(url: str, channel: str) -> AsyncGenerator[str]:
    """The notices of a channel of NOTIFY, over a connection of its own.

    The first item is empty: it says that the connection listens, so that no notice after it is missed.

    Raises:
        Unavailable: the database does not answer, or the connection broke.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            libpq_url(url),
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="alert-pipeline listen",
            # Without keepalives a worker would never notice that a silent server is gone.
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        async with connection:
            await connection.execute(SQL("listen {}").format(Identifier(channel)))
            yield ""
            async with aclosing(connection.notifies()) as received:
                async for notice in received:
                    yield notice.payload
    except (psycopg.Error, OSError) as error:
        raise Unavailable(f"The database's notifications broke off: {reason_of(error)}") from error


def migrate(url: str) -> None:
    """Migrate the schema to this version; blocking. Of processes that start together, one migrates and the others wait.

    Raises:
        Unavailable: the database does not answer, or a newer version has migrated its schema.
    """
    head = head_revision()
    try:
        with psycopg.connect(libpq_url(url), autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection:
            if _current_revision(connection) == head:
                return
            connection.execute("select pg_advisory_lock(%s)", (MIGRATION_LOCK,))
            if _current_revision(connection) != head:
                _upgrade(url)
    except (psycopg.Error, SQLAlchemyError) as error:
        raise Unavailable(f"The database cannot be used: {reason_of(error)}") from error


def sqlalchemy_url(url: str) -> str:
    """The URL in SQLAlchemy's form, with the name of the driver."""
    return "postgresql+psycopg://" + url.split("://", 1)[1]


def reason_of(error: BaseException) -> str:
    """The first line of the driver's message, without a password.

    A driver that misreads a URL quotes the wrong part of it, so of what it quotes before it is connected only the
    address of the server is shown.
    """
    original = getattr(error, "orig", None) or error
    lines = [line for line in str(original).splitlines() if line.strip()]
    if not lines:
        return type(original).__name__
    is_connected = getattr(original, "sqlstate", None) is not None
    return redact_text(lines[0] if is_connected else _QUOTED.sub(lambda found: found[1] or "…", lines[0]))


_QUOTED = re.compile(r"""((?:server at|socket) "[^"]*")|"[^"]*(?:"|$)|(?<!\w)'[^']*(?:'|$)""")


def libpq_url(url: str) -> str:
    """The URL in libpq's form, which psycopg takes."""
    return "postgresql://" + url.split("://", 1)[1]


def head_revision() -> str:
    """The revision of the schema that this version of the program needs."""
    # Read from the file names, because importing Alembic takes 0.2 s at each start.
    return max(path.name.split("_", 1)[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _current_revision(connection: psycopg.Connection) -> str | None:
    if connection.execute("select to_regclass('alembic_version')").fetchone() == (None,):
        return None
    row = connection.execute("select version_num from alembic_version").fetchone()
    return str(row[0]) if row else None


def _upgrade(url: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = sqlalchemy_url(url)
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Unavailable(
            f"The database's schema is not known to this version of alert-pipeline ({error}): "
            "it was made by a newer one. Upgrade this installation, or point DATABASE_URL elsewhere"
        ) from error
