"""The flow `canary` sends a synthetic alert all the way, and measures it. Its deployment has a schedule, which is off
until CANARY_CHANNEL is set."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.round_trip import CanaryOrder, CanaryResult, send_canary
from flows.services import flow_services
from orchestration.engine.waits import Waits
from orchestration.signals import logger

_WAY = "way"


@flow(name="canary", persist_result=False)
async def canary(channel: str | None = None, within_seconds: float | None = None) -> State[Any]:
    """Send an alert through door, queue, Prefect and a channel, and end it; ping CANARY_PING_URL if it arrived in time.

    Args:
        channel: The name of a channel block or of a driver. None means CANARY_CHANNEL.
        within_seconds: How long it may take. None means CANARY_WITHIN_SECONDS.
    """
    waits = Waits()
    async with flow_services() as services:
        order = CanaryOrder.of(services.settings, channel=channel, within_seconds=within_seconds)
        # This flow only waits for the worker that executes it: it must not have the slot that its own alert needs.
        with waits.at(_WAY):
            async with waits.outside(_WAY):
                result = await send_canary(services.database, services.settings, services.signals, order)
    logger.info("%s", result.in_words)
    return _state_of(result)


def _state_of(result: CanaryResult) -> State[Any]:
    if not result.arrived or result.ping_problem:
        return Failed(message=result.in_words)
    return Completed(name="Arrived", message=result.in_words)
