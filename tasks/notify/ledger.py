"""Sending through the delivery ledger: a row is opened before a message is sent, and the result is recorded in it."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed, Unavailable, is_retryable
from orchestration.message import Message, NamedChannel
from orchestration.redaction import redact, redact_text
from orchestration.signals import logger
from orchestration.store import deliveries
from orchestration.store.database import Database

_PROVIDER_ID_CHARACTERS = 512
_SETTLE_RETRY_SECONDS = 0.2

Outside = Callable[[], AbstractAsyncContextManager[None]]
"""Within it the run waits for somebody outside."""

SETTLE_SECONDS = 20.0
"""How long to retry recording the result of a message that was sent. Shorter than the default lease."""


async def deliver(
    database: Database, node_id: str, named: NamedChannel, message: Message, outside: Outside = nullcontext
) -> tuple[Delivery, DeliveryFailed | None]:
    """Send a message on a channel, unless an earlier attempt sent it. Returns the delivery, and its error or None.

    An attempt that was interrupted between sending and recording is repeated with the same idempotency key: it is
    better to notify a person twice than not at all.

    Raises:
        Unavailable: the ledger cannot be read or written.
    """
    channel = named.channel
    async with database.statement() as tx:
        sent = await deliveries.open_delivery(
            tx, message.run_id, node_id, named.name, driver=channel.driver, target=channel.target
        )
    if sent is not None:
        return _delivery(named, "already_sent", provider_id=sent.provider_id), None
    failure: DeliveryFailed | None = None
    try:
        async with outside():
            delivery = _storable(await channel.send(message), named)
    except Exception as error:  # noqa: BLE001 - a bug in one channel must not stop the other channels
        failure = _failure(named, error)
        delivery = _delivery(named, deliveries.FAILED, error=redact_text(str(failure)))
    await _record_result(database, message.idempotency_key, delivery)
    return delivery, failure


async def _record_result(database: Database, key: str, delivery: Delivery) -> None:
    """Record the result of a delivery. If the database is down, retry for up to `SETTLE_SECONDS`.

    Raises:
        Unavailable: the database is still down. The next attempt sends the message again, under the same key.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            async with database.statement() as tx:
                await deliveries.settle_delivery(tx, key, delivery)
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_SETTLE_RETRY_SECONDS)


def _storable(delivery: Delivery, named: NamedChannel) -> Delivery:
    """The delivery under the channel's own name, with the vendor's answer redacted and shortened, so that the row
    can always be written: a message that was sent and not recorded would be sent again."""
    provider_id = delivery.provider_id and redact_text(delivery.provider_id, limit=_PROVIDER_ID_CHARACTERS)
    response = {name: redact(value) for name, value in delivery.response.items()}
    return delivery.model_copy(update={"channel": named.name, "provider_id": provider_id, "response": response})


def _failure(named: NamedChannel, error: Exception) -> DeliveryFailed:
    if isinstance(error, DeliveryFailed):
        return error
    stack = "".join(traceback.format_exception(error))
    logger.error("Channel %s raised an unexpected error: %s", named.name, redact_text(stack))
    return DeliveryFailed(f"{type(error).__name__}: {redact_text(str(error))}", retryable=is_retryable(error))


def _delivery(
    named: NamedChannel, status: str, *, provider_id: str | None = None, error: str | None = None
) -> Delivery:
    driver = named.channel.driver
    return Delivery(
        driver=driver, provider=driver, channel=named.name, status=status, provider_id=provider_id, error=error
    )
