"""The channel blocks as Prefect keeps them, read with one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from prefect import get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import TypeAdapter

from blocks.channels import CHANNELS
from orchestration.contracts import Contract
from orchestration.errors import Unavailable

_DOCUMENTS = TypeAdapter(list[BlockDocument])


class ChannelDocument(Contract):
    """One saved block: its name, its type, its fields with their secrets."""

    name: str
    slug: str
    data: dict[str, Any]


BlockSource = Callable[[], Awaitable[list[ChannelDocument]]]
"""Where a book has the saved blocks from. Raises `Unavailable`."""


async def read_documents() -> list[ChannelDocument]:
    """The channel blocks that are saved in Prefect, in the order of their names.

    Raises:
        Unavailable: Prefect's API does not answer.
    """
    slugs = [driver.get_block_type_slug() for driver in CHANNELS.values()]
    try:
        async with get_client() as client:
            answer = await client.request(
                "POST",
                "/block_documents/filter",
                json={"block_types": {"slug": {"any_": slugs}}, "include_secrets": True},
            )
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        raise Unavailable(f"Prefect's API does not answer: {type(error).__name__}") from None
    return [
        ChannelDocument(name=document.name, slug=document.block_type.slug, data=document.data)
        for document in _DOCUMENTS.validate_python(answer.json())
        if document.name and document.block_type and document.block_type.slug in slugs
    ]


async def no_documents() -> list[ChannelDocument]:
    """Where there is no Prefect to ask: only the environment counts."""
    return []
