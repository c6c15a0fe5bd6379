"""The definitions as a run gets them: from the store, after a look at what somebody made of the block in Prefect.

A block that says what the version says that it was written from is no news; where the store has gone on meanwhile,
the block is written anew. One that says something else was edited: a valid edit becomes the next version, and runs;
a broken one is refused, with the same words as a broken file, and nothing runs until it is mended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

from blocks.pipeline_definition import DefinitionBlock, DefinitionBlocks, PrefectBlocks
from orchestration.definitions import NewDefinition
from orchestration.errors import Unavailable
from orchestration.graph import BadDefinition, DefinitionProblem, StoredDefinition
from orchestration.signals import logger
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import Change, DefinitionRecord
from tasks.kinds import validate_definition

PATIENCE_SECONDS = 2.0
"""How long Prefect may take to show a block: an alert waits meanwhile."""

AGAIN_SECONDS = 5.0
"""How long nobody asks again, after Prefect did not answer."""

EDITOR = "Prefect block"
"""Who made a version that began as an edit of a block."""


class BrokenBlock(BadDefinition):
    """A block that was edited in Prefect into something that cannot run."""

    def __init__(self, name: str, problems: Sequence[DefinitionProblem]) -> None:
        self.name = name
        super().__init__(problems)

    def _text(self) -> str:
        return (
            f"The block pipeline-definition/{self.name} was edited in Prefect and cannot be used: "
            f"{'; '.join(self.lines)}. Mend it there, or write over it with `alert-pipeline definitions apply`"
        )


class DefinitionBook:
    """The definitions of this installation, as `tasks.definitions.DefinitionSource` asks for them."""

    def __init__(self, database: Database, *, blocks: DefinitionBlocks | None = None) -> None:
        self._database = database
        self._blocks = blocks or PrefectBlocks()
        self._not_before = 0.0

    async def load(self, name: str, version: int | None = None) -> StoredDefinition:
        """This version of a definition; without a number the one that is to run now.

        Raises:
            DefinitionNotFound, DefinitionDisabled: there is none, or none that may run.
            BadDefinition: its block was edited into something that cannot run.
            Unavailable: the database does not answer.
        """
        if version is not None:
            async with self._database.transaction() as tx:
                return stored(await definitions.get_definition(tx, name, version))
        async with self._database.transaction() as tx:
            known = await definitions.find_definition(tx, name)
        if known is None or known.is_active:
            await self._look_at_block(name, known)
        async with self._database.transaction() as tx:
            return stored(await definitions.get_active(tx, name))

    async def _look_at_block(self, name: str, known: DefinitionRecord | None) -> None:
        """Take up what was edited in Prefect; while it does not answer, what is stored runs."""
        if time.monotonic() < self._not_before:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                block = await self._blocks.read(name)
                if block is not None:
                    await take_up_block(self._database, self._blocks, block)
        except (Unavailable, TimeoutError) as error:
            self._not_before = time.monotonic() + AGAIN_SECONDS
            version = f"version {known.version}" if known else "nothing"
            why = str(error) or f"Prefect did not show it within {PATIENCE_SECONDS:g} s"
            logger.warning("The block of %s was not looked at (%s): %s runs, as stored", name, why, version)


def stored(record: DefinitionRecord) -> StoredDefinition:
    """A version as the engine takes it."""
    return StoredDefinition(name=record.name, version=record.version, config=dict(record.config))


async def take_up_block(
    database: Database, blocks: DefinitionBlocks, block: DefinitionBlock
) -> DefinitionRecord | None:
    """Bring block and store in step; the definition's current version, None where it has none.

    Raises:
        BadDefinition: the block was edited into something that cannot run; the store stays as it is.
        Unavailable: the database or Prefect does not answer.
    """
    async with database.transaction() as tx:
        current = await definitions.find_definition(tx, block.name)
        versions = await definitions.list_versions(tx, block.name)
    if current is None and block.stored_version is not None:
        return None  # what is left of a definition that was deleted
    base = next((one for one in versions if one.version == block.stored_version), None)
    edited = None if base is not None and block.config == base.config else _read(block)
    if edited is not None and (base is None or base.content_hash != edited.content_hash):
        async with database.transaction() as tx:
            done = await definitions.store_definition(tx, edited, created_by=EDITOR)
        current = done.definition
        if done.change is not Change.UNCHANGED:
            logger.info("The block %s was edited in Prefect: it is version %d now", block.name, current.version)
    if current is not None and (current.version != block.stored_version or current.config != block.config):
        await blocks.write(current.name, dict(current.config), current.version)
    return current


def _read(block: DefinitionBlock) -> NewDefinition:
    try:
        return NewDefinition.of(
            validate_definition(block.config), cast("dict[str, Any]", block.config), name=block.name
        )
    except BadDefinition as error:
        raise BrokenBlock(block.name, error.problems) from None
