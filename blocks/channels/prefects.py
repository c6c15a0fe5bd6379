"""Prefect's own blocks as channels, for a run that names one: saved notification blocks, and saved credentials.

A block of Slack's or a mail server's becomes our own channel, with its form and its retries; only its fields are read,
so prefect-slack and prefect-email need not be installed. Any other block that can notify gets the text.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import httpx
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from pydantic import ValidationError

from blocks.channels.apprise import MAX_TITLE, apprise_log, failure_of
from blocks.channels.base import ChannelBlock, refused, unreachable
from blocks.channels.email import EmailChannel, is_address
from blocks.channels.slack import SlackChannel
from blocks.prefect_api import SavedBlock, problem_of_block
from orchestration.contracts import Delivery
from orchestration.errors import BadInput, DeliveryFailed
from orchestration.message import Message
from orchestration.redaction import redact_text
from orchestration.settings import Settings
from orchestration.threads import in_own_thread
from orchestration.timeouts import awake_timeout

CAPABILITY = "notify"
"""What Prefect says of a type of block that can send notifications."""

TIMEOUT_SECONDS = 20.0
MAX_TEXT = 1500
"""How many characters a notification block gets: the services behind some take no more than 1,600 or 2,000."""

_SMTP_SERVERS = {
    "aol": "smtp.aol.com",
    "att": "smtp.mail.att.net",
    "comcast": "smtp.comcast.net",
    "icloud": "smtp.mail.me.com",
    "gmail": "smtp.gmail.com",
    "outlook": "smtp-mail.outlook.com",
    "yahoo": "smtp.mail.yahoo.com",
}
"""The names that prefect-email knows."""

_SMTP_TYPES = {"ssl": ("tls", 465), "starttls": ("starttls", 587), "insecure": ("none", 25)}
_SMTP_NUMBERS = {"465": "ssl", "587": "starttls", "25": "insecure"}


class NotificationChannel:
    """Sends messages through a saved block of Prefect that can notify, whatever its type. It is not a block itself."""

    enabled = True
    default = False
    shows_state = False
    seconds_between_messages = 0.0

    def __init__(self, saved: SavedBlock) -> None:
        self._saved = saved

    @property
    def driver(self) -> str:
        """The slug of the block's type, such as `ms-teams-webhook`."""
        return self._saved.slug

    @property
    def target(self) -> str:
        """The name of the block's type: what its fields mean, and which are secret, only the type knows."""
        return self._saved.type_name or self._saved.slug

    async def send(self, message: Message) -> Delivery:
        """Send title and text through the block. There is no id.

        Raises:
            DeliveryFailed: final for a block that cannot be loaded, and for a status that no retry changes; otherwise
                retryable, because most blocks do not say why they fail.
        """
        try:
            async with awake_timeout(TIMEOUT_SECONDS):
                await in_own_thread(self._notify, message)
        except TimeoutError as error:
            raise unreachable(self.target, error) from None
        return Delivery(driver=self.driver, provider=self.driver, channel=self.target, status="sent")

    async def read_back(self, delivery: Delivery) -> str:
        """The block reports nothing but an error."""
        del delivery
        return f"the block of Prefect ({self.target}) reported no error"

    async def probe(self) -> str:
        """Load the block, which sends nothing; the result as a sentence.

        Raises:
            DeliveryFailed: the block cannot be loaded.
        """
        await in_own_thread(self._loaded)
        return f"a {self.target} block of Prefect; whether it works shows with the first message"

    def _notify(self, message: Message) -> None:
        # A block of its own for each message: raise_on_failure() changes the block.
        block = self._loaded()
        text = message.text if len(message.text) <= MAX_TEXT else message.text[: MAX_TEXT - 1] + "…"
        with apprise_log() as lines:
            try:
                with block.raise_on_failure():
                    sending: Any = block.notify(text, message.title[:MAX_TITLE])
                    if inspect.isawaitable(sending):
                        asyncio.run(_wait_for(sending))
            except NotificationError as error:
                raise failure_of(self.target, "\n".join([*lines, str(error.log)])) from None
            except httpx.HTTPStatusError as error:
                raise refused(self.target, error.response.status_code, headers=error.response.headers) from None
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                raise unreachable(self.target, error) from None

    def _loaded(self) -> NotificationBlock:
        try:
            block = Block.get_block_class_from_key(self._saved.slug).model_validate(self._saved.data)
        except Exception as error:  # noqa: BLE001 - the block's own code, and the collections that Prefect imports
            # The text of the error may repeat a field's value.
            why = "is not known here: install its package" if _is_unknown(error) else f"is broken: {_problem(error)}"
            raise DeliveryFailed(f"The block {self._saved.name!r} ({self.target}) {why}", retryable=False) from None
        if not isinstance(block, NotificationBlock):
            raise DeliveryFailed(f"The block {self._saved.name!r} ({self.target}) cannot notify", retryable=False)
        return block


