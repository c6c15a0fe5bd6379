"""Access to the database for commands that only read it. They start without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from orchestration.settings import Settings
from orchestration.store.database import Database, open_database
from service.cli.terminal import progress
from service.stack import StackAddresses, attach

T = TypeVar("T")


def read(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Return the result of `work` on the database. The embedded PostgreSQL is started for it if it does not run.

    Raises:
        Unavailable: the database does not answer.
    """
    return read_at(settings, lambda database, _: work(database))


def read_at(settings: Settings, work: Callable[[Database, str | None], Awaitable[T]]) -> T:
    """Return the result of `work` on the database and the URL of Prefect's API.

    The URL is None if no Prefect runs; none is started. The embedded PostgreSQL is started if it does not run.

    Raises:
        Unavailable: the database does not answer.
    """

    async def open_and_work(addresses: StackAddresses) -> T:
        async with open_database(addresses.database_url, pool_size=2) as database:
            return await work(database, addresses.prefect_api_url)

    with ExitStack() as attached:
        with progress() as show:  # it ends before `work` begins, which may use all of the terminal
            addresses = attached.enter_context(attach(settings, need_prefect=False, progress=show))
        return asyncio.run(open_and_work(addresses))
