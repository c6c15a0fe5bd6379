"""Sending through the delivery ledger: written before, settled after, read first."""

from __future__ import annotations

from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message, NamedChannel
from orchestration.redaction import redact_text
from orchestration.store import deliveries
from orchestration.store.database import Database


async def deliver(
    database: Database, node_id: str, named: NamedChannel, message: Message
) -> tuple[Delivery, DeliveryFailed | None]:
    """Hand a message to a channel unless an earlier try has done so; what became of it, and the failure if it failed.

    A try that was cut off between sending and settling is made again under the same idempotency key: a
    person told twice is better than a person not told.
    """
    channel = named.channel
    async with database.transaction() as tx:
        sent = await deliveries.open_delivery(
            tx, message.run_id, node_id, named.name, driver=channel.driver, target=channel.target
        )
    if sent is not None:
        return _already_sent(named, sent.provider_id), None
    failure: DeliveryFailed | None = None
    try:
        delivery = (await channel.send(message)).model_copy(update={"channel": named.name})
    except DeliveryFailed as error:
        failure = error
        delivery = Delivery(
            driver=channel.driver,
            provider=channel.driver,
            channel=named.name,
            status=deliveries.FAILED,
            error=redact_text(str(error)),
        )
    async with database.transaction() as tx:
        await deliveries.settle_delivery(tx, message.idempotency_key, delivery)
    return delivery, failure


def _already_sent(named: NamedChannel, provider_id: str | None) -> Delivery:
    return Delivery(
        driver=named.channel.driver,
        provider=named.channel.driver,
        channel=named.name,
        status="already_sent",
        provider_id=provider_id,
    )
