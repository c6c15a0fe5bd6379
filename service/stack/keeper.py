"""The keeper: the process that owns the embedded stack.

A command starts it and hands it one end of a socket pair as its first client; more commands connect to the
control socket. It lives exactly as long as a client holds a connection, and the kernel closes those of a
command that is killed. So nothing has to be remembered, counted or cleaned up for the stack to end.

It runs as `python -m service.stack.keeper HOME FD`, apart from the terminal: Ctrl-C reaches the command alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from asyncio import StreamReader, StreamWriter
from datetime import UTC, datetime
from pathlib import Path

from orchestration.errors import BadSetting, PipelineError
from service.stack import cluster, process
from service.stack.part import Part
from service.stack.paths import StackPaths, cannot_use, stack_paths
from service.stack.postgres import PostgresServer
from service.stack.prefect_server import PrefectServer
from service.stack.protocol import BUSY_EXIT, POSTGRES, PREFECT, Report, Request, State, decode, encode

LOCK_SECONDS = 0.3
"""How long the lock is tried: a command that only looks whether it is free holds it for an instant."""

LOG_CHECK_SECONDS = 30.0

logger = logging.getLogger("alert_pipeline.stack")


class Keeper:
    """Serves clients until the last one has gone, then ends what it started."""

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths
        self._clients: set[StreamWriter] = set()
        self._known: set[StreamWriter] = set()
        """Also those who have left while nobody else was there; a writer that is forgotten closes itself."""
        self._finished = asyncio.Event()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._last_progress = ""
        self._handlers: set[asyncio.Task[None]] = set()
        self._postgres = self._part(PostgresServer(paths))
        self._prefect_server: PrefectServer | None = None
        self._prefect: Part | None = None

    async def run(self, first: socket.socket) -> None:
        """Serve until nobody is left, or until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._finished.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        self._paths.control.unlink(missing_ok=True)
        door = await asyncio.start_unix_server(self._handle, self._paths.control)
        logs = asyncio.create_task(self._bound_logs())
        try:
            self._accept(*await asyncio.open_unix_connection(sock=first))
            await self._finished.wait()
        finally:
            # The door closes first: who comes now finds no socket, waits for the lock and starts a new keeper.
            self._paths.control.unlink(missing_ok=True)
            door.close()
            logs.cancel()
            await self._stop()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._handle(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._finished.is_set():
            writer.close()
            return
        self._clients.add(writer)
        self._known.add(writer)
        _send(writer, Report(kind="hello", pid=os.getpid()))
        serving: asyncio.Task[None] | None = None
        try:
            line = await reader.readline()
            if line:
                serving = asyncio.create_task(self._serve(line, writer))
                await reader.read()  # until the client goes
        except (ConnectionError, ValueError) as error:
            logger.warning("A client's connection broke: %s", error)
        finally:
            if serving is not None:
                serving.cancel()
            self._clients.discard(writer)
            if self._clients and not self._finished.is_set():
                _send(writer, Report(kind="stays"))
                self._known.discard(writer)
                writer.close()
            else:
                # The last one's connection stays open until this process is gone: that is how it waits for us.
                self._finished.set()

    async def _serve(self, line: bytes, writer: StreamWriter) -> None:
        try:
            request = decode(Request, line)
            await self._provide(request, writer)
        except PipelineError as error:
            kind = "bad_setting" if isinstance(error, BadSetting) else "unavailable"
            _send(writer, Report(kind=kind, text=str(error)))
        except OSError as error:
            _send(writer, Report(kind="unavailable", text=str(cannot_use(self._paths.home, error))))
        except Exception as error:
            logger.exception("The stack did not start")
            log = self._paths.log("keeper")
            _send(writer, Report(kind="unavailable", text=f"The stack did not start ({error!r}): see {log}."))

    async def _provide(self, request: Request, writer: StreamWriter) -> None:
        if PREFECT in request.need:
            self._open_port(request.prefect_port)
        if self._last_progress:  # it came while others were starting the stack
            _send(writer, Report(kind="progress", text=self._last_progress))
        await self._postgres.ensure()
        if PREFECT in request.need and self._prefect is not None:
            await self._prefect.ensure()
        state = self._state()
        url = state.prefect_api_url
        _send(writer, Report(kind="ready", pid=os.getpid(), database_url=state.database_url, prefect_api_url=url))

    def _open_port(self, port: int | None) -> None:
        """Take the port for Prefect's server before anything is started; it stays the stack's until the end."""
        server = self._prefect_server
        if server is None:
            self._prefect_server = server = PrefectServer(self._paths, port)
            self._prefect = self._part(server)
        elif port is not None and port != server.port:
            raise BadSetting(
                f"Prefect's server of this stack already runs at {server.api_url}: "
                f"end the commands that use it before asking for port {port}."
            )

    def _part(self, server: PostgresServer | PrefectServer) -> Part:
        return Part(server, progress=self._tell_progress, notice=self._tell_notice, changed=self._write_state)

    def _tell_progress(self, text: str) -> None:
        logger.info(text)
        self._last_progress = text
        self._tell(Report(kind="progress", text=text))

    def _tell_notice(self, text: str) -> None:
        logger.warning(text)
        self._tell(Report(kind="notice", text=text))

    def _tell(self, report: Report) -> None:
        for writer in self._clients:
            _send(writer, report)

    def _state(self) -> State:
        prefect_pid = self._prefect.pid if self._prefect is not None else None
        pids = {POSTGRES: self._postgres.pid, PREFECT: prefect_pid}
        server = self._prefect_server
        return State(
            pid=os.getpid(),
            parts={name: pid for name, pid in pids.items() if pid is not None},
            database_url=cluster.url(self._paths, cluster.DATABASE),
            prefect_api_url=server.api_url if server is not None and prefect_pid is not None else None,
            started_at=self._started_at,
        )

    def _write_state(self) -> None:
        self._last_progress = ""
        new = self._paths.state.with_suffix(".json.new")
        try:
            new.write_bytes(encode(self._state()))
            new.replace(self._paths.state)
        except OSError as error:  # a full disk must not end what runs
            logger.warning("Cannot write %s: %s", self._paths.state, error)

    async def _stop(self) -> None:
        began = time.monotonic()
        for part in (self._prefect, self._postgres):
            if part is not None:
                await part.stop()
        if self._prefect_server is not None:
            self._prefect_server.close()
        with contextlib.suppress(OSError):
            self._paths.state.unlink(missing_ok=True)
        logger.info("Ended in %.2f s", time.monotonic() - began)

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_SECONDS)
            for name in ("postgres", "prefect", "keeper"):
                process.bound_log(self._paths.log(name))


