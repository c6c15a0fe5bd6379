"""How much of an answer a client of httpx reads, and for how long: an address may answer anything, without an end."""

from __future__ import annotations

import re
import time
from typing import Any, Self, cast

import httpx
import orjson

HEADER_LIMIT_BYTES = 64 * 1024
"""How much is read before the header of an answer is there. A server may send `100 Continue` for ever."""

ANSWER_LIMIT_BYTES = 8 * 1024 * 1024
"""How much of an answer is read. The largest that the worker asks for, a page of flow runs, has a tenth of it."""

ANSWER_LIMIT_SECONDS = 60.0
"""How long an answer may take, from the request to its last byte. httpx limits the time between two bytes only."""

ANSWER_LIMIT_VALUES = 100_000
"""How many values an answer may have. Prefect's client makes an object of each, which costs up to 30 µs and 1 kB, and
nothing else is executed meanwhile. A page of deployments, or of definitions of 200 nodes, has a third of them."""

ANSWER_LIMIT_OBJECTS = 1_000
"""How many objects an answer may list. Prefect's client makes an object of a class of each, which costs 40 µs. Prefect
itself lists at most 200 at once."""

READ_BYTES = 16 * 1024
"""How much is read at once. Reading in small steps lets other work go on while an answer of tiny parts is read."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_BEGINS_VALUE = (b",", b"[", b"{")


class AnswerRefused(httpx.RequestError):
    """The answer is larger than this project reads, or has a form that it did not ask for."""


class LimitedNetwork:
    """The network of an asynchronous client, in place of its own."""

    def __init__(self, network: Any) -> None:
        self._network = network

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> LimitedConnection:
        """Open a connection whose answers are limited."""
        return LimitedConnection(await self._network.connect_tcp(*args, **kwargs))

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> LimitedConnection:
        """Open a connection whose answers are limited."""
        return LimitedConnection(await self._network.connect_unix_socket(*args, **kwargs))

    async def sleep(self, seconds: float) -> None:
        """Wait between two tries to connect."""
        await self._network.sleep(seconds)


class LimitedNetworkNow:
    """The network of a synchronous client, in place of its own."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def connect_tcp(self, *args: Any, **kwargs: Any) -> LimitedConnectionNow:
        """Open a connection whose answers are limited."""
        return LimitedConnectionNow(self._network.connect_tcp(*args, **kwargs))

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> LimitedConnectionNow:
        """Open a connection whose answers are limited."""
        return LimitedConnectionNow(self._network.connect_unix_socket(*args, **kwargs))

    def sleep(self, seconds: float) -> None:
        """Wait between two tries to connect."""
        self._network.sleep(seconds)


class _Limits:
    """A connection, and what may still be read of the answer that it waits for."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._expect_answer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def expect_content(self) -> None:
        """The header is there; what follows is the content."""
        self._left = ANSWER_LIMIT_BYTES

    def _expect_answer(self) -> None:
        self._left = HEADER_LIMIT_BYTES
        self._deadline = time.monotonic() + ANSWER_LIMIT_SECONDS

    def _timeout(self, timeout: float | None) -> float:
        """How long the next read may take, in seconds, if the client allows `timeout`."""
        if self._left <= 0:
            raise AnswerRefused("its header or its content has no end")
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout(f"The answer takes longer than {ANSWER_LIMIT_SECONDS:g} s")
        return left if timeout is None else min(timeout, left)

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        return content


class LimitedConnection(_Limits):
    """A connection of an asynchronous client."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's name
        """Read what is there, in the limits of an answer."""
        return self._counted(await self._connection.read(min(max_bytes, READ_BYTES), self._timeout(timeout)))

    async def write(self, *args: Any, **kwargs: Any) -> None:
        """Write a request. What is read from now on is its answer."""
        self._expect_answer()
        await self._connection.write(*args, **kwargs)

    async def start_tls(self, *args: Any, **kwargs: Any) -> Self:
        """The connection with TLS."""
        return type(self)(await self._connection.start_tls(*args, **kwargs))


class LimitedConnectionNow(_Limits):
    """A connection of a synchronous client."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there, in the limits of an answer."""
        return self._counted(self._connection.read(min(max_bytes, READ_BYTES), self._timeout(timeout)))

    def write(self, *args: Any, **kwargs: Any) -> None:
        """Write a request. What is read from now on is its answer."""
        self._expect_answer()
        self._connection.write(*args, **kwargs)

    def start_tls(self, *args: Any, **kwargs: Any) -> Self:
        """The connection with TLS."""
        return type(self)(self._connection.start_tls(*args, **kwargs))


async def read_limited(response: httpx.Response) -> None:
    """A hook of an asynchronous client: read the content of an answer, in its limits.

    Raises:
        AnswerRefused: the answer is compressed, too large, or has too many values or objects.
        httpx.ReadTimeout: the answer takes too long.
    """
    _expect_content(response)
    await response.aread()
    _refuse_costly(response.content)


def read_limited_now(response: httpx.Response) -> None:
    """A hook of a synchronous client: read the content of an answer, in its limits.

    Raises:
        AnswerRefused: the answer is compressed, too large, or has too many values or objects.
        httpx.ReadTimeout: the answer takes too long.
    """
    _expect_content(response)
    response.read()
    _refuse_costly(response.content)


def _expect_content(response: httpx.Response) -> None:
    # Prefect's client waits as long as an answer says, also before it gives up, and with the second one asks for ever.
    for name in ("Retry-After", "Prefect-Maintenance"):
        response.headers.pop(name, None)
    # A few kilobytes become gigabytes. The client asks for answers that are not compressed.
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise AnswerRefused("it is compressed")
    connection = response.extensions.get("network_stream")
    if isinstance(connection, _Limits):
        connection.expect_content()


def _refuse_costly(content: bytes) -> None:
    if len(content) < ANSWER_LIMIT_VALUES:
        return  # each value has a byte at least, and the objects that fit in cost little
    without_texts = _STRING.sub(b"", content)
    if sum(map(without_texts.count, _BEGINS_VALUE)) > ANSWER_LIMIT_VALUES:
        raise AnswerRefused(f"it has more than {ANSWER_LIMIT_VALUES} values")
    if any(sum(isinstance(one, dict) for one in found) > ANSWER_LIMIT_OBJECTS for found in _lists_of(content)):
        raise AnswerRefused(f"it lists more than {ANSWER_LIMIT_OBJECTS} objects")


def _lists_of(content: bytes) -> list[list[object]]:
    """The list that an answer is, or the lists that it has one level below: a page of Prefect's is either."""
    try:
        value: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        return []  # the client says so
    inside = cast("dict[str, object]", value).values() if isinstance(value, dict) else [value]
    return [cast("list[object]", one) for one in inside if isinstance(one, list)]
