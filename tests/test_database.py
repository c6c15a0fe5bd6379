"""The pool of connections to the database."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from orchestration.store import database as database_module
from orchestration.store.database import Database


async def test_a_connection_that_was_idle_still_knows_its_statements(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "IDLE_SECONDS", 0.0)
    one = Database(database.url, pool_size=1)
    try:
        for _ in range(10):
            async with one.statement() as tx:
                await tx.execute(text("select 'known'"))
        async with one.statement() as tx:
            known = (await tx.execute(text("select statement from pg_prepared_statements"))).scalars().all()
    finally:
        await one.close()

    assert "select 'known'" in known


async def test_a_connection_that_broke_while_it_was_idle_is_replaced(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "IDLE_SECONDS", 0.0)
    one = Database(database.url, pool_size=1)
    try:
        async with one.statement() as tx:
            before = (await tx.execute(text("select pg_backend_pid()"))).scalar_one()
        async with database.statement() as tx:
            await tx.execute(text("select pg_terminate_backend(:pid)"), {"pid": before})
        async with one.statement() as tx:
            after = (await tx.execute(text("select pg_backend_pid()"))).scalar_one()
    finally:
        await one.close()

    assert after != before
