"""The keeper: the process that owns the embedded stack.

A command starts it and gives it one end of a socket pair as its first client; other commands connect to the control
socket. The keeper lives exactly as long as a client is connected, and the kernel closes the connections of a command
that is killed. So the stack ends without any record of its users.

It runs as `python -m service.stack.keeper HOME FD`, detached from the terminal: Ctrl-C reaches the command only.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import time
from asyncio import StreamReader, StreamWriter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from orchestration.embedded_stack import StackState
from orchestration.errors import BadSetting, PipelineError
from service.stack.connection import BUSY_EXIT, POSTGRES, PREFECT, Report, Request, encode
from service.stack.paths import StackPaths, home_unusable, replace_file, stack_paths
from service.stack.postgres import DATABASE, PostgresServer, database_url
from service.stack.prefect_server import PrefectServer
from service.stack.process import Supervisor

LOCK_TIMEOUT_SECONDS = 0.3
"""A command that checks whether the lock is free owns it for an instant, so the keeper tries for this long."""

LOG_CHECK_SECONDS = 30.0
LOG_LIMIT_BYTES = 5 * 1024 * 1024
"""A longer log is set aside; one older log is kept."""
LOGS = ("postgres", "prefect", "keeper")

logger = logging.getLogger("alert_pipeline.stack")


class Keeper:
    """Serves clients until the last one has left, then ends the servers that it started."""

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths
        self._clients: set[StreamWriter] = set()
        self._left: list[StreamWriter] = []
        """The last clients. asyncio closes a connection whose writer is not referenced."""
        self._finished = asyncio.Event()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._last_progress = ""
        self._supervisors = {POSTGRES: self._supervise(PostgresServer(paths))}
        self._prefect_server: PrefectServer | None = None

    async def run(self, first: socket.socket) -> None:
        """Serve until the last client has left, or until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._finished.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        self._paths.control.unlink(missing_ok=True)
        listener = await asyncio.start_unix_server(self._handle, self._paths.control)
        logs = asyncio.create_task(self._limit_logs())
        try:
            self._first_client = asyncio.create_task(self._handle(*await asyncio.open_unix_connection(sock=first)))
            await self._finished.wait()
        finally:
            # The socket goes first: a command that comes now waits for the lock and starts a new keeper.
            self._paths.control.unlink(missing_ok=True)
            listener.close()
            logs.cancel()
            await self._stop()

    async def _handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._finished.is_set():
            writer.close()
            return
        self._clients.add(writer)
        _send(writer, Report(kind="hello", pid=os.getpid()))
        serving: asyncio.Task[None] | None = None
        try:
            line = await reader.readline()
            if line:
                serving = asyncio.create_task(self._serve(line, writer))
                await reader.read()  # until the client leaves
        except (ConnectionError, ValueError) as error:
            logger.warning("A client's connection broke: %s", error)
        finally:
            if serving is not None:
                serving.cancel()
            self._clients.discard(writer)
            if self._clients and not self._finished.is_set():
                _send(writer, Report(kind="stays"))
                writer.close()
            else:
                # The connection of the last client stays open until this process ends: the client waits for that.
                self._left.append(writer)
                self._finished.set()

    async def _serve(self, line: bytes, writer: StreamWriter) -> None:
        try:
            await self._provide(Request.model_validate_json(line), writer)
        except PipelineError as error:
            kind = "bad_setting" if isinstance(error, BadSetting) else "unavailable"
            _send(writer, Report(kind=kind, text=str(error)))
        except OSError as error:
            _send(writer, Report(kind="unavailable", text=str(home_unusable(self._paths.home, error))))
        except Exception as error:
            logger.exception("The stack did not start")
            log = self._paths.log("keeper")
            _send(writer, Report(kind="unavailable", text=f"The stack did not start ({error!r}): see {log}."))

    async def _provide(self, request: Request, writer: StreamWriter) -> None:
        if PREFECT in request.need:
            self._open_port(request.prefect_port)
        if self._last_progress:  # another client is starting the stack
            _send(writer, Report(kind="progress", text=self._last_progress))
        for server in request.need:
            await self._supervisors[server].ensure()
        state = self._state()
        _send(writer, Report(kind="ready", database_url=state.database_url, prefect_api_url=state.prefect_api_url))

    def _open_port(self, port: int | None) -> None:
        """Open the port of Prefect's server before anything is started; the keeper owns it until it ends."""
        server = self._prefect_server
        if server is None:
            self._prefect_server = server = PrefectServer(self._paths, port)
            self._supervisors[PREFECT] = self._supervise(server)
        elif port is not None and port != server.port:
            raise BadSetting(
                f"Prefect's server of this stack already runs at {server.api_url}: "
                f"end the commands that use it before asking for port {port}."
            )

    def _supervise(self, server: PostgresServer | PrefectServer) -> Supervisor:
        notice, progress = partial(self._send_to_all, "notice"), partial(self._send_to_all, "progress")
        return Supervisor(server, progress=progress, notice=notice, changed=self._write_state)

    def _send_to_all(self, kind: Literal["notice", "progress"], text: str) -> None:
        logger.info(text)
        if kind == "progress":
            self._last_progress = text
        for writer in self._clients:
            _send(writer, Report(kind=kind, text=text))

    def _state(self) -> StackState:
        pids = {name: supervisor.pid for name, supervisor in self._supervisors.items()}
        server = self._prefect_server
        return StackState(
            pid=os.getpid(),
            parts={name: pid for name, pid in pids.items() if pid is not None},
            database_url=database_url(self._paths, DATABASE),
            prefect_api_url=server.api_url if server is not None and pids.get(PREFECT) is not None else None,
            prefect_address=server.api_url if server is not None else None,
            prefect_auth_string=server.auth_string if server is not None else None,
            started_at=self._started_at,
        )

    def _write_state(self) -> None:
        self._last_progress = ""
        try:
            replace_file(self._paths.state, self._state().model_dump_json() + "\n", 0o600)
        except OSError as error:  # a full disk must not end running servers
            logger.warning("Cannot write %s, in which commands find this stack: %s", self._paths.state, error)

    async def _stop(self) -> None:
        began = time.monotonic()
        for supervisor in reversed(self._supervisors.values()):  # Prefect's server uses PostgreSQL
            await supervisor.stop()
        if self._prefect_server is not None:
            self._prefect_server.close()
        with contextlib.suppress(OSError):
            self._paths.state.unlink(missing_ok=True)
        logger.info("The embedded stack has stopped; that took %.2f s", time.monotonic() - began)

    async def _limit_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_SECONDS)
            for log in map(self._paths.log, LOGS):
                with contextlib.suppress(OSError):
                    if log.stat().st_size > LOG_LIMIT_BYTES:
                        shutil.copyfile(log, log.with_suffix(".log.1"))
                        os.truncate(log, 0)  # its process goes on writing, since it appends


