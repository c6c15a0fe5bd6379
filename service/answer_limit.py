"""Hooks for httpx: how much of an answer its clients read into memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
"""How much of an answer is read. The largest that the worker asks for, a page of 200 flow runs, has a tenth of it."""


def limit_now(response: httpx.Response) -> None:
    """A hook for answers of a synchronous client."""
    response.stream = _LimitedStream(response.stream)


async def limit_later(response: httpx.Response) -> None:
    """A hook for answers of an asynchronous client."""
    response.stream = _LimitedStream(response.stream)


class _LimitedStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The content of an answer, up to the limit."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = ANSWER_LIMIT_BYTES

    def __iter__(self) -> Iterator[bytes]:
        return map(self._count, self._stream)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for content in self._stream:
            yield self._count(content)

    def _count(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise httpx.ReadError(f"The answer has more than {ANSWER_LIMIT_BYTES} bytes")
        return content

    def close(self) -> None:
        """Close the connection's part of it."""
        self._stream.close()

    async def aclose(self) -> None:
        """Close the connection's part of it."""
        await self._stream.aclose()
