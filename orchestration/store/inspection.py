"""The database as whoever looks after it sees it: the server, the schema, and how far the work is."""

from __future__ import annotations

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.states import RunStatus
from orchestration.store.clock import in_seconds
from orchestration.store.models import PipelineRunRow
from orchestration.store.retention import count_unfinished

_R = PipelineRunRow
_DAY_SECONDS = 86_400.0


class Server(Contract):
    """The PostgreSQL server."""

    version: str
    major: int
    read_only: bool
    """It is a standby, or set to take no changes."""
    connections: int
    max_connections: int
    clock: UtcDatetime


class Trouble(Contract):
    """Runs that somebody should look at."""

    stuck: int
    """Not over, and nothing has happened to them for long."""
    failed_last_day: int


async def read_server(tx: AsyncConnection) -> Server:
    """What the server says of itself."""
    query = text(
        """
        select current_setting('server_version') as version,
            cast(current_setting('server_version_num') as integer) / 10000 as major,
            pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as read_only,
            (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
            cast(current_setting('max_connections') as integer) as max_connections,
            clock_timestamp() as clock
        """
    )
    return Server.model_validate(dict((await tx.execute(query)).mappings().one()))


async def read_revision(tx: AsyncConnection) -> str | None:
    """The revision of the schema that is there; None: none yet."""
    if (await tx.execute(text("select to_regclass('alembic_version')"))).scalar_one() is None:
        return None
    return (await tx.execute(text("select version_num from alembic_version"))).scalar_one_or_none()


async def read_trouble(tx: AsyncConnection, *, stuck_after_seconds: float) -> Trouble:
    """What does not move, and what has failed within a day."""
    lately = select(func.count()).where(_R.status == RunStatus.FAILED.value, _R.created_at > in_seconds(-_DAY_SECONDS))
    return Trouble(
        stuck=await count_unfinished(tx, stuck_after_seconds),
        failed_last_day=(await tx.execute(lately)).scalar_one(),
    )
