"""How a command gets its database and its Prefect server: from its settings, or from the embedded stack.

A command and the keeper of the stack exchange messages over a Unix socket, one JSON object per line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Literal, NoReturn, Self

import psutil
from pydantic import BaseModel

from orchestration.embedded_stack import StackAddresses, find_auth_string, is_lock_free
from orchestration.errors import BadSetting, PipelineError, Unavailable
from orchestration.settings import Settings
from service.stack.paths import StackPaths, prepare, stack_paths
from service.stack.process import MAX_DELAY_SECONDS, log_tail

POSTGRES = "postgres"
PREFECT = "prefect"

BUSY_EXIT = 75
"""Exit code of a keeper that found another keeper for the same home."""

LEAVE_SECONDS = 30.0
"""How long the last command waits for the end of the stack."""

CONNECT_SECONDS = 45.0
"""How long a command tries to connect to the keeper. A keeper that is ending may need this long to end."""

logger = logging.getLogger("alert_pipeline.stack")


class Request(BaseModel, frozen=True):
    """The only message of a command. Its connection stays open for as long as the command uses the stack."""

    need: list[str]
    prefect_port: int | None = None


class Report(BaseModel, frozen=True):
    """A message of the keeper."""

    kind: Literal["hello", "progress", "ready", "notice", "unavailable", "bad_setting", "stays"]
    """`hello` comes first; `stays` is the last message to a command that leaves while others use the stack."""
    text: str = ""
    pid: int = 0
    database_url: str = ""
    prefect_api_url: str | None = None


def encode(message: BaseModel) -> bytes:
    """The message as a line."""
    return message.model_dump_json().encode() + b"\n"


@contextlib.contextmanager
def attach(
    settings: Settings,
    *,
    need_prefect: bool = True,
    progress: Callable[[str], None] | None = None,
    prefect_port: int | None = None,
    lost: Callable[[], None] | None = None,
) -> Generator[StackAddresses]:
    """The addresses of both servers for the duration of the block.

    A server that no setting names is embedded, and started if it does not run. This blocks for seconds while the stack
    starts: from asyncio, enter and leave it with `asyncio.to_thread`. When the last command leaves, the stack has ended
    before this returns. `lost` is called, in another thread, if the embedded stack ends within the block.

    Raises:
        BadSetting: a setting, a folder or a port cannot be used.
        Unavailable: a server of the stack did not start.
    """
    own_database = settings.database_url.get_secret_value() if settings.database_url is not None else None
    embed_prefect = need_prefect and settings.prefect_api_url is None
    if prefect_port is not None and not embed_prefect:
        raise BadSetting(f"PREFECT_API_URL={settings.prefect_api_url!r} is set: no port can be chosen beside it.")
    if own_database is not None and not embed_prefect:
        api_url = settings.prefect_api_url
        yield StackAddresses(
            database_url=own_database,
            prefect_api_url=api_url,
            prefect_auth_string=find_auth_string(settings, api_url),
            embedded=frozenset(),
        )
        return
    request = Request(need=[POSTGRES, PREFECT] if embed_prefect else [POSTGRES], prefect_port=prefect_port)
    with _session(stack_paths(settings.home), request, progress or (lambda _: None), lost or (lambda: None)) as ready:
        embedded = {POSTGRES} if own_database is None else set[str]()
        if settings.prefect_api_url is None and ready.prefect_api_url is not None:
            embedded.add(PREFECT)
        api_url = settings.prefect_api_url or ready.prefect_api_url
        yield StackAddresses(
            database_url=own_database or ready.database_url,
            prefect_api_url=api_url,
            prefect_auth_string=find_auth_string(settings, api_url),
            embedded=frozenset(embedded),
        )


class PersistentStack:
    """`attach()` for a command that runs for days: when the keeper dies, the stack is started again.

    The addresses do not change: the database's socket is in the home, and Prefect's port is the one that was chosen.
    """

    addresses: StackAddresses

    def __init__(self, settings: Settings, *, progress: Callable[[str], None], prefect_port: int | None) -> None:
        self._attach_to = partial(attach, settings, progress=progress, prefect_port=prefect_port)
        self._attached = contextlib.ExitStack()
        self._lost = Future[None]()

    def __enter__(self) -> Self:
        self._attach()
        return self

    def __exit__(self, *_: object) -> None:
        self._attached.close()

    async def keep_running(self) -> NoReturn:
        """Until cancelled, start the stack again whenever its keeper ends."""
        while True:
            await asyncio.wrap_future(self._lost)
            logger.warning("The keeper of the embedded stack ended; starting the stack again")
            delay = 0.5
            while self._lost.done():
                try:
                    await asyncio.to_thread(self._attach)
                except PipelineError as error:
                    logger.warning("%s", error)
                    await asyncio.sleep(delay)
                    delay = min(MAX_DELAY_SECONDS, delay * 2)
            logger.warning("The embedded stack runs again")

    def _attach(self) -> None:
        self._attached.close()
        lost = Future[None]()
        lost.set_running_or_notify_cancel()  # from now on the end of `keep_running` does not cancel it
        self.addresses = self._attached.enter_context(self._attach_to(lost=partial(lost.set_result, None)))
        self._lost = lost


@contextlib.contextmanager
def _session(
    paths: StackPaths, request: Request, progress: Callable[[str], None], lost: Callable[[], None]
) -> Generator[Report]:
    prepare(paths)
    began = time.monotonic()
    while True:
        connection = connect_or_start(paths, began + CONNECT_SECONDS)
        try:
            if (ready := connection.ask(request, progress)) is not None:
                if connection.saw_progress:
                    progress(f"Stack ready in {time.monotonic() - began:.1f} s")
                connection.watch(lost)
                yield ready
                return
        finally:
            connection.leave()


class Connection:
    """A command's connection to the keeper. Closing it gives the stack back."""

    def __init__(self, own: socket.socket, paths: StackPaths, *, started: bool = False) -> None:
        """`started` says that this process has just started the keeper."""
        self._socket = own
        self._lines = own.makefile("rb")
        self._paths = paths
        self._started = started
        self._keeper = 0
        self._stays = False
        self._leaving = False
        self._watcher: threading.Thread | None = None
        self.saw_progress = False

    def ask(self, request: Request, progress: Callable[[str], None]) -> Report | None:
        """Wait until the requested servers are usable; None means that the keeper was just ending: connect again.

        Raises:
            BadSetting: the keeper says that a setting, a folder or a port cannot be used.
            Unavailable: the keeper says that a server did not start, or the keeper died.
        """
        with contextlib.suppress(OSError):  # a broken pipe also ends the loop below
            self._socket.sendall(encode(request))
        while (report := self._read()) is not None:
            if report.kind == "progress":
                self.saw_progress = True
                progress(report.text)
            elif report.kind == "ready":
                return report
            elif report.kind == "bad_setting":
                raise BadSetting(report.text)
            elif report.kind == "unavailable":
                raise Unavailable(report.text)
        if not self._keeper and not self._started:
            return None
        log = self._paths.log("keeper")
        raise Unavailable(f"The embedded stack ended while it was starting, see {log}: {log_tail(log, 2)}")

    def watch(self, lost: Callable[[], None]) -> None:
        """Log the keeper's notices from now on. `lost` is called, in a thread, if the stack ends before `leave()`."""
        self._watcher = threading.Thread(target=self._log_notices, args=[lost], name="stack-notices", daemon=True)
        self._watcher.start()

    def leave(self) -> None:
        """Give the stack back. If no other command uses it, return when it has ended."""
        self._leaving = True
        with contextlib.suppress(OSError):
            self._socket.settimeout(LEAVE_SECONDS)
            self._socket.shutdown(socket.SHUT_WR)
        if self._watcher is not None:
            self._watcher.join(LEAVE_SECONDS)
        else:
            while self._read() is not None:
                pass
        with contextlib.suppress(OSError):
            self._lines.close()
            self._socket.close()
        if self._keeper and not self._stays:
            _wait_for_exit(self._keeper)

    def _log_notices(self, lost: Callable[[], None]) -> None:
        while (report := self._read()) is not None:
            if report.kind == "notice":
                logger.warning(report.text)
        if not self._leaving:
            lost()

    def _read(self) -> Report | None:
        try:
            report = Report.model_validate_json(self._lines.readline())
        except (OSError, ValueError):  # also at the end of the connection: an empty line is no JSON
            return None
        if report.kind == "hello":
            self._keeper = report.pid
        elif report.kind == "stays":
            self._stays = True
        return report


