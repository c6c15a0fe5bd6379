"""`alert-pipeline analyze INCIDENT`: look at a stored incident again and analyze it, without a message to anybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from orchestration.contracts import AnalyzeResult, PipelineOutcome, PipelineResult
from orchestration.errors import PipelineError
from orchestration.settings import Settings, load_settings
from orchestration.store.incident_list import find_by_words
from service.cli.reader import read
from service.cli.terminal import Json, as_json, output, progress

_INFO = ("provider", "model", "input_tokens", "output_tokens", "cost", "cached", "note")


def analyze_incident(
    incident: Annotated[
        str,
        typer.Argument(metavar="INCIDENT", help="Its number, its title, or the start of its title if only one has it."),
    ],
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who analyzes: local, model, or model/NAME (a block). See docs/analysis.md."),
    ] = None,
    json: Json = False,
) -> int:
    """Look at an incident again: run its checks now, analyze it, and print what stands. Nobody is notified.

    The run is on record. A model is asked if one is set up, within its budget.

    Exit code: 0, or 1 if there is no analysis to be had.
    """
    settings = load_settings()
    found = read(settings, lambda tx: find_by_words(tx, incident))
    result = _run(settings, found.id, found.environment, provider)
    analysis = result.analyze
    if analysis is None:
        why = result.final_error.message if result.final_error else result.skip_reason
        raise PipelineError(f"There is no analysis of incident {found.id}: {why}")
    if json:
        as_json({"run_id": result.run_id, "incident_id": found.id, **analysis.model_dump(mode="json")})
    else:
        output.print(f"#{found.id} {found.title}: {found.status.value}", style="bold")
        for line in lines_of(analysis):
            output.print(line)
        output.print(f"  run {result.run_id}", style="dim")
    return 1 if analysis.fallback_used or result.status is PipelineOutcome.FAILED else 0


def _run(settings: Settings, incident_id: str, environment: str, provider: str | None) -> PipelineResult:
    from service.orchestrator import PipelineOrchestrator
    from tasks.single import analysis_request

    request = analysis_request(incident_id=incident_id, environment=environment, provider=provider, source="cli")
    with progress() as show, PipelineOrchestrator(settings, progress=show, console=True) as orchestrator:
        (result,) = orchestrator.start(request).wait()
        return result


def lines_of(analysis: AnalyzeResult) -> Iterator[str]:
    """An analysis as text: what stands, each claim with its evidence, what to do, and what was dropped."""
    yield f"  {'!' if analysis.fallback_used else '✓'} {analysis.summary}"
    yield from (f"    ! {error}" for error in analysis.errors)
    if analysis.probable_cause:
        yield f"  cause: {analysis.probable_cause} (confidence {analysis.confidence:.0%})"
    evidence = {one.id: one for one in analysis.evidence}
    for claim in analysis.claims:
        yield f"  {claim.kind.value}: {claim.says}"
        for one in (evidence[cited] for cited in claim.cites if cited in evidence):
            yield f"    {one.id}: {f'{one.about}: ' if one.about else ''}{one.says}"
    yield from (f"  → {action}" for action in analysis.actions)
    yield from (f"  - dropped {why}" for why in analysis.dropped)
    said = (f"{name} {analysis.model_info[name]}" for name in _INFO if name in analysis.model_info)
    yield f"  by {', '.join(said)}"
