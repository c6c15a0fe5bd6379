"""The circuit breaker between the worker and Prefect's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from orchestration.signals import logger


class Breaker:
    """Closed while Prefect answers. A call that fails opens it; the watch probes Prefect, and closes it again."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._waits: set[asyncio.Timeout] = set()

    @property
    def closed(self) -> bool:
        """Whether runs are executed through Prefect."""
        return not self._opened.is_set()

    def trip(self, reason: str) -> None:
        """Open the breaker: Prefect failed, or was too slow. `reason` is a sentence for the log."""
        if self.closed:
            logger.warning("Prefect is not used for now (%s): runs are executed without it", reason)
        self._opened.set()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncGenerator[None]:
        """Limit the time that the body waits for Prefect, and end the wait at once when the breaker opens.

        Otherwise runs that wait for a Prefect that hangs would keep their slots from a critical run.

        Raises:
            TimeoutError: the time is over, or the breaker is open.
        """
        async with asyncio.timeout(seconds if self.closed else 0) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.discard(wait)

    def reset(self) -> bool:
        """Close the breaker: Prefect answers. Returns whether it was open."""
        if self.closed:
            return False
        logger.info("Prefect answers again: new runs are executed through it")
        self._opened.clear()
        return True

    async def wait_open(self, seconds: float) -> None:
        """Return when the breaker opens, or when the time is over."""
        if not self.closed:
            await asyncio.sleep(seconds)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._opened.wait()
