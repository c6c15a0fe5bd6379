"""What an analysis is asked, and who answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestration.alert import Alert, Incident
from orchestration.contracts import AnalyzeResult, CheckResult


@dataclass(frozen=True, kw_only=True)
class AnalysisInput:
    """The evidence for an analysis. Without an incident and alerts it is about this host's own health."""

    incident: Incident | None = None
    alerts: Sequence[Alert] = ()
    check: CheckResult | None = None


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
