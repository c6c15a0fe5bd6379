"""The circuit breaker between the worker and Prefect's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from orchestration.signals import logger


class Breaker:
    """Closed while Prefect answers. Who meets a failure opens it; the watch probes, and closes it again."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._waits: set[asyncio.Timeout] = set()

    @property
    def closed(self) -> bool:
        """Whether Prefect is to be used."""
        return not self._opened.is_set()

    def trip(self, reason: str) -> None:
        """Prefect failed, or was too slow."""
        if self.closed:
            logger.warning("Prefect does not answer (%s): runs go on without it", reason)
        self._opened.set()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def patience(self, seconds: float) -> AsyncGenerator[None]:
        """Wait for Prefect in here: so long at most, and no longer than it is thought to answer.

        Without the second, runs that wait for a Prefect that hangs would keep their places from a critical one.

        Raises:
            TimeoutError: the time is over, or Prefect does not answer.
        """
        async with asyncio.timeout(seconds if self.closed else 0) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.discard(wait)

    def reset(self) -> bool:
        """Prefect answers. True: it had not before."""
        if self.closed:
            return False
        logger.info("Prefect answers again: new runs go through it")
        self._opened.clear()
        return True

    async def wait_open(self, seconds: float) -> None:
        """Return when it opens, or when the time is over."""
        if not self.closed:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        except TimeoutError:
            return
