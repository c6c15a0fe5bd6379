"""An HTTP client for models' APIs that reads no answer without an end."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, cast

import httpx2

MAX_ANSWER_BYTES = 256 * 1024
"""The longest answer that is read. The vendors' clients would read any to its end, and take it apart in the event loop:
a tenth of a second for each MB."""


@lru_cache(maxsize=1)
def trusted() -> ssl.SSLContext:
    """The certificates that are trusted. Reading them takes 20 ms, hence the cache: call it in a thread."""
    return httpx2.create_ssl_context()


class AnswerTooLong(httpx2.ReadError):
    """An answer has more bytes than are read."""


class BoundedClient(httpx2.AsyncClient):
    """Refuses answers that are too long, and follows no redirect, which could take the key elsewhere."""

    def __init__(self, timeout: httpx2.Timeout, verify: ssl.SSLContext) -> None:
        # What is compressed could be small on the wire, and large in memory.
        super().__init__(
            timeout=timeout, verify=verify, follow_redirects=False, headers={"Accept-Encoding": "identity"}
        )

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request, and read its answer as far as it may go.

        Raises:
            AnswerTooLong: the answer is longer.
        """
        response = await super().send(request, stream=True, **options)
        response.stream = _Bounded(cast("httpx2.AsyncByteStream", response.stream))
        if not stream:
            try:
                await response.aread()
            finally:
                await response.aclose()
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise AnswerTooLong(f"its answer has more than {MAX_ANSWER_BYTES:,} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
