"""A command's connection to the keeper: found or started, used, and left behind cleanly."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil

from orchestration.errors import BadSetting, PipelineError, Unavailable
from service.stack.paths import StackPaths
from service.stack.process import log_tail
from service.stack.protocol import BUSY_EXIT, Report, Request, decode, encode

LEAVE_SECONDS = 30.0
"""How long the last command waits for the end of the stack."""

logger = logging.getLogger("alert_pipeline.stack")


class Connection:
    """One conversation with the keeper. Closing it is all that it takes to give the stack back."""

    def __init__(self, own: socket.socket, paths: StackPaths, *, started: bool = False) -> None:
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
        """What is ready; None when the keeper was just ending, and another one can be started.

        Raises:
            BadSetting: as the keeper reports it.
            Unavailable: as the keeper reports it, or the keeper died.
        """
        with contextlib.suppress(OSError):  # a broken pipe also shows below, as the end of its lines
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
        """Log what the keeper has to say while the stack is in use. `lost` is called if it ends before `leave()`."""
        self._watcher = threading.Thread(target=self._log_notices, args=[lost], name="stack-notices", daemon=True)
        self._watcher.start()

    def leave(self) -> None:
        """Give the stack back. If nobody else uses it, return when it has ended."""
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
            _await_end(self._keeper)

    def _log_notices(self, lost: Callable[[], None]) -> None:
        while (report := self._read()) is not None:
            if report.kind == "notice":
                logger.warning(report.text)
        if not self._leaving:
            lost()

    def _read(self) -> Report | None:
        try:
            line = self._lines.readline()
            report = decode(Report, line) if line else None
        except (OSError, ValueError):
            return None
        if report is not None and report.kind == "hello":
            self._keeper = report.pid
        elif report is not None and report.kind == "stays":
            self._stays = True
        return report


def meet(paths: StackPaths, deadline: float) -> Connection:
    """Connect to the keeper of this home, and start one where there is none.

    Raises:
        Unavailable: no keeper could be started, or the one that is there did not answer until `deadline`.
    """
    while True:
        connection = _connect(paths)
        if connection is None and lock_is_free(paths):
            connection = _start_keeper(paths)
        if connection is not None:
            return connection
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The embedded stack in {paths.home} does not answer: see {paths.log('keeper')}, or end "
                f"the process that holds {paths.lock}."
            )
        time.sleep(0.02)  # another keeper is at its very start, or at its end


def lock_is_free(paths: StackPaths) -> bool:
    """Whether no keeper lives."""
    try:
        lock = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def _connect(paths: StackPaths) -> Connection | None:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        control.connect(str(paths.control))
    except OSError:
        control.close()
        return None
    return Connection(control, paths)


def _start_keeper(paths: StackPaths) -> Connection | None:
    """Start a keeper whose first client is this process; None when another one was faster.

    The connection exists before the keeper does. Whatever happens to this process from here on closes it,
    and a keeper without clients ends.
    """
    mine, its = socket.socketpair()
    connection = Connection(mine, paths, started=True)
    command = [sys.executable, "-P", "-m", "service.stack.keeper", str(paths.home), str(its.fileno())]
    try:
        starter = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            pass_fds=(its.fileno(),),
            start_new_session=True,
        )
        its.close()
        with starter:
            code = starter.wait()
            words = starter.stderr.read() if code not in (0, BUSY_EXIT) and starter.stderr else b""
    except OSError as error:
        raise Unavailable(f"The keeper of the embedded stack cannot be started: {error}") from None
    except BaseException:
        its.close()
        connection.leave()
        raise
    if code == 0:
        return connection
    connection.leave()
    if code == BUSY_EXIT:
        return None
    raise _did_not_start(code, words)


def _did_not_start(code: int, words: bytes) -> PipelineError:
    said = words.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return Unavailable(f"The keeper of the embedded stack did not start (exit code {code}): {said[0]}")


def _await_end(pid: int) -> None:
    """Wait until a process that has closed its connections is gone."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.Error:
            return
        time.sleep(0.005)
