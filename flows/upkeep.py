"""The flow `upkeep` frees leases, reports stuck runs and deletes old rows. Its deployment runs on a schedule."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from prefect import flow
from pydantic import Field

from flows.services import flow_services
from orchestration.contracts import Contract
from orchestration.engine.lease import owner_is_alive
from orchestration.engine.run import Services
from orchestration.signals import logger
from orchestration.store import claims, retention, workers
from orchestration.store.database import Database

STUCK_SECONDS = 900.0
"""A run that is not over and to which nothing has happened for so long is reported."""


class Upkeep(Contract):
    """What one upkeep found and did."""

    leases_freed: int = 0
    waiting: int = 0
    stuck: int = 0
    workers: int = 0
    deleted: dict[str, int] = Field(default_factory=dict[str, int])


@flow(name="upkeep", persist_result=False)
async def upkeep() -> Upkeep:
    """Free leases of dead processes, report what is stuck, delete what is old."""
    async with flow_services() as services:
        found = await look_after(services)
    logger.info("Upkeep: %s", found.model_dump_json())
    return found


async def look_after(services: Services) -> Upkeep:
    """One upkeep.

    Raises:
        Unavailable: the database does not answer.
    """
    settings = services.settings
    async with services.database.transaction() as tx:
        dead = {owner for owner in await claims.list_lease_owners(tx) if not owner_is_alive(owner)}
        found = Upkeep(
            leases_freed=await claims.release_leases(tx, dead) if dead else 0,
            waiting=await claims.count_waiting(tx),
            stuck=await retention.count_unfinished(tx, STUCK_SECONDS),
            workers=len(await workers.list_workers(tx)),
        )
    if found.waiting >= settings.inbox_warning:
        logger.warning("%d runs wait for a worker, and %d workers are alive", found.waiting, found.workers)
    if found.stuck:
        logger.warning("%d runs are not over, and nothing has happened to them for 15 minutes", found.stuck)
    deleted = dict.fromkeys(retention.TABLES, 0)
    async for table, count in delete_old(services.database, settings.retention_days):
        deleted[table] += count
    return found.model_copy(update={"deleted": deleted})


async def delete_old(database: Database, days: float) -> AsyncGenerator[tuple[str, int]]:
    """Delete what is older than so many days. Yields each table and how many rows, after each short transaction."""
    for table in retention.TABLES:
        count, since = retention.BATCH, retention.BEGINNING
        while count == retention.BATCH:
            async with database.statement() as tx:
                count, since = await retention.delete_batch(tx, table, days, since)
            yield table, count
    count = retention.BATCH
    while count == retention.BATCH:
        async with database.transaction() as tx:
            count = await retention.forget_values(tx)
