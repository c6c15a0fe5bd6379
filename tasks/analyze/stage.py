"""The analyze stage: what probably happened and what to do, from whichever provider is set. It knows no Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestration.alert import Alert, Incident
from orchestration.contracts import AnalyzeResult, CheckResult, Stage, StageContext, StageError
from orchestration.errors import Unavailable
from orchestration.requests import alerts_of
from orchestration.store.story import all_checks
from tasks.stage import StageSpec

if TYPE_CHECKING:
    from tasks.run import ActiveRun


@dataclass(frozen=True, kw_only=True)
class Case:
    """What there is to judge by. Without an incident and alerts it is a look at this host's own health."""

    incident: Incident | None = None
    alerts: Sequence[Alert] = ()
    check: CheckResult | None = None


class AnalysisProvider(Protocol):
    """Who analyses. Safe to call from several tasks at once."""

    @property
    def name(self) -> str:
        """The provider, as `model_info` and the record name it."""
        ...

    async def analyze(self, case: Case) -> AnalyzeResult:
        """What probably happened, and what to do.

        Raises whatever kept it from an answer: an outage is an error, never an empty success.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """Who judges what."""

    provider: AnalysisProvider
    case: Case


async def analyze(context: StageContext, config: AnalyzeConfig) -> AnalyzeResult:
    """The provider's analysis of the case, with the time that it took in milliseconds.

    Raises:
        Unavailable: the provider answered without a summary.
        Exception: whatever the provider raises; the caller retries, and then takes `fallback_result()`.
    """
    started = time.perf_counter()
    result = await config.provider.analyze(config.case)
    if not result.summary.strip():
        raise Unavailable(f"the analysis of run {context.run_id} by {config.provider.name} came back empty")
    return result.model_copy(update={"duration_ms": round((time.perf_counter() - started) * 1000, 3)})


def fallback_result(error: BaseException | StageError) -> AnalyzeResult:
    """What the message says when no analysis could be had. `errors` keeps the cause."""
    kind, words = (
        (error.error_type, error.message) if isinstance(error, StageError) else (type(error).__name__, str(error))
    )
    return AnalyzeResult(
        summary="AI analysis unavailable",
        actions=["Manual investigation required"],
        confidence=0.0,
        fallback_used=True,
        errors=[f"{kind}: {words}" if words else kind],
    )


async def configure(run: ActiveRun) -> AnalyzeConfig:
    """The process's provider, and what this run knows so far."""
    return AnalyzeConfig(provider=run.services.analysis, case=await case_of(run))


async def case_of(run: ActiveRun, before: Iterable[str] | None = None) -> Case:
    """What a run knows to judge by. `before` are the nodes whose findings count; None: all that are done."""
    return Case(
        incident=await run.incident(),
        alerts=alerts_of(run.payload),
        check=all_checks(run.found(CheckResult, before)),
    )


ANALYZE = StageSpec(stage=Stage.ANALYZE, function=analyze, configure=configure)


def fallback_spec(error: StageError) -> StageSpec[AnalyzeResult, AnalyzeResult]:
    """The stage that stands in for an analysis that failed: it is on record like any other, as a fallback."""

    async def give(_context: StageContext, result: AnalyzeResult) -> AnalyzeResult:
        return result

    async def make(_run: ActiveRun) -> AnalyzeResult:
        return fallback_result(error)

    return StageSpec(stage=Stage.ANALYZE, function=give, configure=make)
