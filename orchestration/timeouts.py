"""A time limit that a process which was frozen does not charge to the other side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

LATE_SECONDS = 0.5
"""From which delay of its timer a limit concludes that this process stood still."""

READ_SECONDS = 2.0
"""How long a process that stood still may read what has arrived meanwhile."""


@asynccontextmanager
async def awake_timeout(seconds: float) -> AsyncGenerator[asyncio.Timeout]:
    """Like `asyncio.timeout(seconds)`, but a process that stood still reads once more before it gives up.

    A process can be stopped (SIGSTOP, a paused container, a machine that is migrated) while the answer arrives. When it
    goes on, the limit has passed and the answer is there. Who gives up then sends the same message twice.

    Raises:
        TimeoutError: the time is over.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds

    def end() -> None:
        limit.reschedule(loop.time())

    def look() -> None:
        nonlocal timer
        if loop.time() - deadline > LATE_SECONDS:
            timer = loop.call_later(READ_SECONDS, end)
        else:
            end()

    async with asyncio.timeout(None) as limit:
        timer = loop.call_at(deadline, look)
        try:
            yield limit
        finally:
            timer.cancel()
