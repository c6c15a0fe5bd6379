"""An HTTP client and a receiver that use little CPU time, so that the benchmark measures the service."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

ALERTS_PER_PUSH = 100


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, path: str) -> bool:
    """Whether somebody on this port answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def push(name: str, *, severity: str = "warning") -> bytes:
    """The body of a push with one alert, which opens its own incident."""
    payload = {"name": name, "severity": severity, "host": name}
    return json.dumps({"payload": payload, "source": "generic", "environment": "bench"}).encode()


def push_many(name: str) -> bytes:
    """The body of a push with `ALERTS_PER_PUSH` alerts, as Alertmanager groups them: one incident."""
    listed = [
        {"status": "firing", "labels": {"alertname": name, "severity": "warning", "instance": f"{name}-{number}"}}
        for number in range(ALERTS_PER_PUSH)
    ]
    payload = {"version": "4", "groupKey": name, "status": "firing", "alerts": listed}
    return json.dumps({"payload": payload, "source": "alertmanager", "environment": "bench"}).encode()


async def post_all(port: int, path: str, bodies: list[bytes], connections: int) -> list[float]:
    """Post the bodies over several connections. Returns the seconds of each request; an answer other than 202 exits."""
    waiting = iter(bodies)
    seconds: list[float] = []

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in waiting:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            started = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            content = await reader.readexactly(length)
            seconds.append(time.perf_counter() - started)
            if b" 202 " not in answer.split(b"\r\n", 1)[0]:
                raise SystemExit(f"not accepted: {answer.decode()} {content.decode()[:300]}")
        writer.close()

    await asyncio.gather(*(one_connection() for _ in range(connections)))
    return seconds


@dataclass
class Receiver:
    """Receives the messages of a channel, and keeps each with its moment on the clock of `time.perf_counter()`."""

    url: str
    arrived: list[float]
    bodies: list[bytes]

    def wait_for(self, count: int, timeout_seconds: float) -> None:
        """Wait until so many messages have arrived. After the timeout the benchmark exits."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.arrived) < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(self.arrived)} of {count} messages came within {timeout_seconds:g} s")
            time.sleep(0.005)


@contextmanager
def receiver() -> Iterator[Receiver]:
    """An HTTP server on loopback that answers every message with 200."""
    arrived: list[float] = []
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            arrived.append(time.perf_counter())
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Receiver(url=f"http://127.0.0.1:{server.server_port}/", arrived=arrived, bodies=bodies)
        finally:
            server.shutdown()
