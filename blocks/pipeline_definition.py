"""A pipeline definition as a Prefect block, which operators see and edit in Prefect's UI.

The database has every version and is the truth; each definition has one block. This module reads, writes and
deletes the block. `flows/definitions.py` decides what an edit of it means.
"""

from __future__ import annotations

from typing import Any, Protocol

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import Field

from blocks.prefect_api import SavedBlock, prefect_client, prefect_errors, read_saved_blocks
from orchestration.contracts import Contract


class PipelineDefinition(Block):
    """A pipeline: its nodes and their order."""

    _block_type_name = "Pipeline Definition"
    _block_type_slug = "pipeline-definition"
    _description = "A pipeline of alert-pipeline: which nodes an alert goes through, and in which order."

    config: dict[str, Any] = Field(
        default_factory=dict,
        description="The definition, as in a file: version, description, tags, defaults and nodes.",
    )
    stored_version: int | None = Field(
        default=None,
        description="The version that this block was last written from; alert-pipeline keeps it, leave it as it is.",
    )


class DefinitionBlock(Contract):
    """The fields of a saved block, valid or not: an operator may have edited it."""

    name: str
    config: Any = None
    stored_version: int | None = None


class DefinitionBlocks(Protocol):
    """Reads and writes the blocks of definitions. Each method raises `Unavailable` if Prefect does not answer."""

    async def read(self, name: str) -> DefinitionBlock | None:
        """The block of this definition; None if it has none."""
        ...

    async def write(self, name: str, config: dict[str, Any], version: int) -> None:
        """Write this version into the block of the definition, and create the block if it is missing."""
        ...

    async def delete(self, name: str) -> None:
        """Delete the block, if it exists."""
        ...


class PrefectBlocks:
    """The blocks in Prefect, at the API that Prefect's own settings name."""

    async def read(self, name: str) -> DefinitionBlock | None:
        """The block of this definition; None if it has none.

        Raises:
            PrefectUnavailable: Prefect's API does not answer.
        """
        found = await read_saved_blocks([PipelineDefinition.get_block_type_slug()], name=name)
        return _block(found[0]) if found else None

    async def read_all(self) -> list[DefinitionBlock]:
        """The blocks of all definitions.

        Raises:
            PrefectUnavailable: Prefect's API does not answer.
        """
        return [_block(saved) for saved in await read_saved_blocks([PipelineDefinition.get_block_type_slug()])]

    async def write(self, name: str, config: dict[str, Any], version: int) -> None:
        """Write this version into the block of the definition, and create the block if it is missing.

        Raises:
            PrefectUnavailable: Prefect's API does not answer.
        """
        with prefect_errors():
            await PipelineDefinition(config=config, stored_version=version).asave(name, overwrite=True)

    async def delete(self, name: str) -> None:
        """Delete the block, if it exists.

        Raises:
            PrefectUnavailable: Prefect's API does not answer.
        """
        with prefect_errors():
            async with prefect_client() as client:
                slug = PipelineDefinition.get_block_type_slug()
                try:
                    document = await client.read_block_document_by_name(name, slug)
                    await client.delete_block_document(document.id)
                except ObjectNotFound:
                    return


def _block(saved: SavedBlock) -> DefinitionBlock:
    version = saved.data.get("stored_version")
    return DefinitionBlock(
        name=saved.name,
        config=saved.data.get("config"),
        stored_version=version if isinstance(version, int) and not isinstance(version, bool) else None,
    )
