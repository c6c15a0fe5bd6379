"""The definitions as a run uses them: the stored version, after an edit of its block was stored.

The block says which stored version it was written from. If its content is still that version's, nobody edited it; if
the store has a newer version, the block is written again. Otherwise an operator edited the block: a valid edit becomes
the next version and runs; of a broken one the version before runs on, and its messages say so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

from blocks.pipeline_definition import DefinitionBlock, PrefectBlocks
from orchestration.definitions import Kind, NewDefinition
from orchestration.errors import BadInput, Unavailable
from orchestration.graph import BadDefinition, StoredDefinition
from orchestration.policy.parse import parse_policy
from orchestration.policy.problems import BadPolicy
from orchestration.signals import logger
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import Change, DefinitionRecord
from tasks.ingest.sources.mapping_text import BadMapping, new_mapping
from tasks.kinds import validate_definition

READ_TIMEOUT_SECONDS = 2.0
"""How long Prefect may take to show a block: an alert waits meanwhile."""

RETRY_AFTER_SECONDS = 5.0
"""How long no block is read after Prefect did not answer."""

EDITOR = "Prefect block"
"""The author of a version that was an edit of a block."""


_COMMANDS = {Kind.PIPELINE: "definitions", Kind.POLICY: "policy", Kind.SOURCE: "sources"}
"""The command that stores definitions of a kind."""


class BrokenEdit(BadInput):
    """A block was edited in Prefect into something that cannot be used. `lines` are all that is wrong with it."""

    def __init__(self, kind: Kind, name: str, lines: Sequence[str]) -> None:
        self.lines = lines
        block = f"{PrefectBlocks(kind).slug}/{name}"
        super().__init__(
            f"The block {block} was edited in Prefect and cannot be used: {'; '.join(lines)}. "
            f"Fix it there, or overwrite it with `alert-pipeline {_COMMANDS[kind]} apply`"
        )


class DefinitionResolver:
    """Finds a definition by name, as `orchestration.graph.DefinitionSource` requires."""

    def __init__(self, database: Database, *, blocks: PrefectBlocks | None = None) -> None:
        self._database = database
        self._blocks = blocks or PrefectBlocks()
        self._not_before = 0.0

    async def load(self, name: str, version: int | None = None) -> StoredDefinition:
        """This version of a definition. None means the version that runs now.

        Raises:
            DefinitionNotFound, DefinitionDisabled: the definition does not exist, or must not run.
            BrokenEdit: its block was made in Prefect, and cannot run; no version is stored.
            Unavailable: the database does not answer.
        """
        note = ""
        if version is not None:
            async with self._database.transaction() as tx:
                return stored(await definitions.get_definition(tx, name, version))
        async with self._database.transaction() as tx:
            known = await definitions.find_definition(tx, name)
        try:
            if known is None or known.is_active:
                await self._store_edit(name, known)
        except BrokenEdit as error:
            if known is None:
                raise
            note = f"version {known.version} of {name} runs, as stored. {error}"
            logger.error("%s", note)
        async with self._database.transaction() as tx:
            return stored(await definitions.get_active(tx, name), note=note)

    async def _store_edit(self, name: str, known: DefinitionRecord | None) -> None:
        """Store an edit of the block. While Prefect does not answer, the stored version runs."""
        if time.monotonic() < self._not_before:
            return
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                block = await self._blocks.read(name)
                if block is not None:
                    await sync_block(self._database, self._blocks, block)
        except (Unavailable, TimeoutError) as error:
            self._not_before = time.monotonic() + RETRY_AFTER_SECONDS
            version = f"version {known.version}" if known else "nothing"
            why = str(error) or f"Prefect did not show it within {READ_TIMEOUT_SECONDS:g} s"
            logger.warning("The block of %s could not be read (%s): %s runs, as stored", name, why, version)


def stored(record: DefinitionRecord, *, note: str = "") -> StoredDefinition:
    """A stored version in the form that the engine executes."""
    return StoredDefinition(name=record.name, version=record.version, config=dict(record.config), note=note)


async def sync_block(database: Database, blocks: PrefectBlocks, block: DefinitionBlock) -> DefinitionRecord | None:
    """Store an edit of the block, or write the block again if the store has a newer version.

    Returns the current version of the definition; None if the definition does not exist.

    Raises:
        BrokenEdit: the block was edited into something that cannot be used; nothing changes.
        Unavailable: the database or Prefect does not answer.
    """
    async with database.transaction() as tx:
        current = await definitions.find_definition(tx, block.name, kind=blocks.kind)
        versions = await definitions.list_versions(tx, block.name, kind=blocks.kind)
    if current is None and block.stored_version is not None:
        return None  # the block of a definition that was deleted
    base = next((version for version in versions if version.version == block.stored_version), None)
    edited = None if base is not None and block.config == base.config else _read(blocks.kind, block)
    if edited is not None and (base is None or base.content_hash != edited.content_hash):
        async with database.transaction() as tx:
            done = await definitions.store_definition(tx, edited, created_by=EDITOR)
        current = done.definition
        if done.change is not Change.UNCHANGED:
            logger.info("The block %s was edited in Prefect: the edit is version %d now", block.name, current.version)
    if current is not None:
        await write_block(blocks, current, block)
    return current


async def write_block(blocks: PrefectBlocks, record: DefinitionRecord, block: DefinitionBlock | None) -> None:
    """Write the stored version into its block, unless the block says the same. `block` None means that it has none.

    Raises:
        Unavailable: Prefect does not answer.
    """
    if block is None or (block.config, block.stored_version) != (record.config, record.version):
        await blocks.write(record.name, dict(record.config), record.version)


def _read(kind: Kind, block: DefinitionBlock) -> NewDefinition:
    try:
        return _parse(kind, block)
    except (BadDefinition, BadPolicy, BadMapping) as error:
        raise BrokenEdit(kind, block.name, error.lines) from None


def _parse(kind: Kind, block: DefinitionBlock) -> NewDefinition:
    if kind is Kind.POLICY:
        return NewDefinition.of_policy(parse_policy(block.config, warn=True))
    if kind is Kind.SOURCE:
        config: object = block.config
        written = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
        return new_mapping({**written, "name": block.name})
    definition = validate_definition(block.config)
    return NewDefinition.of(definition, cast("dict[str, Any]", block.config), name=block.name)
