"""The analyze stage: the probable cause and what to do, from whichever provider is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from orchestration.alert import Incident
from orchestration.analysis import AnalysisInput, AnalysisProvider
from orchestration.contracts import (
    ALL_CLEAR,
    AnalyzeResult,
    ChangeEvent,
    CheckResult,
    Episode,
    Stage,
    StageContext,
    StageError,
)
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.errors import BadInput, Unavailable
from orchestration.graph import DefinitionProblem, NodeConfig, NodeDefinition
from orchestration.settings import Settings
from orchestration.store.change_events import changes_of, earlier_episodes
from orchestration.store.story import all_checks
from tasks.analyze.local import LocalAnalysis

PROVIDERS: Mapping[str, Callable[[], AnalysisProvider]] = {"local": LocalAnalysis}
"""The analysis providers by name."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """The provider, and the evidence that it gets."""

    provider: AnalysisProvider
    evidence: AnalysisInput


async def analyze(context: StageContext, config: AnalyzeConfig) -> AnalyzeResult:
    """The provider's analysis of the evidence.

    Raises:
        Unavailable: the provider answered without a summary.
        Exception: whatever the provider raises; when the retries are used up, `fallback_result()` stands in.
    """
    result = await config.provider.analyze(config.evidence)
    if not result.summary.strip():
        raise Unavailable(f"The analysis of run {context.run_id} by {config.provider.name} came back empty")
    return result


def fallback_result(error: StageError) -> AnalyzeResult:
    """The result when no analysis could be had. `errors` keeps the cause."""
    return AnalyzeResult(
        summary="AI analysis unavailable",
        actions=["Manual investigation required"],
        confidence=0.0,
        fallback_used=True,
        errors=[f"{error.error_type}: {error.message}" if error.message else error.error_type],
    )


def ensure_provider(name: str | None) -> None:
    """Refuse a provider that does not exist.

    Raises:
        BadInput: naming those that do.
    """
    if name is not None and name not in PROVIDERS:
        raise BadInput(f"provider: there is no {name[:80]!r}; there are: {', '.join(PROVIDERS)}")


class IntelligenceNode(NodeConfig):
    """Who analyzes. None means the run's provider, or else the installation's."""

    provider: str | None = None


async def _set_up(run: ActiveRun, step: Step) -> AnalyzeConfig:
    usual, incident = run.services.analysis, await run.incident()
    events, episodes = await _past_of(run, incident)
    name = cast("IntelligenceNode", step.config).provider or run.record.options.provider
    ensure_provider(name if name != usual.name else None)
    return AnalyzeConfig(
        provider=usual if name in (None, usual.name) else PROVIDERS[name](),
        evidence=AnalysisInput(
            incident=incident,
            alerts=run.alerts,
            check=all_checks(run.found(CheckResult, step.before)),
            events=events,
            episodes=episodes,
        ),
    )


async def _past_of(run: ActiveRun, incident: Incident | None) -> tuple[list[ChangeEvent], list[Episode]]:
    """What was changed before an incident, and its earlier episodes."""
    if incident is None:
        return [], []
    async with run.services.database.statement() as tx:
        events = await changes_of(tx, incident, run.alerts, run.services.settings)
        return events, await earlier_episodes(tx, incident)


async def _reason_to_skip(run: ActiveRun, _step: Step) -> str | None:
    return ALL_CLEAR if await run.is_all_clear() else None


def _fallback(settings: Settings, error: StageError) -> AnalyzeResult | None:
    return fallback_result(error) if settings.intelligence_fallback_enabled else None


def _problems(node: NodeDefinition) -> Iterator[DefinitionProblem]:
    provider = IntelligenceNode.model_validate(node.config).provider
    if provider is not None and provider not in PROVIDERS:
        message = f"there is no provider {provider[:80]!r} (known: {', '.join(PROVIDERS)})"
        yield DefinitionProblem(node=node.id, field="config.provider", message=message)


ANALYZE = NodeKind(
    name="intelligence",
    stage=Stage.ANALYZE,
    config=IntelligenceNode,
    result=AnalyzeResult,
    function=analyze,
    set_up=_set_up,
    result_ref="ai_output_ref",
    run_ref="intelligence_output_ref",
    reason_to_skip=_reason_to_skip,
    fallback=_fallback,
    problems=_problems,
)
