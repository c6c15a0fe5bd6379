"""PagerDuty, through its Events API v2: one PagerDuty incident for each incident, by its dedup key.

The limits are those of PagerDuty's pages "Send an Alert Event" and "PD-CEF": 512 KB for an event, 255 characters for a
dedup key, 1,024 for a summary.
"""

from __future__ import annotations

import json
from typing import Any, Self, cast

from pydantic import Field, SecretStr, field_validator

from blocks.channels.base import ChannelBlock, checked_url, host_of, reach, refused
from blocks.channels.http import Answer, exchange
from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.redaction import redact_text
from orchestration.settings import Settings

EVENT_BYTES = 512 * 1024
SUMMARY_LIMIT = 1024
DEDUP_KEY_LIMIT = 255
ROUTING_KEY_CHARACTERS = 32
FIELD_LIMIT = 255
"""For source, component, group and class, for which PagerDuty names no limit."""

DETAIL_LIMITS = (8192, 1024, 128, 0)
"""How many characters of each custom detail are sent: the first of these with which the event is small enough."""

MAX_LINKS = 20
_KEY_BYTES = 128
"""For the routing key, which is added when an event is sent."""

_SEVERITY = {Severity.CRITICAL: "critical", Severity.WARNING: "warning", Severity.INFO: "info"}

Json = dict[str, Any]


class PagerDutyChannel(ChannelBlock):
    """Triggers, acknowledges and resolves one PagerDuty incident for each incident."""

    _block_type_name = "PagerDuty Channel"
    _block_type_slug = "pagerduty-channel"
    _description = "Triggers, acknowledges and resolves incidents in PagerDuty, through its Events API v2."

    configured_by = "PAGERDUTY_ROUTING_KEY"

    routing_key: SecretStr = Field(description="The integration key of an Events API v2 integration.")
    url: str = Field(
        default="https://events.pagerduty.com/v2/enqueue",
        description="The Events API v2; accounts in Europe use https://events.eu.pagerduty.com/v2/enqueue.",
    )
    timeout_seconds: float = Field(default=10.0, gt=0, le=120, description="How long one event may take, in seconds.")

    @field_validator("routing_key")
    @classmethod
    def _is_key(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if len(key) != ROUTING_KEY_CHARACTERS or not key.isascii() or not key.isalnum():
            raise ValueError(f"routing_key must be the {ROUTING_KEY_CHARACTERS} letters and digits of an integration")
        return value

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return checked_url(SecretStr(value), what="url").get_secret_value()

    @property
    def target(self) -> str:
        """The API's host: the integration key, which names the service, is secret."""
        return host_of(self.url)

    @property
    def shows_state(self) -> bool:
        """True: an event changes the PagerDuty incident that is there."""
        return True

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The integration of PAGERDUTY_ROUTING_KEY."""
        if settings.pagerduty_routing_key is None:
            return None
        return cls._built(routing_key=settings.pagerduty_routing_key, url=settings.pagerduty_api_url)

    async def send(self, message: Message) -> Delivery:
        """Send the event that brings the PagerDuty incident up to date; its dedup key is the delivery's id.

        Raises:
            DeliveryFailed: retryable for 429, 5xx and a broken connection; final for an event or a key that PagerDuty
                refuses.
        """
        key, status = _dedup_key(message), None
        for event in events_of(message):
            answer = await self._send(event)
            key, status = str(answer.json.get("dedup_key") or key)[:DEDUP_KEY_LIMIT], answer.status
        return self._sent("pagerduty", provider_id=key, thread=key, status=status)

    async def probe(self) -> str:
        """Ask the API's host only: PagerDuty tests a key with nothing but an event.

        Raises:
            DeliveryFailed: the host does not answer, or its certificate is not trusted.
        """
        return await reach(self.url, self.timeout_seconds)

    async def _send(self, event: Json) -> Answer:
        answer = await exchange(
            "POST",
            self.url,
            content=json.dumps({"routing_key": self.routing_key.get_secret_value(), **event}).encode(),
            headers={"Content-Type": "application/json"},
            timeout_seconds=self.timeout_seconds,
        )
        if not answer.success:
            raise refused("PagerDuty", answer.status, detail=self._reasons(answer), headers=answer.headers)
        if answer.json.get("status") != "success":
            raise DeliveryFailed(
                "PagerDuty's address gave an answer that is not PagerDuty's: check the URL", retryable=False
            )
        return answer

    def _reasons(self, answer: Answer) -> str:
        """Why PagerDuty refuses an event, in its words, without the key."""
        said: Any = answer.json.get("errors") or answer.json.get("message") or ""
        words = ", ".join(map(str, cast("list[object]", said)[:5])) if isinstance(said, list) else str(said)
        return redact_text(words.replace(self.routing_key.get_secret_value(), "…"), limit=200)


def events_of(message: Message) -> list[Json]:
    """The events about a message, without the routing key, in the order in which they are sent.

    An incident that somebody has acknowledged before PagerDuty heard of it is triggered and acknowledged. There is no
    event for a snooze, nor for an acknowledgement that is undone.
    """
    if message.status is AlertStatus.RESOLVED:
        return [_change("resolve", message)]
    if message.acknowledged_by is None:
        return [] if message.silent else [_trigger(message)]
    first = [] if message.thread else [_trigger(message)]
    return [*first, _change("acknowledge", message)]


def _change(action: str, message: Message) -> Json:
    return {"event_action": action, "dedup_key": _dedup_key(message)}


def _dedup_key(message: Message) -> str:
    # An incident that an earlier version has opened there keeps its key.
    return (message.thread or message.dedup_key)[:DEDUP_KEY_LIMIT]


def _trigger(message: Message) -> Json:
    """The event that opens a PagerDuty incident, or brings the severity and the details of an open one up to date."""
    events = (_trigger_within(message, limit) for limit in DETAIL_LIMITS)
    return next(event for event in events if len(json.dumps(event)) + _KEY_BYTES <= EVENT_BYTES)


def _trigger_within(message: Message, limit: int) -> Json:
    payload = {
        "summary": _clip(message.title, SUMMARY_LIMIT) or "an alert without a title",
        "source": _clip(message.fact("Where") or message.environment or message.source, FIELD_LIMIT) or "unknown",
        "severity": _SEVERITY[message.severity],
        "group": _clip(message.environment, FIELD_LIMIT),
        "class": _clip(message.source, FIELD_LIMIT),
        "custom_details": _details(message, limit) if limit else {"run": message.run_id},
    }
    links = [{"href": url, "text": _clip(name, FIELD_LIMIT)} for name, url in message.links.items() if len(url) <= 2048]
    return {
        **_change("trigger", message),
        "client": "alert-pipeline",
        "payload": {name: value for name, value in payload.items() if value},
        **({"links": links[:MAX_LINKS]} if links else {}),
    }


def _details(message: Message, limit: int) -> Json:
    """What the message says, the most urgent first: PagerDuty shows it in this order."""
    said = [
        *((fact.label, fact.value) for fact in message.facts[:100]),
        ("What to do", "\n".join(f"{number}. {action}" for number, action in enumerate(message.actions, 1))),
        *((fact.label, fact.value) for fact in (*message.follow_ups, *message.details)[:100]),
        ("Analysis", message.summary),
        ("Checked", "\n".join(message.checks)),
    ]
    return {_clip(label, FIELD_LIMIT): _clip(value, limit) for label, value in said if value} | {
        "Trace": _clip(message.trace_id, FIELD_LIMIT),
        "Run": message.run_id,
    }


def _clip(text: str, limit: int) -> str:
    # Half of a surrogate pair is no text for a JSON parser.
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
