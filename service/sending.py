"""Alerts of scripts: each is sent to the API now, or kept in a folder until the API takes it.

The folder is a queue of files in the order in which they were kept. Each file has a key of its own, under which the API
stores it once, however often it is sent.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex
from typing import cast

import httpx
import orjson

from orchestration.errors import BadInput, BadSetting
from orchestration.redaction import one_line, redact_text

WEBHOOK = "/alerts/webhook/generic/"
REQUEST_SECONDS = 10.0
"""How long the API may take to answer."""

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
MOST_KEPT = 10_000
"""How many alerts a folder keeps. More would hide an API that is away for days."""

_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_NOT_HERE = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
"""The key or the address is wrong, not the alert: it can be sent later."""

_LOCK, _REFUSED = ".lock", "refused"


class NotNow(Exception):
    """The API does not take an alert now; it may do so later."""

    def __init__(self, why: str, after_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds
        """How long it asks to wait."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One alert on its way to the API."""

    body: dict[str, object]
    """In the words of the generic source."""
    environment: str | None = None
    key: str = field(default_factory=lambda: token_hex(16))
    """Under which the API stores it once."""
    path: str = WEBHOOK
    """The address at the API. What is kept in a folder is for the default one."""

    @property
    def json(self) -> bytes:
        """The message as a file of the folder has it."""
        return orjson.dumps({"key": self.key, "environment": self.environment, "body": self.body})


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where alerts are sent to."""

    url: str
    """Of the API."""
    api_key: str | None = None

    def post(self, message: Message) -> str:
        """Send an alert. Returns the id of its run.

        Raises:
            NotNow: the API does not answer, or is busy.
            BadInput: it refuses this alert, and will do so again.
        """
        headers = {"Idempotency-Key": message.key} | ({"X-API-Key": self.api_key} if self.api_key else {})
        params = {"environment": message.environment} if message.environment else {}
        try:
            answer = httpx.post(
                f"{self.url.rstrip('/')}{message.path}",
                content=orjson.dumps(message.body),
                params=params,
                headers={"Content-Type": "application/json", **headers},
                timeout=REQUEST_SECONDS,
                trust_env=False,
            )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            why = f"{redact_text(self.url)} is no address of an API: it is written as http://host:port"
            raise NotNow(why, LONGEST_DELAY_SECONDS) from None
        except httpx.HTTPError as error:
            raise NotNow(f"{redact_text(self.url)} does not answer ({type(error).__name__})") from None
        if answer.is_success:
            return _run_id_in(answer, redact_text(self.url))
        said = f"{redact_text(self.url)} answered {answer.status_code}: {one_line(answer.text, 200)}"
        if answer.status_code in _NOT_HERE:
            raise NotNow(said, LONGEST_DELAY_SECONDS)
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status_code in _LATER:
            raise NotNow(said, retry_after(answer.headers.get("retry-after", "")))
        if answer.is_redirect:
            raise NotNow(said, LONGEST_DELAY_SECONDS)
        raise BadInput(said)


def _run_id_in(answer: httpx.Response, url: str) -> str:
    """The run that the API names; "" if it has made none.

    Raises:
        NotNow: this is no answer of the API, but of something in front of it.
    """
    try:
        said = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict) or "status" not in said:
        raise NotNow(f"{url} is no API of alert-pipeline: it answered {answer.status_code}", LONGEST_DELAY_SECONDS)
    return str(cast("dict[str, object]", said).get("run_id", ""))


def retry_after(written: str) -> float:
    """The seconds that a `Retry-After` header asks for; 0 if it asks for none. Source: RFC 9110, section 10.2.3."""
    if written.strip().isdecimal():
        return min(float(written), 3600.0)
    with suppress(ValueError, TypeError):
        return min(max(parsedate_to_datetime(written).timestamp() - time.time(), 0.0), 3600.0)
    return 0.0


class Spool:
    """The folder of alerts that the API has not taken yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, message: Message) -> Path:
        """Keep an alert. It is on disk when this returns.

        Raises:
            BadSetting: the folder cannot be written, or is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if len(self.waiting()) >= MOST_KEPT:
                raise BadSetting(f"{self.folder} keeps {MOST_KEPT:,} alerts already: see why they are not sent")
            path = self.folder / f"{time.time_ns():020d}-{message.key}.json"
            new = path.with_suffix(".new")
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(message.json)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except OSError as error:
            raise BadSetting(f"{self.folder} cannot keep an alert: {error.strerror}") from None
        return path

    def waiting(self) -> list[Path]:
        """The alerts that are kept, in the order in which they were."""
        return sorted(self.folder.glob("*.json"))

    @contextmanager
    def alone(self) -> Generator[bool]:
        """Whether this process is the one that sends what is kept, until the end of the block."""
        if not self.folder.is_dir():
            yield True
            return
        with (self.folder / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def send_oldest(self, door: Door) -> bool:
        """Send the oldest alert, and forget it. Returns whether there was one. What is refused is put aside.

        Raises:
            NotNow: the API does not take it now.
            BadInput: it was refused, or cannot be read; it is in the folder `refused`.
        """
        path = next(iter(self.waiting()), None)
        if path is None:
            return False
        try:
            found = orjson.loads(path.read_bytes())
            door.post(Message(body=found["body"], environment=found["environment"], key=found["key"]))
        except (BadInput, ValueError, KeyError, TypeError) as error:
            aside = self.folder / _REFUSED
            aside.mkdir(exist_ok=True, mode=0o700)
            path.rename(aside / path.name)
            raise BadInput(f"{error}; it is put aside as {aside / path.name}") from None
        path.unlink(missing_ok=True)
        return True


def patiently(
    attempt: Callable[[], bool],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call `attempt` until it returns False, for so many seconds while the API takes nothing, with growing delays.

    Raises:
        NotNow: the time is over.
    """
    until, delay = clock() + seconds, FIRST_DELAY_SECONDS
    while True:
        try:
            if not attempt():
                return
            delay = FIRST_DELAY_SECONDS
        except NotNow as error:
            wait = max(delay, error.after_seconds)
            if clock() + wait > until:
                raise
            sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)
