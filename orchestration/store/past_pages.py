"""The pages of the past, for a simulation: pushes that somebody was notified of, or that a mute window kept back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.policy.replay import PastPage
from orchestration.policy.routing import Subject
from orchestration.reasons import Reason
from orchestration.requests import StoredPush
from orchestration.states import RunReason
from orchestration.store.models import HistoryRow, PipelineRunRow

_H, _T = HistoryRow, PipelineRunRow
_BATCH = 500

_RESULT = _T.ingest_result
_WAS_MUTED = and_(
    _RESULT["reason"].as_string() == Reason.MUTED,
    _RESULT["incidents_created"].as_integer() + _RESULT["incidents_updated"].as_integer() > 0,
)
_IS_PAGE = or_(_RESULT["tell"].as_boolean(), _WAS_MUTED)

_ENDINGS = ("incident_acknowledged", "incident_resolved", "incident_expired")
_OVER_AT = (
    select(func.min(_H.at))
    .where(_H.incident_id == _T.incident_id, _H.at >= _T.created_at, _H.event.in_(_ENDINGS))
    .scalar_subquery()
    .label("over_at")
)
"""When somebody acknowledged the page's incident, or it ended, whichever came first."""


async def read_past_pages(tx: AsyncConnection, since: datetime, *, limit: int) -> AsyncIterator[PastPage]:
    """The pages since a moment, the latest first, at most `limit` of them. A push whose alerts all ended is none.

    What a mute window kept back counts where it had changed something: its repeats are no further pages.
    """
    before: int | None = None
    left = limit
    while True:
        query = (
            select(_T.id, _T.title, _T.environment, _T.created_at, _T.payload, _OVER_AT)
            .where(_T.reason == RunReason.PUSH, _T.created_at >= since, _IS_PAGE)
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
                yield PastPage(title=row.title, at=row.created_at, subjects=subjects, over_at=row.over_at)
                left -= 1
            if not left:
                return
        if len(rows) < _BATCH:
            return
