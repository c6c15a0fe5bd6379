"""A run's result as text: a head, and a section for each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    CheckStatus,
    IngestResult,
    NotifyResult,
    PipelineOutcome,
    PipelineResult,
)
from service.cli.terminal import output

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
        head["Skipped"] = f"{result.skip_reason}: nobody needs to be told"
    for label, value in head.items():
        output.print(f"  {label + ':':<10} {value}", markup=False)
    _section("Ingest", result.ingest and (result.ingest.duration_ms, _ingest(result.ingest)))
    _section("Check", result.check and (result.check.duration_ms, _check(result.check)))
    _section("Analyze", result.analyze and (result.analyze.duration_ms, _analyze(result.analyze)))
    _section("Notify", result.notify and (result.notify.duration_ms, _notify(result.notify)))
    if result.final_error is not None:
        again = " (may pass: resume it)" if result.final_error.retryable else ""
        output.print(
            f"  ✗ {result.final_error.error_type}: {result.final_error.message}{again}", style="red", markup=False
        )
        output.print(f"  Resume it with: alert-pipeline resume {result.run_id}", markup=False)
    output.print()


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
