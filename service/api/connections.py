"""Limits of connections: how large and how slow a header may be, how long an answer may stay unread, and how many
connections there are at once.

uvicorn has none of these limits: a header without an end, or a thousand connections with half a header or with answers
that nobody reads, would keep everybody else out, without any key.
"""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from orchestration.settings import Settings
from orchestration.signals import logger
from service.api.body import HAS_COME

_OTHER_FILES = 128
"""File descriptors that are kept for everything but connections: the database, logs, modules."""

_FEWEST_CONNECTIONS = 16

STALLED_SECONDS = 30.0
"""How long a caller may leave an answer unread before its connection is closed, in seconds."""


class ApiConfig(uvicorn.Config):
    """uvicorn's configuration, with the limits of connections that `settings` set."""

    def __init__(self, app: Any, settings: Settings, **options: Any) -> None:
        # No address is for WebSockets, and uvicorn's protocol for them has limits of its own.
        super().__init__(app, http=LimitedProtocol, ws="none", **options)
        self.header_bytes = settings.api_max_header_bytes
        self.header_seconds = settings.api_header_timeout_seconds
        self.waiting = WaitingConnections(most_connections(settings))


def most_connections(settings: Settings) -> int:
    """How many connections this process can have: `API_MAX_CONNECTIONS`, or fewer if it may open fewer files."""
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    allowed = settings.api_max_connections
    if open_files == resource.RLIM_INFINITY:
        return allowed
    return min(allowed, max(open_files - _OTHER_FILES, open_files // 2, _FEWEST_CONNECTIONS))


def raise_open_files() -> None:
    """Let this process open as many files as it is allowed to; by default it is a fraction of that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems refuse their own limit
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class WaitingConnections:
    """All connections, and which of them wait for their callers, in the order in which they began to wait.

    A connection waits until its request has come with its body, and while its answer is not read. At the limit, a new
    connection closes the one that has waited longest: whoever only keeps connections open keeps nobody out.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open = set[LimitedProtocol]()
        self._waiting: OrderedDict[LimitedProtocol, None] = OrderedDict()
        self._said = False

    def opened(self, connection: LimitedProtocol) -> None:
        """Count a new connection, and close another one, or this one, if there are too many."""
        self._open.add(connection)
        self._waiting[connection] = None
        if len(self._open) <= self.most:
            return
        if not self._said:
            self._said = True
            logger.warning(
                "%d connections are open, the most that API_MAX_CONNECTIONS and the limit of open files allow; "
                "from now on each new one closes the one that has waited longest for its caller",
                self.most,
            )
        oldest = next(iter(self._waiting))
        self.closed(oldest)
        oldest.abort()

    def closed(self, connection: LimitedProtocol) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: LimitedProtocol) -> None:
        """This connection begins to wait for its caller."""
        if connection in self._open:
            self._waiting[connection] = None

    def works(self, connection: LimitedProtocol) -> None:
        """This connection has a request to answer, and its caller reads the answer."""
        self._waiting.pop(connection, None)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection. It ends the connection if a header is too long or comes too slowly, or if
    an answer is not read."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        own = cast("ApiConfig", config)
        self._waiting, self._most_bytes, self._most_seconds = own.waiting, own.header_bytes, own.header_seconds
        self._bytes = 0
        """What has come since the last whole header, part of a body or end of a request."""
        self._in_header, self._in_body = False, False
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first header."""
        super().connection_made(transport)
        self._set_deadline(self._too_slow)
        self._waiting.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._waiting.closed(self)
        self._stop_answering()
        self._unset_deadline()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, in pieces that are within the limit of a header."""
        while data and not self.transport.is_closing():
            room = self._most_bytes - self._bytes
            if room <= 0:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
            piece, data = (data, b"") if len(data) <= room else (data[:room], data[room:])
            self._bytes += len(piece)
            super().data_received(piece)
        if self._in_header and self._deadline is None and not self.transport.is_closing():
            self._set_deadline(self._too_slow)

    def on_message_begin(self) -> None:
        """The first byte of a header has come."""
        self._in_header = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The request begins. Until its body has come, the connection still waits for it."""
        self._bytes, self._in_header, self._in_body = 0, False, True
        self._unset_deadline()
        super().on_headers_complete()
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None:
            scope = cast("Scope", cycle.scope)
            scope[HAS_COME] = lambda: not (cycle.more_body or cycle.disconnected)

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come as a whole; what follows is the header of the next one."""
        self._bytes, self._in_body = 0, False
        self._unset_deadline()
        self._note_work()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer was sent. A body that nobody reads may still come, but not for ever."""
        is_last = not self.pipeline
        super().on_response_complete()
        if not is_last or self.transport.is_closing():
            return
        self._waiting.waits(self)
        if self._in_body:
            self._set_deadline(self.transport.close)

    def pause_writing(self) -> None:
        """The caller does not read its answer. It has `STALLED_SECONDS` to go on, and the connection waits for it."""
        super().pause_writing()
        self._waiting.waits(self)
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """The caller reads on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
        self._note_work()

    def abort(self) -> None:
        """Close the connection at once. What is being answered on it stops."""
        self._stop_answering()
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _stop_answering(self) -> None:
        """Stop the answer to the request that is executed, and forget those behind it.

        uvicorn stops only the answer to the newest request. An earlier one would write on, and log an error each time.
        """
        if self._answering is not None:
            self._answering.disconnected = True
        self.pipeline.clear()

    def _note_work(self) -> None:
        """Note that there is a request to answer, unless it was answered already.

        A caller that sends its next request before the answer, which no usual client does, still counts as waiting.
        """
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self.pipeline:
            self._waiting.waits(self)
        elif cycle is not None and not cycle.response_complete:
            self._waiting.works(self)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: who asks for a WebSocket is answered as if it did not, and must not fill the log."""

    def _set_deadline(self, end: Callable[[], None]) -> None:
        self._unset_deadline()
        self._deadline = self.loop.call_later(self._most_seconds, end)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer that the header is not accepted, unless an earlier answer is still being sent; then close."""
        self._unset_deadline()
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            body = b'{"error": "%s"}' % self._reason(status).encode()
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _reason(self, status: HTTPStatus) -> str:
        if status is HTTPStatus.REQUEST_TIMEOUT:
            return f"The header of the request did not come within {self._most_seconds:g} s"
        return f"The header of the request is larger than API_MAX_HEADER_BYTES={self._most_bytes}"
