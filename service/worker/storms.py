"""A worker's duty for storms that are over: what outlives them becomes incidents of its own."""

from __future__ import annotations

from functools import partial

from orchestration.engine.run import Services
from service.worker.duty import repeat
from tasks.ingest.storms import release_calm

EVERY_SECONDS = 15.0


async def look_after_storms(services: Services) -> None:
    """End the storms that are calm, now and every 15 seconds. Never ends."""
    await repeat(partial(release_calm, services), EVERY_SECONDS, "Storms that are over cannot be looked for")
