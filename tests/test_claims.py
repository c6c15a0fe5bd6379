"""Claims: urgent runs first, each run to one worker, and no run that another process executes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from orchestration.alert import STORM_KEY, Severity
from orchestration.states import RunStatus
from orchestration.store import runs
from orchestration.store.claims import Claim, claim_runs, count_waiting, list_lease_owners, release_leases
from orchestration.store.database import Database, open_database
from orchestration.store.pushes import NewRun
from orchestration.store.runs import RunFilter
from tests.store_helpers import add_runs, new_run


def run_of(severity: Severity = Severity.WARNING) -> NewRun:
    return new_run(payload={"alerts": []}, severity=severity)


async def add(database: Database, *new: NewRun) -> list[str]:
    async with database.transaction() as tx:
        await add_runs(tx, *new)
    return [one.run_id for one in new]


async def claim(
    database: Database, limit: int, process: str = "host/1/1", *, overdue_only: bool = False, of_all: int | None = None
) -> list[Claim]:
    async with database.transaction() as tx:
        return await claim_runs(
            tx,
            process=process,
            limit=limit,
            lease_seconds=30,
            deadline_seconds=30,
            overdue_only=overdue_only,
            limit_of_all=of_all,
        )


async def age(database: Database, run_id: str, seconds: int) -> None:
    async with database.transaction() as tx:
        await tx.execute(
            text("update pipeline_run set updated_at = now() - make_interval(secs => :s) where run_id = :r"),
            {"s": seconds, "r": run_id},
        )


async def test_critical_runs_come_first_then_the_oldest(database: Database) -> None:
    info, first, critical, second = await add(
        database, run_of(Severity.INFO), run_of(), run_of(Severity.CRITICAL), run_of()
    )

    claimed = await claim(database, 3) + await claim(database, 3)

    assert [one.run_id for one in claimed] == [critical, first, second, info]


async def test_the_runs_of_a_storm_are_claimed_one_after_the_other(database: Database) -> None:
    def of_storm(severity: Severity = Severity.WARNING) -> NewRun:
        return replace(run_of(severity), incident_key=f"{STORM_KEY}generic:default", awaits_ingest=True, firing=True)

    async def change(run_id: str, column: str, value: object) -> None:
        async with database.transaction() as tx:
            query = f"update pipeline_run set {column} = :value, lease_owner = null where run_id = :run_id"
            await tx.execute(text(query), {"value": value, "run_id": run_id})

    async def next_ones() -> list[str]:
        return [one.run_id for one in await claim(database, 5)]

    first, second, third, other = await add(database, of_storm(), of_storm(), of_storm(), run_of())
    assert await next_ones() == [first, other]
    assert await next_ones() == []
    await change(first, "awaits_ingest", False)  # its alerts are recorded
    assert await next_ones() == [first, second]
    await change(second, "status", RunStatus.FAILED.value)  # whatever it awaits, it is over
    assert await next_ones() == [third]
    (worse,) = await add(database, of_storm(Severity.CRITICAL))
    assert await next_ones() == [worse]


async def test_the_claim_is_the_lease(database: Database) -> None:
    (run_id,) = await add(database, run_of())

    (claimed,) = await claim(database, 5)

    async with database.transaction() as tx:
        record = await runs.get_run(tx, run_id)
        assert await count_waiting(tx) == 0
    assert record.lease_owner == claimed.owner
    assert claimed.owner.startswith("host/1/1/")
    assert await claim(database, 5) == []


async def test_a_run_that_is_over_or_failed_is_not_claimed(database: Database) -> None:
    done, failed, retrying = await add(database, run_of(), run_of(), run_of())
    async with database.transaction() as tx:
        await runs.finish(tx, done, RunStatus.NOTIFIED)
        await runs.finish(tx, failed, RunStatus.FAILED)
        await runs.change(tx, retrying, status=RunStatus.RETRYING)

    assert [one.run_id for one in await claim(database, 5)] == [retrying]


async def test_a_lease_that_ran_out_is_claimed_under_another_name(database: Database) -> None:
    await add(database, run_of())
    (before,) = await claim(database, 1)
    async with database.transaction() as tx:
        await tx.execute(text("update pipeline_run set lease_expires_at = now() - interval '1 second'"))

    (after,) = await claim(database, 1)

    assert after.run_id == before.run_id
    assert after.owner != before.owner


async def test_only_critical_runs_become_overdue(database: Database) -> None:
    critical, warning, fresh = await add(database, run_of(Severity.CRITICAL), run_of(), run_of(Severity.CRITICAL))
    await age(database, critical, 31)
    await age(database, warning, 31)

    overdue = await claim(database, 5, overdue_only=True)
    others = await claim(database, 5)

    assert [(one.run_id, one.overdue) for one in overdue] == [(critical, True)]
    assert [(one.run_id, one.overdue) for one in others] == [(fresh, False), (warning, False)]


async def test_a_limit_counts_what_all_workers_execute(database: Database) -> None:
    await add(database, *(run_of() for _ in range(5)))

    first = await claim(database, 2, of_all=3)
    second = await claim(database, 5, "host/2/2", of_all=3)

    assert (len(first), len(second)) == (2, 1)


@pytest.mark.parametrize("unknown", ["options = '{\"of_a_later_version\": 1}'", "reason = 'of_a_later_version'"])
@pytest.mark.parametrize("of_all", [None, 3])
async def test_a_run_that_cannot_be_read_holds_up_no_other(
    database: Database, unknown: str, of_all: int | None
) -> None:
    strange, *others = await add(database, *(run_of(Severity.CRITICAL) for _ in range(4)))
    async with database.transaction() as tx:
        await tx.execute(text(f"update pipeline_run set {unknown} where run_id = :r"), {"r": strange})

    claimed = await claim(database, 3, of_all=of_all) + await claim(database, 3, of_all=of_all)

    # It is left for a worker that can read it, and neither leased nor counted meanwhile.
    assert [one.run_id for one in claimed] == others
    async with database.transaction() as tx:
        assert len(await list_lease_owners(tx)) == 3
        assert strange not in {run.run_id for run in (await runs.list_page(tx, RunFilter(), limit=10)).runs}
        waits = "select status = 'pending' and due_at > clock_timestamp() from pipeline_run where run_id = :r"
        assert (await tx.execute(text(waits), {"r": strange})).scalar_one()


async def test_leases_of_dead_owners_are_released(database: Database) -> None:
    await add(database, run_of())
    (claimed,) = await claim(database, 1)

    async with database.transaction() as tx:
        assert await list_lease_owners(tx) == [claimed.owner]
        assert await release_leases(tx, {claimed.owner}) == 1

    assert len(await claim(database, 1)) == 1


async def test_two_workers_race_for_500_runs_and_each_run_has_one(database: Database) -> None:
    added = await add(database, *(run_of() for _ in range(500)))

    async def race(process: str) -> list[Claim]:
        claimed: list[Claim] = []
        # Workers are processes: each has connections of its own.
        async with open_database(database.url) as own:
            while batch := await claim(own, 7, process):
                claimed += batch
        return claimed

    first, second = await asyncio.gather(race("a/1/1"), race("b/2/2"))

    claimed = [one.run_id for one in (*first, *second)]
    assert sorted(claimed) == sorted(added)
    assert min(len(first), len(second)) > 50, "both got their part"
