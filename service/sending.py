"""Alerts of scripts: each is kept in a folder until the API has it.

The folder is a queue of files in the order in which they were kept. Each file has a key of its own, under which the API
stores it once, however often it is sent. What the API can never read is put aside in the folder `refused` within it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import IO, cast

import httpx
import orjson

from orchestration.errors import BadInput, BadSetting
from orchestration.redaction import one_line, redact_text

WEBHOOK = "/alerts/webhook/generic/"
REQUEST_SECONDS = 10.0
"""How long the API may take to answer."""
LEAST_SECONDS = 2.0
"""How long the first try may take, however short the time is."""

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
MOST_KEPT = 10_000
"""How many alerts a folder keeps. More would hide an API that is away for days."""

_FINAL = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
"""The statuses with which the API itself says that it can never read this alert."""
_DONE = ("done", "ignored")
"""The API's words for a push that needs no run."""
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_MOST_STUCK = 3
"""After how many answers of somebody else in a row no more alerts are tried: then the address or the key is wrong."""

_KEY = re.compile("[!-~]+")
_LOCK, _BACKGROUND, _REFUSED = ".lock", ".background", "refused"
_LOCK_POLL_SECONDS = 0.05


class NotNow(Exception):
    """The API does not take an alert now; it may do so later."""

    def __init__(self, why: str, after_seconds: float = 0.0, *, others_may_pass: bool = False) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds
        """How long it asks to wait."""
        self.others_may_pass = others_may_pass
        """Whether the answer may be about this alert only, such as that of a proxy for which it is too large."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One alert on its way to the API."""

    body: dict[str, object]
    """The alert in the words of the generic source, or what another address reads."""
    environment: str | None = None
    key: str = field(default_factory=lambda: token_hex(16))
    """The API stores a message once under its key, however often it is sent."""
    path: str = WEBHOOK
    """The address at the API. What is kept in a folder is for the default one."""

    @property
    def json(self) -> bytes:
        """The message as a file of the folder has it."""
        return orjson.dumps({"key": self.key, "environment": self.environment, "body": self.body})


@dataclass(frozen=True, kw_only=True)
class Door:
    """The way to an API."""

    url: str
    """The address of the API."""
    api_key: str | None = None

    def post(self, message: Message, seconds: float = REQUEST_SECONDS) -> str:
        """Send an alert within so many seconds. Returns the id of its run; "" if it needs none.

        Raises:
            NotNow: the API does not answer, or is busy, or the answer is not the API's.
            BadInput: it can never read this alert.
        """
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            why = "the API key has characters that no key has: see SEND_API_KEY or --key"
            raise NotNow(why, LONGEST_DELAY_SECONDS)
        try:
            answer = _within(seconds, lambda: self._request(message, seconds))
        except httpx.HTTPError as error:
            if isinstance(error, httpx.UnsupportedProtocol):
                raise self._no_address() from None
            raise NotNow(f"{redact_text(self.url)} does not answer ({type(error).__name__})") from None
        except (httpx.InvalidURL, ValueError, OverflowError):
            raise self._no_address() from None
        return self._run_of(answer)

    def _request(self, message: Message, seconds: float) -> httpx.Response:
        headers = {"Idempotency-Key": message.key} | ({"X-API-Key": self.api_key} if self.api_key else {})
        return httpx.post(
            f"{self.url.rstrip('/')}{message.path}",
            content=orjson.dumps(message.body),
            params={"environment": message.environment} if message.environment else {},
            headers={"Content-Type": "application/json", **headers},
            timeout=seconds,
            trust_env=False,
        )

    def _no_address(self) -> NotNow:
        why = f"{redact_text(self.url)} is no address of an API: it is written as http://host:port"
        return NotNow(why, LONGEST_DELAY_SECONDS)

    def _run_of(self, answer: httpx.Response) -> str:
        """The id of the run, from the API's own answer; "" if it needs none.

        A proxy, a login page or another server may answer as well.
        """
        own = _object_in(answer)
        run_id = own.get("run_id")
        if answer.status_code == HTTPStatus.ACCEPTED and isinstance(run_id, str) and run_id:
            return run_id
        if answer.status_code == HTTPStatus.OK and own.get("status") in _DONE and isinstance(own.get("message"), str):
            return ""
        said = f"{redact_text(self.url)} answered {answer.status_code}: {one_line(_words_of(answer), 200)}"
        if isinstance(own.get("error"), str):
            if answer.status_code in _FINAL:
                raise BadInput(said)
        elif target := answer.headers.get("location"):
            said = f"{said} (it points to {one_line(target, 200)})"
        else:
            said = f"{said} (this is not the API: is its address right?)"
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status_code in _BUSY:
            raise NotNow(said, retry_after(answer.headers.get("retry-after", "")))
        raise NotNow(said, LONGEST_DELAY_SECONDS, others_may_pass=True)


def _words_of(answer: httpx.Response) -> str:
    """What an answer says: the error of the API, or else the beginning of its text."""
    return str(_object_in(answer).get("error") or answer.text[:2000])


