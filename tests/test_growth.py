"""With many runs stored, waiting and planned, a run and a worker's looks read as few rows as with none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sqlalchemy import text

from bench.backlog import add_waiting
from bench.seed import seed
from flows.upkeep import delete_old
from orchestration.engine.run import Services
from orchestration.store.channels import wake_probes
from orchestration.store.claims import claim_runs, seconds_until_due
from orchestration.store.database import Database
from orchestration.store.timers import list_without
from tests.conftest import MemoryChannel
from tests.notify_helpers import FailingChannel, end, execute_redelivery, push, tell, with_channels
from tests.worker_helpers import eventually

STORED = 10_000
READ_AT_MOST = 2_000
"""Rows of one table, read by all that the test does."""

_READ = text(
    """
    select relname, seq_tup_read + coalesce(idx_tup_fetch, 0) + (
        select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes as index where index.relid = whole.relid
    ) as read
    from pg_stat_user_tables as whole
    """
)


async def rows_read(database: Database) -> dict[str, int]:
    """How many rows of each table and its indexes were read so far, by connections that are closed."""
    async with database.statement() as tx:
        await tx.execute(text("select pg_stat_force_next_flush()"))
        return {row[0]: int(row[1]) for row in await tx.execute(_READ)}


async def only_the_product_is_connected(database: Database) -> bool:
    """A connection counts what it has read at its end at the latest, just before it is gone."""
    query = """
        select not exists (
            select from pg_stat_activity
            where datname = current_database() and backend_type = 'client backend' and application_name != :ours
        )
    """
    async with database.statement() as tx:
        return (await tx.execute(text(query), {"ours": "alert-pipeline"})).scalar_one()


async def work(services: Services) -> None:
    """What happens every day."""
    await tell(services)
    await tell(services, description="again")
    await end(services)
    broken = with_channels(services, broken=FailingChannel(), memory=MemoryChannel())
    await tell(broken, name="Unheard")
    await execute_redelivery(broken)
    await push(services, name="Waiting")
    async with services.database.statement() as tx:
        claimed = await claim_runs(tx, process="host/1/1", limit=8, lease_seconds=30, deadline_seconds=30)
        await seconds_until_due(tx)
        await wake_probes(tx)
        await list_without(tx)
    async for _, count in delete_old(services.database, 90.0):
        assert count == 0
    assert len(claimed) == 8


async def test_what_is_stored_and_what_waits_is_not_read_by_what_happens(services: Services) -> None:
    database = services.database
    seed(database.url, STORED)
    add_waiting(database.url, STORED)
    await eventually(partial(only_the_product_is_connected, database), "what was read for the seeds to be counted")
    mine = Database(database.url, pool_size=2)
    before = await rows_read(database)
    try:
        await work(replace(services, database=mine))
    finally:
        await mine.close()

    after = await rows_read(database)
    read = {table: count - before.get(table, 0) for table, count in after.items()}
    assert {table: count for table, count in read.items() if count > READ_AT_MOST} == {}
