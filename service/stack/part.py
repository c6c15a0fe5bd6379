"""A server that is started on demand, watched while it is used, started again when it dies, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import Protocol

from orchestration.errors import PipelineError
from service.stack import process

MAX_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A server that ran this long has earned a quick restart."""


class Server(Protocol):
    """What a part needs to know about its server."""

    name: str
    stop_signal: signal.Signals
    stop_seconds: float

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start it and return it when it can be used."""
        ...


class Part:
    """One server of the stack."""

    def __init__(
        self,
        server: Server,
        *,
        progress: Callable[[str], None],
        notice: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._server = server
        self._progress = progress
        self._notice = notice
        self._changed = changed
        self._starting: asyncio.Task[Process] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server while it can be used."""
        running = self._running()
        return running.pid if running is not None and running.returncode is None else None

    async def ensure(self) -> None:
        """Return when the server can be used. Those who ask while it starts wait for the same start.

        Raises:
            PipelineError: it did not start. Who asks next starts it anew.
        """
        task = self._starting
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._starting = asyncio.create_task(self._server.start(self._progress))
        await asyncio.shield(task)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        self._changed()

    async def stop(self) -> None:
        """End the server, also one that is starting."""
        for task in (self._watching, self._starting):
            if task is not None and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        running = self._running()
        if running is not None:
            await process.end(running, self._server.stop_signal, self._server.stop_seconds)

    def _running(self) -> Process | None:
        task = self._starting
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def _watch(self) -> None:
        delay = 0.0
        while True:
            began = time.monotonic()
            running = self._running()
            if running is not None:
                await running.wait()
                self._notice(f"{self._server.name} ended ({process.describe_exit(running.returncode)}); restarting it")
            if time.monotonic() - began > STEADY_SECONDS:
                delay = 0.0
            await asyncio.sleep(delay)
            delay = min(MAX_DELAY_SECONDS, max(0.5, delay * 2))
            self._starting = asyncio.create_task(self._server.start(self._progress))
            try:
                await asyncio.shield(self._starting)
            except PipelineError as error:
                self._notice(str(error))
            except OSError as error:
                self._notice(f"{self._server.name} cannot be started again: {error}")
            else:
                self._notice(f"{self._server.name} runs again")
            self._changed()
