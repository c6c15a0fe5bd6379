"""Any service that Apprise knows, by its Apprise URL; and how Apprise's answers are judged, which are log lines."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator

from blocks.channels.base import ChannelBlock, refused, unreachable
from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.settings import Settings
from orchestration.threads import in_own_thread
from orchestration.timeouts import awake_timeout

MAX_TITLE = 250

_TYPES = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", Severity.INFO: "info"}
_STATUS = re.compile(r"error[=: ]{1,2}(\d{3})\b", re.IGNORECASE)
_SCHEMA = re.compile(r"\s*([a-z0-9]{2,20}):/", re.IGNORECASE)

_heard: ContextVar[list[str] | None] = ContextVar("apprise_log", default=None)


_LOGGERS = ("apprise", "urllib3.connectionpool")
"""Apprise's own logger, and that of its HTTP client, which logs the path of each request at DEBUG."""


class _Listener(logging.Filter):
    """Gives Apprise's log lines to whoever sends a message. Others do not see those lines: they can have a URL."""

    def filter(self, record: logging.LogRecord) -> bool:
        lines = _heard.get()
        if lines is None:
            return True
        if record.name == _LOGGERS[0]:
            lines.append(record.getMessage())
        return False


_listener = _Listener()


@contextmanager
def apprise_log() -> Generator[list[str]]:
    """The lines that Apprise logs in this thread, which it uses instead of errors."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_listener)  # the same filter is added once
    log = logging.getLogger(_LOGGERS[0])
    if log.level == logging.NOTSET:
        log.setLevel(logging.WARNING)
    lines: list[str] = []
    token = _heard.set(lines)
    try:
        yield lines
    finally:
        _heard.reset(token)


def failure_of(where: str, log: str) -> DeliveryFailed:
    """The error for a message that Apprise has not sent, from what it has logged.

    Its lines name the HTTP status, and nothing else in a form that can be relied on. Without a status nobody knows
    whether the message was accepted.
    """
    if found := _STATUS.search(log):
        return refused(where, int(found[1]))
    said = "it was not reached, or gave no answer that Apprise understands"
    return DeliveryFailed(f"{where} did not accept the message: {said}", retryable=True, perhaps_accepted=True)


class AppriseChannel(ChannelBlock):
    """Sends each message through Apprise, which knows more than a hundred services."""

    _block_type_name = "Apprise Channel"
    _block_type_slug = "apprise-channel"
    _description = "Sends each message to any service that Apprise knows, by its Apprise URL."

    configured_by = "APPRISE_URL"

    url: SecretStr = Field(description="The Apprise URL of one service, such as discord://webhook_id/webhook_token.")
    timeout_seconds: float = Field(default=20.0, gt=0, le=120, description="How long a message may take, in seconds.")

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        if _service(value) is None:
            raise ValueError("url is no Apprise URL: see https://github.com/caronc/apprise/wiki")
        return value

    @property
    def target(self) -> str:
        """The URL's schema, such as `discord`: the rest of the URL is secret."""
        found = _SCHEMA.match(self.url.get_secret_value())
        return found[1].lower() if found else "apprise"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The service of APPRISE_URL."""
        return None if settings.apprise_url is None else cls._built(url=settings.apprise_url)

    async def send(self, message: Message) -> Delivery:
        """Send the message as text; a service that allows less shows its beginning. There is no id.

        Raises:
            DeliveryFailed: retryable for 408, 425, 429, 5xx, and when Apprise names no status; final for others.
        """
        try:
            async with awake_timeout(self.timeout_seconds):
                await in_own_thread(self._notify, message)
        except TimeoutError as error:
            raise unreachable(self.target, error) from None
        return self._sent(self.target)

    def _notify(self, message: Message) -> None:
        apprise = _apprise()
        with apprise_log() as lines:
            sender = apprise.Apprise()
            service = _service(self.url)
            if service is None:
                raise DeliveryFailed(f"{self.target}: the url is no Apprise URL", retryable=False)
            service.overflow_mode = apprise.OverflowMode.TRUNCATE
            sender.add(service)
            over = message.status is AlertStatus.RESOLVED
            sent = sender.notify(
                title=message.title[:MAX_TITLE],
                body=message.text,
                body_format=apprise.NotifyFormat.TEXT,
                notify_type=apprise.NotifyType("success" if over else _TYPES[message.severity]),
            )
        if not sent:
            raise failure_of(self.target, "\n".join(lines))


def _apprise() -> Any:
    import apprise  # takes a third of a second, and most installations have no such channel

    return apprise


def _service(url: SecretStr) -> Any:
    """Apprise's plugin for the URL; None if there is none."""
    with apprise_log():
        return _apprise().Apprise.instantiate(url.get_secret_value().strip(), suppress_exceptions=True)
