"""The policy in the store and as a block: an edit in Prefect becomes the next version, a broken one stops nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flows.definitions import EDITOR, BrokenEdit, sync_block
from orchestration.definitions import POLICY_NAME, Kind, NewDefinition
from orchestration.policy.parse import parse_policy
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import Change, Stored
from orchestration.store.policies import StoredPolicies
from tests.definition_helpers import MemoryBlocks, look, put

ONE: dict[str, Any] = {"description": "one", "routes": [{"channels": ["a"]}]}
TWO: dict[str, Any] = {"description": "two", "routes": [{"channels": ["b"]}]}


@pytest.fixture
def blocks() -> MemoryBlocks:
    return MemoryBlocks(Kind.POLICY)


async def stored(database: Database, written: dict[str, Any]) -> Stored:
    """Store a policy, as `policy apply` does without Prefect."""
    async with database.transaction() as tx:
        return await definitions.store_definition(tx, NewDefinition.of_policy(parse_policy(written)), created_by="test")


async def versions(database: Database) -> list[int]:
    async with database.transaction() as tx:
        found = await definitions.list_versions(tx, POLICY_NAME, kind=Kind.POLICY)
    return [record.version for record in found]


async def test_a_policy_and_a_pipeline_of_the_same_name_know_nothing_of_each_other(database: Database) -> None:
    await put(database, look(description="a pipeline"), POLICY_NAME)
    assert (await stored(database, ONE)).change is Change.CREATED
    assert (await stored(database, {**ONE, "timing": {}})).change is Change.UNCHANGED  # said otherwise, and the same
    assert (await stored(database, TWO)).definition.version == 2
    async with database.transaction() as tx:
        assert [one.description for one in await definitions.list_definitions(tx)] == ["a pipeline"]
        await definitions.delete_definition(tx, POLICY_NAME)
        found = await definitions.find_policy(tx)
    assert found is not None
    assert (found.kind, found.version, found.config) == (Kind.POLICY, 2, TWO)


async def test_policies_that_are_applied_at_the_same_time_are_versions(database: Database) -> None:
    many = [{**ONE, "description": f"number {number}"} for number in range(5)]
    await asyncio.gather(*(stored(database, one) for one in many))
    assert await versions(database) == [5, 4, 3, 2, 1]


async def test_an_edit_of_the_block_is_the_next_version(database: Database, blocks: MemoryBlocks) -> None:
    policies = StoredPolicies(database)
    assert await policies.active() is None
    await stored(database, ONE)
    await blocks.write(POLICY_NAME, ONE, 1)
    blocks.edit(TWO, POLICY_NAME)

    # A worker does this each minute.
    record = await sync_block(database, blocks, blocks.kept[POLICY_NAME])
    assert record is not None
    assert (record.version, record.config, record.created_by) == (2, TWO, EDITOR)
    assert blocks.kept[POLICY_NAME].stored_version == 2
    counts = await StoredPolicies(database).active()
    assert counts is not None
    assert (counts.version, counts.policy.description) == (2, "two")


async def test_of_a_broken_edit_the_version_before_counts(database: Database, blocks: MemoryBlocks) -> None:
    await stored(database, ONE)
    await blocks.write(POLICY_NAME, ONE, 1)
    for broken in (None, 5, {"routes": [{"mute": "night"}]}, {"routes": {}}, {"description": "\0"}):
        blocks.edit(broken, POLICY_NAME)
        with pytest.raises(BrokenEdit, match="alert-policy/policy was edited in Prefect and cannot be used"):
            await sync_block(database, blocks, blocks.kept[POLICY_NAME])
        counts = await StoredPolicies(database).active()
        assert counts is not None
        assert counts.version == 1
    assert await versions(database) == [1]


async def test_a_stored_policy_that_cannot_be_read_stops_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.store.policies.FRESH_SECONDS", 0.0)
    policies = StoredPolicies(database)
    await stored(database, ONE)
    first = await policies.active()
    assert first is not None
    async with database.transaction() as tx:
        await tx.exec_driver_sql("update definition set version = 2, config = '{\"routes\": 5}' where kind = 'policy'")
    assert await policies.active() is first
    assert await StoredPolicies(database).active() is None
    async with database.transaction() as tx:
        await definitions.delete_definition(tx, POLICY_NAME, kind=Kind.POLICY)
    assert await policies.active() is None
