"""How a duty of a worker is done again and again, whatever happens in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from orchestration.errors import Unavailable
from orchestration.signals import logger


async def repeat(duty: Callable[[], Awaitable[None]], every_seconds: float, failure: str) -> None:
    """Do a duty now and regularly. Never ends.

    `failure` is what is logged if the duty fails: a warning if something does not answer, else with the traceback.
    """
    while True:
        try:
            await duty()
        except Unavailable as error:
            logger.warning("%s: %s", failure, error)
        except Exception:  # noqa: BLE001 - a bug here must not end the worker
            logger.exception("%s", failure)
        await asyncio.sleep(every_seconds)
