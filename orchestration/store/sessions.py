"""Sessions of the admin that are over. Those that go on stand in their cookies alone."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.store.clock import in_seconds
from orchestration.store.models import EndedSessionRow

_T = EndedSessionRow


async def end_session(tx: AsyncConnection, session: str, *, lifetime_seconds: float) -> None:
    """Take a session's cookie out of use. Sessions that are over by their age are forgotten."""
    await tx.execute(delete(_T).where(_T.ended_at < in_seconds(-lifetime_seconds)))
    await tx.execute(insert(_T).values(session=session).on_conflict_do_nothing())


async def is_ended(tx: AsyncConnection, session: str) -> bool:
    """Whether somebody signed out of this session."""
    return (await tx.execute(select(_T.session).where(_T.session == session))).first() is not None
