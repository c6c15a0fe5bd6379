"""The policy in the store and as a block: an edit in Prefect becomes the next version, a broken one stops nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flows.definitions import EDITOR, DefinitionResolver
from orchestration.definitions import POLICY_NAME, Kind, NewDefinition
from orchestration.policy.parse import parse_policy
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import Change, Stored
from tests.definition_helpers import MemoryBlocks, look, put

ONE: dict[str, Any] = {"description": "one", "routes": [{"channels": ["a"]}]}
TWO: dict[str, Any] = {"description": "two", "routes": [{"channels": ["b"]}]}


@pytest.fixture
def blocks() -> MemoryBlocks:
    return MemoryBlocks(Kind.POLICY)


@pytest.fixture
def resolver(database: Database, blocks: MemoryBlocks) -> DefinitionResolver:
    return DefinitionResolver(database, blocks=MemoryBlocks(), policy_blocks=blocks)


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


async def test_an_edit_of_the_block_is_the_next_version(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    assert await resolver.load_policy() is None
    await stored(database, ONE)
    await blocks.write(POLICY_NAME, ONE, 1)
    blocks.edit(TWO, POLICY_NAME)

    loaded = await resolver.load_policy()
    assert loaded is not None
    assert (loaded.version, loaded.config, loaded.note) == (2, TWO, "")
    async with database.transaction() as tx:
        found = await definitions.find_policy(tx)
    assert found is not None
    assert found.created_by == EDITOR
    assert blocks.kept[POLICY_NAME].stored_version == 2


async def test_of_a_broken_edit_the_version_before_counts_and_says_what_is_wrong(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await stored(database, ONE)
    await blocks.write(POLICY_NAME, ONE, 1)
    for broken in (None, 5, {"routes": [{"mute": "night"}]}, {"routes": {}}, {"description": "\0"}):
        blocks.edit(broken, POLICY_NAME)
        loaded = await resolver.load_policy()
        assert loaded is not None
        assert (loaded.version, loaded.config) == (1, ONE)
        assert loaded.note.startswith(
            "version 1 of the policy counts, as stored. The block alert-policy/policy was edited in Prefect and cannot "
            "be used: "
        )
    assert await versions(database) == [1]


async def test_while_prefect_is_away_the_stored_version_counts(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await stored(database, ONE)
    blocks.away = True
    for _ in range(3):
        loaded = await resolver.load_policy()
        assert loaded is not None
        assert loaded.config == ONE
    assert blocks.reads == 1
