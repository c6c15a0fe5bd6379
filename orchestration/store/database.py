"""The connection to PostgreSQL, and the schema brought up to date."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from orchestration.errors import Unavailable
from orchestration.redaction import redact_text

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x616C657274
"""The advisory lock under which one process migrates while the others wait ("alert" in ASCII)."""

CONNECT_TIMEOUT_SECONDS = 5

IDLE_SECONDS = 1.0
"""A connection that was used this lately is taken for good."""


class Database:
    """A pool of connections to our PostgreSQL database. Made in one event loop, used in that one."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        self.engine: AsyncEngine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=pool_size,
            max_overflow=pool_size,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "alert-pipeline"},
        )
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self.engine.sync_engine, "checkin", _note_use)
        event.listen(self.engine.sync_engine, "checkout", _ping_idle)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction: committed at the end, rolled back when the body raises.

        Raises:
            Unavailable: when the database does not answer or the connection breaks.
        """
        with _outages():
            async with self.engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def statement(self) -> AsyncGenerator[AsyncConnection]:
        """For a single statement, which is a transaction by itself: spares the round trips of BEGIN and COMMIT.

        Raises:
            Unavailable: as `transaction()`.
        """
        with _outages():
            async with self._autocommit.connect() as connection:
                yield connection

    async def close(self) -> None:
        """Give all connections back."""
        await self.engine.dispose()


@contextmanager
def _outages() -> Generator[None]:
    """What the driver says of a database that is away, in our words."""
    try:
        yield
    except (OperationalError, PoolTimeout, OSError) as error:
        raise Unavailable(f"The database does not answer: {reason_of(error)}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(f"The connection to the database broke: {reason_of(error)}") from error
        raise


@asynccontextmanager
async def open_database(url: str, *, pool_size: int = 10) -> AsyncGenerator[Database]:
    """A database whose schema is current, closed at the end.

    Raises:
        Unavailable: when the database does not answer.
    """
    await asyncio.to_thread(migrate, url)
    database = Database(url, pool_size=pool_size)
    try:
        yield database
    finally:
        await database.close()


def _note_use(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_idle(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """Test a connection that nobody has used for a while: its server may have been restarted meanwhile.

    SQLAlchemy's own `pool_pre_ping` does so each time, which is a round trip for each of a run's transactions.
    """
    if time.monotonic() - record.info.get("used_at", 0.0) < IDLE_SECONDS:
        return
    try:
        cursor = connection.cursor()
        cursor.execute("select 1")
        cursor.close()
        connection.rollback()
    except psycopg.Error as error:
        raise DisconnectionError(str(error)) from error


def migrate(url: str) -> None:
    """Bring the schema up to date. Processes that start together wait for each other; blocking.

    Raises:
        Unavailable: when the database does not answer, or its schema is newer than this program.
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
    """The URL with SQLAlchemy's name of the driver in it."""
    return "postgresql+psycopg://" + url.split("://", 1)[1]


def reason_of(error: BaseException) -> str:
    """The first line of what the driver says, without a password."""
    original = getattr(error, "orig", None) or error
    lines = [line for line in str(original).splitlines() if line.strip()]
    return redact_text(lines[0]) if lines else type(original).__name__


def libpq_url(url: str) -> str:
    """The URL as libpq knows it."""
    return "postgresql://" + url.split("://", 1)[1]


def head_revision() -> str:
    """The schema that this version of the program works with."""
    # The newest migration's file name starts with its revision, so that a process whose database is
    # current starts without importing Alembic (0.2 s).
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
