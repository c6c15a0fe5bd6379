"""Reading commands: they look into the database, and need no Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from orchestration.settings import Settings
from orchestration.store.database import Database, open_database
from service.cli.terminal import progress
from service.stack import attach

T = TypeVar("T")


def read(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """What `work` finds in the database; the embedded PostgreSQL is started for it where none runs.

    Raises:
        Unavailable: the database does not answer.
    """

    async def open_and_work(url: str) -> T:
        async with open_database(url, pool_size=2) as database:
            return await work(database)

    with ExitStack() as attached:
        with progress() as show:  # over before `work` begins, which may have the terminal to itself
            addresses = attached.enter_context(attach(settings, need_prefect=False, progress=show))
        return asyncio.run(open_and_work(addresses.database_url))
