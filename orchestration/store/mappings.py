"""The mappings of senders as processes use them: the active stored versions."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from pydantic import JsonValue

from orchestration.definitions import Kind
from orchestration.errors import PipelineError
from orchestration.signals import logger
from orchestration.store.database import Database, Transaction
from orchestration.store.definitions import list_definitions

FRESH_SECONDS = 2.0
"""How long the mappings that were read are used. A mapping that is applied counts in every process after that."""


@dataclass(frozen=True, kw_only=True)
class StoredMapping:
    """One stored version of a mapping. Two with the same name and content are equal."""

    name: str
    content_hash: str
    version: int = field(compare=False)
    config: dict[str, JsonValue] = field(compare=False)

    @property
    def document(self) -> dict[str, JsonValue]:
        """The mapping as its author wrote it."""
        return {"name": self.name, **self.config}


StoredMappings = tuple[StoredMapping, ...]


async def read_mappings(tx: Transaction) -> StoredMappings:
    """The current version of each mapping, by name."""
    return tuple(
        StoredMapping(
            name=record.name, content_hash=record.content_hash, version=record.version, config=dict(record.config)
        )
        for record in await list_definitions(tx, kind=Kind.SOURCE)
    )


class MappingReader:
    """Finds the stored mappings, and reads them again when they may have changed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.latest: StoredMappings = ()
        """The mappings as they were read last."""
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def active(self) -> StoredMappings:
        """The active mappings. Never raises: while they cannot be read, those that were read last."""
        async with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at >= FRESH_SECONDS:
                await self.read()
            return self.latest

    async def read(self) -> None:
        """Read the mappings now. Never raises: while they cannot be read, `latest` stays."""
        try:
            async with self._database.transaction() as tx:
                self.latest = await read_mappings(tx)
        except PipelineError as error:
            logger.error("The mappings of senders cannot be read; those that were read last are used: %s", error)
        self._read_at = time.monotonic()
