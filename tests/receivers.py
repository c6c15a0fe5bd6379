"""Real servers on loopback, each in a thread, on a free port, ended by its `with` block; other processes can send too.

with http_receiver(503, 200) as receiver: ...  # answers 503, then 200, then 200 for ever
with smtp_receiver() as receiver: ...  # receiver.mails
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, TypeVar, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

WAIT_SECONDS = 30.0
Item = TypeVar("Item")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. `hang`: none at all, until the receiver ends."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    hang: bool = False

    @classmethod
    def json(cls, value: object, status: int = 200, **headers: str) -> Answer:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


@dataclass(frozen=True)
class Received:
    """One HTTP request; the names of its headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    answered: int = 0
    """The status of the answer."""
    at: float = 0.0
    """When it was answered, as `time.monotonic()` counts."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Log(Generic[Item]):
    """What has come in so far, and a way to wait for more."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._changed = threading.Condition()

    def add(self, item: Item) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait_for(self, count: int, timeout: float = WAIT_SECONDS) -> list[Item]:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.items) >= count, timeout):
                raise AssertionError(f"expected {count}, got {len(self.items)}: {self.items}")
            return list(self.items)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    """With five, its usual number, the rest of many connections at a time waits for seconds."""

    daemon_threads = True


Judge = Callable[[Received], Answer]
"""Answers a request as a vendor does, from what it says."""


class HttpReceiver:
    """Answers with what it was told to, in order, then with `default`, or as `judge` says."""

    def __init__(self, answers: list[Answer], default: Answer, judge: Judge | None = None) -> None:
        self._answers = answers
        self._default = default
        self._judge = judge
        self._log: _Log[Received] = _Log()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                receiver._handle(self)

            do_POST = do_PUT = do_GET = do_HEAD = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                """The log of requests is `requests`."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> list[Received]:
        return list(self._log.items)

    def wait_for(self, count: int, timeout: float = WAIT_SECONDS) -> list[Received]:
        """The requests, once there are `count` of them."""
        return self._log.wait_for(count, timeout)

    def answer_next(self, *answers: int | Answer) -> None:
        """Answer the next requests so."""
        with self._lock:
            self._answers += [_answer(one) for one in answers]

    def answer_with(self, answer: int | Answer) -> None:
        """From now on answer so."""
        with self._lock:
            self._answers, self._default = [], _answer(answer)

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT_SECONDS)

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        with self._lock:
            received = Received(request.command, request.path, headers, body)
            if self._answers or self._judge is None:
                answer = self._answers.pop(0) if self._answers else self._default
            else:
                answer = self._judge(received)
        self._log.add(replace(received, answered=answer.status, at=time.monotonic()))
        if answer.hang:
            request.close_connection = True
            self._ended.wait(WAIT_SECONDS)
            return
        with suppress(OSError):
            request.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                request.send_header(name, value)
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(answer.body)


def _answer(answer: int | Answer) -> Answer:
    return answer if isinstance(answer, Answer) else Answer(status=answer)


def http_receiver(
    *answers: int | Answer, default: int | Answer = 200, judge: Judge | None = None
) -> closing[HttpReceiver]:
    """An HTTP server that records requests."""
    return closing(HttpReceiver([_answer(one) for one in answers], _answer(default), judge))


SLACK_TS = "1735787045.000100"


def slack_receiver(*answers: int | Answer) -> closing[HttpReceiver]:
    """Slack's Web API: `receiver.url` is the `base_url`. As an incoming webhook it works as well."""
    return http_receiver(*answers, default=Answer.json({"ok": True, "channel": "C1", "ts": SLACK_TS}))


@dataclass(frozen=True)
class Mail:
    """One mail as the server took it."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    user: str | None


class SmtpReceiver:
    """A mail server. `replies` holds the next replies to the whole mail ("451 later"); then it takes everything."""

    def __init__(
        self,
        *,
        replies: list[str],
        refuse: dict[str, str],
        user: tuple[str, str] | None,
        tls: ssl.SSLContext | None,
        smtps: bool,
    ) -> None:
        self.replies = replies
        self.refuse = refuse
        self._user = user
        self._log: _Log[Mail] = _Log()
        self._loop = asyncio.new_event_loop()
        self._tls = None if smtps else tls
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = self._loop.create_server(self._session, self.host, 0, ssl=tls if smtps else None)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result(WAIT_SECONDS)
        self.port: int = self._server.sockets[0].getsockname()[1]

    host = "127.0.0.1"

    @property
    def mails(self) -> list[Mail]:
        return list(self._log.items)

    def wait_for(self, count: int, timeout: float = WAIT_SECONDS) -> list[Mail]:
        """The mails, once there are `count` of them."""
        return self._log.wait_for(count, timeout)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.replies and not (reply := self.replies.pop(0)).startswith("250"):
            return reply
        content = message_from_bytes(cast("bytes", envelope.content), policy=policy.default)
        user = cast("bytes", session.auth_data).decode() if session.authenticated else None
        self._log.add(Mail(envelope.mail_from or "", list(envelope.rcpt_tos), content, user))
        return "250 OK: queued"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def _session(self) -> SMTP:
        return SMTP(
            self,
            hostname="localhost",
            loop=self._loop,
            enable_SMTPUTF8=True,
            authenticator=self._authenticate if self._user else None,
            auth_required=self._user is not None,
            auth_require_tls=False,
            tls_context=self._tls,
        )

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        if isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode()) == self._user:
            return AuthResult(success=True, auth_data=data.login)
        return AuthResult(success=False, handled=False)

    async def _stop(self) -> None:
        self._server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def smtp_receiver(
    *replies: str,
    refuse: dict[str, str] | None = None,
    user: tuple[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    smtps: bool = False,
) -> closing[SmtpReceiver]:
    """A mail server. `refuse`: address to reply; `user`: name and password it insists on; `tls`: offers STARTTLS,
    or with `smtps` speaks TLS from the start."""
    return closing(SmtpReceiver(replies=list(replies), refuse=refuse or {}, user=user, tls=tls, smtps=smtps))


class StatsdReceiver:
    """A UDP socket that keeps every metric line it gets."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self._log: _Log[str] = _Log()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.host, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[str]:
        """The lines of all packets, such as `pipeline.started.alertmanager:1|c`."""
        return list(self._log.items)

    def wait_for(self, count: int, timeout: float = WAIT_SECONDS) -> list[str]:
        """The lines, once there are `count` of them."""
        return self._log.wait_for(count, timeout)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as goodbye:
            goodbye.sendto(b"", (self.host, self.port))
        self._thread.join(WAIT_SECONDS)
        self._socket.close()

    def _listen(self) -> None:
        while packet := self._socket.recv(65_535):
            for line in packet.decode().splitlines():
                self._log.add(line)


def statsd_receiver() -> closing[StatsdReceiver]:
    """A statsd server."""
    return closing(StatsdReceiver())
