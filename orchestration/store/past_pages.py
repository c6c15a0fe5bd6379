"""The pages of the past, for a simulation: pushes that somebody was notified of, with the alerts that fired in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.policy.routing import Subject
from orchestration.policy.simulation import PastPage
from orchestration.requests import StoredPush
from orchestration.states import RunReason
from orchestration.store.models import PipelineRunRow

_T = PipelineRunRow
_BATCH = 500


async def read_past_pages(tx: AsyncConnection, since: datetime, *, limit: int) -> AsyncIterator[PastPage]:
    """The pages since a moment, the latest first, at most `limit` of them. A push whose alerts all ended is none."""
    before: int | None = None
    left = limit
    while True:
        query = (
            select(_T.id, _T.title, _T.environment, _T.created_at, _T.payload)
            .where(_T.reason == RunReason.PUSH, _T.created_at >= since, _T.ingest_result["tell"].as_boolean())
            .order_by(_T.id.desc())
            .limit(_BATCH)
        )
        rows = (await tx.execute(query if before is None else query.where(_T.id < before))).all()
        for row in rows:
            before = row.id
            try:
                push = StoredPush.model_validate(row.payload)
            except ValidationError:  # a push of another version
                continue
            subjects = [Subject.of(alert, environment=row.environment) for alert in push.alerts if alert.firing]
            if subjects:
                yield PastPage(title=row.title, at=row.created_at, subjects=subjects)
                left -= 1
            if not left:
                return
        if len(rows) < _BATCH:
            return
