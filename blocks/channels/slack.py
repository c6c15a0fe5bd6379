"""Slack, through a bot token or an incoming webhook, and a message in Slack's Block Kit.

The limits are those of Slack's pages "Blocks" and "Formatting message text".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Self, cast
from urllib.parse import quote, urljoin

import httpx
from pydantic import Field, SecretStr, field_validator, model_validator

from blocks.channels.base import (
    USER_AGENT,
    ChannelBlock,
    checked_url,
    host_of,
    reach,
    refused,
    retry_after_seconds,
)
from blocks.channels.exchange import exchange
from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.redaction import redact_text
from orchestration.settings import Settings

HEADER_LIMIT = 150
SECTION_LIMIT = 3000
FIELD_LIMIT = 2000
FIELDS_LIMIT = 10
CONTEXT_LIMIT = 2000
BLOCKS_LIMIT = 50
FALLBACK_LIMIT = 4000

_EMOJI = {Severity.CRITICAL: "🔴", Severity.WARNING: "🟠", Severity.INFO: "🔵"}
_URL_CHARACTERS = "!#$%&'()*+,-./:;=?@[]_~"
_HALF_ENTITY = re.compile(r"&[a-z]{0,3}\Z")

Json = dict[str, Any]

_TEMPORARY = frozenset(
    {
        "ratelimited",
        "rate_limited",
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "request_timeout",
        "team_added_to_org",
    }
)
"""Temporary errors, of the common errors on Slack's page of the method chat.postMessage."""

_SLACKS_WORD = re.compile(r"[a-z_]{2,48}")
"""What Slack's errors look like, such as `channel_not_found`. Any other text may repeat what we sent."""


