"""An alert as every source's parser delivers it: one shape, whatever the vendor sent."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Severity(StrEnum):
    """How bad it is. Ordered: `Severity.CRITICAL.rank > Severity.WARNING.rank`."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return _RANKS[self]

    @classmethod
    def worst(cls, *severities: Severity) -> Severity:
        """The worst of those given; info when none is."""
        return max(severities, key=lambda severity: severity.rank, default=cls.INFO)


_RANKS = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


class AlertStatus(StrEnum):
    """Whether the condition holds."""

    FIRING = "firing"
    RESOLVED = "resolved"


def _aware(moment: datetime) -> datetime:
    """A moment without a zone is taken as UTC; every moment is kept in UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


UtcDatetime = Annotated[datetime, AfterValidator(_aware)]
"""A timezone-aware moment in UTC."""


def _bounded_key(key: str) -> str:
    """A key that fits a database index: a long one keeps its start and ends in its own hash."""
    if len(key.encode(errors="replace")) <= _KEY_BYTES:
        return key
    return f"{key[:100]}…{hashlib.sha256(key.encode(errors='replace')).hexdigest()}"


_KEY_BYTES = 512
Key = Annotated[str, Field(min_length=1), AfterValidator(_bounded_key)]
"""A stable name that is compared for equality, at most 512 bytes long."""


class Alert(BaseModel):
    """One alert of one push, in the words of this project. Unique in the store by (source, fingerprint)."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="Who sent it: the parser's name, such as alertmanager.")
    fingerprint: Key = Field(description="Stable id of the alert within its source.")
    name: str = Field(min_length=1, max_length=512)
    severity: Severity = Severity.WARNING
    status: AlertStatus = AlertStatus.FIRING
    description: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    annotations: dict[str, str] = Field(default_factory=dict[str, str])
    incident_key: Key = Field(description="Alerts with one key are one incident.")
    title: str = Field(default="", max_length=512, description="What the incident is called, if the source says so.")
    links: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Where a human looks next: name (runbook, dashboard, source, silence) to URL.",
    )
    started_at: UtcDatetime | None = None
    ended_at: UtcDatetime | None = None
    raw_payload: dict[str, Any] = Field(default_factory=dict[str, Any], description="What the vendor sent for it.")

    @property
    def firing(self) -> bool:
        """Whether the condition holds."""
        return self.status is AlertStatus.FIRING


class IncidentStatus(StrEnum):
    """Where an incident stands. Open and acknowledged ones take new alerts."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    CLOSED = "closed"


class Incident(BaseModel):
    """What a human handles: the alerts that share an incident key, as one matter."""

    model_config = ConfigDict(frozen=True)

    id: str
    incident_key: str
    title: str
    status: IncidentStatus = IncidentStatus.OPEN
    severity: Severity = Severity.WARNING
    description: str = ""
    summary: str = ""
    opened_at: UtcDatetime
    acknowledged_at: UtcDatetime | None = None
    resolved_at: UtcDatetime | None = None
    closed_at: UtcDatetime | None = None
