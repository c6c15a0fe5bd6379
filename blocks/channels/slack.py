"""Slack, through a bot token or an incoming webhook, and a message in Slack's Block Kit.

The limits are those of Slack's pages "Blocks" and "Formatting message text".
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from pydantic import Field, SecretStr, field_validator, model_validator
from slack_sdk import WebClient, WebhookClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.webhook import WebhookResponse

from blocks.channels.base import (
    ChannelBlock,
    checked_url,
    host_of,
    reach,
    refused,
    retry_after_seconds,
    tls_context,
    unreachable,
)
from blocks.channels.slack_buttons import buttons_of
from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Fact, Message
from orchestration.redaction import redact_text
from orchestration.respond_links import LINK
from orchestration.settings import Settings
from orchestration.threads import in_own_thread

ResultT = TypeVar("ResultT")

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

ANSWER_BYTES = 64 * 1024
"""No more is read of an answer: Slack's are shorter."""

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

_GONE = frozenset(
    {
        "message_not_found",
        "cant_update_message",
        "edit_window_closed",
        "channel_not_found",
        "is_archived",
        "is_inactive",
        "not_in_channel",
        "thread_not_found",
        "restricted_action_thread_locked",
        "cannot_reply_to_message",
    }
)
"""Errors, of chat.update and of replies in a thread, after which a new message has to say what is new."""

_THREAD = re.compile(r"(?P<channel>[A-Z0-9]{1,32}) (?P<ts>[0-9]{1,16}\.[0-9]{1,9}) (?P<named>.*)", re.DOTALL)

_SLACKS_WORD = re.compile(r"[a-z_]{2,48}")
"""What Slack's errors look like, such as `channel_not_found`. Any other text may repeat what we sent."""

