"""Alerts and incidents: one shape, whatever the vendor sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BaseModel, Field

from orchestration.places import host_of, place_of
from orchestration.redaction import redact_text

OWN_SOURCE = "alert-pipeline"
"""The source of what this installation reports about itself, such as a channel that does not work."""

HEARTBEAT_SOURCE = "heartbeat"
"""The source of the alert that a heartbeat is missing."""

TOO_LARGE = "PushTooLarge"
"""The name of the alert that stands for a push that is too large to be read. Its fingerprint begins with it."""


NOT_UNDERSTOOD = "PushNotUnderstood"
"""The name of the alert that stands for pushes that no source can read. Its fingerprint begins with it."""

KEPT_PUSH = "kept_push"
"""The annotation of such an alert with the name of one of them, such as refused-12."""


class Severity(StrEnum):
    """How bad an alert is. Compare by rank: `Severity.CRITICAL.rank > Severity.WARNING.rank`."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return ("info", "warning", "critical").index(self)

    @classmethod
    def worst(cls, *severities: Severity) -> Severity:
        """The worst of these severities; info if there are none."""
        return max(severities, key=lambda severity: severity.rank, default=cls.INFO)


class AlertStatus(StrEnum):
    """Whether the condition of the alert holds."""

    FIRING = "firing"
    RESOLVED = "resolved"


def _aware(moment: datetime) -> datetime:
    """The moment in UTC. A moment without a zone is read as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


UtcDatetime = Annotated[datetime, AfterValidator(_aware)]
"""A timezone-aware moment in UTC."""


def bounded_key(key: str) -> str:
    """A key that fits a database index: a long key is its first 100 characters and its hash."""
    if len(key.encode(errors="replace")) <= _KEY_BYTES:
        return key
    return f"{key[:100]}…{hashlib.sha256(key.encode(errors='replace')).hexdigest()}"


_KEY_BYTES = 512
Key = Annotated[str, Field(min_length=1), AfterValidator(bounded_key)]
"""A stable name that is compared for equality, at most 512 bytes long."""

_UNSAFE_IN_URL = re.compile("[\\s<>\"'`|\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
MOST_IN_A_LINK = 4096
"""The characters of a link that is read."""


def web_address(value: object) -> str:
    """The value as an http or https URL; "" if it is none, or longer than 4,096 characters.

    Characters that could break out of a message's markup are percent-encoded.
    """
    if not isinstance(value, str) or len(value) > MOST_IN_A_LINK:
        return ""
    url = value.strip()
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    return _UNSAFE_IN_URL.sub(lambda unsafe: quote(unsafe[0], safe=""), url)


class Alert(BaseModel, frozen=True):
    """One alert of one push. The store has one row for each (source, environment, fingerprint)."""

    source: str = Field(description="The name of the parser that read it, such as alertmanager.")
    fingerprint: Key = Field(description="Stable id of the alert within its source.")
    name: str = Field(min_length=1, max_length=512)
    severity: Severity = Severity.WARNING
    status: AlertStatus = AlertStatus.FIRING
    description: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    annotations: dict[str, str] = Field(default_factory=dict[str, str])
    incident_key: Key = Field(description="Alerts with one key are one incident.")
    title: str = Field(default="", max_length=512, description="The title of the incident, if the source names one.")
    links: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Links for the person on call: name (runbook, dashboard, source, silence) to URL.",
    )
    started_at: UtcDatetime | None = None
    ended_at: UtcDatetime | None = None
    episode_at: UtcDatetime | None = Field(
        default=None,
        description="When this firing began, if the sender names the same moment in every event about it, the end "
        "included. A later moment is a new episode. None means that the sender names no such moment.",
    )
    occurred_at: UtcDatetime | None = Field(
        default=None,
        description="When the event itself happened, by the sender's clock. None means that it is not said.",
    )
    state_reason: str = Field(
        default="", max_length=512, description="Why it has this status, in the sender's words, such as NoData."
    )
    raw_payload: dict[str, Any] = Field(default_factory=dict[str, Any], description="The alert as the vendor sent it.")

    @property
    def firing(self) -> bool:
        """Whether the condition holds."""
        return self.status is AlertStatus.FIRING

    @property
    def host(self) -> str:
        """The host that the labels name, as they name it; "" if they name none."""
        return host_of(self.labels)

    @property
    def place(self) -> str:
        """Where the alert happens, for people: the host, else the server, pod or service; "" if nothing is named."""
        return place_of(self.labels)


def worst_first(alerts: Iterable[Alert]) -> list[Alert]:
    """The alerts in the order in which people should hear of them: firing ones, the worst, then the oldest."""
    return sorted(alerts, key=lambda one: (not one.firing, -one.severity.rank, one.started_at or _NO_START))


_NO_START = datetime.max.replace(tzinfo=UTC)


def first_start(alerts: Iterable[Alert]) -> datetime | None:
    """When the first of the alerts began: the trouble as a whole. None if none says when it began."""
    return min((alert.started_at for alert in alerts if alert.started_at), default=None)


def latest_start(alerts: Iterable[Alert]) -> datetime | None:
    """When the latest of the alerts began, before which a change of its own may lie. None if none says when."""
    return max((alert.started_at for alert in alerts if alert.started_at), default=None)


def title_of(alerts: Sequence[Alert]) -> str:
    """The title of what these alerts are together: that of its sender, or name and host of the worst one."""
    lead = worst_first(alerts)[0]
    more = f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    return lead.title or named(lead.name, lead.host, more)


def named(name: str, host: str, more: str = "") -> str:
    """An alert's name, with its host if it has one."""
    return f"{name}{f' on {host}' if host else ''}{more}"


