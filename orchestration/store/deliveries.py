"""The delivery ledger: at most one message for each (run, node, channel), however often a stage is tried."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import Delivery
from orchestration.store.models import DeliveryRow, PipelineRunRow
from orchestration.store.records import DeliveryRecord

_T = DeliveryRow
_COLUMNS = [column for name, column in _T.__table__.columns.items() if name in DeliveryRecord.model_fields]

SENDING, SENT, FAILED = "sending", "sent", "failed"


def delivery_key(run_id: str, node_id: str, channel: str) -> str:
    """The name of one message, the same for every try at it."""
    return f"{run_id}/{node_id}/{channel}"


async def open_delivery(
    tx: AsyncConnection, run_id: str, node_id: str, channel: str, *, driver: str, target: str
) -> DeliveryRecord | None:
    """Write the ledger's row before sending. A record: this message is out already, do not send it again.

    A row that says `sending` belongs to a try whose end nobody saw: it is tried again under the same key.
    """
    key = delivery_key(run_id, node_id, channel)
    query = select(*_COLUMNS).where(_T.idempotency_key == key).with_for_update()
    row = (await tx.execute(query)).mappings().one_or_none()
    if row is not None and row["status"] == SENT:
        return _record(row)
    if row is not None:
        await tx.execute(
            update(_T)
            .where(_T.idempotency_key == key)
            .values(status=SENDING, driver=driver, target=target, tries=_T.tries + 1, error=None, settled_at=None)
        )
        return None
    run_pk = select(PipelineRunRow.id).where(PipelineRunRow.run_id == run_id).scalar_subquery()
    await tx.execute(
        insert(_T).values(
            pipeline_run_id=run_pk, node_id=node_id, channel=channel, driver=driver, target=target, idempotency_key=key
        )
    )
    return None


async def settle_delivery(tx: AsyncConnection, key: str, delivery: Delivery) -> None:
    """Write what became of a message."""
    await tx.execute(
        update(_T)
        .where(_T.idempotency_key == key)
        .values(
            status=delivery.status,
            provider_id=delivery.provider_id,
            response=delivery.response,
            error=delivery.error,
            settled_at=func.clock_timestamp(),
        )
    )


async def list_deliveries(tx: AsyncConnection, run_id: str) -> list[DeliveryRecord]:
    """The ledger of one run."""
    query = (
        select(*_COLUMNS)
        .join(PipelineRunRow, PipelineRunRow.id == _T.pipeline_run_id)
        .where(PipelineRunRow.run_id == run_id)
        .order_by(_T.id)
    )
    return [_record(row) for row in (await tx.execute(query)).mappings()]


def _record(row: RowMapping) -> DeliveryRecord:
    values: dict[str, Any] = dict(row)
    return DeliveryRecord.model_validate(values)
