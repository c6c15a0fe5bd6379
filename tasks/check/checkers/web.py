"""One request over HTTP whose every connection, also that of a redirect, goes only to an address that was judged.

Imported where it is used: httpx takes a tenth of a second to import.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpcore
import httpx

from tasks.check.checkers.base import LeftOut
from tasks.check.checkers.reach import Reach

MAX_REDIRECTS = 5
MAX_BODY_BYTES = 1024 * 1024

_USER_AGENT = "alert-pipeline"

ERRORS = (
    *(httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.UnsupportedProtocol),
    *(httpx.HTTPError, httpx.InvalidURL),
)
"""What a request can end with, beside what `Reach.connect()` raises."""


def is_readable(url: str) -> bool:
    """Whether a URL can be asked at all; a host such as `①.example` cannot."""
    try:
        httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return True


class RefusedRedirect(Exception):
    """A redirect leads to an address that may not be connected to. The text says where, and why."""


@dataclass(frozen=True)
class Fetched:
    """An answer: its status, the address that gave it, the redirects before it, and the beginning of its body."""

    status: int
    url: str
    hops: list[tuple[int, str]]
    """The status of each redirect, and where it led."""
    seconds: float
    """Until the head of the last answer."""
    body: bytes


async def fetch(
    url: str, reach: Reach, *, method: str, context: ssl.SSLContext, redirects: bool, read: bool
) -> Fetched:
    """The answer to one request. It sends no cookies and no credentials, uses no proxy, and reads at most 1 MiB.

    Raises:
        LeftOut: the URL leads to an address that may not be connected to.
        RefusedRedirect: a redirect leads to such an address.
        OSError: no connection; also `ERRORS`.
    """
    transport = _Transport(
        httpcore.AsyncConnectionPool(ssl_context=context, network_backend=_Backend(reach), retries=0)
    )
    asked = list[httpx.URL]()

    async def note(request: httpx.Request) -> None:
        asked.append(request.url)

    started = time.perf_counter()
    client = httpx.AsyncClient(
        transport=transport,
        follow_redirects=redirects,
        max_redirects=MAX_REDIRECTS,
        timeout=None,  # noqa: S113  the caller limits the time of it all
        trust_env=False,
        headers={"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
        event_hooks={"request": [_without_user, note]},
    )
    async with client, _named(asked), client.stream(method, url) as response:
        seconds = time.perf_counter() - started
        body = await _beginning(response) if read else b""
        led_to = [*response.history[1:], response]
        hops = [
            (hop.status_code, _without_credentials(next_one.url))
            for hop, next_one in zip(response.history, led_to, strict=False)
        ]
        return Fetched(response.status_code, _without_credentials(response.url), hops, seconds, body)


@asynccontextmanager
async def _named(asked: Sequence[httpx.URL]) -> AsyncGenerator[None]:
    """Make a refusal that a redirect has led to say so: up to there the target has answered."""
    try:
        yield
    except LeftOut as refused:
        if len(asked) < 2:
            raise
        raise RefusedRedirect(
            f"redirected to {_without_credentials(asked[-1])}, which may not be asked: {refused}"
        ) from None


async def _without_user(request: httpx.Request) -> None:
    """A redirect may name a user: it is not sent."""
    request.headers.pop("Authorization", None)


def _without_credentials(url: httpx.URL) -> str:
    return str(url.copy_with(username=None, password=None))


async def _beginning(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= MAX_BODY_BYTES:
            break
    return bytes(body[:MAX_BODY_BYTES])


class _Backend(httpcore.AsyncNetworkBackend):
    """Opens the connections of httpcore through `Reach`. Name and port of the URL stay what TLS and Host say."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        # Where anyio is missing, httpcore has a class without methods in its place: the type checker sees that one.
        self._inner: httpcore.AsyncNetworkBackend = cast("Any", httpcore.AnyIOBackend)()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        async def connect(address: str) -> httpcore.AsyncNetworkStream:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                raise _cause_of(error) from None

        return await self._reach.connect(host, connect, _leave)


def _cause_of(error: Exception) -> OSError:
    """The system's error; anyio and httpcore wrap it in errors of their own."""
    links: list[BaseException] = [error]
    for link in links:  # the list grows meanwhile
        if isinstance(link, OSError) and link.errno:
            return link
        further = (link.__cause__, link.__context__, *getattr(link, "exceptions", ()))
        links += [one for one in further if one is not None and one not in links]
    return OSError(str(error))


def _leave(stream: httpcore.AsyncNetworkStream) -> None:
    opened = stream.get_extra_info("socket")
    if opened is not None:
        opened.close()


class _Transport(httpx.AsyncBaseTransport):
    """httpx on a pool of ours. httpx's own transport takes no network backend."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        extensions = cast("dict[str, Any]", cast("Any", response).extensions)
        stream = _Stream(response)
        return httpx.Response(response.status, headers=response.headers, stream=stream, extensions=extensions)

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Stream(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_stream():
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
