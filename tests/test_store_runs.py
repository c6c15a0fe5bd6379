"""Runs, attempts and what refers to them, in the store."""

from __future__ import annotations

import asyncio

import pytest

from orchestration.contracts import Stage
from orchestration.errors import BadInput, IllegalTransition, RunBusy, RunNotFound
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, runs
from orchestration.store.attempts import close_attempt, open_attempt
from orchestration.store.database import Database
from orchestration.store.endings import Ending, output_ref
from orchestration.store.records import Node, RunRecord
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.story import read_story
from tests.store_helpers import add_runs, lease, new_run, waits_for_a_lock
from tests.worker_helpers import eventually

OWNER = "old/1/2/3"
CHECK = Node.of(Stage.CHECK)


async def stored(database: Database, **more: object) -> str:
    """A new run; its id."""
    run = new_run(payload={"a": 1}, **more)
    async with database.transaction() as tx:
        await add_runs(tx, run)
    return run.run_id


async def test_an_illegal_move_changes_nothing(database: Database) -> None:
    run_id = await stored(database)
    async with database.transaction() as tx:
        await runs.finish(tx, run_id, RunStatus.NOTIFIED)

    with pytest.raises(IllegalTransition, match="from notified to checked"):
        async with database.transaction() as tx:
            await runs.change(tx, run_id, status=RunStatus.CHECKED, values={"title": "other"})

    async with database.transaction() as tx:
        run = await runs.get_run(tx, run_id)
    assert (run.status, run.title) == (RunStatus.NOTIFIED, "")


async def test_whoever_lost_the_lease_writes_no_more(database: Database) -> None:
    run_id = await stored(database)
    async with database.transaction() as tx:
        await lease(tx, run_id, "new/1/2/3")

    with pytest.raises(RunBusy, match="taken over by new/1/2/3"):
        async with database.transaction() as tx:
            await runs.change(tx, run_id, owner="old/1/2/3", values={"title": "other"})


async def test_an_attempt_that_is_opened_while_another_one_is_has_the_next_number(database: Database) -> None:
    run_id = await stored(database)
    async with database.transaction() as tx:
        await lease(tx, run_id, OWNER)
        run = await runs.get_run(tx, run_id)
    async with database.transaction() as tx:
        query = "update pipeline_run set updated_at = clock_timestamp() where run_id = %s returning id"
        (number,) = (await tx.exec_driver_sql(query, (run_id,))).one()
        opening = asyncio.create_task(
            open_attempt(database, run, CHECK, owner=OWNER, status=run.status, input_ref=None)
        )
        await eventually(lambda: waits_for_a_lock(database), "the second one waits for the row")
        query = """
            insert into stage_execution (pipeline_run_id, node_id, stage, attempt, status, idempotency_key)
            values (%s, 'check', 'check', 1, 'running', %s)
        """
        await tx.exec_driver_sql(query, (number, f"{run_id}/check/1"))
    _, attempt = await opening
    assert attempt == 2


async def test_an_unknown_run_is_named(database: Database) -> None:
    with pytest.raises(RunNotFound, match="'nobody'"):
        async with database.transaction() as tx:
            await runs.get_run(tx, "nobody")


async def test_runs_are_listed_newest_first_and_found_by_what_they_are(database: Database) -> None:
    first = await stored(database, source="grafana", environment="staging", trace_id="a")
    second = await stored(database, trace_id="b")

    async with database.transaction() as tx:
        assert [run.run_id for run in (await list_page(tx, RunFilter(), limit=10)).runs] == [second, first]
        assert [run.run_id for run in (await list_page(tx, RunFilter(), limit=1)).runs] == [second]
        for wanted in (RunFilter(source="grafana"), RunFilter(environment="staging"), RunFilter(trace_id="a")):
            assert [run.run_id for run in (await list_page(tx, wanted, limit=10)).runs] == [first]
        assert (await list_page(tx, RunFilter(status=RunStatus.FAILED), limit=10)).runs == []
        assert [run.run_id for run in await runs.find_runs(tx, first[:12])] == [first]
        assert await runs.find_runs(tx, "%") == []


async def test_a_skipped_stage_has_one_row_that_says_why(database: Database) -> None:
    run_id = await stored(database)
    for _ in range(2):
        async with database.transaction() as tx:
            await attempts.skip(tx, run_id, Node.of(Stage.CHECK), "checkers_skip_all")

    async with database.transaction() as tx:
        (row,) = await attempts.list_attempts(tx, run_id)
    assert (row.status, row.output_snapshot) == (StageStatus.SKIPPED, {"skipped": "checkers_skip_all"})


async def leased(database: Database) -> RunRecord:
    """A new run, leased by OWNER."""
    run_id = await stored(database)
    async with database.transaction() as tx:
        await lease(tx, run_id, OWNER)
        return await runs.get_run(tx, run_id)


async def opened(database: Database, run: RunRecord, *, input_ref: str | None = None) -> tuple[RunRecord, int]:
    return await open_attempt(database, run, CHECK, owner=OWNER, status=RunStatus.INGESTED, input_ref=input_ref)


