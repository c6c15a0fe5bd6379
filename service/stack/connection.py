"""A command's connection to the keeper, and the messages on it: one JSON object per line over a Unix socket."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict

from orchestration.embedded_stack import is_lock_free
from orchestration.errors import BadSetting, PipelineError, Unavailable
from service.stack.paths import StackPaths
from service.stack.process import log_tail

POSTGRES = "postgres"
PREFECT = "prefect"

BUSY_EXIT = 75
"""Exit code of a keeper that found another keeper for the same home."""

LEAVE_SECONDS = 30.0
"""How long the last command waits for the end of the stack."""

logger = logging.getLogger("alert_pipeline.stack")


# Messages


class Request(BaseModel):
    """The only message of a command. Its connection stays open for as long as the command uses the stack."""

    model_config = ConfigDict(frozen=True)

    need: list[str]
    prefect_port: int | None = None


class Report(BaseModel):
    """A message of the keeper."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["hello", "progress", "ready", "notice", "unavailable", "bad_setting", "stays"]
    """`hello` comes first; `stays` is the last message to a command that leaves while others use the stack."""
    text: str = ""
    pid: int = 0
    database_url: str = ""
    prefect_api_url: str | None = None


def encode(message: BaseModel) -> bytes:
    """The message as a line."""
    return message.model_dump_json().encode() + b"\n"


# The command's side


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
            line = self._lines.readline()
            report = Report.model_validate_json(line) if line else None
        except (OSError, ValueError):
            return None
        if report is not None and report.kind == "hello":
            self._keeper = report.pid
        elif report is not None and report.kind == "stays":
            self._stays = True
        return report


def connect_or_start(paths: StackPaths, deadline: float) -> Connection:
    """Connect to the keeper of this home, and start one if none runs.

    `deadline` is a moment of `time.monotonic()`.

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
    try:
        control.connect(str(paths.control))
    except OSError:
        control.close()
        return None
    return Connection(control, paths)


def _start_keeper(paths: StackPaths) -> Connection | None:
    """Start a keeper whose first client is this process; None means that another process was faster.

    The connection exists before the keeper does. Whatever happens to this process afterwards closes it, and a keeper
    without clients ends.
    """
    own_end, keeper_end = socket.socketpair()
    connection = Connection(own_end, paths, started=True)
    command = [sys.executable, "-P", "-m", "service.stack.keeper", str(paths.home), str(keeper_end.fileno())]
    try:
        starter = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            pass_fds=(keeper_end.fileno(),),
            start_new_session=True,
        )
        keeper_end.close()
        with starter:
            code = starter.wait()
            output = starter.stderr.read() if code not in (0, BUSY_EXIT) and starter.stderr else b""
    except OSError as error:
        raise Unavailable(f"The keeper of the embedded stack cannot be started: {error}") from None
    except BaseException:
        keeper_end.close()
        connection.leave()
        raise
    if code == 0:
        return connection
    connection.leave()
    if code == BUSY_EXIT:
        return None
    raise _start_failed(code, output)


def _start_failed(code: int, output: bytes) -> PipelineError:
    last_line = output.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
    return Unavailable(f"The keeper of the embedded stack did not start (exit code {code}): {last_line[0]}")


def _wait_for_exit(pid: int) -> None:
    """Wait until a process that has closed its connections is gone."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.Error:
            return
        time.sleep(0.005)
