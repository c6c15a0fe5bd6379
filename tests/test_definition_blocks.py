"""The block of a definition: an edit of it in Prefect becomes the next version, a broken one is refused.

The blocks are in memory here; `test_definition_prefect.py` has real ones.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blocks.pipeline_definition import DefinitionBlock
from flows.definitions import EDITOR, BrokenEdit, DefinitionResolver
from orchestration.errors import BadInput, DefinitionDisabled, DefinitionNotFound
from orchestration.store import definitions
from orchestration.store.database import Database
from tests.broken_definitions import BROKEN
from tests.definition_helpers import MemoryBlocks, current, look, put, versions


@pytest.fixture
def blocks() -> MemoryBlocks:
    return MemoryBlocks()


@pytest.fixture
def resolver(database: Database, blocks: MemoryBlocks) -> DefinitionResolver:
    return DefinitionResolver(database, blocks=blocks)


async def applied(database: Database, blocks: MemoryBlocks, written: dict[str, Any]) -> None:
    """A definition that is stored and shown."""
    done = await put(database, written)
    await blocks.write("look", dict(done.definition.config), done.definition.version)


async def test_an_edit_is_the_next_version_and_runs(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await applied(database, blocks, look(description="one"))
    blocks.edit(look(description="edited"))

    loaded = await resolver.load("look")

    assert (loaded.version, loaded.config["description"]) == (2, "edited")
    stored = await current(database)
    assert stored is not None
    assert stored.created_by == EDITOR
    assert blocks.kept["look"].stored_version == 2
    # It is an edit once.
    assert (await resolver.load("look")).version == 2
    assert await versions(database) == [2, 1]


async def test_a_block_that_is_behind_is_no_edit(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await applied(database, blocks, look(description="one"))
    await put(database, look(description="two"))  # while Prefect did not answer

    assert (await resolver.load("look")).config["description"] == "two"
    assert blocks.kept["look"].config["description"] == "two"
    async with database.transaction() as tx:
        await definitions.activate_version(tx, "look", 1)
    assert (await resolver.load("look")).version == 1
    assert await versions(database) == [2, 1]


async def test_of_a_broken_edit_the_version_before_runs_and_the_edit_is_not_stored(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await applied(database, blocks, look())
    for broken in BROKEN:
        blocks.edit(broken.raw)
        found = await resolver.load("look")
        assert (found.version, found.config) == (1, look()), broken.name
        assert found.note.startswith(
            "version 1 of look runs, as stored. The block pipeline-definition/look was edited in Prefect and cannot be "
            "used: "
        )
        assert broken.says in found.note, broken.name
        assert broken.field in found.note, broken.name

    assert await versions(database) == [1]
    blocks.edit(look(description="repaired"))
    assert (await resolver.load("look")).note == ""


async def test_a_broken_block_of_which_no_version_is_stored_runs_nothing(
    blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    blocks.kept["look"] = DefinitionBlock(name="look", config={"nodes": []}, stored_version=None)
    with pytest.raises(BrokenEdit, match="was edited in Prefect and cannot be used"):
        await resolver.load("look")


async def test_while_prefect_is_away_the_stored_version_runs_and_nobody_waits_twice(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await put(database, look())
    blocks.away = True
    assert [(await resolver.load("look")).version for _ in range(3)] == [1, 1, 1]
    assert blocks.reads == 1


async def test_a_prefect_that_does_not_answer_in_time_keeps_no_alert_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowBlocks(MemoryBlocks):
        async def read(self, name: str) -> DefinitionBlock | None:
            return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("flows.definitions.READ_TIMEOUT_SECONDS", 0.05)
    await put(database, look())
    assert (await DefinitionResolver(database, blocks=SlowBlocks()).load("look")).version == 1


async def test_a_block_made_by_hand_is_a_new_definition(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    blocks.edit(look(), "by-hand")

    assert (await resolver.load("by-hand")).version == 1
    assert blocks.kept["by-hand"].stored_version == 1


async def test_the_block_of_a_deleted_definition_does_not_bring_it_back(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await applied(database, blocks, look())
    async with database.transaction() as tx:
        await definitions.delete_definition(tx, "look")
    blocks.edit(look(description="edited"))

    with pytest.raises(DefinitionNotFound):
        await resolver.load("look")
    assert await current(database) is None


async def test_a_disabled_definition_is_refused_whatever_its_block_says(
    database: Database, blocks: MemoryBlocks, resolver: DefinitionResolver
) -> None:
    await applied(database, blocks, look())
    async with database.transaction() as tx:
        await definitions.set_active(tx, "look", active=False)
    blocks.edit({"nodes": []})

    with pytest.raises(DefinitionDisabled, match="definitions enable look"):
        await resolver.load("look")
    assert blocks.reads == 0


async def test_what_nobody_has_ever_stored(resolver: DefinitionResolver) -> None:
    with pytest.raises(BadInput, match="There is no definition 'nowhere'"):
        await resolver.load("nowhere")
