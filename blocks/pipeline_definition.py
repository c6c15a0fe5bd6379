"""A pipeline definition, the policy, and the mapping of a sender, as Prefect blocks that operators see and edit.

The database has every version and is the truth; each definition has one block. This module reads, writes and
deletes the block. `flows/definitions.py` decides what an edit of it means.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prefect.exceptions import ObjectNotFound
from pydantic import Field

from blocks.known_fields import KnownFieldsBlock
from blocks.prefect_api import SavedBlock, prefect_client, prefect_errors, read_saved_blocks
from orchestration.contracts import Contract
from orchestration.definitions import Kind

_STORED_VERSION = "The version that this block was last written from; alert-pipeline keeps it, leave it as it is."


class PipelineDefinition(KnownFieldsBlock):
    """A pipeline: its nodes and their order."""

    _block_type_name = "Pipeline Definition"
    _block_type_slug = "pipeline-definition"
    _description = "A pipeline of alert-pipeline: which nodes an alert goes through, and in which order."

    config: dict[str, Any] = Field(
        default_factory=dict,
        description="The definition, as in a file: version, description, tags, defaults and nodes.",
    )
    stored_version: int | None = Field(default=None, description=_STORED_VERSION)


class AlertPolicy(KnownFieldsBlock):
    """The policy of alert-pipeline. The one that counts is called `policy`."""

    _block_type_name = "Alert Policy"
    _block_type_slug = "alert-policy"
    _description = "The policy of alert-pipeline: who is notified of which alerts, how and when."

    config: dict[str, Any] = Field(
        default_factory=dict,
        description="The policy, as in a file: routes, windows, escalations, people and more.",
    )
    stored_version: int | None = Field(default=None, description=_STORED_VERSION)


class AlertSource(KnownFieldsBlock):
    """The mapping of a sender of alerts. The block has the name of the source."""

    _block_type_name = "Alert Source"
    _block_type_slug = "alert-source"
    _description = "How the bodies of a sender become alerts of alert-pipeline."

    config: dict[str, Any] = Field(
        default_factory=dict,
        description="The mapping, as in a file, without its name: when, alert, words and more.",
    )
    stored_version: int | None = Field(default=None, description=_STORED_VERSION)


BLOCK_TYPES: dict[Kind, type[PipelineDefinition] | type[AlertPolicy] | type[AlertSource]] = {
    Kind.PIPELINE: PipelineDefinition,
    Kind.POLICY: AlertPolicy,
    Kind.SOURCE: AlertSource,
}
"""The type of the blocks of each kind of definition."""


class DefinitionBlock(Contract):
    """The fields of a saved block, valid or not: an operator may have edited it."""

    name: str
    config: Any = None
    stored_version: int | None = None


@dataclass
class PrefectBlocks:
    """The blocks of definitions of one kind in Prefect, at the API that Prefect's own settings name.

    Each method raises `PrefectUnavailable` if that API does not answer.
    """

    kind: Kind = Kind.PIPELINE

    @property
    def slug(self) -> str:
        """How Prefect addresses the type of the blocks."""
        return BLOCK_TYPES[self.kind].get_block_type_slug()

    async def read(self, name: str) -> DefinitionBlock | None:
        """The block of this definition; None if it has none."""
        found = await read_saved_blocks([self.slug], name=name)
        return _block(found[0]) if found else None

    async def read_all(self) -> list[DefinitionBlock]:
        """The blocks of all definitions."""
        return [_block(saved) for saved in await read_saved_blocks([self.slug])]

    async def write(self, name: str, config: dict[str, Any], version: int) -> None:
        """Write this version into the block of the definition, and create the block if it is missing."""
        with prefect_errors():
            await BLOCK_TYPES[self.kind](config=config, stored_version=version).asave(name, overwrite=True)

    async def delete(self, name: str) -> None:
        """Delete the block, if it exists."""
        with prefect_errors(), suppress(ObjectNotFound):
            async with prefect_client() as client:
                document = await client.read_block_document_by_name(name, self.slug)
                await client.delete_block_document(document.id)


def _block(saved: SavedBlock) -> DefinitionBlock:
    version = saved.data.get("stored_version")
    known = version if type(version) is int else None
    return DefinitionBlock(name=saved.name, config=saved.data.get("config"), stored_version=known)
