"""ntfy: push notifications to phones, through ntfy.sh or a server of one's own.

Messages are published as JSON: headers would need an encoding of their own for anything but ASCII. The limits are those
of ntfy's page "Publishing": a message of 4,096 bytes, three action buttons, a priority of 1 to 5.
"""

from __future__ import annotations

import json
import re
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator

from blocks.channels.base import ChannelBlock, checked_url, host_of, reach, refused
from blocks.channels.http import Answer, exchange
from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.redaction import redact_text
from orchestration.settings import Settings

MESSAGE_BYTES = 4096
TITLE_CHARACTERS = 250
MAX_ACTIONS = 3

_PRIORITY = {Severity.CRITICAL: 5, Severity.WARNING: 4, Severity.INFO: 3}
_TAG = {Severity.CRITICAL: "rotating_light", Severity.WARNING: "warning", Severity.INFO: "information_source"}
_DEFAULT_PRIORITY = 3
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")
_TOKEN = re.compile(r"[!-~]{1,200}")

Json = dict[str, Any]


class NtfyChannel(ChannelBlock):
    """Publishes each message to a topic of ntfy. A critical incident has the highest priority, which rings."""

    _block_type_name = "Ntfy Channel"
    _block_type_slug = "ntfy-channel"
    _description = "Publishes each message to a topic of ntfy, which shows it on phones."

    configured_by = "NTFY_TOPIC"

    topic: SecretStr = Field(description="The topic; secret, because whoever knows it can read it on ntfy.sh.")
    url: str = Field(default="https://ntfy.sh", description="The server.")
    token: SecretStr | None = Field(default=None, description="Access token (tk_…), if the topic is protected.")
    timeout_seconds: float = Field(default=10.0, gt=0, le=120, description="How long ntfy may take, in seconds.")

    @field_validator("topic")
    @classmethod
    def _is_topic(cls, value: SecretStr) -> SecretStr:
        if not _TOPIC.fullmatch(value.get_secret_value()):
            raise ValueError("topic must be 1 to 64 letters, digits, - or _")
        return value

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return checked_url(SecretStr(value), what="url").get_secret_value()

    @field_validator("token")
    @classmethod
    def _is_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("token must be one word of ASCII text")
        return value

    @property
    def target(self) -> str:
        """The server's host: the topic is a secret."""
        return host_of(self.url)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The topic of NTFY_TOPIC."""
        if settings.ntfy_topic is None:
            return None
        return cls._built(topic=settings.ntfy_topic, url=settings.ntfy_url, token=settings.ntfy_token)

    async def send(self, message: Message) -> Delivery:
        """Publish the message; the id that ntfy gives it is the delivery's id.

        Raises:
            DeliveryFailed: retryable for 429, 5xx and a broken connection; final for a topic, a token or a message that
                ntfy refuses.
        """
        login = {"Authorization": f"Bearer {self.token.get_secret_value()}"} if self.token else {}
        answer = await exchange(
            "POST",
            self.url,
            content=json.dumps({"topic": self.topic.get_secret_value(), **notification_of(message)}).encode(),
            headers={"Content-Type": "application/json", **login},
            timeout_seconds=self.timeout_seconds,
        )
        if not answer.success:
            raise refused("ntfy", answer.status, detail=self._reason(answer), headers=answer.headers)
        if not isinstance(published := answer.json.get("id"), str):
            raise DeliveryFailed("ntfy's address gave an answer that is not ntfy's: check the URL", retryable=False)
        return self._sent("ntfy", provider_id=published[:64], status=answer.status)

    async def probe(self) -> str:
        """Ask the server only, because whatever is sent to the topic is a message.

        Raises:
            DeliveryFailed: the server does not answer, or its certificate is not trusted.
        """
        return await reach(self.url, self.timeout_seconds)

    def _reason(self, answer: Answer) -> str:
        """Why ntfy refuses a message, in its words, without the topic."""
        said = str(answer.json.get("error") or "")
        return redact_text(said.replace(self.topic.get_secret_value(), "…"), limit=200)


def notification_of(message: Message) -> Json:
    """The message as ntfy's JSON, without the topic."""
    over = message.status is AlertStatus.RESOLVED
    title = _clean(message.title)[:TITLE_CHARACTERS]
    # The app shows the title in bold above the text, whose first line repeats it.
    body = _clean(message.text).removeprefix(_clean(message.title)).strip()
    links = list(message.links.items())
    actions = [{"action": "view", "label": _clean(name)[:64] or "link", "url": url} for name, url in links]
    said = {
        "title": title,
        "message": _within(body or title or "an alert without a title"),
        "priority": _DEFAULT_PRIORITY if over else _PRIORITY[message.severity],
        "tags": ["white_check_mark" if over else _TAG[message.severity]],
        "click": links[0][1] if links else "",
        "actions": actions[:MAX_ACTIONS],
    }
    return {name: value for name, value in said.items() if value}


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _within(text: str) -> str:
    """The beginning of the text that ntfy shows as a message: a longer one would become a file."""
    content = text.encode()
    if len(content) <= MESSAGE_BYTES:
        return text
    return content[: MESSAGE_BYTES - len("…".encode())].decode(errors="ignore") + "…"
