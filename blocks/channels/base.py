"""What all channels share: two switches, the environment, how an answer is judged. And the console, the simplest."""

from __future__ import annotations

import re
import socket
import ssl
import sys
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import httpx
from prefect.blocks.abstract import NotificationBlock, NotificationError
from pydantic import Field, JsonValue, SecretStr, ValidationError

from blocks.known_fields import KnownFieldsBlock
from orchestration.contracts import Delivery
from orchestration.errors import BadSetting, DeliveryFailed
from orchestration.message import Message, plain_message
from orchestration.redaction import redact, redact_text
from orchestration.settings import Settings
from orchestration.threads import in_own_thread

USER_AGENT = "alert-pipeline"
"""The User-Agent header of requests to vendors."""

LONGEST_WAIT_SECONDS = 24 * 3600.0
"""The longest wait that a channel may ask for. A longer one is a mistake, and counts as this."""

_RETRYABLE_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 that allow a retry. Every 5xx does."""

_TEMPORARY_WITH_A_TIME = frozenset({403, 413})
"""HTTP statuses that are temporary if the answer says when to come again: RFC 9110 for 413, GitHub for 403."""

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")

_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, ConnectionRefusedError, socket.gaierror)
"""Errors before anything was sent."""

_CONSOLE_WIDTH = 78


@cache
def _slug(block: type[NotificationBlock]) -> str:
    # Prefect makes it out of the name anew each time.
    return block.get_block_type_slug()


class ChannelBlock(KnownFieldsBlock, NotificationBlock):
    """A channel as a Prefect block: the fields that an operator sets, and how a message is sent with them.

    It is a notification block, so that Prefect's automations can send through it. A new channel is a subclass in a file
    of its own, and a line in `CHANNELS`.
    """

    configured_by: ClassVar[str] = ""
    """The environment variables that configure the driver, as an error message names them."""

    enabled: bool = Field(default=True, description="Whether the channel gets alerts.")
    default: bool = Field(
        default=False, description="Whether this channel gets the messages of runs that name no channel."
    )

    @property
    def seconds_between_messages(self) -> float:
        """The shortest time between two messages to `target` that the vendor likes, in seconds. 0 means any."""
        return 0.0

    @property
    def driver(self) -> str:
        """The key of the class in `blocks.channels.CHANNELS`: the block type's slug is `DRIVER-channel`."""
        return _slug(type(self)).removesuffix("-channel")

    @property
    def shows_state(self) -> bool:
        """Whether the channel can bring its message about an incident up to date without a new message.

        Such a channel is sent what nobody has to be disturbed for, such as an acknowledgement, too, as a message that
        is `silent`.
        """
        return False

    @property
    @abstractmethod
    def target(self) -> str:
        """Where messages go, without a secret: "#oncall", "ops@example.com", "hooks.example.com"."""

    @abstractmethod
    async def send(self, message: Message) -> Delivery:
        """Send the message, once, without retries.

        Raises:
            DeliveryFailed: the channel did not accept it. `retryable` says whether a retry can help.
        """

    # Prefect declares it as a plain function and awaits it.
    async def notify(self, body: str, subject: str | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Send a text that is no alert, as an automation of Prefect does.

        Raises:
            NotificationError: the channel did not accept it.
        """
        try:
            await self.send(plain_message(body, subject))
        except DeliveryFailed as error:
            raise NotificationError(str(error)) from None

    async def probe(self) -> str:
        """Test the connection and the credentials without sending a message; the result as a sentence.

        Raises:
            DeliveryFailed: the vendor cannot be reached, or refuses the credentials.
        """
        return "set up; whether it works shows with the first message"

    async def read_back(self, delivery: Delivery) -> str:
        """What the vendor says of a message that it has accepted, as a sentence, for the report of a test.

        Raises:
            DeliveryFailed: the vendor does not answer, or does not know the message.
        """
        return f"{delivery.provider} accepted it"

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The channel that the environment variables set up. None means that they do not name this driver.

        Raises:
            BadSetting: a variable is missing or wrong.
        """

    @classmethod
    def _built(cls, **fields: Any) -> Self:
        try:
            return cls(**fields)
        except ValidationError as error:
            problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            raise BadSetting(f"{cls.configured_by}: {problems}") from None

    def _sent(
        self, provider: str, *, provider_id: str | None = None, thread: str | None = None, **response: JsonValue
    ) -> Delivery:
        return Delivery(
            driver=self.driver,
            provider=provider,
            channel=self.target,
            status="sent",
            provider_id=provider_id,
            thread=thread,
            response={name: redact(value) for name, value in response.items()},
        )


@cache
def tls_context() -> ssl.SSLContext:
    """Trusts the certificate authorities of the machine and of httpx. Cached, because creating it takes 20 ms."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def checked_url(url: SecretStr, *, what: str) -> SecretStr:
    """The URL, if it is an http(s) URL with a host.

    Raises:
        ValueError: naming `what`, never the URL.
    """
    value = url.get_secret_value()
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError(f"{what} must be a http:// or https:// URL with a host")
    return url


def host_of(url: SecretStr | str) -> str:
    """The host of a checked URL. No other part of the URL is ever shown."""
    value = url if isinstance(url, str) else url.get_secret_value()
    return urlsplit(value).hostname or "unknown host"


async def reach(url: SecretStr | str, timeout_seconds: float) -> str:
    """Send a HEAD request for `/` to the URL's host, through the proxy if one is set; the result as a sentence.

    Raises:
        DeliveryFailed: the host does not answer, or its certificate is not trusted.
    """
    parts = urlsplit(url if isinstance(url, str) else url.get_secret_value())
    where = host_of(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    try:
        async with httpx.AsyncClient(verify=tls_context(), timeout=timeout_seconds, follow_redirects=False) as client:
            await client.head(origin, headers={"User-Agent": USER_AGENT})
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise unreachable(where, error) from None
    return f"{where} answers{' over TLS' if parts.scheme == 'https' else ''}"


def refused(where: str, status: int, *, detail: str = "", headers: Mapping[str, str] | None = None) -> DeliveryFailed:
    """The error for an HTTP answer that was not a success. `headers` are the answer's."""
    wait = retry_after_seconds(headers or {})
    said = f": {redact_text(detail, limit=200)}" if detail else ""
    asked = f" (asks to wait {wait:g} s)" if wait is not None else ""
    retryable = status in _RETRYABLE_STATUSES or status >= 500
    retryable = retryable or (wait is not None and status in _TEMPORARY_WITH_A_TIME)
    return DeliveryFailed(f"{where} answered {status}{said}{asked}", retryable=retryable, retry_after_seconds=wait)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait that an HTTP answer asks for with `Retry-After`, in seconds and at most `LONGEST_WAIT_SECONDS`.

    The header is a number of seconds, which some vendors give with a fraction, or a moment. A moment is compared with
    the answer's own `Date`, because the vendor's clock may differ from ours. None means that there is no such header,
    that it cannot be read, or that its moment has passed.
    """
    by_name = {name.lower(): value.strip() for name, value in headers.items()}
    asked = by_name.get("retry-after", "")
    if _SECONDS.fullmatch(asked):
        return min(float(asked), LONGEST_WAIT_SECONDS)
    moment = _http_date(asked)
    if moment is None:
        return None
    seconds = (moment - (_http_date(by_name.get("date", "")) or datetime.now(UTC))).total_seconds()
    return min(seconds, LONGEST_WAIT_SECONDS) if seconds >= 0 else None


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    # A date without a zone is in GMT: RFC 9110 knows no other.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def unreachable(where: str, error: Exception) -> DeliveryFailed:
    """The error for a connection that failed. Its text is the system's, as the library's text may contain the URL.

    An untrusted certificate is final; everything else can be retried. If it broke off later than while the connection
    was made, the message may have been accepted.
    """
    links = _chain(error)
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in links):
        return DeliveryFailed(f"{where} could not be reached: its certificate is not trusted", retryable=False)
    connected = not any(isinstance(link, _NOT_CONNECTED) for link in links)
    if any("timeout" in type(link).__name__.lower() for link in links):
        return DeliveryFailed(f"{where} did not answer in time", retryable=True, perhaps_accepted=connected)
    words = (link.strerror for link in links if isinstance(link, OSError) and link.strerror)
    said = f"{where} could not be reached: {next(words, type(links[-1]).__name__)}"
    return DeliveryFailed(said, retryable=True, perhaps_accepted=connected)


class ConsoleChannel(ChannelBlock):
    """Writes each message as plain text to standard error; standard output belongs to `--json`."""

    _block_type_name = "Console Channel"
    _block_type_slug = "console-channel"
    _description = "Writes each message to the console of the process that sends it."

    configured_by = "nothing"

    @property
    def target(self) -> str:
        """`console`."""
        return "console"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:  # noqa: ARG003  a console needs no setting
        """The console, which needs no setting."""
        return cls()

    async def send(self, message: Message) -> Delivery:
        """Write the complete message between two lines, and flush.

        Raises:
            DeliveryFailed: standard error is closed.
        """
        frame = "─" * _CONSOLE_WIDTH
        await in_own_thread(_write, f"{frame}\n{message.text.rstrip()}\n{frame}\n")
        return self._sent("console")


def _write(text: str) -> None:
    stream = sys.stderr
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding, "replace"))
        stream.flush()
    except (OSError, ValueError) as error:
        raise DeliveryFailed(f"the console cannot be written to: {type(error).__name__}", retryable=False) from None


def _chain(error: BaseException) -> list[BaseException]:
    """The error and whatever caused it, the nearest cause first."""
    links = [error]
    for link in links:  # the list grows meanwhile
        causes = (getattr(link, "reason", None), link.__cause__, link.__context__, *getattr(link, "exceptions", ()))
        links += dict.fromkeys(each for each in causes if isinstance(each, BaseException) and each not in links)
    return links
