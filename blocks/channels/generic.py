"""Any HTTP endpoint: the message as JSON, or as the operator's template renders it."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Literal, Self
from urllib.parse import quote

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from prefect.types import SecretDict
from pydantic import Field, SecretStr, field_validator

from blocks.channels.base import ChannelBlock, checked_url, host_of, reach, refused
from blocks.channels.http import Answer, exchange
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.settings import Settings

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
        answer = await exchange(
            self.method,
            self.endpoint.get_secret_value(),
            content=self._body(message),
            headers=self._headers(message),
            timeout_seconds=self.timeout_seconds,
        )
        if not answer.success:
            raise refused(self.target, answer.status, headers=answer.headers)
        return self._sent(self.target, provider_id=_id_in(answer), status=answer.status)

    async def probe(self) -> str:
        """Ask the endpoint's host only, because each request to the endpoint itself is a message.

        Raises:
            DeliveryFailed: the host does not answer, or its certificate is not trusted.
        """
        return await reach(self.endpoint, self.timeout_seconds)

    def _headers(self, message: Message) -> dict[str, str]:
        return {
            **self.headers.get_secret_value(),
            "Content-Type": self.content_type,
            "Idempotency-Key": quote(message.idempotency_key, safe="/:@ "),
        }

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


@cache
def _sandbox() -> ImmutableSandboxedEnvironment:
    # The output is JSON or text for a machine: HTML escapes damage it.
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


def _id_in(answer: Answer) -> str | None:
    found = answer.json.get("id")
    return str(found)[:200] if isinstance(found, str | int) and not isinstance(found, bool) else None