async def closed(database: Database, run: RunRecord, number: int, *, owner: str = OWNER) -> RunRecord:
    ending = Ending(
        node=CHECK,
        attempt=number,
        status=StageStatus.SUCCEEDED,
        run_status=RunStatus.CHECKED,
        run_values={"title": "Checked"},
        duration_ms=1,
        snapshot={"x": 1},
    )
    return await close_attempt(database, run, ending, owner=owner)


async def test_an_attempt_that_is_closed_stays_as_it_is(database: Database) -> None:
    run, number = await opened(database, await leased(database))
    run = await closed(database, run, number)
    again = Ending(
        node=CHECK,
        attempt=number,
        status=StageStatus.FAILED,
        run_status=None,
        duration_ms=2,
        error=attempts.LOST,
    )
    await close_attempt(database, run, again, owner=OWNER)
    async with database.transaction() as tx:
        (row,) = await attempts.list_attempts(tx, run.run_id)

    assert (row.status, row.output_snapshot, row.error_type) == (StageStatus.SUCCEEDED, {"x": 1}, None)


async def test_two_processes_that_leave_the_same_node_out_at_the_same_moment_leave_one_row(database: Database) -> None:
    run = await leased(database)

    async def leave_out() -> None:
        async with database.transaction() as tx:
            await attempts.skip(tx, run.run_id, CHECK, "resolved")

    async with database.transaction() as tx:
        await attempts.skip(tx, run.run_id, CHECK, "resolved")
        other = asyncio.create_task(leave_out())  # the process that took the lease over
        await eventually(lambda: waits_for_a_lock(database), "the other process to wait for this row")
    await other
    async with database.transaction() as tx:
        (row,) = await attempts.list_attempts(tx, run.run_id)

    assert (row.status, row.output_snapshot) == (StageStatus.SKIPPED, {"skipped": "resolved"})


async def test_an_attempt_moves_its_run_on(database: Database) -> None:
    run, number = await opened(database, await leased(database))
    assert (number, run.status, run.current_stage, run.total_attempts) == (1, RunStatus.INGESTED, "check", 1)

    run = await closed(database, run, number)
    assert (run.status, run.title) == (RunStatus.CHECKED, "Checked")


async def test_an_attempt_at_a_run_that_has_changed_since_is_opened_and_closed(database: Database) -> None:
    before = await leased(database)
    async with database.transaction() as tx:
        await runs.change(tx, before.run_id, owner=OWNER, status=RunStatus.RETRYING)

    run, number = await opened(database, before)
    async with database.transaction() as tx:
        await runs.change(tx, before.run_id, owner=OWNER, status=RunStatus.RETRYING)
        await runs.change(tx, before.run_id, owner=OWNER, status=RunStatus.INGESTED)

    assert (number, run.status) == (1, RunStatus.INGESTED)
    assert (await closed(database, before, number)).status is RunStatus.CHECKED


async def test_a_process_that_lost_the_lease_neither_opens_nor_closes_an_attempt(database: Database) -> None:
    run, number = await opened(database, await leased(database))
    async with database.transaction() as tx:
        await lease(tx, run.run_id, "new/1/2/3")

    with pytest.raises(RunBusy, match="taken over by new/1/2/3"):
        await opened(database, run)
    with pytest.raises(RunBusy, match="taken over by new/1/2/3"):
        await closed(database, run, number)
    async with database.transaction() as tx:
        (row,) = await attempts.list_attempts(tx, run.run_id)
    assert row.status is StageStatus.RUNNING


async def test_an_attempt_is_not_opened_at_a_run_that_is_over(database: Database) -> None:
    run = await leased(database)
    async with database.transaction() as tx:
        await tx.exec_driver_sql(f"update pipeline_run set status = 'notified' where run_id = '{run.run_id}'")

    with pytest.raises(IllegalTransition, match="from notified to ingested"):
        await opened(database, run)
    async with database.transaction() as tx:
        assert await attempts.list_attempts(tx, run.run_id) == []


async def test_references_resolve(database: Database) -> None:
    before = await leased(database)
    run, number = await opened(database, before, input_ref=attempts.payload_ref(before.run_id))
    await closed(database, run, number)

    async with database.transaction() as tx:
        assert await attempts.resolve(tx, attempts.payload_ref(run.run_id)) == {"a": 1}
        assert await attempts.resolve(tx, output_ref(run.run_id, "check", 1)) == {"x": 1}


@pytest.mark.parametrize("ref", ["output/nobody/check/1", "payload/nobody", "elsewhere/x", "output/x", ""])
async def test_a_reference_to_nothing_is_refused(database: Database, ref: str) -> None:
    with pytest.raises(BadInput):
        async with database.transaction() as tx:
            await attempts.resolve(tx, ref)


async def test_a_run_that_never_started_counts_as_failed(database: Database) -> None:
    run_id = await stored(database)
    async with database.transaction() as tx:
        story = await read_story(tx, run_id)

    assert story.result().status == "FAILED"
    assert story.result().stages_completed == []
    assert story.result().final_error is None
