"""PostgreSQL's notifications, on a connection of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import psycopg
from psycopg.sql import SQL, Identifier

from orchestration.errors import Unavailable
from orchestration.store.database import CONNECT_TIMEOUT_SECONDS, libpq_url, reason_of


async def notifications(url: str, channel: str) -> AsyncGenerator[str]:
    """What is sent on a channel of NOTIFY. The first item is empty: from there on nothing is missed.

    Raises:
        Unavailable: the database does not answer, or the connection broke.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            libpq_url(url),
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="alert-pipeline listen",
            # A peer that is gone without a word must not leave the worker deaf.
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        async with connection:
            await connection.execute(SQL("listen {}").format(Identifier(channel)))
            yield ""
            async with aclosing(connection.notifies()) as received:
                async for notice in received:
                    yield notice.payload
    except (psycopg.Error, OSError) as error:
        raise Unavailable(f"The database's notifications broke off: {reason_of(error)}") from error
