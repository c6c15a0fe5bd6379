"""The HTTP API behind a real server: hostile, slow and broken clients, and a clean shutdown."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from orchestration.settings import Settings
from orchestration.store.database import Database
from service.api import body as body_module
from tests.api_helpers import alert, all_runs, local_key, serve_api, trigger
from tests.conftest import clean_environment

LIMIT = 64 * 1024
PATH = "/orchestration/pipeline/"


@pytest.fixture
async def address(settings: Settings, database: Database) -> AsyncIterator[tuple[str, int]]:
    async with serve_api(settings.model_copy(update={"max_payload_bytes": LIMIT}), database.url) as where:
        yield where


@pytest.fixture
def head(settings: Settings) -> bytes:
    """The beginning of a request to start a pipeline."""
    (key,) = local_key(settings).values()
    return f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {key}\r\n".encode()


@pytest.fixture
async def api(address: tuple[str, int], settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    url = "http://{}:{}".format(*address)
    async with httpx.AsyncClient(base_url=url, timeout=20, headers=local_key(settings)) as client:
        yield client


async def raw(address: tuple[str, int], *pieces: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes as they are; the status and the body of the answer."""
    reader, writer = await asyncio.open_connection(*address)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    body = json.loads(await reader.readexactly(length))
    writer.close()
    return int(head.split()[1]), body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in (*pieces, b""))


