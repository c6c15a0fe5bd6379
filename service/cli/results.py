"""A run's result as text: a head, and a section for each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    CheckStatus,
    ConditionResult,
    Contract,
    IngestResult,
    NodeResult,
    NotifyResult,
    PipelineOutcome,
    PipelineResult,
    TransformResult,
)
from service.cli.terminal import output
from tasks.kinds import KINDS

_RESULT_TYPES = {kind.stage: kind.result for kind in KINDS.by_type.values()}
_MARKS = {CheckStatus.OK: "✓", CheckStatus.WARNING: "!", CheckStatus.CRITICAL: "✗", CheckStatus.UNKNOWN: "?"}
_STYLES = {PipelineOutcome.COMPLETED: "green", PipelineOutcome.FAILED: "red", PipelineOutcome.SKIPPED: "yellow"}


def show_results(results: Sequence[PipelineResult]) -> None:
    """Print the results, one under the other."""
    for result in results:
        _show(result)
    if len(results) > 1:
        failed = sum(result.status is PipelineOutcome.FAILED for result in results)
        output.print(f"{len(results)} runs, {failed} failed", markup=False)


def _show(result: PipelineResult) -> None:
    mark = "✗" if result.status is PipelineOutcome.FAILED else "✓"
    output.print(f"{mark} Pipeline {result.status}", style=f"bold {_STYLES[result.status]}", markup=False)
    head = {
        "Trace": result.trace_id,
        "Run": result.run_id,
        "Incident": result.incident_id or "-",
        "Duration": f"{result.total_duration_ms:.0f} ms",
    }
    if result.skip_reason:
        from tasks.ingest.incidents import reason_in_words

        head["Skipped"] = reason_in_words(result.skip_reason)
    for label, value in head.items():
        output.print(f"  {label + ':':<10} {value}", markup=False)
    if result.definition_name is not None:
        version = f", version {result.definition_version}" if result.definition_version is not None else ""
        output.print(f"  {'Pipeline:':<10} {result.definition_name}{version}", markup=False)
        for node in result.nodes:
            _show_node(node)
    else:
        _show_stages(result)
    if result.final_error is not None:
        again = " (may pass: resume it)" if result.final_error.retryable else ""
        output.print(
            f"  ✗ {result.final_error.error_type}: {result.final_error.message}{again}", style="red", markup=False
        )
        output.print(f"  Resume it with: alert-pipeline resume {result.run_id}", markup=False)
    output.print()


def _show_stages(result: PipelineResult) -> None:
    _section("Ingest", result.ingest and (result.ingest.duration_ms, _ingest(result.ingest)))
    _section("Check", result.check and (result.check.duration_ms, _check(result.check)))
    _section("Analyze", result.analyze and (result.analyze.duration_ms, _analyze(result.analyze)))
    _section("Notify", result.notify and (result.notify.duration_ms, _notify(result.notify)))


def _show_node(node: NodeResult) -> None:
    """A node's section: what it found, why it was left out, or what it failed of."""
    what = f"{node.id} ({node.stage.value})" if node.id != node.stage.value else node.id
    if node.skip_reason is not None:
        output.print(f"  {what}: left out, {node.skip_reason}", style="dim", markup=False)
        return
    tries = f", {node.attempts} attempts" if node.attempts > 1 else ""
    took = "" if node.duration_ms is None else f" {node.duration_ms:.0f} ms"
    output.print(f"  {what}:{took}{tries}", style="bold", markup=False)
    if node.error is not None:
        output.print(f"    ✗ {node.error.error_type}: {node.error.message}", style="red", markup=False)
    elif node.result is not None:
        for line in _lines(_RESULT_TYPES[node.stage].model_validate(node.result)):
            output.print(f"    {line}", markup=False)


def _lines(found: Contract) -> Iterator[str]:
    match found:
        case IngestResult():
            return _ingest(found)
        case CheckResult():
            return _check(found)
        case AnalyzeResult():
            return _analyze(found)
        case NotifyResult():
            return _notify(found)
        case ConditionResult():
            return iter([f"{'✓ holds' if found.holds else '- does not hold'}: {found.expression}"])
        case TransformResult():
            return iter([f"✓ {found.count} {'value' if found.count == 1 else 'values'}"])
        case _:
            return iter(())


def _section(title: str, found: tuple[float, Iterator[str]] | None) -> None:
    """A stage's duration and its own lines under its title, or that it was not executed."""
    if found is None:
        output.print(f"  {title}: not executed", style="dim", markup=False)
        return
    duration_ms, lines = found
    output.print(f"  {title}: {duration_ms:.0f} ms", style="bold", markup=False)
    for line in lines:
        output.print(f"    {line}", markup=False)


def _ingest(found: IngestResult) -> Iterator[str]:
    yield f"✓ {found.source}, {found.severity}: {found.reason}"
    yield (
        f"alerts: {found.alerts_created} new, {found.alerts_updated} updated, {found.alerts_resolved} resolved; "
        f"incidents: {found.incidents_created} new, {found.incidents_updated} updated"
    )
    yield from (f"! {error}" for error in found.errors)


def _check(found: CheckResult) -> Iterator[str]:
    yield from (f"{_MARKS[check.status]} {check.name}: {check.status}, {check.message}" for check in found.checks)


def _analyze(found: AnalyzeResult) -> Iterator[str]:
    yield f"{'!' if found.fallback_used else '✓'} {found.summary}"
    if found.probable_cause:
        yield f"cause: {found.probable_cause} (confidence {found.confidence:.0%})"
    yield from (f"→ {action}" for action in found.actions)


def _notify(found: NotifyResult) -> Iterator[str]:
    for delivery in found.deliveries:
        mark = "✗" if delivery.status == "failed" else "✓"
        number = f" ({delivery.provider_id})" if delivery.provider_id else ""
        yield f"{mark} {delivery.channel} via {delivery.driver}: {delivery.status.replace('_', ' ')}{number}"
