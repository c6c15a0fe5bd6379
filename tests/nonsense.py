"""An address that is not Prefect's any more: a proxy in front of a real server that begins to answer nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

Write = Callable[[bytes], Coroutine[Any, Any, None]]
Nonsense = Callable[[Write], Coroutine[Any, Any, None]]
"""Answers one request, of whatever kind it is. Afterwards the connection is closed."""


def answer(status: str, body: bytes, *headers: str) -> Nonsense:
    """A whole answer; without a header of its own it is called JSON, as Prefect's are."""
    own = headers or ("Content-Type: application/json",)
    head = "\r\n".join([f"HTTP/1.1 {status}", *own, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    return raw(head.encode() + body)


def raw(content: bytes) -> Nonsense:
    """These bytes."""

    async def write_it(write: Write) -> None:
        await write(content)

    return write_it


def compressed(status: str, parts: bytes, times: int) -> Nonsense:
    """`parts`, so many times, as a small body in gzip."""
    return answer(status, gzip.compress(parts * times, 9), "Content-Type: application/json", "Content-Encoding: gzip")


def without_end(head: bytes, part: bytes) -> Nonsense:
    """`part` follows `head` again and again, as fast as it is read."""

    async def write_it(write: Write) -> None:
        await write(head)
        while True:
            await write(part)

    return write_it


def slow(head: bytes, part: bytes, every_seconds: float) -> Nonsense:
    """`part` follows `head` again and again, with a pause after each."""

    async def write_it(write: Write) -> None:
        await write(head)
        while True:
            await write(part)
            await asyncio.sleep(every_seconds)

    return write_it


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
endless = without_end(HEAD + b"\r\n[", b" " * 65536)
slow_body = slow(HEAD + b"\r\n[", b" ", 0.02)

LARGE: dict[str, Nonsense] = {
    "huge": without_end(HEAD + b"Content-Length: 300000000\r\n\r\n[", b" " * 65536),
    "huge, compressed": compressed("200 OK", b" " * 1_000_000, 300),
    "endless": endless,
    "endless, slow": slow_body,
    "endless header": without_end(HEAD, b"X-Nonsense: " + b"a" * 1000 + b"\r\n"),
    "endless line of a header": without_end(HEAD + b"X-Nonsense: ", b"a" * 65536),
    "continues for ever": without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "chunks of one byte": without_end(CHUNKS, b"1\r\n \r\n" * 8000),
    "millions of objects": answer("200 OK", b"[" + b"{}," * 2_000_000 + b"{}]"),
    "thousands of flow runs": answer("200 OK", b"[" + b",".join([b'{"flow_id": "%s"}' % (b"7" * 32)] * 45_000) + b"]"),
    "millions of numbers": answer("200 OK", b"[" + b"1," * 2_000_000 + b"1]"),
    "asks to wait for a year": answer(
        "503 Service Unavailable", b"", "Retry-After: 31536000", "Prefect-Maintenance: true"
    ),
    "millions of lists": answer("200 OK", b'{"results": ' + b"[[]," * 1_000_000),
}
"""Answers that cost their reader memory or time, by name."""

FLOW = b'{"id": "00000000-0000-0000-0000-000000000007", "name": "alert-pipeline"}'
NULLS = b'{"id": null, "name": 7, "paused": "perhaps", "state": [], "flow_id": {}, "results": "none"}'
HTML = b"<html><title>Sign in</title><form method=post><input name=password></form></html>"

ANSWERS: dict[str, Nonsense] = {
    "html": answer("200 OK", HTML, "Content-Type: text/html"),
    "html, called JSON": answer("200 OK", HTML),
    "empty object": answer("200 OK", b"{}"),
    "empty list": answer("200 OK", b"[]"),
    "null": answer("200 OK", b"null"),
    "number": answer("200 OK", b"3.9"),
    "other JSON": answer("200 OK", b'{"detail": "maintenance", "version": "0.1"}'),
    "half right JSON": answer("200 OK", FLOW),
    "list of a wrong type": answer("200 OK", b'[null, 1, "x", [], {"id": 1}]'),
    "fields of wrong types": answer("200 OK", NULLS),
    "broken JSON": answer("200 OK", b'{"id": "0000'),
    "deep JSON": answer("200 OK", b"[" * 100_000),
    "wrong version": answer("400 Bad Request", b'{"detail": "Found incompatible version 9.9 of API"}'),
    "half an answer": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nContent-Type: application/json\r\n\r\n{"),
    "empty": answer("200 OK", b""),
    "no content": raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    "redirect to itself": answer("307 Temporary Redirect", b"", "Location: /api/health"),
    "redirect to elsewhere": answer("302 Found", b"", "Location: http://127.0.0.1:9/login"),
    "redirect to nonsense": answer("302 Found", b"", "Location: ht!tp://["),
    "401": answer("401 Unauthorized", b'{"exception_message": "Unauthorized"}'),
    "403": answer("403 Forbidden", HTML, "Content-Type: text/html"),
    "404": answer("404 Not Found", b'{"detail": "Not Found"}'),
    "409": answer("409 Conflict", b"{}"),
    "418": answer("418 I'm a teapot", b"short and stout", "Content-Type: text/plain"),
    "422": answer("422 Unprocessable Entity", b'{"exception_detail": "?"}'),
    "500": answer("500 Internal Server Error", b""),
    "binary": answer("200 OK", bytes(range(256)) * 8),
    "binary, called gzip": answer("200 OK", bytes(range(256)), "Content-Encoding: gzip"),
    "another protocol": raw(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    "nothing": raw(b""),
    **LARGE,
}
"""What an address that is not Prefect's may answer, by name."""


class Proxy:
    """Passes connections on to a server as long as `nonsense` is None; else it answers them so."""

    nonsense: Nonsense | None = None

    def __init__(self, target: str | None) -> None:
        self._target = urlsplit(target or "")
        self._open: set[asyncio.StreamWriter] = set()
        self.answered = 0
        """How many requests got nonsense."""
        self.written_bytes = 0
        """How much nonsense was sent."""
        self.url = ""

    def answer_with(self, nonsense: Nonsense | None) -> None:
        """From now on, also for connections that are open."""
        self.nonsense = nonsense
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._open.add(writer)
        try:
            # asyncio reports the task of a connection that is cancelled, at the end of a test, as an error.
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError
            ):
                await (self._pass_on(reader, writer) if self.nonsense is None else self._answer(reader, writer))
        finally:
            self._open.discard(writer)
            writer.transport.abort() if self.nonsense in LARGE.values() else writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().splitlines():
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))

        async def write(content: bytes) -> None:
            writer.write(content)
            await writer.drain()
            self.written_bytes += len(content)

        self.answered += 1
        assert self.nonsense is not None
        await self.nonsense(write)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._open.add(back)
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            self._open.discard(back)
            back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(65536):
        writer.write(content)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy(target: str | None = None) -> AsyncIterator[Proxy]:
    """A proxy for Prefect's API at `target`; its address is `url`."""
    one = Proxy(target)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
    try:
        yield one
    finally:
        one.answer_with(raw(b""))
        server.close()