def main() -> None:
    """Become the keeper of `HOME`, or exit with `BUSY_EXIT` if it has one."""
    paths = stack_paths(Path(sys.argv[1]))
    first = socket.socket(fileno=int(sys.argv[2]))
    os.umask(0o077)
    if not _lock(paths):
        sys.exit(BUSY_EXIT)
    if os.fork():
        # The command waits for this exit only. The keeper itself becomes a child of init, which reaps it.
        os._exit(0)
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would obey PGHOSTADDR, PGOPTIONS and others
    try:
        _log_to(paths)
        asyncio.run(Keeper(paths).run(first))
    except OSError as error:
        logger.exception("The keeper ended")
        with contextlib.suppress(OSError):
            first.sendall(encode(Report(kind="unavailable", text=str(home_unusable(paths.home, error)))))


def _lock(paths: StackPaths) -> bool:
    """Lock the stack for the rest of this process's life. Children do not inherit the lock."""
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.01)
    return False


def _log_to(paths: StackPaths) -> None:
    for log in map(paths.log, LOGS):
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
    with paths.log("keeper").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s [%(process)d] %(message)s")
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def _send(writer: StreamWriter, report: Report) -> None:
    if not writer.is_closing():
        with contextlib.suppress(ConnectionError, RuntimeError):
            writer.write(encode(report))


if __name__ == "__main__":
    main()