def _object_in(answer: httpx.Response) -> dict[str, object]:
    """The JSON object of an answer; an empty one if there is none."""
    try:
        found: object = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}


def _within(seconds: float, call: Callable[[], httpx.Response]) -> httpx.Response:
    """Call a function in a thread that is left behind after so many seconds: resolvers of names know no timeout.

    Raises:
        NotNow: the time is over.
    """
    done: Future[httpx.Response] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that waits
            done.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        raise NotNow(f"the API does not answer within {seconds:.3g} s") from None


def retry_after(written: str) -> float:
    """The seconds that a `Retry-After` header asks for; 0 if it asks for none. Source: RFC 9110, section 10.2.3."""
    if written.strip().isdecimal():
        return min(float(written), 3600.0)
    with suppress(ValueError, TypeError):
        return min(max(parsedate_to_datetime(written).timestamp() - time.time(), 0.0), 3600.0)
    return 0.0


@dataclass
class Outcome:
    """The alerts of a folder that are done, by the names of their files."""

    sent: dict[str, str] = field(default_factory=dict[str, str])
    """The runs of those that the API has."""
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Why the others are refused."""


class Spool:
    """The folder of alerts that the API does not have yet."""

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
            try:
                with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(message.json)
                    file.flush()
                    os.fsync(file.fileno())
                new.rename(path)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            raise BadSetting(f"{self.folder} cannot keep an alert: {error.strerror}") from None
        return path

    def waiting(self) -> list[Path]:
        """The alerts that are kept, in the order in which they were."""
        return sorted(self.folder.glob("*.json"))

    def refused(self) -> list[Path]:
        """The alerts that were put aside."""
        return sorted((self.folder / _REFUSED).glob("*.json"))

    def restore(self) -> None:
        """Let the alerts that were put aside wait again."""
        with self._writing():
            for path in self.refused():
                path.rename(self.folder / path.name)

    def send_waiting(self, door: Door, outcome: Outcome, seconds: float) -> None:
        """Send what is kept within so many seconds, the oldest first. What is refused is put aside.

        Raises:
            NotNow: something is left.
            BadSetting: the folder cannot be written.
        """
        until = time.monotonic() + seconds
        stuck: list[NotNow] = []
        with self._writing(), self._lock(seconds):
            for path in self.waiting():
                left = until - time.monotonic()
                if left <= 0:
                    raise NotNow("the time is over")
                try:
                    self._send(path, door, outcome, min(left, REQUEST_SECONDS))
                except NotNow as error:
                    stuck.append(error)
                    if not error.others_may_pass or len(stuck) >= _MOST_STUCK:
                        break
        if stuck:
            raise stuck[-1]

    def _send(self, path: Path, door: Door, outcome: Outcome, seconds: float) -> None:
        try:
            found = orjson.loads(path.read_bytes())
            message = Message(body=found["body"], environment=found["environment"], key=found["key"])
            outcome.sent[path.name] = door.post(message, seconds)
        except FileNotFoundError:  # somebody has removed it
            return
        except (BadInput, ValueError, KeyError, TypeError) as error:
            aside = self.folder / _REFUSED
            aside.mkdir(exist_ok=True, mode=0o700)
            path.rename(aside / path.name)
            outcome.refused[path.name] = f"{error}; it is put aside as {aside / path.name}"
            return
        path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise BadSetting(f"{error.filename or self.folder} cannot be used: {error.strerror}") from None

    @contextmanager
    def _lock(self, seconds: float) -> Generator[None]:
        """Be the only process that sends what is kept.

        Raises:
            NotNow: another process has not ended within so many seconds.
        """
        if not self.folder.is_dir():
            yield
            return
        until = time.monotonic() + seconds
        with (self.folder / _LOCK).open("a") as lock:
            while not _locked(lock):
                if time.monotonic() >= until:
                    raise NotNow("another process sends what is kept")
                time.sleep(_LOCK_POLL_SECONDS)
            yield

    @contextmanager
    def background(self) -> Generator[int | None]:
        """The lock of the process that goes on trying, as an open file: it lasts as long as any process has it open.

        None means that another process has the lock.

        Raises:
            OSError: the folder cannot be written.
        """
        with (self.folder / _BACKGROUND).open("a") as lock:
            yield lock.fileno() if _locked(lock) else None


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def patiently(
    attempt: Callable[[float], None],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call `attempt` with the seconds that it may take until it succeeds, with growing delays, within the time.

    Raises:
        NotNow: the time is over.
    """
    until, delay, least = clock() + seconds, FIRST_DELAY_SECONDS, LEAST_SECONDS
    while True:
        try:
            attempt(max(until - clock(), least))
        except NotNow as error:
            wait = max(delay, error.after_seconds)
            if clock() + wait > until:
                raise
            sleep(wait)
            delay, least = min(2 * delay, LONGEST_DELAY_SECONDS), 0.0
        else:
            return
