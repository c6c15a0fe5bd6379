"""The pool of connections to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from orchestration.store import database as database_module
from orchestration.store.database import Database


@pytest.fixture
async def pool(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A pool whose connections are tested before each use, as if they had been idle."""
    monkeypatch.setattr(database_module, "IDLE_SECONDS", 0.0)
    pool = Database(database.url, pool_size=1)
    yield pool
    await pool.close()


async def test_a_connection_that_was_idle_still_knows_its_statements(pool: Database) -> None:
    for _ in range(10):
        async with pool.statement() as tx:
            await tx.execute(text("select 'known'"))
    async with pool.statement() as tx:
        known = (await tx.execute(text("select statement from pg_prepared_statements"))).scalars().all()

    assert "select 'known'" in known


async def test_a_connection_that_broke_while_it_was_idle_is_replaced(database: Database, pool: Database) -> None:
    async with pool.statement() as tx:
        before = (await tx.execute(text("select pg_backend_pid()"))).scalar_one()
    async with database.statement() as tx:
        await tx.execute(text("select pg_terminate_backend(:pid)"), {"pid": before})
    async with pool.statement() as tx:
        after = (await tx.execute(text("select pg_backend_pid()"))).scalar_one()

    assert after != before
