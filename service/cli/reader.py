"""Access to the database for commands that only read it. They start without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from orchestration.embedded_stack import find_database_url
from orchestration.errors import PipelineError
from orchestration.settings import Settings
from orchestration.store.database import AsyncConnection, Database, open_database
from service.cli.terminal import progress
from service.stack import attach

T = TypeVar("T")

_LOOK_SECONDS = 3.0
"""How long the database may take to say what it knows beside a document."""


def read(settings: Settings, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Return the result of `query`, which gets a transaction of the database.

    The embedded PostgreSQL is started if it does not run.

    Raises:
        Unavailable: the database does not answer.
    """

    async def in_transaction(database: Database, _: object) -> T:
        async with database.transaction() as tx:
            return await query(tx)

    return read_at(settings, in_transaction)


def read_at(settings: Settings, work: Callable[[Database, str | None], Awaitable[T]]) -> T:
    """Return the result of `work` on the database and the URL of Prefect's API.

    The URL is None if no Prefect runs; none is started. The embedded PostgreSQL is started if it does not run.

    Raises:
        Unavailable: the database does not answer.
    """
    with ExitStack() as attached:
        with progress() as show:  # it ends before `work` begins, which may use all of the terminal
            addresses = attached.enter_context(attach(settings, need_prefect=False, progress=show))

        async def open_and_work() -> T:
            async with open_database(addresses.database_url, pool_size=2) as database:
                return await work(database, addresses.prefect_api_url)

        return asyncio.run(open_and_work())


def look(settings: Settings, query: Callable[[Database], Awaitable[T]]) -> T | None:
    """What the database says, if it runs. None means that it does not answer soon: the command works without it."""

    async def ask() -> T:
        # Without open_database(), which brings the schema up to date first.
        database = Database(find_database_url(settings))
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await query(database)
        finally:
            await database.close()

    try:
        return asyncio.run(ask())
    except (PipelineError, TimeoutError):
        return None