FLAPPING = "flapping"
"""What keeps an incident back that begins and ends again and again, in `Incident.held`."""

STORM_KEY = "policy:storm:"
"""How the incident key of a storm begins. As with every key of the policy, what is in it stays in it until it ends."""


class IncidentStatus(StrEnum):
    """The life of an incident. New alerts join open and acknowledged incidents."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    CLOSED = "closed"

    @property
    def ended(self) -> bool:
        """Whether it is over. An incident that is not is open, acknowledged or not."""
        return self in (IncidentStatus.RESOLVED, IncidentStatus.CLOSED)


class Incident(BaseModel, frozen=True):
    """The alerts that share an incident key: what a person handles as one problem."""

    id: str
    incident_key: str
    title: str
    status: IncidentStatus = IncidentStatus.OPEN
    severity: Severity = Severity.WARNING
    description: str = ""
    summary: str = ""
    environment: str = "production"
    version: int = 1
    """Grows with each change that a channel can show."""
    news_version: int = 1
    """The latest version that somebody should hear of."""
    opened_at: UtcDatetime
    heard_at: UtcDatetime | None = None
    """When a push spoke of it last."""
    acknowledged_at: UtcDatetime | None = None
    acknowledged_by: str | None = None
    snoozed_until: UtcDatetime | None = None
    escalation: dict[str, Any] | None = None
    """How far its escalation is: an `EscalationProgress`. None means that it has none."""
    held: dict[str, Any] | None = None
    """Why nobody is notified of it for now: a `Hold`. None means that nothing keeps it back."""
    resolved_at: UtcDatetime | None = None
    closed_at: UtcDatetime | None = None

    @property
    def public_key(self) -> str:
        """Names the incident to vendors, who give it back: its number, and a hash that no incident of another
        installation has."""
        identity = f"{self.id}\n{self.incident_key}"
        return f"{self.id}-{hashlib.sha256(identity.encode('utf-8', 'replace')).hexdigest()[:32]}"

    @property
    def held_until(self) -> datetime | None:
        """Until when it is kept back at least."""
        until = (self.held or {}).get("until")
        return _aware(datetime.fromisoformat(until)) if isinstance(until, str) else None

    @property
    def is_storm(self) -> bool:
        """Whether it stands for many incidents that opened at once."""
        return self.incident_key.startswith(STORM_KEY)

    @property
    def is_flapping(self) -> bool:
        """Whether it begins and ends so often that only its last state is told."""
        return (self.held or {}).get("by") == FLAPPING

    @property
    def shown_key(self) -> str:
        """The incident key for people: some senders' keys contain the alert's name, and a name may have a secret."""
        return redact_text(self.incident_key)
