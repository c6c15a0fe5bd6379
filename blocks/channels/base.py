"""What all channels share: two switches, a way in from the environment, and how an answer is judged."""

from __future__ import annotations

import ssl
from abc import abstractmethod
from functools import cache
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, JsonValue, SecretStr, ValidationError

from orchestration.contracts import Delivery
from orchestration.errors import BadSetting, DeliveryFailed
from orchestration.message import Message
from orchestration.redaction import redact, redact_text
from orchestration.settings import Settings

USER_AGENT = "alert-pipeline"
"""How the channels name themselves to the services that they call."""

RETRYABLE_STATUSES = frozenset({408, 425, 429})
"""Answers below 500 that ask for another try; every 5xx does."""


class ChannelBlock(Block):
    """A channel as a Prefect block: what an operator sets, and what sending does with it."""

    model_config = ConfigDict(hide_input_in_errors=True)

    configured_by: ClassVar[str] = ""
    """The environment variables that configure the driver, for people."""

    enabled: bool = Field(default=True, description="Whether the channel sends anything at all.")
    default: bool = Field(
        default=False, description="Whether this channel gets the messages of runs that name no channel."
    )

    @property
    @abstractmethod
    def driver(self) -> str:
        """The kind of channel: slack, email, generic, console."""

    @property
    @abstractmethod
    def target(self) -> str:
        """Where it goes, in words without a secret."""

    @abstractmethod
    async def send(self, message: Message) -> Delivery:
        """Hand the message over, once.

        Raises:
            DeliveryFailed: which says whether a retry can help.
        """

    async def probe(self) -> str:
        """Try the way to the channel without a message to anybody; what was found, in words.

        Raises:
            DeliveryFailed: the way is blocked, or the vendor does not know the credentials.
        """
        return "set up; whether it works shows with the first message"

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The channel that the environment describes; None where it describes none.

        Raises:
            BadSetting: the environment describes it half.
        """

    @classmethod
    def _built(cls, **fields: Any) -> Self:
        try:
            return cls(**fields)
        except ValidationError as error:
            problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            raise BadSetting(f"{cls.configured_by}: {problems}") from None

    def _sent(self, provider: str, *, provider_id: str | None = None, **response: JsonValue) -> Delivery:
        return Delivery(
            driver=self.driver,
            provider=provider,
            channel=self.target,
            status="sent",
            provider_id=provider_id,
            response={name: redact(value) for name, value in response.items()},
        )


@cache
def tls_context() -> ssl.SSLContext:
    """Trusts the authorities of the machine and those that httpx brings. Made once: it costs 20 ms."""
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
    """The host of a checked URL: all of it that is ever shown."""
    value = url if isinstance(url, str) else url.get_secret_value()
    return urlsplit(value).hostname or "unknown host"


async def reach(url: SecretStr | str, timeout_seconds: float) -> str:
    """Whether the host of a URL answers, by a request for its root that changes nothing, through a proxy if one is set.

    Raises:
        DeliveryFailed: it does not, or its certificate is not trusted.
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


def status_retryable(status: int) -> bool:
    """Whether an HTTP status asks for another try."""
    return status in RETRYABLE_STATUSES or status >= 500


def refused(where: str, status: int, *, detail: str = "", retry_after: str | None = None) -> DeliveryFailed:
    """The error for an HTTP answer that was not a success."""
    said = f": {redact_text(detail, limit=200)}" if detail else ""
    wait = f" (asks to wait {retry_after} s)" if retry_after and retry_after.isdecimal() else ""
    return DeliveryFailed(f"{where} answered {status}{said}{wait}", retryable=status_retryable(status))


def unreachable(where: str, error: Exception) -> DeliveryFailed:
    """The error for an exchange that broke off, in the system's words; never the error's text, which may hold the URL.

    A certificate that cannot be trusted stays so; all else may pass.
    """
    links = _chain(error)
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in links):
        return DeliveryFailed(f"{where} could not be reached: its certificate is not trusted", retryable=False)
    if any("timeout" in type(link).__name__.lower() for link in links):
        return DeliveryFailed(f"{where} did not answer in time", retryable=True)
    words = (link.strerror for link in links if isinstance(link, OSError) and link.strerror)
    return DeliveryFailed(f"{where} could not be reached: {next(words, type(links[-1]).__name__)}", retryable=True)


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and link not in links:
            links.append(link)
            waiting += [getattr(link, "reason", None), link.__cause__, link.__context__]
            waiting += getattr(link, "exceptions", ())
    return links
