"""What a human is told, before a channel gives it its own form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import ConfigDict, Field, SkipValidation

from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Contract, Delivery


class Fact(Contract):
    """One labelled line, such as "Instance: db-1"."""

    label: str
    value: str


class Message(Contract):
    """One message about one run. Its texts are rendered and redacted already.

    `idempotency_key` is the same for every try at this message on this channel; a channel derives the
    vendor's own key from it (an e-mail's Message-ID, an Idempotency-Key header).
    `dedup_key` is the same for every message about one incident (a PagerDuty dedup_key, an e-mail thread).
    """

    idempotency_key: str
    dedup_key: str
    title: str = Field(description="One line, no markup.")
    text: str = Field(description="Plain text, whole.")
    markdown: str = Field(description="The same as Markdown.")
    html: str = Field(description="The same as an HTML fragment, escaped.")
    severity: Severity
    status: AlertStatus = Field(description="resolved: this is the all-clear.")
    summary: str = Field(default="", description="What the analysis says, one or two sentences.")
    facts: list[Fact] = Field(default_factory=list[Fact])
    checks: list[str] = Field(default_factory=list[str], description="One line a checker, such as 'cpu: ok, 12 %'.")
    actions: list[str] = Field(default_factory=list[str], description="What to do, most useful first.")
    links: dict[str, str] = Field(default_factory=dict[str, str], description="Name to http(s) URL.")
    trace_id: str
    run_id: str
    source: str
    environment: str


class Channel(Protocol):
    """Where messages go. A channel is safe to call from several tasks at once."""

    @property
    def driver(self) -> str:
        """The kind of channel: slack, email, generic, console."""
        ...

    @property
    def target(self) -> str:
        """Where it goes, in words without a secret: "#oncall", "ops@example.com", "hooks.example.com"."""
        ...

    async def send(self, message: Message) -> Delivery:
        """Hand the message over, once.

        Raises `orchestration.errors.DeliveryFailed`, which says whether a retry can help.
        """
        ...


class NamedChannel(Contract):
    """A channel under the name by which it was chosen and by which the ledger knows it."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str
    channel: SkipValidation[Channel]


class ChannelSource(Protocol):
    """Finds the channels of a run."""

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        """The channel of this name or driver; without a name the default ones, at least one.

        Raises:
            BadInput: there is no such channel, or the driver is not configured.
            Unavailable: the place where channels are kept does not answer.
        """
        ...
