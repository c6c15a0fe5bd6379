"""The delivery ledger: at most one message for each (run, node, channel), however many attempts a node has."""

from __future__ import annotations

import orjson
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import Delivery
from orchestration.store.models import DeliveryRow, PipelineRunRow, columns_of
from orchestration.store.records import DeliveryRecord

_T = DeliveryRow
_COLUMNS = columns_of(_T, DeliveryRecord)

SENDING, SENT, FAILED = "sending", "sent", "failed"


def delivery_key(run_id: str, node_id: str, channel: str) -> str:
    """The name of one message, the same for every attempt to send it."""
    return f"{run_id}/{node_id}/{channel}"


# The caller has the run's lease, so no other process sends the same message now.
_OPEN = text(
    f"""
    insert into delivery (pipeline_run_id, node_id, channel, driver, target, idempotency_key)
    select id, :node_id, :channel, :driver, :target, :idempotency_key
    from pipeline_run
    where run_id = :run_id
    on conflict (idempotency_key) do update
    set status = '{SENDING}', driver = excluded.driver, target = excluded.target, tries = delivery.tries + 1,
        error = null, settled_at = null
    where delivery.status <> '{SENT}'
    returning id
    """
)

_SETTLE = text(
    """
    update delivery
    set status = :status, provider_id = :provider_id, response = cast(:response as jsonb), error = :error,
        settled_at = clock_timestamp()
    where idempotency_key = :key
    """
)


async def open_delivery(
    tx: AsyncConnection, run_id: str, node_id: str, channel: str, *, driver: str, target: str
) -> DeliveryRecord | None:
    """Write the ledger's row before sending. Returns the row if the message is sent already, else None.

    A row with the status `sending` comes from a process that died: the message is sent again under the same key.
    """
    key = delivery_key(run_id, node_id, channel)
    row = {"node_id": node_id, "channel": channel, "driver": driver, "target": target, "idempotency_key": key}
    opened = await tx.execute(_OPEN, {"run_id": run_id, **row})
    if opened.first() is not None:
        return None
    query = select(*_COLUMNS).where(_T.idempotency_key == key)
    return DeliveryRecord.model_validate(dict((await tx.execute(query)).mappings().one()))


async def settle_delivery(tx: AsyncConnection, key: str, delivery: Delivery) -> None:
    """Write the result of a delivery."""
    values = {"status": delivery.status, "provider_id": delivery.provider_id, "error": delivery.error}
    await tx.execute(_SETTLE, {"key": key, "response": orjson.dumps(delivery.response).decode(), **values})


async def list_deliveries(tx: AsyncConnection, run_id: str) -> list[DeliveryRecord]:
    """The deliveries of a run, in the order in which they were opened."""
    query = (
        select(*_COLUMNS)
        .join(PipelineRunRow, PipelineRunRow.id == _T.pipeline_run_id)
        .where(PipelineRunRow.run_id == run_id)
        .order_by(_T.id)
    )
    return [DeliveryRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]