def connect_or_start(paths: StackPaths, deadline: float) -> Connection:
    """Connect to the keeper of this home until `deadline` (of `time.monotonic()`), and start one if none runs.

    Raises:
        Unavailable: the keeper cannot be started, or the running one did not answer before `deadline`.
    """
    while True:
        connection = _connect(paths)
        if connection is None and is_lock_free(paths.lock):
            connection = _start_keeper(paths)
        if connection is not None:
            return connection
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The embedded stack in {paths.home} does not answer: see {paths.log('keeper')}, or end "
                f"the process that has locked {paths.lock}."
            )
        time.sleep(0.02)  # another keeper is at its very start, or at its end


def _connect(paths: StackPaths) -> Connection | None:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(OSError):
        control.connect(str(paths.control))
        return Connection(control, paths)
    control.close()
    return None


def _start_keeper(paths: StackPaths) -> Connection | None:
    """Start a keeper whose first client is this process; None means that another process was faster.

    The connection exists before the keeper does. Whatever happens to this process afterwards closes it, and a keeper
    without clients ends.
    """
    own_end, keeper_end = socket.socketpair()
    with contextlib.ExitStack() as failing:
        connection = Connection(own_end, paths, started=True)
        failing.callback(connection.leave)
        command = [sys.executable, "-P", "-m", "service.stack.keeper", str(paths.home), str(keeper_end.fileno())]
        try:
            with keeper_end:
                starter = subprocess.run(  # noqa: S603
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,  # until the keeper has its log
                    cwd="/",
                    pass_fds=(keeper_end.fileno(),),
                    start_new_session=True,
                    check=False,
                )
        except OSError as error:
            raise Unavailable(f"The keeper of the embedded stack cannot be started: {error}") from None
        code = starter.returncode
        if code == 0:
            failing.pop_all()
            return connection
        if code == BUSY_EXIT:
            return None
        last_line = starter.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise Unavailable(f"The keeper of the embedded stack did not start (exit code {code}): {last_line[0]}")


def _wait_for_exit(pid: int) -> None:
    """Wait until a process that has closed its connections is gone."""
    deadline = time.monotonic() + LEAVE_SECONDS
    with contextlib.suppress(psutil.Error):
        while time.monotonic() < deadline and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.005)
