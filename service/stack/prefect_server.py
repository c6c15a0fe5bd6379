"""Prefect's server on the embedded PostgreSQL: one process, on the loopback address alone."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from orchestration.errors import BadSetting, Unavailable
from service.stack import cluster, process
from service.stack.leftovers import end_leftovers
from service.stack.paths import StackPaths

HOST = "127.0.0.1"
READY_SECONDS = 180.0

_FACTORY = "service.stack.serve:create_app"

_TUNABLE = ("PREFECT_SERVER_SERVICES_", "PREFECT_SERVER_EVENTS_", "PREFECT_SERVER_LOGGING_LEVEL")
"""What the environment may set about the embedded server. The rest of PREFECT_* belongs to other servers."""

_DEFAULTS = {
    # One row at a time is Prefect's default; in batches the server needs a third less CPU.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    # Only events fall away by default (after 7 days). Flow runs do after Prefect's 90 days, with logs and artifacts.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs,orphans",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


class PrefectServer:
    """How Prefect's server is started and ended. The port is ours from the first moment to the last.

    The keeper holds the listening socket and hands it to the server: nobody can take the port in between,
    and while a server that died is started again, requests wait instead of failing.
    """

    name = "Prefect's server"
    stop_signal = signal.SIGTERM
    stop_seconds = 10.0  # it writes the events that it still holds; 0.3 s is usual

    def __init__(self, paths: StackPaths, port: int | None) -> None:
        self._paths = paths
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]

    @property
    def api_url(self) -> str:
        """Prefect's API."""
        return f"http://{HOST}:{self.port}/api"

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start the server and return it when its API answers.

        Raises:
            Unavailable: it did not come up; the end of its log is in the message.
        """
        if self._paths.state.exists():  # written by a keeper that was killed, or by ours: then nothing is found
            await end_leftovers(self._paths.prefect, _FACTORY, self.stop_signal, self.stop_seconds)
        first = await cluster.prefect_revision(self._paths) is None
        progress(f"Starting Prefect's server{' (first time: about 10 s)' if first else ''} …")
        log = self._paths.log("prefect")
        server = await process.spawn(
            self._command(),
            log=log,
            cwd=self._paths.prefect,  # Prefect reads .env, prefect.toml and pyproject.toml of where it stands
            env=self._environment(),
            death_signal=self.stop_signal,
            pass_fds=(self._listener.fileno(),),
        )
        try:
            await self._ready(server, log)
        except BaseException:
            await process.end(server, self.stop_signal, self.stop_seconds)
            raise
        return server

    def close(self) -> None:
        """Give the port back."""
        self._listener.close()

    def _command(self) -> list[str]:
        spec = importlib.util.find_spec("prefect")
        if spec is None or not spec.origin:
            raise BadSetting("Prefect is not installed for this Python: run `uv sync`, or set PREFECT_API_URL.")
        command = [sys.executable, "-P", "-m", "uvicorn", "--app-dir", str(Path(spec.origin).parent.parent)]
        command += ["--factory", _FACTORY, "--fd", str(self._listener.fileno())]
        # A command that is killed leaves its connection: the end does not wait for it.
        command += ["--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "1"]
        return [*command, "--log-level", "warning", "--no-access-log"]

    def _environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PREFECT_", "PG", "UVICORN_")) or key.startswith(_TUNABLE)
        }
        origins = f"http://{HOST}:{self.port},http://localhost:{self.port}"
        connection_url = cluster.url(self._paths, cluster.PREFECT_DATABASE, "postgresql+asyncpg")
        own = {
            "PREFECT_HOME": str(self._paths.prefect),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": connection_url,
            "PREFECT_SERVER_API_HOST": HOST,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            # Its default lets any page in the user's browser read the API.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT__SERVER_FINAL": "1",  # as `prefect server start` does: saves 50 MB
        }
        return {**_DEFAULTS, **kept, **own}

    async def _ready(self, server: Process, log: Path) -> None:
        ended = asyncio.ensure_future(server.wait())
        healthy = asyncio.ensure_future(_healthy(self.port))
        try:
            await asyncio.wait({ended, healthy}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if healthy.done() and healthy.exception() is None:
                return
            problem = f"ended ({process.describe_exit(server.returncode)})" if ended.done() else "did not answer"
            raise Unavailable(f"Prefect's server {problem} at its start, see {log}: {process.log_tail(log)}")
        finally:
            for task in (ended, healthy):
                task.cancel()
            await asyncio.gather(ended, healthy, return_exceptions=True)


async def _healthy(port: int) -> None:
    """Return when the API answers 200. The socket listens already, so one request waits for the server."""
    while True:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(f"GET /api/health HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            status = await reader.readline()
        except ConnectionError:
            status = b""
        finally:
            writer.close()
        if b" 200 " in status:
            return
        await asyncio.sleep(0.1)


def _listen(port: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit this. uvicorn takes a handed-over socket for a Unix one, and then nobody
    # else turns Nagle's algorithm off: each answer would wait 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((HOST, port or 0))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BadSetting(f"Port {port} is in use: choose another one with --prefect-port") from None
        if error.errno == errno.EACCES:
            raise BadSetting(f"Port {port} is not open to this user: choose one above 1023.") from None
        raise
    return listener
