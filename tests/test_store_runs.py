"""Runs, attempts and what refers to them, in the store."""

from __future__ import annotations

import pytest

from orchestration.contracts import Stage
from orchestration.errors import BadInput, IllegalTransition, RunBusy, RunNotFound
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, leases, runs
from orchestration.store.database import Database
from orchestration.store.listing import RunFilter, list_page
from orchestration.store.records import Node, new_id
from orchestration.store.runs import NewRun
from orchestration.store.story import read_story


async def stored(database: Database, **more: object) -> str:
    """A new run; its id."""
    basics = {"run_id": new_id(), "trace_id": "t", "source": "generic", "environment": "test", "payload": {"a": 1}}
    run = NewRun.model_validate(basics | more)
    async with database.transaction() as tx:
        await runs.add_runs(tx, [run])
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
        await leases.claim(tx, run_id, owner="new/1/2/3", seconds=30)

    with pytest.raises(RunBusy, match="taken over by new/1/2/3"):
        async with database.transaction() as tx:
            await runs.change(tx, run_id, owner="old/1/2/3", values={"title": "other"})


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


async def test_an_attempt_that_is_closed_stays_as_it_is(database: Database) -> None:
    run_id, node = await stored(database), Node.of(Stage.CHECK)
    async with database.transaction() as tx:
        number = await attempts.start_attempt(tx, run_id, node, input_ref=None)
        await attempts.settle(tx, run_id, node, number, StageStatus.SUCCEEDED, duration_ms=1, snapshot={"x": 1})
        await attempts.settle(tx, run_id, node, number, StageStatus.FAILED, duration_ms=2, error=attempts.LOST)
        (row,) = await attempts.list_attempts(tx, run_id)

    assert (row.status, row.output_snapshot, row.error_type) == (StageStatus.SUCCEEDED, {"x": 1}, None)


async def test_references_resolve(database: Database) -> None:
    run_id, node = await stored(database), Node.of(Stage.CHECK)
    async with database.transaction() as tx:
        number = await attempts.start_attempt(tx, run_id, node, input_ref=attempts.payload_ref(run_id))
        await attempts.settle(tx, run_id, node, number, StageStatus.SUCCEEDED, duration_ms=1, snapshot={"x": 1})

        assert await attempts.resolve(tx, attempts.payload_ref(run_id)) == {"a": 1}
        assert await attempts.resolve(tx, attempts.output_ref(run_id, "check", 1)) == {"x": 1}


@pytest.mark.parametrize("ref", ["output/nobody/check/1", "payload/nobody", "elsewhere/x", "output/x", ""])
async def test_a_reference_to_nothing_is_refused(database: Database, ref: str) -> None:
    with pytest.raises(BadInput):
        async with database.transaction() as tx:
            await attempts.resolve(tx, ref)


async def test_a_run_that_never_started_is_told_as_it_stands(database: Database) -> None:
    run_id = await stored(database)
    async with database.transaction() as tx:
        story = await read_story(tx, run_id)

    assert story.result().status == "FAILED"
    assert story.result().stages_completed == []
    assert story.result().final_error is None
