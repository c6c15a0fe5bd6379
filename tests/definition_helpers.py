"""What the tests of definitions share: small definitions, and what is stored of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from blocks.pipeline_definition import DefinitionBlock, PrefectBlocks
from orchestration.definitions import NewDefinition
from orchestration.errors import Unavailable
from orchestration.graph import parse_definition
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord, Stored
from tasks.kinds import KINDS


def look(*, description: str = "", **config: Any) -> dict[str, Any]:
    """A definition that needs no alert: this host's checks, then a message."""
    nodes = [{"id": "checks", "type": "context", "config": config}, {"id": "notify", "type": "notify"}]
    return {"description": description, "nodes": nodes}


def new(written: dict[str, Any], name: str = "look") -> NewDefinition:
    """A definition on its way into the store."""
    return NewDefinition.of(parse_definition(written, KINDS.by_type), written, name=name)


async def put(database: Database, written: dict[str, Any], name: str = "look") -> Stored:
    """Store a definition, as `apply` does without Prefect."""
    async with database.transaction() as tx:
        return await definitions.store_definition(tx, new(written, name), created_by="test")


async def current(database: Database, name: str = "look") -> DefinitionRecord | None:
    """What is stored under this name."""
    async with database.transaction() as tx:
        return await definitions.find_definition(tx, name)


async def versions(database: Database, name: str = "look") -> list[int]:
    """The numbers of all versions, the newest first."""
    async with database.transaction() as tx:
        return [record.version for record in await definitions.list_versions(tx, name)]


@dataclass
class MemoryBlocks(PrefectBlocks):
    """Blocks that are kept in memory; `away` is a Prefect that does not answer."""

    kept: dict[str, DefinitionBlock] = field(default_factory=dict[str, DefinitionBlock])
    away: bool = False
    reads: int = 0

    async def read(self, name: str) -> DefinitionBlock | None:
        self.reads += 1
        if self.away:
            raise Unavailable("Prefect's API does not answer: ConnectError")
        return self.kept.get(name)

    async def write(self, name: str, config: dict[str, Any], version: int) -> None:
        self.kept[name] = DefinitionBlock(name=name, config=config, stored_version=version)

    async def delete(self, name: str) -> None:
        self.kept.pop(name, None)

    def edit(self, config: object, name: str = "look") -> None:
        """What an operator does in Prefect's UI: the version that the block has is left as it is."""
        block = self.kept.get(name)
        version = block.stored_version if block else None
        self.kept[name] = DefinitionBlock(name=name, config=config, stored_version=version)
