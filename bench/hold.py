"""`python -m bench.hold URL`: how long `/health/` takes others while somebody holds connections or sends no end.

Run it against a running `alert-pipeline up` or `api` of your own. It needs no key: neither does an attacker.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from service.api.connections import raise_open_files

HALF_A_HEADER = b"GET /health/ HTTP/1.1\r\nHost: x\r\nX-A: "
CONNECTIONS = 2000
LOOKS_PER_SECOND = 100


@dataclass(frozen=True)
class Target:
    """Where the API listens."""

    url: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        parts = urlsplit(self.url)
        return await asyncio.open_connection(parts.hostname, parts.port)


@asynccontextmanager
async def nobody(_target: Target) -> AsyncGenerator[None]:
    """No attack: what the others are compared with."""
    yield


@asynccontextmanager
async def half_open(target: Target) -> AsyncGenerator[None]:
    """Keep 2,000 connections with half a header, and open a new one for each that is closed."""

    async def hold() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await target.connect()
                writer.write(HALF_A_HEADER)
                await reader.read()
                writer.close()
            await asyncio.sleep(1)

    attackers = [asyncio.create_task(hold()) for _ in range(CONNECTIONS)]
    await asyncio.sleep(2)
    yield
    await _end(attackers)


@asynccontextmanager
async def endless_header(target: Target) -> AsyncGenerator[None]:
    """Send headers without an end, a megabyte at a time, and begin again when the connection is closed."""

    async def send() -> None:
        while True:
            with suppress(OSError):
                _, writer = await target.connect()
                writer.write(HALF_A_HEADER)
                while not writer.is_closing():
                    writer.write(b"a" * 1_000_000)
                    await writer.drain()
            await asyncio.sleep(0.01)

    senders = [asyncio.create_task(send())]
    await asyncio.sleep(0.5)
    yield
    await _end(senders)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


ATTACKS: dict[str, Callable[[Target], AbstractAsyncContextManager[None]]] = {
    "nobody attacks": nobody,
    "2,000 half-open connections": half_open,
    "an endless header": endless_header,
}


async def looks(url: str, seconds: float) -> tuple[list[float], int]:
    """The milliseconds of each answer of `/health/`, sorted, each over a new connection, and how many failed."""
    found: list[float] = []
    failed = 0
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=20, trust_env=False) as client:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                (await client.get(f"{url}/health/")).raise_for_status()
                found.append((time.perf_counter() - began) * 1000)
            except httpx.HTTPError:
                failed += 1
            await asyncio.sleep(1 / LOOKS_PER_SECOND)
    return sorted(found), failed


async def attack(url: str, name: str) -> None:
    """Attack in a process of its own until it is ended."""
    raise_open_files()
    async with ATTACKS[name](Target(url)):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def measure(url: str, seconds: float) -> None:
    """Print a line for each attack."""
    for name in ATTACKS:
        # Another process: the attacker's own work must not count as the API's.
        arguments = (sys.executable, "-m", "bench.hold", url, "--attack", name)
        attacker = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        assert attacker.stdout is not None
        await attacker.stdout.readline()
        found, failed = await looks(url, seconds)
        attacker.terminate()
        await attacker.wait()
        p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
        print(f"{name:<28} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  max {found[-1]:6.1f} ms  failed {failed}/{len(found)}")


def main() -> None:
    """Measure, or attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--attack", choices=ATTACKS)
    chosen = parser.parse_args()
    run = attack(chosen.url, chosen.attack) if chosen.attack else measure(chosen.url, chosen.seconds)
    asyncio.run(run)


if __name__ == "__main__":
    main()