def main() -> None:
    """Become the keeper of `HOME`, or exit with `BUSY_EXIT` when there is one."""
    paths = stack_paths(Path(sys.argv[1]))
    first = socket.socket(fileno=int(sys.argv[2]))
    os.umask(0o077)
    if not _lock(paths):
        sys.exit(BUSY_EXIT)
    if os.fork():
        # The command waits for this exit alone; the keeper is nobody's child, so nobody has to reap it.
        os._exit(0)
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq would read PGHOSTADDR, PGOPTIONS and their kin
    try:
        _log_to(paths)
        asyncio.run(Keeper(paths).run(first))
    except OSError as error:
        logger.exception("The keeper ended")
        with contextlib.suppress(OSError):
            first.sendall(encode(Report(kind="unavailable", text=str(cannot_use(paths.home, error)))))


def _lock(paths: StackPaths) -> bool:
    """Take the stack's lock for the rest of this process's life. Children do not inherit it."""
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def _log_to(paths: StackPaths) -> None:
    for name in ("postgres", "prefect", "keeper"):
        process.start_log(paths.log(name))
    output = os.open(paths.log("keeper"), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s [%(process)d] %(message)s")
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def _send(writer: StreamWriter, report: Report) -> None:
    if not writer.is_closing():
        with contextlib.suppress(ConnectionError, RuntimeError):
            writer.write(encode(report))


if __name__ == "__main__":
    main()
