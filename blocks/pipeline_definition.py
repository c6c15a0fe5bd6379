"""A pipeline definition as a Prefect block: what operators see and edit in Prefect's UI.

The store has every version and is the truth; each definition has one block beside it. What an edit of the block
comes to is decided elsewhere (`flows/definitions.py`): here it is read, written and deleted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Protocol

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.client.utilities import get_or_create_client
from prefect.exceptions import ObjectNotFound, PrefectException
from pydantic import Field, TypeAdapter

from orchestration.contracts import Contract
from orchestration.errors import Unavailable

_DOCUMENTS = TypeAdapter(list[BlockDocument])
_PAGE = 200


class PipelineDefinition(Block):
    """A pipeline: its nodes, and what follows what."""

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
    """A saved block as it was found, whatever somebody has made of it."""

    name: str
    config: Any = None
    stored_version: int | None = None


class DefinitionBlocks(Protocol):
    """Where the blocks are kept."""

    async def read(self, name: str) -> DefinitionBlock | None:
        """The block of this definition; None where there is none. Raises `Unavailable`."""
        ...

    async def write(self, name: str, config: dict[str, Any], version: int) -> None:
        """Have the block say what this version says. Raises `Unavailable`."""
        ...

    async def delete(self, name: str) -> None:
        """Take the block away, if there is one. Raises `Unavailable`."""
        ...


class PrefectBlocks:
    """The blocks in Prefect, at the API that Prefect's own settings name."""

    async def read(self, name: str) -> DefinitionBlock | None:
        """The block of this definition.

        Raises:
            Unavailable: Prefect's API does not answer.
        """
        return next(iter(await self._found(name)), None)

    async def read_all(self) -> list[DefinitionBlock]:
        """All blocks, by name; raises as `read()`."""
        return await self._found(None)

    async def write(self, name: str, config: dict[str, Any], version: int) -> None:
        """Have the block say what this version says.

        Raises:
            Unavailable: Prefect's API does not answer.
        """
        block = PipelineDefinition(config=config, stored_version=version)
        try:
            await block.asave(name, overwrite=True)
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            raise _away(error) from None

    async def delete(self, name: str) -> None:
        """Take the block away, if there is one.

        Raises:
            Unavailable: Prefect's API does not answer.
        """
        try:
            async with _client() as client:
                slug = PipelineDefinition.get_block_type_slug()
                document = await client.read_block_document_by_name(name, slug)
                await client.delete_block_document(document.id)
        except ObjectNotFound:
            return
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            raise _away(error) from None

    async def _found(self, name: str | None) -> list[DefinitionBlock]:
        wanted: dict[str, Any] = {
            "block_types": {"slug": {"any_": [PipelineDefinition.get_block_type_slug()]}},
            "include_secrets": True,
            "limit": _PAGE,
        }
        if name is not None:
            wanted["block_documents"] = {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}}
        found: list[BlockDocument] = []
        try:
            async with _client() as client:
                while len(found) % _PAGE == 0:
                    page = await client.request(
                        "POST", "/block_documents/filter", json={**wanted, "offset": len(found)}
                    )
                    documents = _DOCUMENTS.validate_python(page.json())
                    found += documents
                    if not documents:
                        break
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            raise _away(error) from None
        return [_block(document) for document in found if document.name]


@asynccontextmanager
async def _client() -> AsyncGenerator[PrefectClient]:
    """The process's client of Prefect, where it has one: making another loads the certificates anew."""
    client, known = get_or_create_client()
    async with nullcontext(client) if known else client as entered:
        yield entered


def _block(document: BlockDocument) -> DefinitionBlock:
    version = document.data.get("stored_version")
    return DefinitionBlock(
        name=document.name or "",
        config=document.data.get("config"),
        stored_version=version if isinstance(version, int) and not isinstance(version, bool) else None,
    )


def _away(error: Exception) -> Unavailable:
    # Prefect's client raises RuntimeError where it cannot reach its API at all.
    return Unavailable(f"Prefect's API does not answer: {type(error).__name__}")
