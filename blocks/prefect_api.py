"""Prefect's API as this project asks it: one meaning of "Prefect does not answer", and how saved blocks are read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeVar

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.client.utilities import get_or_create_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from pydantic import TypeAdapter, ValidationError

from orchestration.contracts import Contract
from orchestration.embedded_stack import find_auth_string
from orchestration.errors import PipelineError, Unavailable, error_in_words
from orchestration.redaction import redact_text
from orchestration.settings import Settings

PAGE_SIZE = 200
"""How many objects Prefect's API lists in one answer."""

BLOCKS_PAGE_SIZE = 10
"""How many blocks are asked for at once: each may have a definition of hundreds of nodes."""

ObjectT = TypeVar("ObjectT")

_DOCUMENTS = TypeAdapter(list[BlockDocument])

_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, PrefectException, OSError, RuntimeError)
"""Prefect's client raises RuntimeError where it reaches no API at all. TimeoutError is an OSError."""

_STRANGE_ANSWER = (ValueError, TypeError, LookupError, AttributeError)
"""Prefect's client got HTML (JSONDecodeError) or other JSON: pydantic's ValidationError is a ValueError, and where
the client reads the JSON itself it raises what Python does for a missing key or a wrong type."""


class PrefectUnavailable(Unavailable):
    """Prefect's API does not answer, is too slow, or its address answers with something that is not Prefect's."""


@contextmanager
def prefect_errors() -> Generator[None]:
    """Turn whatever a call to Prefect's API may end with into one error. Errors of the domain pass unchanged.

    Keep the body small: a bug in it would be reported as an outage.

    Raises:
        PrefectUnavailable: the call failed. The original error is its `__cause__`.
    """
    try:
        yield
    except PipelineError:
        raise
    except _NO_ANSWER as error:
        raise PrefectUnavailable(f"Prefect's API does not answer: {_reason(error)}") from error
    except _STRANGE_ANSWER as error:
        what = "the answer is not Prefect's"
        raise PrefectUnavailable(f"Prefect's API does not answer: {what} ({type(error).__name__})") from error


def address_settings(settings: Settings, api_url: str | None) -> dict[Any, Any]:
    """Prefect's settings for the API at this address, with the credential if it is the embedded server's."""
    auth_string = find_auth_string(settings, api_url)
    known = {} if auth_string is None else {PREFECT_API_AUTH_STRING: auth_string}
    return {PREFECT_API_URL: api_url, **known}


class SavedBlock(Contract):
    """A block as it is saved in Prefect: its name, its type, its fields with their secrets."""

    name: str
    slug: str
    data: dict[str, Any]
    type_name: str = ""
    """The name of its type, as people read it."""


def problem_of_block(error: ValidationError) -> str:
    """The first thing that is wrong with a block's fields, with the name of the field."""
    problem = error.errors()[0]
    field = ".".join(map(str, problem["loc"]))
    said = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {said}" if field else said


def broken_block(what: str, saved: SavedBlock, error: ValidationError) -> str:
    """The sentence about a saved block that cannot be read; `what` is what people call its type."""
    return f"The {what} {saved.name!r} is broken: {problem_of_block(error)}. Edit it in Prefect's UI under Blocks"


BlockSource = Callable[[], Awaitable[list[SavedBlock]]]
"""Lists the saved blocks that runs need. Raises `Unavailable`."""


async def read_saved_blocks(slugs: Collection[str], *, name: str | None = None) -> list[SavedBlock]:
    """The blocks of these types that are saved in Prefect, with their secrets; None names them all.

    Raises:
        PrefectUnavailable: Prefect's API does not answer.
    """
    wanted: dict[str, Any] = {"block_types": {"slug": {"any_": list(slugs)}}}
    if name is not None:
        wanted["block_documents"] = {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}}
    return [saved for saved in await _read(wanted) if saved.slug in slugs]


async def read_blocks_with(capability: str) -> list[SavedBlock]:
    """The blocks saved in Prefect whose type has this capability, such as `notify`, with their secrets.

    Raises:
        PrefectUnavailable: Prefect's API does not answer.
    """
    return await _read({"block_schemas": {"block_capabilities": {"all_": [capability]}}})


async def _read(wanted: dict[str, Any]) -> list[SavedBlock]:
    wanted = {**wanted, "include_secrets": True}
    with prefect_errors():
        async with prefect_client() as client:

            async def read(offset: int) -> list[BlockDocument]:
                page = {"limit": BLOCKS_PAGE_SIZE, "offset": offset}
                answer = await client.request("POST", "/block_documents/filter", json={**wanted, **page})
                return _DOCUMENTS.validate_json(answer.content)

            found = await read_pages(read, size=BLOCKS_PAGE_SIZE)
    return [
        SavedBlock(
            name=document.name,
            slug=document.block_type.slug,
            data=document.data,
            type_name=document.block_type.name,
        )
        for document in found
        if document.name and document.block_type
    ]


async def read_pages(read: Callable[[int], Awaitable[list[ObjectT]]], *, size: int = PAGE_SIZE) -> list[ObjectT]:
    """All objects of a list of Prefect's API. `read` returns up to `size` of them, from this offset on.

    Raises:
        PrefectUnavailable: a page has more objects than were asked for.
    """
    found: list[ObjectT] = []
    while True:
        page = await read(len(found))
        if len(page) > size:
            raise PrefectUnavailable(f"Prefect's API lists {len(page)} objects, and was asked for {size}")
        found += page
        if len(page) < size:
            return found


@asynccontextmanager
async def prefect_client() -> AsyncGenerator[PrefectClient]:
    """The open client of this process, else a new one: each new client loads the certificates again."""
    client, is_open = get_or_create_client()
    async with nullcontext(client) if is_open else client as entered:
        yield entered


def _reason(error: Exception) -> str:
    """The error in a few words, without the address, which may contain a password."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"it refused a request with status {error.response.status_code}"
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "it took too long"
    text = " ".join(str(error).split())
    return error_in_words(type(error).__name__, redact_text(text, limit=200))