async def test_one_connection_serves_many_requests(address: tuple[str, int], head: bytes, database: Database) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for number in range(5):
        body = json.dumps(trigger(alert(instance=str(number)))).encode()
        writer.write(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        said = await reader.readuntil(b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 202")
        length = next(int(line[15:]) for line in said.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
    writer.close()

    assert len(await all_runs(database)) == 5


@pytest.mark.parametrize(
    "packed", [gzip.compress, lambda body: gzip.compress(body[:9], mtime=0) + gzip.compress(body[9:], mtime=0)]
)
async def test_gzip_is_unpacked(api: httpx.AsyncClient, database: Database, packed: object) -> None:
    assert callable(packed)
    body = packed(json.dumps(trigger()).encode())
    for name in ("gzip", "GZIP", "x-gzip"):
        answer = await api.post(PATH, content=body, headers={"Content-Encoding": name})
        assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("encoding", "body", "status", "says"),
    [
        ("br", b"x", 415, "'br' is not known"),
        ("gzip, gzip", b"x", 415, "not known"),
        ("gzip", b"no gzip", 400, "not gzip"),
        ("gzip", gzip.compress(b'{"payload": {}}', mtime=0)[:-9], 400, "ends too early"),
        ("gzip", gzip.compress(b'{"payload": {}}', mtime=0) + b"rest", 400, "not gzip"),
        ("gzip", gzip.compress(b"{}", mtime=0) * 65, 400, "more than 64 members"),
        ("gzip", b"", 400, ""),
        ("identity", b"{", 400, "not JSON"),
    ],
)
async def test_what_cannot_be_unpacked_is_refused(
    api: httpx.AsyncClient, encoding: str, body: bytes, status: int, says: str
) -> None:
    answer = await api.post(PATH, content=body, headers={"Content-Encoding": encoding})

    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]


async def test_a_body_over_the_limit_is_refused_before_it_is_read(address: tuple[str, int], head: bytes) -> None:
    status, said = await raw(address, head + b"Content-Length: 99999999999\r\n\r\n")

    assert status == 202
    assert f"ORCHESTRATION_MAX_PAYLOAD_BYTES={LIMIT}" in said["message"]


async def test_a_body_of_unknown_length_is_read_up_to_the_limit(address: tuple[str, int], head: bytes) -> None:
    pieces = [chunked(b" " * 8192)[:-5]] * 9
    status, said = await raw(address, head + b"Transfer-Encoding: chunked\r\n\r\n", *pieces)

    assert status == 202
    assert said["message"].startswith("Cut, and somebody is notified of this alone: The body is larger than ")


async def test_a_chunked_body_within_the_limit_is_taken(address: tuple[str, int], head: bytes) -> None:
    body = json.dumps(trigger()).encode()
    status, _ = await raw(address, head + b"Transfer-Encoding: chunked\r\n\r\n", chunked(body[:9], body[9:]))

    assert status == 202


async def test_a_small_body_cannot_unpack_to_a_large_one(api: httpx.AsyncClient) -> None:
    bomb = gzip.compress(b'{"payload": {"name": "' + b"x" * 50_000_000 + b'"}}', 9, mtime=0)
    assert len(bomb) < LIMIT
    answer = await api.post(PATH, content=bomb, headers={"Content-Encoding": "gzip"})

    assert (answer.status_code, "Cut" in answer.text) == (202, True)


async def test_the_limit_counts_the_whole_body(api: httpx.AsyncClient, database: Database) -> None:
    frame = len(json.dumps(trigger(alert(description=""))).encode())
    for more, is_cut in ((0, False), (1, True)):
        body = json.dumps(trigger(alert(description="x" * (LIMIT - frame + more)))).encode()
        assert len(body) == LIMIT + more
        answer = await api.post(PATH, content=body)
        assert (answer.status_code, "Cut" in answer.json()["message"]) == (202, is_cut)


async def test_a_body_that_does_not_come_is_given_up(
    address: tuple[str, int], head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "READ_TIMEOUT_SECONDS", 0.05)
    status, said = await raw(address, head + b"Content-Length: 100\r\n\r\n{")

    assert status == 408
    assert "did not come" in said["error"]


async def test_half_a_body_is_no_alert(
    address: tuple[str, int], head: bytes, api: httpx.AsyncClient, database: Database
) -> None:
    body = json.dumps(trigger()).encode()
    _, writer = await asyncio.open_connection(*address)
    writer.write(head + f"Content-Length: {len(body) + 1}\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    assert (await api.get("/orchestration/pipelines/")).json()["count"] == 0


async def test_slow_clients_hold_nobody_up(address: tuple[str, int], head: bytes, api: httpx.AsyncClient) -> None:
    slow = [await asyncio.open_connection(*address) for _ in range(50)]
    for _, writer in slow:
        writer.write(head + b"Content-Length: 1000\r\n\r\n{")
    answer = await api.post(PATH, json=trigger())
    for _, writer in slow:
        writer.close()

    assert answer.status_code == 202


async def test_a_large_push_is_stored_whole_while_others_are_served(settings: Settings, database: Database) -> None:
    many = [alert(f"Alert{n}", description="x" * 200) for n in range(5000)]
    chosen = settings.model_copy(update={"max_incidents_per_push": 5000})
    async with (
        serve_api(chosen, database.url) as where,
        httpx.AsyncClient(base_url="http://{}:{}".format(*where), timeout=60, headers=local_key(settings)) as api,
    ):
        large = asyncio.create_task(api.post(PATH, json=trigger(*many)))
        small = 0
        while not large.done():
            assert (await api.get("/health/")).status_code == 200
            small += 1
        answer = await large

    assert answer.status_code == 202
    assert len(answer.json()["run_ids"]) == 5000
    assert len(await all_runs(database)) == 5000
    assert small > 5


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(home: Path, postgres_url: str, ending: signal.Signals) -> None:
    with subprocess.Popen(
        [str(Path(sys.executable).parent / "alert-pipeline"), "api", "--port", "0"],
        env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert httpx.get(f"{address}/health/").json() == {"status": "ok"}
        process.send_signal(ending)
        _, errors = process.communicate(timeout=40)

    assert process.returncode == 0, errors
    assert "Traceback" not in errors


async def test_a_port_in_use_is_a_clear_error(home: Path, address: tuple[str, int]) -> None:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "alert-pipeline"),
        *("api", "--port", str(address[1])),
        env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()

    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {address[1]}: Address already in use" in errors.decode()
