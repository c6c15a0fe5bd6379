"""The definitions in the store: versions that count up, one that is active, and nothing that is ever lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestration.definitions import in_order
from orchestration.errors import BadInput, DefinitionDisabled, DefinitionNotFound
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import Change, StoredDefinitions
from tests.definition_helpers import current, look, new, put, versions


async def test_applying_the_same_content_again_changes_nothing(database: Database) -> None:
    written = look(description="Looks at this host")
    first = await put(database, written)
    again = await put(database, {**written, "name": "look", "version": "1.0"})  # said otherwise, and the same

    assert (first.change, again.change) == (Change.CREATED, Change.UNCHANGED)
    assert again.definition == first.definition
    assert first.definition.version == 1
    assert first.definition.is_active
    assert (first.definition.node_count, first.definition.description) == (2, "Looks at this host")


@pytest.mark.parametrize(
    "changed",
    [look(description="new"), {**look(), "tags": ["host"]}, {**look(), "defaults": {"max_retries": 1}}],
    ids=["description", "tags", "defaults"],
)
async def test_a_change_is_the_next_version_and_the_old_one_is_kept(
    database: Database, changed: dict[str, Any]
) -> None:
    await put(database, look())
    done = await put(database, changed)

    assert (done.change, done.definition.version) == (Change.CHANGED, 2)
    assert await versions(database) == [2, 1]
    async with database.transaction() as tx:
        old = await definitions.get_definition(tx, "look", 1)
    assert (old.config, old.is_active, old.is_current) == (look(), False, False)


async def test_a_rollback_runs_the_earlier_version_and_the_next_change_counts_on(database: Database) -> None:
    for description in ("one", "two", "three"):
        await put(database, look(description=description))
    async with database.transaction() as tx:
        back = await definitions.activate_version(tx, "look", 1)
    assert (back.version, back.is_active) == (1, True)
    assert (await StoredDefinitions(database).load("look")).config["description"] == "one"

    await put(database, look(description="four"))
    assert await versions(database) == [4, 3, 2, 1]
    async with database.transaction() as tx:
        with pytest.raises(DefinitionNotFound, match=r"'look' has no version 9; it has: 1, 2, 3, 4"):
            await definitions.activate_version(tx, "look", 9)


async def test_what_is_disabled_runs_nothing_until_it_is_enabled(database: Database) -> None:
    await put(database, look())
    async with database.transaction() as tx:
        await definitions.set_active(tx, "look", active=False)
    with pytest.raises(DefinitionDisabled, match="is disabled and runs nothing: enable it with"):
        await StoredDefinitions(database).load("look")

    # A new version does not undo what an operator has decided.
    assert not (await put(database, look(description="new"))).definition.is_active
    async with database.transaction() as tx:
        assert await definitions.list_definitions(tx) == []
        assert len(await definitions.list_definitions(tx, include_inactive=True)) == 1
        await definitions.set_active(tx, "look", active=True)
    assert (await StoredDefinitions(database).load("look")).version == 2


async def test_what_is_deleted_is_gone_but_for_the_runs_that_named_a_version(database: Database) -> None:
    await put(database, look())
    async with database.transaction() as tx:
        await definitions.delete_definition(tx, "look")

    assert await current(database) is None
    with pytest.raises(DefinitionNotFound, match=r"was deleted: `alert-pipeline definitions rollback look 1`"):
        await StoredDefinitions(database).load("look")
    assert (await StoredDefinitions(database).load("look", 1)).config == look()
    # A version's number never means something else.
    assert (await put(database, look())).definition.version == 2


async def test_of_two_that_apply_at_once_both_are_kept(database: Database) -> None:
    done = await asyncio.gather(*(put(database, look(description=f"{number}")) for number in range(6)))

    assert sorted(one.definition.version for one in done) == [1, 2, 3, 4, 5, 6]
    async with database.transaction() as tx:
        active = [one for one in await definitions.list_versions(tx, "look") if one.is_active]
    assert [one.version for one in active] == [6]


async def test_nobody_knows_a_definition_that_was_never_applied(database: Database) -> None:
    await put(database, look(), "hosts")
    with pytest.raises(DefinitionNotFound, match=r"There is no definition 'nowhere'; stored are: hosts"):
        await StoredDefinitions(database).load("nowhere")


@pytest.mark.parametrize("name", ["", "Hub", "-hub", "hub-", "a--b", "a b", "a/b", "hüb", "x" * 65])
def test_a_name_that_prefect_could_not_have_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="name"):
        new(look(), name)


async def test_an_export_reads_as_people_write_it(database: Database) -> None:
    written = look(checkers=["disk"]) | {"tags": ["host"], "defaults": {"max_retries": 1}}
    await put(database, written)
    record = await current(database)
    assert record is not None

    exported = in_order(record.config, name="look")
    assert list(exported) == ["name", "description", "tags", "defaults", "nodes"]
    assert [list(node) for node in exported["nodes"]] == [["id", "type", "config"], ["id", "type"]]
    assert new(exported).content_hash == record.content_hash
