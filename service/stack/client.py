"""How a command gets its database and its Prefect server: from its settings, or from the embedded stack."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import NoReturn, Self

from orchestration.embedded_stack import StackAddresses
from orchestration.errors import BadSetting, PipelineError
from orchestration.settings import Settings
from service.stack.connection import POSTGRES, PREFECT, Report, Request, connect_or_start, logger
from service.stack.paths import StackPaths, prepare, stack_paths

CONNECT_SECONDS = 45.0
"""How long a command tries to connect to the keeper. A keeper that is ending may need this long to end."""

MAX_DELAY_SECONDS = 30.0
"""The longest wait between two attempts to start the stack again."""


@contextmanager
def attach(
    settings: Settings,
    *,
    need_prefect: bool = True,
    progress: Callable[[str], None] | None = None,
    prefect_port: int | None = None,
    lost: Callable[[], None] | None = None,
) -> Generator[StackAddresses]:
    """The addresses of both servers for the duration of the block.

    A server that no setting names is embedded, and started if it does not run. This blocks for seconds while the stack
    starts: from asyncio, enter and leave it with `asyncio.to_thread`. When the last command leaves, the stack has ended
    before this returns. `lost` is called, in another thread, if the embedded stack ends within the block.

    Raises:
        BadSetting: a setting, a folder or a port cannot be used.
        Unavailable: a server of the stack did not start.
    """
    own_database = settings.database_url.get_secret_value() if settings.database_url is not None else None
    embed_prefect = need_prefect and settings.prefect_api_url is None
    if prefect_port is not None and not embed_prefect:
        raise BadSetting(f"PREFECT_API_URL={settings.prefect_api_url!r} is set: no port can be chosen beside it.")
    if own_database is not None and not embed_prefect:
        yield StackAddresses(database_url=own_database, prefect_api_url=settings.prefect_api_url, embedded=frozenset())
        return
    request = Request(need=[POSTGRES, PREFECT] if embed_prefect else [POSTGRES], prefect_port=prefect_port)
    with _session(stack_paths(settings.home), request, progress or _ignore, lost or _do_nothing) as ready:
        embedded = {POSTGRES} if own_database is None else set[str]()
        if settings.prefect_api_url is None and ready.prefect_api_url is not None:
            embedded.add(PREFECT)
        yield StackAddresses(
            database_url=own_database or ready.database_url,
            prefect_api_url=settings.prefect_api_url or ready.prefect_api_url,
            embedded=frozenset(embedded),
        )


class PersistentStack:
    """`attach()` for a command that runs for days: when the keeper dies, the stack is started again.

    The addresses do not change: the database's socket is in the home, and Prefect's port is the one that was chosen.
    """

    addresses: StackAddresses

    def __init__(self, settings: Settings, *, progress: Callable[[str], None], prefect_port: int | None) -> None:
        self._settings = settings
        self._progress = progress
        self._prefect_port = prefect_port
        self._attached = ExitStack()
        self._lost = False
        self._wake: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        self._attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._attached.close()

    async def keep_running(self) -> NoReturn:
        """Until cancelled, start the stack again whenever its keeper ends."""
        loop, lost = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(lost.set)
        if self._lost:
            lost.set()
        try:
            while True:
                await lost.wait()
                lost.clear()
                logger.warning("The keeper of the embedded stack ended; starting the stack again")
                await self._attach_again()
                logger.warning("The embedded stack runs again")
        finally:
            self._wake = None

    async def _attach_again(self) -> None:
        delay = 0.5
        while True:
            try:
                await asyncio.to_thread(self._attach)
            except PipelineError as error:
                logger.warning("%s", error)
                await asyncio.sleep(delay)
                delay = min(MAX_DELAY_SECONDS, delay * 2)
            else:
                return

    def _attach(self) -> None:
        self._attached.close()
        self._lost = False
        self.addresses = self._attached.enter_context(
            attach(self._settings, progress=self._progress, prefect_port=self._prefect_port, lost=self._on_lost)
        )

    def _on_lost(self) -> None:
        self._lost = True
        if (wake := self._wake) is not None:
            wake()


@contextmanager
def _session(
    paths: StackPaths, request: Request, progress: Callable[[str], None], lost: Callable[[], None]
) -> Generator[Report]:
    prepare(paths)
    began = time.monotonic()
    while True:
        connection = connect_or_start(paths, began + CONNECT_SECONDS)
        try:
            ready = connection.ask(request, progress)
            if ready is not None:
                if connection.saw_progress:
                    progress(f"Stack ready in {time.monotonic() - began:.1f} s")
                connection.watch(lost)
                yield ready
                return
        finally:
            connection.leave()


def _ignore(_text: str) -> None:
    pass


def _do_nothing() -> None:
    pass
