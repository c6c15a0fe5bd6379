"""The embedded stack of a command that runs for days: when its keeper dies, another one takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from orchestration.errors import PipelineError
from orchestration.signals import logger
from service.stack.client import StackAddresses, attach

if TYPE_CHECKING:
    from orchestration.settings import Settings

MAX_DELAY_SECONDS = 30.0


class HeldStack:
    """`attach()` for as long as the block lasts, and again whenever the keeper ended while `hold()` goes on.

    The addresses stay the same: the database's socket is in the home, and the port is the one that was chosen.
    """

    addresses: StackAddresses

    def __init__(self, settings: Settings, *, progress: Callable[[str], None], prefect_port: int | None) -> None:
        self._settings = settings
        self._progress = progress
        self._prefect_port = prefect_port
        self._attached = ExitStack()
        self._lost = False
        self._tell: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        self._attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._attached.close()

    async def hold(self) -> NoReturn:
        """Until cancelled: whenever the keeper ends, start the stack again."""
        loop, lost = asyncio.get_running_loop(), asyncio.Event()
        self._tell = lambda: loop.call_soon_threadsafe(lost.set)
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
            self._tell = None

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
        if (tell := self._tell) is not None:
            tell()