# The clients log the webhook's URL at DEBUG; this logger, which no handler knows, drops it.
_SILENT = logging.Logger("slack", level=logging.CRITICAL + 1)


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
    def shows_state(self) -> bool:
        """Whether a bot posts: a webhook cannot edit what it has posted."""
        return self.bot_token is not None

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

        A bot edits the first message about the incident, so that it shows the present state, and posts what is new into
        its thread. Nobody is notified of a reply in a thread, so while the incident fires and nobody has acknowledged
        it, the reply is shown in the channel too. If the first message is gone, a new one is posted. A silent
        message is an edit and nothing else.

        Raises:
            DeliveryFailed: retryable for rate limits, Slack's own errors, 5xx and a broken connection; final for a
                wrong token, an unknown channel, or a message that Slack refuses.
        """
        return await _call(self._by_bot if self.bot_token else self._by_webhook, message)

    async def probe(self) -> str:
        """Ask Slack who the bot is. Returns a sentence about what answered, for the report of `doctor`.

        For a webhook, only check that the host answers: a request to the webhook itself would post a message.

        Raises:
            DeliveryFailed: Slack does not answer, or does not know the token.
        """
        if self.bot_token:
            return await _call(self._who_am_i)
        return await reach(self.webhook_url or "", self.timeout_seconds)

    async def read_back(self, delivery: Delivery) -> str:
        """The address of the message in Slack, which only a bot can ask for.

        Raises:
            DeliveryFailed: Slack does not answer, or does not know the message.
        """
        if not self.bot_token or delivery.provider_id is None:
            return "Slack accepted it; a webhook cannot ask where it is"
        return await _call(self._permalink, str(delivery.response.get("channel")), delivery.provider_id)

    def _permalink(self, channel: str, ts: str) -> str:
        client = self._client(_Api, self.bot_token, base_url=self.base_url)
        try:
            said: dict[str, Any] = client.chat_getPermalink(channel=channel, message_ts=ts).data
        except SlackApiError as error:
            raise _api_error(error, "does not know the message") from None
        return f"Slack shows it at {redact_text(str(said.get('permalink')), limit=300)}"

    def _who_am_i(self) -> str:
        try:
            said: dict[str, Any] = self._client(_Api, self.bot_token, base_url=self.base_url).auth_test().data
        except SlackApiError as error:
            raise _api_error(error, "does not let the bot in") from None
        return f"Slack knows the bot {redact_text(str(said.get('user')))} of {redact_text(str(said.get('team')))}"

    def _client(self, kind: type[Any], address: SecretStr | None, **options: Any) -> Any:
        """A client of Slack's SDK. `address` is the bot's token or the webhook's URL."""
        secret = address.get_secret_value() if address else ""
        options |= {"timeout": self.timeout_seconds, "ssl": tls_context(), "logger": _SILENT, "retry_handlers": []}
        client = kind(secret, **options)
        client.proxy = None  # urllib reads the proxy variables itself and, unlike the client, respects NO_PROXY.
        return client

    def _by_bot(self, message: Message) -> Delivery:
        client = self._client(_Api, self.bot_token, base_url=self.base_url)
        first = _THREAD.fullmatch(message.thread or "")
        if first is not None and first["named"] == self.channel:
            try:
                client.chat_update(channel=first["channel"], ts=first["ts"], **_content(message))
                if message.silent:
                    return self._edited(message, first["ts"])
                return self._posted(client, message, channel=first["channel"], thread_ts=first["ts"])
            except SlackApiError as error:
                if _word_of(error) not in _GONE:
                    raise _api_error(error) from None
        if message.silent:
            return self._edited(message, None)
        try:
            return self._posted(client, message, channel=self.channel or "")
        except SlackApiError as error:
            raise _api_error(error) from None

    def _edited(self, message: Message, ts: str | None) -> Delivery:
        """A silent message. No `ts` means that nothing is left to be edited."""
        return self._sent("slack", provider_id=ts, thread=message.thread, edited=ts is not None)

    def _posted(self, client: Any, message: Message, *, channel: str, thread_ts: str | None = None) -> Delivery:
        """Post a new message, or a reply in the thread of an earlier one.

        Raises:
            SlackApiError: Slack refuses it.
        """
        keys = message.model_dump(include={"run_id", "idempotency_key", "dedup_key"})
        content = _content(message)
        if thread_ts is not None:
            loud = message.status is AlertStatus.FIRING and message.acknowledged_by is None
            content |= {"blocks": reply_of(message), "thread_ts": thread_ts, "reply_broadcast": loud}
        metadata = {"event_type": "alert_pipeline_message", "event_payload": keys}
        response = client.chat_postMessage(channel=channel, metadata=metadata, **content)
        data: dict[str, Any] = response.data
        thread = f"{data.get('channel')} {thread_ts or data.get('ts')} {self.channel}"
        return self._sent(
            "slack",
            provider_id=data.get("ts"),
            thread=thread if _THREAD.fullmatch(thread) else None,
            status=response.status_code,
            channel=data.get("channel"),
        )

    def _by_webhook(self, message: Message) -> Delivery:
        # Without a bot nothing is edited later: the buttons would stay, whatever happens.
        content = _content(message.model_copy(update={"buttons": []}))
        response = self._client(_Hook, self.webhook_url).send_dict(content)
        if not 200 <= response.status_code < 300:
            raise refused("Slack", response.status_code, detail=_slacks_word(response.body), headers=response.headers)
        if not _accepted(response.body):
            raise DeliveryFailed("the webhook's answer is not Slack's: check the URL", retryable=False)
        return self._sent("slack", status=response.status_code)


class _NoRedirects(HTTPRedirectHandler):
    """urllib turns a POST that is redirected into a GET, which delivers nothing; and the bot's token goes along."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Leave the redirect to whoever reads the answer, as an error."""


class _Hook(WebhookClient):
    def _perform_http_request_internal(self, url: str, req: Request) -> WebhookResponse:
        answer, body = _open(req, self)
        return WebhookResponse(url=url, status_code=answer.status, body=body, headers=cast("Any", answer.headers))


class _Api(WebClient):
    def _perform_urllib_http_request_internal(self, url: str, req: Request) -> dict[str, Any]:
        del url
        answer, body = _open(req, self)
        return {"status": answer.status, "headers": answer.headers, "body": body}


