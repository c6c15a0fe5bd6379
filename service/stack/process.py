"""Child processes that never outlive their parent: start, supervise and end them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from orchestration.errors import PipelineError
from service.stack.paths import Account

MAX_DELAY_SECONDS = 30.0
"""The longest wait before a server that keeps dying, or the stack, is restarted."""

STEADY_SECONDS = 60.0
"""A server that ran this long is restarted without a wait."""

PROGRESS_SECONDS = 5.0
"""How often a slow start reports the time that has passed."""

_SET_PARENT_DEATH_SIGNAL = 1


async def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    death_signal: signal.Signals,
    account: Account | None = None,
    pass_fds: Sequence[int] = (),
    nice: int = 0,
) -> Process:
    """Start `command` as a child that gets `death_signal` when this process dies for any reason (Linux).

    Call this in the main thread: the kernel watches the thread that forks. `nice` is how much it yields to others.

    Raises:
        OSError: the program or `log` cannot be opened.
    """
    other = account if account is not None and account.switches else None
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
            user=other.uid if other else None,
            group=other.gid if other else None,
            extra_groups=[] if other else None,
            umask=0o077,
            # In a session of its own the child gets no signal that is sent to the keeper's process group.
            start_new_session=True,
            preexec_fn=follow_parent(death_signal, nice),
        )


def follow_parent(signal_number: signal.Signals, nice: int = 0) -> Callable[[], None] | None:
    """A `preexec_fn` that makes Linux send the child this signal when its parent dies; None on other systems.

    With `nice` the child yields so much to the API and PostgreSQL, which accept alerts, when all want the processor.
    """
    if sys.platform != "linux":
        return None
    # Loaded before the fork: the child of a process with threads may do very little.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        if nice:
            _yield_to_others(nice)
        prctl(_SET_PARENT_DEATH_SIGNAL, int(signal_number), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the kernel watched it
            os._exit(1)

    return in_child


def _yield_to_others(nice: int) -> None:
    """Lower the priority of this process, and of its session: Linux weighs sessions against each other first."""
    os.nice(nice)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as own:  # noqa: PTH123 - little after a fork
        own.write(str(nice))


async def end(process: Process, signal_number: signal.Signals, grace_seconds: float) -> None:
    """Ask the process to end; kill it if it has not ended after `grace_seconds`."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.send_signal(signal_number)
        try:
            await asyncio.wait_for(process.wait(), grace_seconds)
        except TimeoutError:
            process.kill()
            await process.wait()


def describe_exit(code: int | None) -> str:
    """An exit status as text: `exit code 1`, `SIGKILL`."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def log_tail(log: Path, lines: int = 4) -> str:
    """The last lines of a log, joined into one line."""
    try:
        text = log.read_bytes()[-8192:].decode(errors="replace")
    except OSError:
        return ""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(found[-lines:])[-600:]


def collect_garbage_rarely() -> None:
    """Exclude all loaded objects from garbage collection and make later collections rare. For long-running servers.

    Prefect, SQLAlchemy and pydantic make many small objects for each request, and reference counting frees nearly
    all of them. Python's default of a collection per 700 new objects took an eighth of the CPU of each request.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 5)


class Server(Protocol):
    """A server that `Supervisor` can start and end."""

    name: str
    stop_signal: signal.Signals
    stop_seconds: float

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start the server and return its process once it is usable."""
        ...


class Supervisor:
    """Starts one server on demand, restarts it when it dies, and ends it."""

    def __init__(
        self,
        server: Server,
        *,
        progress: Callable[[str], None],
        notice: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`progress` gets the steps of a start, `notice` deaths and restarts; `changed` is called after each start."""
        self._server = server
        self._progress = progress
        self._notice = notice
        self._changed = changed
        self._process: Process | None = None
        """None means that no start has succeeded, or that one is in progress."""
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def ensure(self) -> None:
        """Return when the server is usable. Concurrent callers wait for the same start.

        Raises:
            PipelineError: the server did not start. The next call starts it again.
        """
        if self._starting is None or (self._starting.done() and self._process is None):
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        self._changed()

    async def stop(self) -> None:
        """End the server, also while it starts."""
        for task in (self._watching, self._starting):
            if task is not None and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        if self._process is not None:
            await end(self._process, self._server.stop_signal, self._server.stop_seconds)

    async def _start(self) -> None:
        self._process = None
        reporting = asyncio.create_task(self._report_elapsed_time())
        try:
            self._process = await self._server.start(self._progress)
        finally:
            reporting.cancel()

    async def _report_elapsed_time(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            self._progress(f"Starting {self._server.name} … {time.monotonic() - began:.0f} s")

    async def _watch(self) -> None:
        delay = 0.0
        while True:
            began = time.monotonic()
            if (running := self._process) is not None:
                await running.wait()
                self._notice(f"{self._server.name} ended ({describe_exit(running.returncode)}); restarting it")
            if time.monotonic() - began > STEADY_SECONDS:
                delay = 0.0
            await asyncio.sleep(delay)
            delay = min(MAX_DELAY_SECONDS, max(0.5, delay * 2))
            self._starting = asyncio.create_task(self._start())
            try:
                await asyncio.shield(self._starting)
            except PipelineError as error:
                self._notice(str(error))
            except OSError as error:
                self._notice(f"{self._server.name} cannot be restarted: {error}")
            else:
                self._notice(f"{self._server.name} runs again")
            self._changed()


async def end_orphans(folder: Path, mark: str, signal_number: signal.Signals, grace_seconds: float) -> None:
    """End every process that works in `folder` and has `mark` in its command line; kill it after `grace_seconds`.

    Such a server outlived its keeper. On Linux the kernel prevents that; elsewhere nothing does. Call this only while
    holding the stack's lock: then nobody uses the server. Only the oldest process is asked to end, since a server ends
    its own children.
    """
    deadline = time.monotonic() + grace_seconds
    asked: set[int] = set()
    while orphans := _working_in(folder, mark):
        expired = time.monotonic() > deadline
        for orphan in orphans if expired else orphans[:1]:
            with contextlib.suppress(psutil.Error):
                if expired:
                    orphan.kill()
                elif orphan.pid not in asked:
                    asked.add(orphan.pid)
                    orphan.send_signal(signal_number)
        await asyncio.sleep(0.05)


def _working_in(folder: Path, mark: str) -> list[psutil.Process]:
    """The processes with this working folder and `mark` (which a shell in the folder lacks), oldest first."""
    found: list[tuple[float, int, psutil.Process]] = []
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if candidate.cwd() == str(folder) and mark in " ".join(candidate.cmdline()):
                found.append((candidate.create_time(), candidate.pid, candidate))
    return [candidate for _, _, candidate in sorted(found, key=lambda item: item[:2])]
