"""Sending through the delivery ledger: written before, settled after, read first."""

from __future__ import annotations

import asyncio
import time
import traceback

from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed, Unavailable, is_retryable
from orchestration.message import Message, NamedChannel
from orchestration.redaction import redact, redact_text
from orchestration.signals import logger
from orchestration.store import deliveries
from orchestration.store.database import Database

_PROVIDER_ID_CHARACTERS = 512

SETTLE_SECONDS = 20.0
"""How long the ledger's row of a message that is out is tried to be written. Within a lease's usual length."""


async def deliver(
    database: Database, node_id: str, named: NamedChannel, message: Message
) -> tuple[Delivery, DeliveryFailed | None]:
    """Hand a message to a channel unless an earlier try has done so; what became of it, and the failure if it failed.

    A try that was cut off between sending and settling is made again under the same idempotency key: a
    person told twice is better than a person not told.
    """
    channel = named.channel
    async with database.statement() as tx:
        sent = await deliveries.open_delivery(
            tx, message.run_id, node_id, named.name, driver=channel.driver, target=channel.target
        )
    if sent is not None:
        return _already_sent(named, sent.provider_id), None
    failure: DeliveryFailed | None = None
    try:
        delivery = _storable(await channel.send(message), named)
    except Exception as error:  # noqa: BLE001 - a channel with a bug is a channel that failed, beside others that work
        failure = _failure(named, error)
        delivery = Delivery(
            driver=channel.driver,
            provider=channel.driver,
            channel=named.name,
            status=deliveries.FAILED,
            error=redact_text(str(failure)),
        )
    await _settle(database, message.idempotency_key, delivery)
    return delivery, failure


async def _settle(database: Database, key: str, delivery: Delivery) -> None:
    """Write what became of a message. A database that is away for a moment is waited for: a message that is out
    and not settled would be sent again."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            async with database.statement() as tx:
                await deliveries.settle_delivery(tx, key, delivery)
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


def _storable(delivery: Delivery, named: NamedChannel) -> Delivery:
    """The delivery under the channel's own name. What the vendor answered must not keep the row from being written:
    a message that is out and not settled would be sent again."""
    provider_id = delivery.provider_id and redact_text(delivery.provider_id, limit=_PROVIDER_ID_CHARACTERS)
    response = {name: redact(value) for name, value in delivery.response.items()}
    return delivery.model_copy(update={"channel": named.name, "provider_id": provider_id, "response": response})


def _failure(named: NamedChannel, error: Exception) -> DeliveryFailed:
    if isinstance(error, DeliveryFailed):
        return error
    stack = "".join(traceback.format_exception(error))
    logger.error("The channel %s broke: %s", named.name, redact_text(stack))
    return DeliveryFailed(f"{type(error).__name__}: {redact_text(str(error))}", retryable=is_retryable(error))


def _already_sent(named: NamedChannel, provider_id: str | None) -> Delivery:
    return Delivery(
        driver=named.channel.driver,
        provider=named.channel.driver,
        channel=named.name,
        status="already_sent",
        provider_id=provider_id,
    )
