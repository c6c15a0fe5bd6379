"""An alert as every source's parser delivers it: one shape, whatever the vendor sent."""

from __future__ import annotations

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


class Alert(BaseModel):
    """One alert of one push, in the words of this project. Unique in the store by (source, fingerprint)."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="Who sent it: the parser's name, such as alertmanager.")
    fingerprint: str = Field(min_length=1, max_length=512, description="Stable id of the alert within its source.")
    name: str = Field(min_length=1, max_length=512)
    severity: Severity = Severity.WARNING
    status: AlertStatus = AlertStatus.FIRING
    description: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    annotations: dict[str, str] = Field(default_factory=dict[str, str])
    incident_key: str = Field(min_length=1, max_length=1024, description="Alerts with one key are one incident.")
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