def _open(request: Request, client: WebhookClient | WebClient) -> tuple[HTTPResponse, str]:
    # Slack's clients say in a subclass how a request is made, and in no other way that a redirect is not followed.
    opener = build_opener(HTTPSHandler(context=client.ssl), _NoRedirects)
    with cast("HTTPResponse", opener.open(request, timeout=client.timeout)) as answer:
        body = answer.read(ANSWER_BYTES)
        return answer, body.decode(answer.headers.get_content_charset() or "utf-8", errors="replace")


async def _call(work: Callable[..., ResultT], *arguments: Any) -> ResultT:
    """Call Slack's client, which blocks, in a thread."""
    try:
        return await in_own_thread(work, *arguments)
    except (OSError, HTTPException) as error:
        raise unreachable("Slack", error) from None
    except (SlackClientError, ValueError, TypeError, AttributeError) as error:  # the answer is not Slack's
        raise DeliveryFailed(f"Slack could not be asked: {type(error).__name__}", retryable=False) from None


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


def _api_error(error: SlackApiError, refusal: str = "refused the message") -> DeliveryFailed:
    failure: Any = error
    status, headers = int(failure.response.status_code), failure.response.headers
    word = _word_of(error)
    if not 200 <= status < 300:
        return refused("Slack", status, detail=word, headers=headers)
    if not word:
        return DeliveryFailed("Slack's address gave an answer that is not Slack's: check the URL", retryable=False)
    temporary = word in _TEMPORARY
    wait = retry_after_seconds(headers) if temporary else None
    return DeliveryFailed(f"Slack {refusal}: {word}", retryable=temporary, retry_after_seconds=wait)


def _word_of(error: SlackApiError) -> str:
    failure: Any = error
    return _slacks_word(str(failure.response.get("error", "")))


def _slacks_word(said: str) -> str:
    """The error in Slack's words; "" if the answer is not Slack's, or says more than a word."""
    word = said.strip()
    return word if _SLACKS_WORD.fullmatch(word) else ""


def blocks_of(message: Message) -> list[Json]:
    """The message as blocks, the most urgent first: title, where and since when, what to do, who has it, links; then
    evidence."""
    blocks = [_header(message)]
    blocks += _fields(message.facts)
    if message.actions:
        steps = "\n".join(f"{number}. {escape(action)}" for number, action in enumerate(message.actions, 1))
        blocks.append(_section(f"*What to do*\n{steps}"))
    blocks += _fields(message.follow_ups)
    # What has buttons needs no link to a page with buttons.
    links = {name: url for name, url in message.links.items() if name != LINK or not message.buttons}
    if links:
        # Links in text: a button, even one with a URL, shows a warning sign unless the app takes interactions.
        blocks.append(_section(_links(links)))
    blocks += buttons_of(message)
    if message.summary:
        blocks.append(_section(f"*Analysis*\n{escape(message.summary)}"))
    if message.checks:
        blocks.append(_section("*Checked*\n" + "\n".join(escape(line) for line in message.checks)))
    blocks += _fields(message.details)
    context = f"trace {message.trace_id}  ·  run {message.run_id}  ·  {message.source}  ·  {message.environment}"
    context_text = _mrkdwn(escape(context), CONTEXT_LIMIT)
    return [*blocks[: BLOCKS_LIMIT - 1], {"type": "context", "elements": [context_text]}]


def reply_of(message: Message) -> list[Json]:
    """What is new, for the thread: the evidence stands in the message above it."""
    facts = [*message.facts, *message.follow_ups]
    return [_header(message), *_fields(facts), *([] if facts else [_section(escape(message.title) or "–")])]


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


def _fields(facts: Sequence[Fact]) -> list[Json]:
    fields = [_mrkdwn(f"*{escape(fact.label)}*\n{escape(fact.value) or '–'}", FIELD_LIMIT) for fact in facts[:20]]
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