AnyChannel = ChannelBlock | NotificationChannel


async def _wait_for(sending: Any) -> None:
    await sending


def _is_unknown(error: Exception) -> bool:
    return type(error).__name__ == "UnknownBlockType"


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return redact_text(problem_of_block(error), limit=200)
    return type(error).__name__


def prefects_channel(saved: SavedBlock, where: str, settings: Settings) -> AnyChannel:
    """The channel of a block of Prefect.

    Args:
        saved: the block.
        where: for credentials, which name no destination: a Slack channel or a mail address; "" means that of the
            environment.
        settings: those of this process.

    Raises:
        BadInput: the block cannot be used, or has no destination.
    """
    make = _OURS.get(saved.slug)
    if make is None:
        return NotificationChannel(saved)
    try:
        return make(saved, where, settings)
    except ValidationError as error:
        raise BadInput(f"The block {saved.name!r} ({saved.slug}) cannot be used: {_problem(error)}") from None


def _slack_webhook(saved: SavedBlock, _where: str, _settings: Settings) -> AnyChannel:
    url = str(saved.data.get("url", ""))
    # Prefect's block takes Apprise's form of the URL as well.
    return SlackChannel.model_validate({"webhook_url": url}) if url.startswith("http") else NotificationChannel(saved)


def _slack_credentials(saved: SavedBlock, where: str, settings: Settings) -> AnyChannel:
    channel = where or settings.slack_channel
    if not channel:
        raise BadInput(
            f"The block {saved.name!r} has a token and no channel: name it {saved.name}/#channel, or set SLACK_CHANNEL"
        )
    return SlackChannel.model_validate(
        {"bot_token": saved.data.get("token"), "channel": channel, "base_url": settings.slack_api_url}
    )


def _mail_credentials(saved: SavedBlock, where: str, settings: Settings) -> AnyChannel:
    recipients = [where] if where else list(settings.email_to)
    if not recipients:
        raise BadInput(
            f"The block {saved.name!r} has a mail server and no recipient: name it {saved.name}/ops@example.com, "
            "or set EMAIL_TO"
        )
    data = saved.data
    server, kind = str(data.get("smtp_server") or "gmail"), str(data.get("smtp_type") or 465).lower()
    security, port = _SMTP_TYPES.get(_SMTP_NUMBERS.get(kind, kind), ("tls", 465))
    username = data.get("username")
    own = isinstance(username, str) and is_address(username)
    return EmailChannel.model_validate(
        {
            "smtp_host": _SMTP_SERVERS.get(server.lower(), server),
            "smtp_port": data.get("smtp_port") or port,
            "security": security,
            "username": username,
            "password": data.get("password"),
            "from_address": username if own else settings.email_from,
            "to_addresses": recipients,
        }
    )


_OURS: dict[str, Callable[[SavedBlock, str, Settings], AnyChannel]] = {
    "slack-webhook": _slack_webhook,
    "slack-incoming-webhook": _slack_webhook,
    "slack-credentials": _slack_credentials,
    "email-server-credentials": _mail_credentials,
}
"""The types of Prefect's blocks that become a channel of our own."""

SLUGS = tuple(_OURS)
"""The types that are channels although Prefect does not say that they can notify."""
