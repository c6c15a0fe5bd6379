"""The analyze stage: the probable cause and what to do, from whichever provider is set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from orchestration.alert import Incident
from orchestration.analysis import LOCAL, MODEL, AnalysisInput, AnalysisProvider, ModelOptions, block_of, is_provider
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
from orchestration.engine.run import ActiveRun, NodeKind, Services, Step
from orchestration.errors import BadInput, Unavailable, error_in_words
from orchestration.graph import DefinitionProblem, NodeConfig, NodeDefinition
from orchestration.places import address_of, read_place
from orchestration.redaction import redact_text
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store.change_events import changes_of, earlier_episodes
from orchestration.store.model_questions import people_on_record
from orchestration.store.story import all_checks
from tasks.analyze.deadline import PatientAnalysis
from tasks.analyze.local import LocalAnalysis
from tasks.analyze.model.provider import NOTE, ModelAnalysis

_MOST_LOCAL_STEPS = 5
"""With how many steps of the local rules a message still has room for the last one of a fallback."""

PROVIDERS = (LOCAL, MODEL, f"{MODEL}/NAME")
"""The analysis providers, as a person is told their names."""


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


def fallback_result(error: StageError, local: AnalyzeResult | None = None) -> AnalyzeResult:
    """The result when no analysis could be had, with what the local rules know. `errors` keeps the cause."""
    found = AnalyzeResult(summary="") if local is None else local
    note = {NOTE: "the steps are those of the local analysis"} if found.actions else {}
    return found.model_copy(
        update={
            "summary": "AI analysis unavailable",
            "actions": [*found.actions[:_MOST_LOCAL_STEPS], "Manual investigation required"],
            "confidence": 0.0,
            "fallback_used": True,
            "errors": [error_in_words(error.error_type, error.message), *found.errors],
            "model_info": {**found.model_info, **note},
        }
    )


def ensure_provider(name: str | None) -> None:
    """Refuse a provider that does not exist.

    Raises:
        BadInput: naming those that do.
    """
    if name is not None and not is_provider(name):
        raise BadInput(f"provider: there is no {name[:80]!r}; there are: {', '.join(PROVIDERS)}")


class IntelligenceNode(NodeConfig):
    """Who analyzes. None means the run's provider, or else the installation's."""

    provider: str | None = None


async def _set_up(run: ActiveRun, step: Step) -> AnalyzeConfig:
    name = cast("IntelligenceNode", step.config).provider or run.record.options.provider
    return AnalyzeConfig(provider=await _provider(run, step, name), evidence=await _evidence(run, step))


async def _evidence(run: ActiveRun, step: Step) -> AnalysisInput:
    incident = await run.incident()
    events, episodes = await _past_of(run, incident)
    return AnalysisInput(
        incident=incident,
        alerts=run.alerts,
        check=all_checks(run.found(CheckResult, step.before)),
        events=events,
        episodes=episodes,
    )


async def _provider(run: ActiveRun, step: Step, name: str | None) -> AnalysisProvider:
    """Whoever has this name. None means the installation's model, or the usual provider where it has none."""
    usual = run.services.analysis
    if name == usual.name:
        return usual
    ensure_provider(name)
    if name == LOCAL:
        return LocalAnalysis()
    model = await find_model(run.services, name)
    if model is None:
        return usual
    asked = ModelAnalysis(
        options=model,
        database=run.services.database,
        local=LocalAnalysis(),
        tools=run.services.tools,
        run_id=run.run_id,
        environment=run.record.environment,
        people=await _people(run.services),
        domains=_domains(run.services.settings),
    )
    return PatientAnalysis(model=asked, run=run, step=step)


async def _people(services: Services) -> list[str]:
    """Whom the policy and the records name."""
    active = await services.active_policy()
    named = [each for name in (active.policy.people if active else ()) for each in (name, name.replace(".", " "))]
    async with services.database.statement() as tx:
        return [*named, *await people_on_record(tx)]


def _domains(settings: Settings) -> list[str]:
    """The hosts that the settings name, and their domains."""
    named = (settings.api_public_url, settings.prefect_ui_url, settings.prometheus_url, settings.smtp_host)
    hosts = [place.host for one in named if one and (place := read_place(one)) is not None and "." in place.host]
    domains = (host.partition(".")[2] for host in hosts if address_of(host) is None)
    return [*hosts, *(domain for domain in domains if "." in domain)]


async def find_model(services: Services, name: str | None) -> ModelOptions | None:
    """The model of this provider's name. None means that nobody has named one, and that the installation has none.

    Raises:
        BadInput: the model that is named does not exist, or cannot be used.
        BadSetting: the settings name half a model.
        Unavailable: the store of the blocks does not answer.
    """
    found = None if services.models is None else await services.models.find(None if name is None else block_of(name))
    if found is None and name is not None:
        raise BadInput(
            "provider: no model is set up. Save a block of the type analysis-model named default in Prefect, "
            "or set ANALYSIS_MODEL"
        )
    return found


async def _past_of(run: ActiveRun, incident: Incident | None) -> tuple[list[ChangeEvent], list[Episode]]:
    """What was changed before an incident, and its earlier episodes."""
    if incident is None:
        return [], []
    async with run.services.database.statement() as tx:
        events = await changes_of(tx, incident, run.alerts, run.services.settings)
        return events, await earlier_episodes(tx, incident)


async def _reason_to_skip(run: ActiveRun, _step: Step) -> str | None:
    return ALL_CLEAR if await run.is_all_clear() else None


async def _fallback(run: ActiveRun, step: Step, error: StageError) -> AnalyzeResult | None:
    if not run.services.settings.intelligence_fallback_enabled:
        return None
    try:
        local = await LocalAnalysis().analyze(await _evidence(run, step))
    except Exception as problem:  # noqa: BLE001 - the page goes out, with or without advice
        logger.warning("Run %s has no local analysis either: %s", run.run_id, redact_text(str(problem)))
        local = None
    return fallback_result(error, local)


def _problems(node: NodeDefinition) -> Iterator[DefinitionProblem]:
    provider = IntelligenceNode.model_validate(node.config).provider
    if provider is not None and not is_provider(provider):
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
