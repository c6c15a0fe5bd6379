"""The body of a request as it comes: within limits of time and size. `decoding.py` reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.problems import HttpProblem

READ_TIMEOUT_SECONDS = 30.0
"""How long a caller may take to send its body."""

MOST_BYTES = 64 * 1024 * 1024
"""How large the bodies of all requests that are being answered may be together. Read as JSON they take ten times it."""

PEEK_SECONDS = 0.3
"""How long to wait for the beginning of a body that was refused before it was read."""

RAW_BODY = "alert_pipeline.raw_body"
"""The key under which the scope of a request has its body, or what came of it before it was refused."""

HAS_COME = "alert_pipeline.has_come"
"""The key under which the scope of a request may have a function that says whether its body has come as a whole."""


class TooLarge(HttpProblem):
    """413: a body is larger than what is read."""

    def __init__(self, message: str) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


class BodiesInMemory:
    """Counts the bytes of the bodies of requests that are being answered, of known and of unknown callers."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._left = most

    @contextmanager
    def reserve(self) -> Generator[Callable[[int], None]]:
        """Count the bytes that the yielded function is called with, until the end of the block.

        It raises `HttpProblem` 503 if there are too many in all such blocks.
        """
        mine = 0

        def count(size: int) -> None:
            nonlocal mine
            mine += size
            self._left -= size
            if self._left < 0:
                raise HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, "Too many large requests at the same time: try again")

        try:
            yield count
        finally:
            self._left += mine


async def read_raw(request: Request, limit: int, count: Callable[[int], None] = lambda _: None) -> bytes:
    """The body as it came over the wire, of at most `limit` bytes, whatever Content-Length says.

    `count`, as `BodiesInMemory` yields it, is called with the size of each piece.

    Raises:
        HttpProblem: 413 if the body is longer; 408 if it does not arrive in time.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise too_large(limit)
    body = bytearray()

    def add(piece: bytes) -> None:
        body.extend(piece)
        count(len(piece))
        if len(body) > limit:
            raise too_large(limit)

    try:
        if (has_come := request.scope.get(HAS_COME)) is not None and has_come():
            add((await request.receive()).get("body", b""))  # at once: nobody waits
        else:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                async for chunk in request.stream():
                    add(chunk)
    except TimeoutError:
        raise HttpProblem(
            HTTPStatus.REQUEST_TIMEOUT, f"The body did not come within {READ_TIMEOUT_SECONDS:g} s"
        ) from None
    finally:
        raw = bytes(body)
        request.scope[RAW_BODY] = raw
    return raw


def too_large(limit: int) -> TooLarge:
    """The error for a body that has more than so many bytes."""
    return TooLarge(f"The body is larger than ORCHESTRATION_MAX_PAYLOAD_BYTES={limit}: send smaller pushes")


async def beginning_of(request: Request, limit: int) -> bytes:
    """The first bytes of a body that was refused, as far as they come at once; at most `limit`."""
    received: bytes | None = request.scope.get(RAW_BODY)
    if received is not None:
        return received[:limit]
    found = bytearray()
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(PEEK_SECONDS):
            async for chunk in request.stream():
                found += chunk
                if len(found) >= limit:
                    break
    return bytes(found[:limit])


def declared_size(request: Request) -> int | None:
    """What a request says of the size of its body, or else how much of it has come, in bytes."""
    declared = request.headers.get("content-length", "")
    received: bytes | None = request.scope.get(RAW_BODY)
    if declared.isdecimal() and len(declared) < 19:
        return int(declared)
    return len(received) if received else None
