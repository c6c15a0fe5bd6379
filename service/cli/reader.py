"""Reading commands: they look into the database, and need no Prefect."""

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
    """What `work` finds in the database; the embedded PostgreSQL is started for it where none runs.

    Raises:
        Unavailable: the database does not answer.
    """

    return read_at(settings, lambda database, _: work(database))


def read_at(settings: Settings, work: Callable[[Database, str | None], Awaitable[T]]) -> T:
    """As `read()`; `work` is also told where Prefect's API is, None where there is none: none is started for it.

    Raises:
        Unavailable: the database does not answer.
    """

    async def open_and_work(addresses: StackAddresses) -> T:
        async with open_database(addresses.database_url, pool_size=2) as database:
            return await work(database, addresses.prefect_api_url)

    with ExitStack() as attached:
        with progress() as show:  # over before `work` begins, which may have the terminal to itself
            addresses = attached.enter_context(attach(settings, need_prefect=False, progress=show))
        return asyncio.run(open_and_work(addresses))
