"""`alert-pipeline up`: our API and a worker beside the stack, kept running until somebody ends it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping

import httpx

from orchestration.errors import BadSetting, Unavailable
from orchestration.signals import logger
from service.stack import HeldStack
from service.stack.part import Part
from service.stack.process import describe_exit, end, follow_parent

READY_SECONDS = 60.0
GRACE_SECONDS = 40.0
"""A worker gets the time to finish what it is at; after that it is killed, and its runs are taken over later."""


class OwnProcess:
    """One of our own commands as a child of this process, speaking on the same terminal."""

    stop_signal = signal.SIGTERM
    stop_seconds = GRACE_SECONDS

    def __init__(
        self, name: str, arguments: list[str], env: Mapping[str, str], ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self.name = name
        # -P: a file of the operator's folder that happens to be called statsd.py is not ours to import.
        self._command = [sys.executable, "-P", "-m", "service.cli.main", *arguments]
        self._env = dict(env)
        self._ready = ready

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start it and return it once it is ready.

        Raises:
            Unavailable: it ended, or was not ready in time. What it said stands on the terminal.
        """
        progress(f"Starting {self.name} …")
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            env=self._env,
            # Ctrl-C is for this process to hear; it ends the others in their order.
            start_new_session=True,
            preexec_fn=follow_parent(self.stop_signal),
        )
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await self._ready():
                    if process.returncode is not None:
                        raise Unavailable(f"{self.name} did not start ({describe_exit(process.returncode)})")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await end(process, self.stop_signal, 1.0)
            raise Unavailable(f"{self.name} was not ready within {READY_SECONDS:g} s") from None
        except BaseException:
            await end(process, self.stop_signal, 1.0)
            raise
        return process


async def serve(
    stack: HeldStack, *, host: str, port: int, progress: Callable[[str], None], ready: Callable[[], None]
) -> None:
    """Run the API and a worker on this stack, restart what dies of all, until cancelled; then end both.

    Raises:
        Unavailable: one of them did not start.
    """
    addresses = stack.addresses
    env = {**os.environ, "DATABASE_URL": addresses.database_url, "PREFECT_API_URL": addresses.prefect_api_url or ""}
    base = f"http://{_reachable(host)}:{port}"
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        servers = [
            OwnProcess(
                "the API", ["api", "--host", host, "--port", str(port)], env, lambda: _answers(client, base, "/health/")
            ),
            OwnProcess("a worker", ["worker"], env, lambda: _answers(client, base, "/ready/")),
        ]
        parts = [Part(server, progress=progress, notice=logger.warning, changed=lambda: None) for server in servers]
        try:
            await asyncio.gather(*(part.ensure() for part in parts))
            ready()
            await stack.hold()
        finally:
            # First no new pushes, then no new runs.
            for part in parts:
                await part.stop()


def ensure_port_free(host: str, port: int, *, option: str) -> None:
    """Say now, before anything starts, that a port is taken.

    Raises:
        BadSetting: naming the address and the option that changes it.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is in use by another program" if taken else f"cannot be used: {error.strerror}"
        raise BadSetting(f"{host}:{port} {reason}; choose another with {option}") from None


async def _answers(client: httpx.AsyncClient, base: str, path: str) -> bool:
    try:
        return (await client.get(base + path)).status_code == 200
    except httpx.HTTPError:
        return False


def _reachable(host: str) -> str:
    """Where to reach a server that listens on this address."""
    if host in ("0.0.0.0", ""):  # noqa: S104 - it is asked for by the operator
        return "127.0.0.1"
    return "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
