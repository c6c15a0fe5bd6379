"""Redelivery: a later run sends again what a channel has refused, with growing delays, until it is given up."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress

from orchestration.engine.run import ActiveRun, StageFailed
from orchestration.errors import RunNotFound
from orchestration.redaction import redact_text
from orchestration.signals import logger
from orchestration.states import RunReason
from orchestration.store import channels, deliveries, runs, standings
from orchestration.store.database import AsyncConnection, read_clock
from orchestration.store.follow_ups import add_follow_up

FIRST_DELAY_SECONDS = 15.0
LONGEST_DELAY_SECONDS = 900.0
_JITTER = 0.2


async def redeliver_later(run: ActiveRun, failure: StageFailed) -> None:
    """Queue the run that tries again what was refused, or give up what has been refused for too long.

    The delay is the time for which the incident's messages have been refused so far: at first 15 s, then about twice as
    long each time, at most 15 min. When the channel works again, the run is due at once.

    Raises:
        Unavailable: the database does not answer.
    """
    record = run.record
    if record.incident_id is None:
        return
    limit = run.services.settings.notify_give_up_after_seconds
    async with run.services.database.transaction() as tx:
        failing = await standings.failing_channels(tx, record.incident_id)
        failing_for = await _failing_for(tx, run, failing)
        given_up = sorted(channel for channel, seconds in failing.items() if seconds >= limit)
        waits = {channel: seconds for channel, seconds in failing.items() if seconds < limit}
        # A run that is due at once tells the other channels that one was given up.
        at_once = bool(given_up) and await deliveries.give_up(tx, record.incident_id, given_up, run_id=record.run_id)
        delay = 0.0 if at_once else delay_seconds(failing_for)
        if not at_once and waits:
            delay = max(delay, await channels.free_in_seconds(tx, list(waits)))
        if at_once or failing_for < limit:
            await add_follow_up(
                tx,
                int(record.incident_id),
                RunReason.REDELIVERY,
                follows=record.run_id,
                due_in_seconds=delay,
                options={"follows": record.options.follows or record.run_id},
            )
    for channel in given_up:
        logger.error(
            "Incident %s could not be sent to %s for %.0f s, and is given up there: %s",
            record.incident_id,
            channel,
            failing[channel],
            redact_text(str(failure)),
        )


async def _failing_for(tx: AsyncConnection, run: ActiveRun, failing: Mapping[str, float]) -> float:
    """The seconds since the first refusal of the message, or since its first run if no channel has refused it."""
    if failing:
        return min(failing.values())
    first = run.record
    if first.options.follows is not None:
        with suppress(RunNotFound):
            first = await runs.get_run(tx, first.options.follows)
    return (await read_clock(tx) - first.created_at).total_seconds()


def delay_seconds(failing_for_seconds: float) -> float:
    """The delay of the next try, in seconds, for a message that has been refused for this long.

    The delay has a random part, so that messages which were refused together do not all return at the same moment.
    """
    delay = min(max(failing_for_seconds, FIRST_DELAY_SECONDS), LONGEST_DELAY_SECONDS)
    return delay * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
