"""What an analysis is asked, and who answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestration.alert import Alert, Incident
from orchestration.contracts import AnalyzeResult, ChangeEvent, CheckResult, Episode, Target


@dataclass(frozen=True, kw_only=True)
class AnalysisInput:
    """The evidence for an analysis. Without an incident and alerts it is about this host's own health."""

    incident: Incident | None = None
    alerts: Sequence[Alert] = ()
    check: CheckResult | None = None
    """The findings, with the target of the alert and what has changed there."""
    events: Sequence[ChangeEvent] = ()
    """What people changed shortly before, the newest first."""
    episodes: Sequence[Episode] = ()
    """The earlier episodes of the same incident, the newest first."""
    runbook: str = ""
    """The runbook's text; "" if there is none, or it may not be read."""

    @property
    def target(self) -> Target | None:
        """What it is about, as the checks have found it. None means that this is not known."""
        return self.check.target if self.check else None

    @property
    def is_about_this_host(self) -> bool:
        """Whether it is about the host that runs this pipeline: only then that host's processes and files count."""
        if self.target is None:
            return not self.alerts and self.incident is None
        return self.target.is_own


class AnalysisProvider(Protocol):
    """Analyzes incidents. Safe to call from several tasks at once."""

    @property
    def name(self) -> str:
        """The provider's name, in `model_info` and on record."""
        ...

    async def analyze(self, evidence: AnalysisInput, /) -> AnalyzeResult:
        """The probable cause, and what to do.

        Raises:
            Exception: whatever kept the provider from an answer: an outage is an error, never an empty success.
        """
        ...
