"""How long the event loop waits while something is done, beside the time of a known piece of work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

TRIES = 5
"""Other processes disturb a try; one that nobody disturbs is enough to show that the loop is free."""


async def longest_wait(do: Callable[[], Awaitable[object]]) -> float:
    """The longest time in seconds for which the loop did not come to anything else, in the best of some tries."""
    return min([await _longest_wait(do) for _ in range(TRIES)])


async def _longest_wait(do: Callable[[], Awaitable[object]]) -> float:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    try:
        await do()
    finally:
        watching.cancel()
    return longest


def time_of_reading(body: bytes) -> float:
    """How long it takes to read the JSON in one go, in seconds."""
    before = time.perf_counter()
    json.loads(body)
    return time.perf_counter() - before
