"""The HTTP server of the application: one process, one event loop, a graceful end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from orchestration.errors import BadSetting
from orchestration.settings import Settings
from orchestration.signals import logger
from service.api.app import Extension, create_app
from service.api.auth import is_loopback
from service.api.connections import ApiConfig, raise_open_files
from service.stack.process import collect_garbage_rarely

GRACE_SECONDS = 10
"""How long requests in progress may take after a signal to stop."""

KEEP_ALIVE_SECONDS = 75
"""Longer than the usual 60 s of proxies and Alertmanager, so that no connection is closed under a request."""


def serve(
    settings: Settings,
    database_url: str,
    *,
    host: str,
    port: int,
    extensions: Sequence[Extension] = (),
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the API until SIGINT or SIGTERM. `ready` is called with the address as soon as the API answers.

    Raises:
        BadSetting: the port is in use, or the host is not this machine's.
    """
    listening = listen(host, port)
    if settings.api_auth == "off" and not is_loopback(host):
        logger.warning(
            "NO KEYS: API_AUTH=off, and the API listens on %s: everybody who reaches it can send alerts, read them and "
            "resume runs. Set API_AUTH=auto, and make keys with `alert-pipeline keys create`",
            host,
        )
    app = create_app(settings, database_url, host=host, extensions=extensions)
    raise_open_files()
    server = ApiServer(app, settings, lambda: ready(address_of(host, listening)))
    with listening:
        server.run(sockets=[listening])


class ApiServer(uvicorn.Server):
    """uvicorn's server, which shuts down cleanly on SIGINT and SIGTERM instead of raising them again."""

    def __init__(self, app: FastAPI, settings: Settings, ready: Callable[[], None] = lambda: None) -> None:
        config = ApiConfig(
            app,
            settings,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Whether a caller is local is decided by its connection: anybody can send a header.
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle SIGINT and SIGTERM while the server runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        if self.started:
            collect_garbage_rarely()
            self._ready()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Port 0 means any free port.

    Raises:
        BadSetting: the port is in use, or the host is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise BadSetting(
            f"The API cannot listen on {host} port {port}: {error.strerror or error}. "
            "Choose others with --host and --port"
        ) from None
    return listening


def address_of(host: str, listening: socket.socket) -> str:
    """The URL of a listening socket, as seen from this machine."""
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"
