"""A worker's duty for open incidents without a timer, and for heartbeats without a run that looks for them."""

from __future__ import annotations

from functools import partial

from orchestration.engine.run import Services
from orchestration.errors import Unavailable
from orchestration.signals import logger
from orchestration.store import heartbeats, timers
from service.worker.duty import repeat

EVERY_SECONDS = 600.0
"""How often a worker looks for such incidents. They were opened before there were timers, or before a setting asked for
one, or the run that should have scheduled the next timer failed."""


async def look_after_incidents(services: Services) -> None:
    """Give each open incident its timer, and each heartbeat its run, now and every ten minutes. Never ends."""
    await repeat(partial(_look_once, services), EVERY_SECONDS, "Incidents without a timer cannot be looked for")


async def _look_once(services: Services) -> None:
    await start_timers(services)
    async with services.database.transaction() as tx:
        await heartbeats.resume_waiting(tx)


async def start_timers(services: Services) -> None:
    """Schedule what comes next for each open incident that has no timer. This alone notifies nobody.

    Raises:
        Unavailable: the database does not answer.
    """
    async with services.database.statement() as tx:
        without = await timers.list_without(tx)
    for incident_id in without:
        # One transaction each: each has the lock of its own key, and pushes do not wait for all of them.
        try:
            async with services.database.transaction() as tx:
                await timers.start(tx, incident_id, services.settings)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - an incident that cannot be read must not keep the others without a timer
            logger.exception("Incident %s gets no timer", incident_id)