class SlackChannel(ChannelBlock):
    """Posts each message to Slack in Block Kit. With both a bot and a webhook, the bot posts: Slack returns an id."""

    _block_type_name = "Slack Channel"
    _block_type_slug = "slack-channel"
    _description = "Posts each message to a Slack channel, through a bot token or an incoming webhook."

    configured_by = "SLACK_WEBHOOK_URL, or SLACK_BOT_TOKEN and SLACK_CHANNEL"

    webhook_url: SecretStr | None = Field(default=None, description="The URL of an incoming webhook.")
    bot_token: SecretStr | None = Field(
        default=None, description="Bot token (xoxb-…) with the scope chat:write; needs a channel."
    )
    channel: str | None = Field(default=None, description="Where the bot posts: a name such as #oncall, or an id.")
    base_url: str = Field(default="https://slack.com/api/", description="Slack's Web API, or a proxy of it.")
    timeout_seconds: int = Field(default=10, ge=1, le=120, description="How long Slack may take to answer, in seconds.")

    @field_validator("webhook_url")
    @classmethod
    def _is_http(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_url(value, what="webhook_url") if value and value.get_secret_value() else None

    @field_validator("base_url")
    @classmethod
    def _is_api(cls, value: str) -> str:
        return checked_url(SecretStr(value), what="base_url").get_secret_value()

    @field_validator("bot_token")
    @classmethod
    def _is_token(cls, value: SecretStr | None) -> SecretStr | None:
        token = value.get_secret_value() if value else ""
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("bot_token must be one word of ASCII text")
        return value if token else None

    @model_validator(mode="after")
    def _has_a_way(self) -> Self:
        if self.bot_token and not self.channel:
            raise ValueError("bot_token needs a channel, such as #oncall")
        if not self.bot_token and not self.webhook_url:
            raise ValueError("expected a webhook_url, or a bot_token and a channel")
        return self

    @property
    def seconds_between_messages(self) -> float:
        """1 s: Slack's limit for one channel, and for one webhook."""
        return 1.0

    @property
    def target(self) -> str:
        """The channel, or the webhook's host."""
        if self.bot_token and self.channel:
            return self.channel
        return host_of(self.webhook_url or "")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The bot or the webhook of the SLACK_* variables."""
        if settings.slack_webhook_url is None and settings.slack_bot_token is None:
            return None
        return cls._built(
            webhook_url=settings.slack_webhook_url,
            bot_token=settings.slack_bot_token,
            channel=settings.slack_channel,
            base_url=settings.slack_api_url,
        )

    async def send(self, message: Message) -> Delivery:
        """Post the message. The bot's `ts` is the delivery's id; a webhook returns none.

        Raises:
            DeliveryFailed: retryable for rate limits, Slack's own errors, 5xx and a broken connection; final for a
                wrong token, an unknown channel, or a message that Slack refuses.
        """
        return await (self._by_bot(message) if self.bot_token else self._by_webhook(message))

    async def probe(self) -> str:
        """Ask Slack who the bot is. Returns a sentence about what answered, for the report of `doctor`.

        For a webhook, only check that the host answers: a request to the webhook itself would post a message.

        Raises:
            DeliveryFailed: Slack does not answer, or does not know the token.
        """
        if not self.bot_token:
            return await reach(self.webhook_url or "", self.timeout_seconds)
        said = (await self._call_api("auth.test", {}, refusal="does not let the bot in"))[1]
        return f"Slack knows the bot {redact_text(str(said.get('user')))} of {redact_text(str(said.get('team')))}"

    async def _by_bot(self, message: Message) -> Delivery:
        keys = message.model_dump(include={"run_id", "idempotency_key", "dedup_key"})
        metadata = {"event_type": "alert_pipeline_message", "event_payload": keys}
        status, said = await self._call_api(
            "chat.postMessage", {"channel": self.channel, "metadata": metadata, **_content(message)}
        )
        return self._sent("slack", provider_id=said.get("ts"), status=status, channel=said.get("channel"))

    async def _by_webhook(self, message: Message) -> Delivery:
        response, body = await self._post(self.webhook_url, _content(message))
        if not response.is_success:
            raise refused("Slack", response.status_code, detail=_slacks_word(body), headers=response.headers)
        if not _accepted(body.decode(errors="replace")):
            raise DeliveryFailed("the webhook's answer is not Slack's: check the URL", retryable=False)
        return self._sent("slack", status=response.status_code)

    async def _call_api(self, method: str, content: Json, refusal: str = "refused the message") -> tuple[int, Json]:
        """Call a method of Slack's Web API; the status of its answer, and the answer."""
        address = SecretStr(urljoin(f"{self.base_url.rstrip('/')}/", method))
        response, body = await self._post(address, content, token=self.bot_token)
        said = _object_in(body)
        code = said.get("error")
        if not response.is_success:
            detail = _slacks_word(str(code or "").encode())
            raise refused("Slack", response.status_code, detail=detail, headers=response.headers)
        if said.get("ok") is not True:
            raise _api_error(code, response.headers, refusal)
        return response.status_code, said

    async def _post(
        self, address: SecretStr | None, content: Json, token: SecretStr | None = None
    ) -> tuple[httpx.Response, bytes]:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        url = address.get_secret_value() if address else ""
        return await exchange(httpx.Request("POST", url, headers=headers, json=content), "Slack", self.timeout_seconds)


def _content(message: Message) -> dict[str, Any]:
    unfurl = {"unfurl_links": False, "unfurl_media": False}
    return {"text": fallback_of(message), "blocks": blocks_of(message), **unfurl}


def _accepted(body: str) -> bool:
    """Whether the answer is Slack's "ok", and not a sign-in page behind a redirect, or an error as JSON."""
    start = body.lstrip()[:1]
    if start == "{":
        try:
            answer = json.loads(body)
        except ValueError:
            return False
        return answer.get("ok", answer.get("success", True)) is not False
    return start != "<"


def _api_error(code: object, headers: Mapping[str, str], refusal: str) -> DeliveryFailed:
    word = _slacks_word(str(code or "").encode())
    if not word:
        return DeliveryFailed("Slack's address gave an answer that is not Slack's: check the URL", retryable=False)
    temporary = word in _TEMPORARY
    wait = retry_after_seconds(headers) if temporary else None
    return DeliveryFailed(f"Slack {refusal}: {word}", retryable=temporary, retry_after_seconds=wait)


def _slacks_word(body: bytes) -> str:
    """The error in Slack's words; "" if the answer is not Slack's, or says more than a word."""
    word = body.decode(errors="replace").strip()
    return word if _SLACKS_WORD.fullmatch(word) else ""


def _object_in(body: bytes) -> Json:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("Json", answer) if isinstance(answer, dict) else {}


def blocks_of(message: Message) -> list[Json]:
    """The message as blocks, the most urgent first: title, where and since when, what to do, links; then evidence."""
    blocks = [_header(message)]
    blocks += _facts(message)
    if message.actions:
        steps = "\n".join(f"{number}. {escape(action)}" for number, action in enumerate(message.actions, 1))
        blocks.append(_section(f"*What to do*\n{steps}"))
    if message.links:
        # Links in text: a button, even one with a URL, shows a warning sign unless the app takes interactions.
        blocks.append(_section(_links(message.links)))
    if message.summary:
        blocks.append(_section(f"*Analysis*\n{escape(message.summary)}"))
    if message.checks:
        blocks.append(_section("*Checked*\n" + "\n".join(escape(line) for line in message.checks)))
    context = f"trace {message.trace_id}  ·  run {message.run_id}  ·  {message.source}  ·  {message.environment}"
    context_text = _mrkdwn(escape(context), CONTEXT_LIMIT)
    return [*blocks[: BLOCKS_LIMIT - 1], {"type": "context", "elements": [context_text]}]


def fallback_of(message: Message) -> str:
    """The text of the push notification, and of clients without blocks."""
    return _clip(f"{_emoji(message)} {escape(message.title)}", FALLBACK_LIMIT)


def escape(text: str) -> str:
    """Escape Slack's three control characters, so that the text cannot mention anyone or forge a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _emoji(message: Message) -> str:
    return "🟢" if message.status is AlertStatus.RESOLVED else _EMOJI[message.severity]


def _header(message: Message) -> Json:
    # A header is plain text, in which entities may not be decoded: these quotation marks are safe in any case.
    title = message.title.replace("<", "‹").replace(">", "›")
    text = f"{_emoji(message)} {title}"
    if len(text) > HEADER_LIMIT:
        text = text[: HEADER_LIMIT - 1] + "…"
    return {"type": "header", "text": {"type": "plain_text", "text": text, "emoji": True}}


def _facts(message: Message) -> list[Json]:
    fields = [
        _mrkdwn(f"*{escape(fact.label)}*\n{escape(fact.value) or '–'}", FIELD_LIMIT) for fact in message.facts[:20]
    ]
    rows = (fields[start : start + FIELDS_LIMIT] for start in range(0, len(fields), FIELDS_LIMIT))
    return [{"type": "section", "fields": row} for row in rows]


def _section(text: str) -> Json:
    return {"type": "section", "text": _mrkdwn(text, SECTION_LIMIT)}


def _mrkdwn(text: str, limit: int) -> Json:
    # verbatim: Slack does not turn names and channels in the text into links.
    return {"type": "mrkdwn", "text": _clip(text, limit), "verbatim": True}


def _links(links: dict[str, str]) -> str:
    # A link is never cut, because half a link shows its markup.
    line = ""
    for name, url in links.items():
        address = escape(quote(url, safe=_URL_CHARACTERS))
        link = f"{'  ·  ' if line else ''}<{address}|{escape(name).replace('|', '¦') or 'link'}>"
        if len(line) + len(link) <= SECTION_LIMIT:
            line += link
    return line or "–"


def _clip(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return _HALF_ENTITY.sub("", text[: limit - 1]) + "…"
