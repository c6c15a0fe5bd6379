"""Any HTTP endpoint: the message as JSON, or as the operator's template renders it."""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from typing import Any, Literal, Self, cast
from urllib.parse import quote

import httpx
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from prefect.types import SecretDict
from pydantic import Field, SecretStr, field_validator

from blocks.channels.base import (
    USER_AGENT,
    ChannelBlock,
    checked_url,
    host_of,
    reach,
    refused,
    tls_context,
    unreachable,
)
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.settings import Settings
from orchestration.timeouts import awake_timeout

_MAX_ANSWER = 64 * 1024
_BODY_SECONDS = 2.0
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~\-]+")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "idempotency-key", "content-type"})


class GenericChannel(ChannelBlock):
    """Sends each message to an HTTP endpoint, with an `Idempotency-Key` that is the same for each attempt."""

    _block_type_name = "Generic Webhook Channel"
    _block_type_slug = "generic-channel"
    _description = "Sends each message to an HTTP endpoint, as JSON or through a template."

    configured_by = "NOTIFY_WEBHOOK_URL"

    endpoint: SecretStr = Field(
        description="The http(s) URL that takes the message; secret, because it may contain a token."
    )
    method: Literal["POST", "PUT"] = Field(default="POST", description="The HTTP method.")
    headers: SecretDict = Field(
        default_factory=lambda: SecretDict({}), description="Headers to send along, such as Authorization."
    )
    template: str | None = Field(
        default=None,
        description="Jinja template of the body; `message` holds the message. Empty: the message's fields as JSON.",
    )
    content_type: str = Field(
        default="application/json",
        pattern=r"^[\w.+\-]+/[\w.+\-]+(; ?[\w\-]+=[\w.\-]+)?$",
        description="The body's media type; a template of a JSON type must give JSON.",
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, le=120, description="How long the exchange may take, in seconds."
    )

    @field_validator("endpoint")
    @classmethod
    def _is_http(cls, value: SecretStr) -> SecretStr:
        return checked_url(value, what="endpoint")

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: SecretDict) -> SecretDict:
        for name, content in value.get_secret_value().items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(f"header {name!r} cannot be set")
            if not isinstance(content, str) or not content.isascii() or not content.isprintable():
                raise ValueError(f"the value of header {name!r} must be one line of ASCII text")
        return value

    @field_validator("template")
    @classmethod
    def _parses(cls, value: str | None) -> str | None:
        try:
            _sandbox().parse(value or "")
        except TemplateError as error:
            raise ValueError(f"template: {error}") from None
        return value or None

    @property
    def target(self) -> str:
        """The endpoint's host: its path and query may be secret."""
        return host_of(self.endpoint)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The endpoint of NOTIFY_WEBHOOK_URL, with NOTIFY_WEBHOOK_AUTHORIZATION as its Authorization header."""
        if settings.webhook_url is None:
            return None
        word = settings.webhook_authorization
        headers = {"Authorization": word.get_secret_value()} if word else {}
        return cls._built(endpoint=settings.webhook_url, headers=SecretDict(headers))

    async def send(self, message: Message) -> Delivery:
        """Send the message. 2xx is success; redirects are not followed.

        Raises:
            DeliveryFailed: retryable for 408, 425, 429, 5xx and a broken connection; final for any other answer.
        """
        request = self._request(message)
        try:
            async with httpx.AsyncClient(verify=tls_context(), follow_redirects=False) as client:
                async with awake_timeout(self.timeout_seconds):
                    response = await client.send(request, stream=True)
                body = await _beginning(response)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise unreachable(self.target, error) from None
        if not response.is_success:
            raise refused(self.target, response.status_code, headers=response.headers)
        return self._sent(self.target, provider_id=_id_in(body), status=response.status_code)

    async def probe(self) -> str:
        """Ask the endpoint's host only, because each request to the endpoint itself is a message.

        Raises:
            DeliveryFailed: the host does not answer, or its certificate is not trusted.
        """
        return await reach(self.endpoint, self.timeout_seconds)

    def _request(self, message: Message) -> httpx.Request:
        headers = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **self.headers.get_secret_value(),
            "Content-Type": self.content_type,
            "Idempotency-Key": quote(message.idempotency_key, safe="/:@ "),
        }
        request = httpx.Request(
            self.method,
            self.endpoint.get_secret_value(),
            headers=[(name.encode(), value.encode()) for name, value in headers.items()],
            content=self._body(message),
            extensions={"timeout": httpx.Timeout(None).as_dict()},  # send() limits the time of it all
        )
        request.url = _QuietUrl(request.url)
        return request

    def _body(self, message: Message) -> bytes:
        fields = message.model_dump(mode="json")
        if self.template is None:
            return json.dumps(fields, ensure_ascii=False).encode()
        try:
            body = _sandbox().from_string(self.template).render(message=fields)
            if "json" in self.content_type:
                json.loads(body)
        except TemplateError as error:
            raise DeliveryFailed(f"the template of {self.target} fails: {error}", retryable=False) from None
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            what = "does not give JSON" if isinstance(error, json.JSONDecodeError) else f"fails: {type(error).__name__}"
            raise DeliveryFailed(f"the template of {self.target} {what}", retryable=False) from None
        return body.encode()


class _QuietUrl(httpx.URL):
    """A URL that shows only its host: httpx logs the URL of every request, and ours may contain a token."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/…"


@cache
def _sandbox() -> ImmutableSandboxedEnvironment:
    # The output is JSON or text for a machine: HTML escapes damage it.
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


async def _beginning(response: httpx.Response) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_ANSWER:
                    return b""
    except (httpx.HTTPError, TimeoutError):
        return b""  # The status says already whether the message was accepted.
    finally:
        await response.aclose()
    return body


def _id_in(body: bytes) -> str | None:
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = cast("dict[str, Any]", answer).get("id") if isinstance(answer, dict) else None
    return str(found)[:200] if isinstance(found, str | int) and not isinstance(found, bool) else None
