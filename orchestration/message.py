"""A message, before a channel gives it its own form, and the protocols of channels."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from html import escape
from typing import Protocol
from uuid import uuid4

from pydantic import Field, SkipValidation

from orchestration.alert import AlertStatus, Severity, UtcDatetime
from orchestration.contracts import Contract, Delivery
from orchestration.redaction import one_line, redact_text
from orchestration.responses import Response
from orchestration.states import RunReason


def is_channel(name: str, known: Collection[str]) -> bool:
    """Whether a name is that of a channel or a driver. `known` are all names, as workers write them down."""
    # Credentials that are saved in Prefect are named with a destination: NAME/#channel.
    return any(each in known for each in (name, name.lower(), name.partition("/")[0]))


class Fact(Contract):
    """One labelled line, such as "Instance: db-1"."""

    label: str
    value: str


class Upcoming(Contract):
    """What happens to an incident next, by itself."""

    reason: RunReason
    due_at: UtcDatetime | None = None


class Message(Contract):
    """One message about one run. Its texts are already rendered and redacted.

    `idempotency_key` is the same for each attempt to send this message on this channel. A channel makes the
    vendor's own key from it (an e-mail's Message-ID, an Idempotency-Key header).
    `dedup_key` is the same for all messages about one incident (a PagerDuty dedup_key, an e-mail thread).
    """

    idempotency_key: str
    dedup_key: str
    title: str = Field(description="One line, no markup.")
    text: str = Field(description="The complete message as plain text.")
    markdown: str = Field(description="The complete message as Markdown.")
    html: str = Field(description="The complete message as an HTML fragment, escaped.")
    severity: Severity
    status: AlertStatus = Field(description="resolved means that this is the all-clear.")
    summary: str = Field(default="", description="The analysis in one or two sentences.")
    facts: list[Fact] = Field(
        default_factory=list[Fact], description="What a person needs first: what, how much, where, since when, why now."
    )
    follow_ups: list[Fact] = Field(default_factory=list[Fact], description="Who has it, and what comes next by itself.")
    details: list[Fact] = Field(default_factory=list[Fact], description="What helps once the reader has begun to look.")
    checks: list[str] = Field(
        default_factory=list[str], description="One line for each checker, such as 'cpu: ok, 12 %'."
    )
    actions: list[str] = Field(default_factory=list[str], description="What to do, the most useful action first.")
    links: dict[str, str] = Field(default_factory=dict[str, str], description="Name to http(s) URL.")
    thread: str | None = Field(
        default=None,
        description="The `thread` of the channel's last delivery about this episode of the incident, as the channel "
        "returned it. None means that it was sent nothing about the episode.",
    )
    silent: bool = Field(
        default=False,
        description="Nobody is to be disturbed: the message in `thread` is only brought up to date. Sent to channels "
        "that show the state.",
    )
    acknowledged_by: str | None = Field(
        default=None, description="Who has acknowledged the incident. None means that nobody has."
    )
    buttons: list[Response] = Field(
        default_factory=list[Response],
        description="What a person can do with a button. Empty unless its press comes back: SLACK_SIGNING_SECRET.",
    )
    trace_id: str
    run_id: str
    source: str
    environment: str

    def fact(self, label: str) -> str:
        """The value of the line with this label; "" if there is none."""
        everything = (*self.facts, *self.follow_ups, *self.details)
        return next((fact.value for fact in everything if fact.label == label), "")


def plain_message(body: str, subject: str | None = None, *, source: str = "prefect") -> Message:
    """A message that is about no run and no incident. No other message has its keys."""
    text = redact_text(body)
    title = one_line(subject or text.strip().partition("\n")[0], 300) or "a message without a subject"
    key = uuid4().hex
    return Message(
        idempotency_key=key,
        dedup_key=key,
        title=title,
        text=f"{title}\n\n{text}\n",
        markdown=f"## {title}\n\n{text}\n",
        html=f"<h2>{escape(title)}</h2><pre>{escape(text)}</pre>",
        severity=Severity.INFO,
        status=AlertStatus.FIRING,
        summary=text,
        trace_id=key,
        run_id=key,
        source=source,
        environment="",
    )


class Channel(Protocol):
    """Sends messages to one place. Safe to call from several tasks at once."""

    @property
    def driver(self) -> str:
        """The kind of channel, such as slack, email or pagerduty."""
        ...

    @property
    def target(self) -> str:
        """The destination, without secrets: "#oncall", "ops@example.com", "hooks.example.com"."""
        ...

    @property
    def shows_state(self) -> bool:
        """Whether it can bring a message up to date without a new one. Only then it is sent `silent` messages."""
        ...

    async def send(self, message: Message) -> Delivery:
        """Send the message once.

        Raises:
            DeliveryFailed: the channel did not accept it; the error says whether a retry can help.
        """
        ...


class NamedChannel(Contract, arbitrary_types_allowed=True):
    """A channel, and the name under which it was selected and is listed in the delivery ledger."""

    name: str
    channel: SkipValidation[Channel]


class AskedPauses:
    """For how long channels have asked this process to be left alone, which it knows before it is on record.

    A message that is about to be sent at that moment is not sent.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def note(self, channel: str, seconds: float) -> None:
        """The channel has asked to be left alone for so long from now."""
        self._until[channel] = max(self._until.get(channel, 0.0), asyncio.get_running_loop().time() + seconds)

    def seconds_left(self, channel: str) -> float:
        """For how long the channel is to be left alone; 0 if it need not be."""
        return max(self._until.get(channel, 0.0) - asyncio.get_running_loop().time(), 0.0)


class ChannelSource(Protocol):
    """Selects the channels of a run."""

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        """The channel with this name or driver; if `name` is None, the default channels. A service may have none.

        Raises:
            BadInput: there is no such channel, or the driver is not configured.
            Unavailable: the store of the channels does not answer.
        """
        ...

    async def others(self, names: Collection[str]) -> Sequence[NamedChannel]:
        """Every usable channel but the console and these, for what none of these has accepted.

        Raises:
            Unavailable: the store of the channels does not answer.
        """
        ...
