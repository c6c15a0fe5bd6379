"""Prefect's server on the embedded PostgreSQL: one process, on the loopback address only."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib
import importlib.util
import os
import secrets
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestration.errors import BadSetting, Unavailable
from service import prefect_patches
from service.stack import postgres, process
from service.stack.own_pages import OwnPagesOnly
from service.stack.paths import StackPaths, replace_file

HOST = "127.0.0.1"
READY_SECONDS = 180.0

_FACTORY = "service.stack.prefect_server:create_app"

_TUNABLE = ("PREFECT_SERVER_SERVICES_", "PREFECT_SERVER_EVENTS_", "PREFECT_SERVER_LOGGING_LEVEL")
"""Variables of the environment that the embedded server obeys. The rest of PREFECT_* belongs to other servers."""

_USER = "alert-pipeline"
"""The part of the credential before the colon. Prefect asks for both parts together, as one password."""

_DEFAULTS = {
    # By default Prefect writes one row at a time. In batches the server needs a third less CPU.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    # By default Prefect deletes only events (after 7 days). So it also deletes flow runs, with logs and artifacts,
    # after its default of 90 days.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs,orphans",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


_NICE = 10
"""No alert waits for Prefect, so it yields to all that alerts wait for."""


class PrefectServer:
    """Starts and ends Prefect's server, as a `process.Server`.

    The keeper owns the listening socket and passes it to the server. So no other program can get the port, and while a
    server that died is restarted, requests wait instead of failing.
    """

    name = "Prefect's server"
    stop_signal = signal.SIGTERM
    stop_seconds = 10.0  # it first writes the events in its memory, usually in 0.3 s

    def __init__(self, paths: StackPaths, port: int | None) -> None:
        """Open the port.

        Raises:
            BadSetting: the port or the credential cannot be used.
        """
        self._paths = paths
        self.auth_string = load_auth_string(paths)
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]

    @property
    def api_url(self) -> str:
        """Prefect's API."""
        return f"http://{HOST}:{self.port}/api"

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start the server and return its process when its API answers.

        Raises:
            BadSetting: Prefect is not installed.
            Unavailable: the server did not start; the end of its log is in the message.
        """
        if self._paths.state.exists():  # a keeper that was killed may have left it, and its server
            await process.end_orphans(self._paths.prefect, _FACTORY, self.stop_signal, self.stop_seconds)
        note = "" if await postgres.has_prefect_tables(self._paths) else " (the first start creates its tables)"
        progress(f"Starting Prefect's server{note} …")
        log = self._paths.log("prefect")
        server = await process.spawn(
            self._command(),
            log=log,
            # Not the user's folder, where Prefect would read .env, prefect.toml and pyproject.toml.
            cwd=self._paths.prefect,
            env=self._environment(),
            death_signal=self.stop_signal,
            pass_fds=(self._listener.fileno(),),
            nice=_NICE,
        )
        try:
            await self._wait_until_ready(server, log)
        except BaseException:
            await process.end(server, self.stop_signal, self.stop_seconds)
            raise
        return server

    def close(self) -> None:
        """Release the port."""
        self._listener.close()

    def _command(self) -> list[str]:
        spec = importlib.util.find_spec("prefect")
        if spec is None or not spec.origin:
            raise BadSetting("Prefect is not installed for this Python: run `uv sync`, or set PREFECT_API_URL.")
        command = [sys.executable, "-P", "-m", "uvicorn", "--app-dir", str(Path(spec.origin).parent.parent)]
        command += ["--factory", _FACTORY, "--fd", str(self._listener.fileno())]
        # A killed command leaves its connection open; the end of the server does not wait for it.
        command += ["--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "1"]
        return [*command, "--log-level", "warning", "--no-access-log"]

    def _environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PREFECT_", "PG", "UVICORN_")) or key.startswith(_TUNABLE)
        }
        origins = f"http://{HOST}:{self.port},http://localhost:{self.port}"
        connection_url = postgres.database_url(self._paths, postgres.PREFECT_DATABASE, "postgresql+asyncpg")
        own = {
            "PREFECT_HOME": str(self._paths.prefect),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": connection_url,
            "PREFECT_SERVER_API_HOST": HOST,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_SERVER_API_AUTH_STRING": self.auth_string,
            # By default any page in the user's browser may read the API.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT__SERVER_FINAL": "1",  # as `prefect server start` does: saves 50 MB
        }
        return {**_DEFAULTS, **kept, **own}

    async def _wait_until_ready(self, server: Process, log: Path) -> None:
        ended = asyncio.ensure_future(server.wait())
        healthy = asyncio.ensure_future(_healthy(self.port))
        try:
            await asyncio.wait({ended, healthy}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if healthy.done() and healthy.exception() is None:
                return
            problem = f"ended ({process.describe_exit(server.returncode)})" if ended.done() else "did not answer"
            raise Unavailable(f"Prefect's server {problem} during its start, see {log}: {process.log_tail(log)}")
        finally:
            for task in (ended, healthy):
                task.cancel()
            await asyncio.gather(ended, healthy, return_exceptions=True)


async def _healthy(port: int) -> None:
    """Return when the API answers 200. The socket listens already, so a request waits for the server to start."""
    while True:
        reader, writer = await asyncio.open_connection(HOST, port)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            writer.write(f"GET /api/health HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            if b" 200 " in await reader.readline():
                return
        await asyncio.sleep(0.1)


def load_auth_string(paths: StackPaths) -> str:
    """The credential of the embedded server, as `user:password`: the operator's own, else one that is made once.

    Raises:
        BadSetting: the operator's own cannot be used, or other users can read the file of the other.
    """
    for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
        if own := os.environ.get(name, "").strip():
            if not own.isascii():  # Prefect's server would answer 500 to every request
                raise BadSetting(f"{name} may only have ASCII characters")
            return own
    try:
        if paths.credential.stat().st_mode & 0o077:
            raise BadSetting(f"Others can read {paths.credential}: delete it, and a new one is made")
        stored = paths.credential.read_text().strip()
    except FileNotFoundError:
        stored = ""
    if len(stored) < len(_USER):  # also after a full disk
        stored = f"{_USER}:{secrets.token_urlsafe(32)}"
        replace_file(paths.credential, stored + "\n", 0o600)
    return stored


def _listen(port: int | None) -> socket.socket:
    try:
        listener = socket.create_server((HOST, port or 0), backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadSetting(f"Port {port} is in use: choose another port with --prefect-port") from None
        if error.errno == errno.EACCES:
            raise BadSetting(f"Port {port} may not be opened by this user: choose a port above 1023.") from None
        raise
    # Accepted connections inherit this. uvicorn treats a socket that it gets by --fd as a Unix socket and does not
    # turn off Nagle's algorithm: each answer would wait 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def create_app() -> Any:
    """Prefect's server application, behind `OwnPagesOnly`. uvicorn calls this in the server's process.

    Building it makes half a million objects that stay. Collections would take 2 of the 5 seconds of the start, so no
    garbage is collected meanwhile.
    """
    gc.disable()
    try:
        app = importlib.import_module("prefect.server.api.server").create_app()
        prefect_patches.patch_slow_end_of_triggers()
        return OwnPagesOnly(app, int(os.environ["PREFECT_SERVER_API_PORT"]))
    finally:
        process.collect_garbage_rarely()
        gc.enable()
