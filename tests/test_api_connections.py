"""Headers without an end, and connections that only wait, keep nobody else out."""

from __future__ import annotations

import asyncio
import resource
import socket
import time

import httpx
import psutil
import pytest

from orchestration.settings import Settings
from orchestration.store.database import Database
from service.api import connections
from service.api.connections import most_connections
from tests.api_helpers import alert, serve_api, until

START = b"GET /health/ HTTP/1.1\r\nHost: x\r\n"
LIMIT = 64 * 1024


async def answer(where: tuple[str, int], *pieces: bytes) -> bytes:
    """Everything that the API sends until it closes the connection."""
    reader, writer = await asyncio.open_connection(*where)
    received = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    found = await asyncio.wait_for(asyncio.gather(received, return_exceptions=True), 20)
    writer.close()
    return found[0] if isinstance(found[0], bytes) else b""


async def test_a_header_over_the_limit_is_refused(settings: Settings, database: Database) -> None:
    async with serve_api(settings, database.url) as where:
        for header in (b"X-A: " + b"a" * LIMIT, b"X-A: a\r\n" * 20_000, b"X" * LIMIT * 300):
            said = await answer(where, START + header)
            # A sender that does not stop for the answer may not get to see it.
            assert said[:13] in (b"", b"HTTP/1.1 431 ")
        long_address = await answer(where, b"GET /" + b"a" * LIMIT)
        assert long_address.startswith(b"HTTP/1.1 431 ")
        assert b"API_MAX_HEADER_BYTES=65536" in long_address
        good = START + b"X-A: " + b"a" * (LIMIT - 1000) + b"\r\nConnection: close\r\n\r\n"
        assert (await answer(where, good)).startswith(b"HTTP/1.1 200 ")
        trailer = b"POST /health/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A: "
        said = await answer(where, trailer, *[b"a" * LIMIT] * 30)
        assert said[:13] in (b"", b"HTTP/1.1 405 "), said
        # Large bodies in one piece with their header are no headers.
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"POST /health/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 1_000_000)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 405 ")
        writer.close()


async def test_a_header_that_does_not_come_ends_the_connection(settings: Settings, database: Database) -> None:
    quick = settings.model_copy(update={"api_header_timeout_seconds": 0.2})
    async with serve_api(quick, database.url) as where:
        for first in (b"", b"G", START, START + b"\r\n" + START):
            began = time.monotonic()
            said = await answer(where, first)
            assert time.monotonic() - began < 5
            assert b"HTTP/1.1 408 " in said
        # A body that nobody reads is not waited for either.
        body = b"POST /health/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
        assert (await answer(where, body)).startswith(b"HTTP/1.1 405 ")
        # An answered connection may wait for its next request.
        reader, writer = await asyncio.open_connection(*where)
        for _ in range(2):
            writer.write(START + b"\r\n")
            assert b"200" in await reader.readuntil(b"}")
            await asyncio.sleep(0.4)
        writer.close()


async def test_connections_that_only_wait_keep_nobody_out(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    few = settings.model_copy(update={"api_max_connections": 20})
    async with serve_api(few, database.url) as where:
        waiting = [await asyncio.open_connection(*where) for _ in range(100)]
        for _, writer in waiting:
            writer.write(START)
        async with httpx.AsyncClient() as client:
            for _ in range(5):
                assert (await client.get("http://{}:{}/health/".format(*where))).status_code == 200

        ended = [reader for reader, _ in waiting if reader.at_eof() or reader.exception() is not None]
        await until(lambda: all(reader.at_eof() or reader.exception() for reader, _ in waiting[:80]), "their end")
        assert len(ended) >= 80
        for _, writer in waiting:
            writer.close()

    assert caplog.text.count("20 connections are open") == 1


async def test_bodies_that_do_not_come_keep_nobody_out(settings: Settings, database: Database) -> None:
    few = settings.model_copy(update={"api_max_connections": 20, "api_auth": "off"})
    async with serve_api(few, database.url) as where:
        waiting = [await asyncio.open_connection(*where) for _ in range(20)]
        for _, writer in waiting:
            writer.write(b"POST /alerts/webhook/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        address = "http://{}:{}".format(*where)
        async with httpx.AsyncClient() as client:
            for name in ("one", "two"):
                assert (await client.post(f"{address}/alerts/webhook/", json=alert(name))).status_code == 202
        for _, writer in waiting:
            writer.close()


@pytest.mark.parametrize("stalled_seconds", [60.0, 0.2])
async def test_answers_that_nobody_reads_keep_nobody_out(
    settings: Settings,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stalled_seconds: float,
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", stalled_seconds)
    few = settings.model_copy(update={"api_max_connections": 20})
    async with serve_api(few, database.url) as where:
        callers = [socket.socket() for _ in range(20)]
        for caller in callers:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            await asyncio.to_thread(caller.connect, where)
            caller.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)

        async with httpx.AsyncClient(timeout=20) as client:
            for _ in range(3):
                assert (await client.get("http://{}:{}/health/".format(*where))).status_code == 200

        def open_here() -> int:
            # Of a connection that is closed the system may still send what is left, but no process has it any more.
            mine = psutil.Process().net_connections(kind="tcp")
            return sum(one.laddr == where and one.status == psutil.CONN_ESTABLISHED for one in mine)

        await until(lambda: open_here() <= (0 if stalled_seconds < 1 else 19), "their end")
        for caller in callers:
            caller.close()

    assert "Exception" not in caplog.text


def test_there_are_never_more_connections_than_files(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(files: int) -> None:
        monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (files, files))

    limit(65_536)
    assert most_connections(settings) == settings.api_max_connections == 2000
    limit(1024)
    assert most_connections(settings) == 896
    limit(256)
    assert most_connections(settings) == 128
    limit(resource.RLIM_INFINITY)
    assert most_connections(settings) == 2000
