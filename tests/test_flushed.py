"""What is on disk when its commit returns: what was accepted and what is sent, also where a worker awaits no disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from orchestration.engine.execution import DIRECT, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.store.database import FLUSHED, Database, open_database
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push

_TABLES = {"delivery": "insert or update", "stage_execution": "insert or update", "pipeline_run": "insert"}


@pytest.fixture
async def relaxed(database: Database) -> AsyncIterator[Database]:
    """The database as a worker uses it."""
    async with open_database(database.url, relaxed=True) as one:
        yield one


async def test_a_relaxed_transaction_waits_for_the_disk_only_where_it_says_so(relaxed: Database) -> None:
    async with relaxed.transaction() as tx:
        assert await setting(relaxed) == "off"
        await tx.execute(text(f"select {FLUSHED}"))
        assert (await tx.execute(text("show synchronous_commit"))).scalar_one() == "on"

    assert await setting(relaxed) == "off"


@pytest.fixture
async def noted(database: Database) -> AsyncIterator[None]:
    """The database notes at each commit whether it waits for the disk."""
    async with database.transaction() as tx:
        for statement in _note_commits():
            await tx.execute(text(statement))
    yield
    async with database.transaction() as tx:
        await tx.execute(text("drop function note_commit cascade"))
        await tx.execute(text("drop table committed"))


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize("trouble", [False, True])
async def test_what_is_accepted_and_what_is_sent_is_flushed_and_nothing_else(
    services: Services, channel: MemoryChannel, relaxed: Database, trouble: bool
) -> None:
    channel.failures = [DeliveryFailed("busy", retryable=True)] if trouble else []
    services = replace(services, database=relaxed)

    (run_id,) = await accept_push(
        services, {"name": "DiskFull", "severity": "critical"}, source="generic", environment="test"
    )
    async with lease_run(services, run_id, engine=DIRECT) as run:
        await Execution(run).execute_directly()

    async with relaxed.transaction() as tx:
        found = (await tx.execute(text("select distinct what, setting from committed order by 1, 2"))).all()
    assert [tuple(row) for row in found] == [
        ("delivery", "on"),
        ("pipeline_run", "off"),  # the timer of the incident that was opened
        ("pipeline_run", "on"),
        ("stage_execution", "off"),
    ]


async def setting(database: Database) -> str:
    async with database.statement() as tx:
        return (await tx.execute(text("show synchronous_commit"))).scalar_one()


def _note_commits() -> Iterator[str]:
    yield "create table committed (what text, setting text)"
    yield """
        create function note_commit() returns trigger language plpgsql as $$
        begin
            insert into committed values (tg_table_name, current_setting('synchronous_commit'));
            return null;
        end $$
    """
    for table, when in _TABLES.items():
        yield (
            f"create constraint trigger noted after {when} on {table} deferrable initially deferred "
            "for each row execute function note_commit()"
        )
