"""Runs as text: the result of a run with a section for each stage, and a table of many runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from orchestration.contracts import (
    LINEAR_STAGES,
    AnalyzeResult,
    Check,
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
from orchestration.errors import error_in_words
from orchestration.reasons import in_words
from orchestration.states import RunStatus, StageStatus
from orchestration.store.records import RunRecord
from service.cli.terminal import output, shortened, show_facts

SHORT = 12
"""Digits of an id in a list. They are enough to tell runs apart, and commands accept the start of an id."""

STYLES = {
    RunStatus.NOTIFIED: "green",
    RunStatus.FAILED: "red",
    RunStatus.RETRYING: "yellow",
    RunStatus.SKIPPED: "dim",
}

ATTEMPT_MARKS = {
    StageStatus.PENDING: "…",
    StageStatus.RUNNING: "…",
    StageStatus.SUCCEEDED: "✓",
    StageStatus.FAILED: "✗",
    StageStatus.RETRYING: "✗",
    StageStatus.SKIPPED: "-",
}

_CHECK_MARKS = {CheckStatus.OK: "✓", CheckStatus.WARNING: "!", CheckStatus.CRITICAL: "✗", CheckStatus.UNKNOWN: "?"}
_OUTCOME_STYLES = {PipelineOutcome.COMPLETED: "green", PipelineOutcome.FAILED: "red", PipelineOutcome.SKIPPED: "yellow"}
_COLUMNS = ("RUN ID", "STATUS", "TRACE ID", "SOURCE", "CREATED", "DURATION", "WHAT")


def show_results(results: Sequence[PipelineResult]) -> None:
    """Print the results of runs, and a count if there are several."""
    for result in results:
        _show_result(result)
    if len(results) > 1:
        failed = sum(result.status is PipelineOutcome.FAILED for result in results)
        output.print(f"{len(results)} runs, {failed} failed")


def _show_result(result: PipelineResult) -> None:
    mark = "✗" if result.status is PipelineOutcome.FAILED else "✓"
    # The contract says COMPLETED where the run's status, which all other views show, is notified.
    status = f" ({RunStatus.NOTIFIED})" if result.status is PipelineOutcome.COMPLETED else ""
    style = f"bold {_OUTCOME_STYLES[result.status]}"
    output.print(f"{mark} Pipeline {result.status}{status}", style=style)
    version = f", version {result.definition_version}" if result.definition_version is not None else ""
    head = {
        "Trace": result.trace_id,
        "Run": result.run_id,
        "Incident": result.incident_id or "-",
        "Duration": duration(result.total_duration_ms),
        "Skipped": in_words(result.skip_reason) if result.skip_reason else None,
        "Pipeline": f"{result.definition_name}{version}" if result.definition_name is not None else None,
    }
    show_facts(head)
    if result.definition_name is not None:
        for node in result.nodes:
            title = f"{node.id} ({node.stage.value})" if node.id != node.stage.value else node.id
            _show_node(title, node, _parsed_result(node))
    else:
        nodes = {node.id: node for node in result.nodes}
        results = (result.ingest, result.check, result.analyze, result.notify)
        for stage, found in zip(LINEAR_STAGES, results, strict=True):
            _show_node(stage.value.capitalize(), nodes.get(stage.value), found)
    if result.final_error is not None:
        hint = " (may pass: resume it)" if result.final_error.retryable else ""
        error = f"{error_in_words(result.final_error.error_type, result.final_error.message)}{hint}"
        output.print(f"  ✗ {error}", style="red")
        output.print(f"  Resume it with: alert-pipeline resume {result.run_id}")
    output.print()


def _show_node(title: str, node: NodeResult | None, found: Contract | None) -> None:
    """Print what a node did: what it found, why it was skipped, or with which error it failed."""
    if node is None:
        output.print(f"  {title}: not executed", style="dim")
        return
    if node.skip_reason is not None:
        output.print(f"  {title}: skipped, {node.skip_reason or 'no reason is on record'}", style="dim")
        return
    facts = [] if node.status == StageStatus.SUCCEEDED else [node.status]
    facts += [duration(node.duration_ms)] if node.duration_ms is not None else []
    facts += [f"{node.attempts} attempts"] if node.attempts > 1 else []
    output.print(f"  {title}: {', '.join(facts) or node.status}", style="bold")
    if node.error is not None:
        output.print(f"    ✗ {error_in_words(node.error.error_type, node.error.message)}", style="red")
    elif found is not None:
        for line in _result_lines(found):
            output.print(f"    {line}")


def _parsed_result(node: NodeResult) -> Contract | None:
    if node.result is None:
        return None
    # The kinds import all stages and the store, for which a run of the linear pipeline must not wait at its start.
    from tasks.kinds import KINDS

    result_type = next(kind.result for kind in KINDS.by_type.values() if kind.stage is node.stage)
    return result_type.model_validate(node.result)


def _result_lines(found: Contract) -> Iterator[str]:
    match found:
        case IngestResult():
            yield f"✓ {found.source}, {found.severity}: {found.reason}"
            alerts = f"{found.alerts_created} new, {found.alerts_updated} updated, {found.alerts_resolved} resolved"
            yield f"alerts: {alerts}; incidents: {found.incidents_created} new, {found.incidents_updated} updated"
            yield from (f"! {error}" for error in found.errors)
        case CheckResult():
            yield from (f"{_CHECK_MARKS[one.status]} {_what(one)}: {one.status}, {one.message}" for one in found.checks)
            yield from (f"- not {', '.join(names)}: {reason}" for reason, names in found.reasons_to_leave_out.items())
        case AnalyzeResult():
            yield f"{'!' if found.fallback_used else '✓'} {found.summary}"
            if found.probable_cause:
                yield f"cause: {found.probable_cause} (confidence {found.confidence:.0%})"
            yield from (f"{claim.kind.value}: {claim.says} ({', '.join(claim.cites)})" for claim in found.claims)
            yield from (f"→ {action}" for action in found.actions)
        case NotifyResult():
            for delivery in found.deliveries:
                mark = "✗" if delivery.status == "failed" else "✓"
                number = f" ({delivery.provider_id})" if delivery.provider_id else ""
                yield f"{mark} {delivery.channel} via {delivery.driver}: {delivery.status.replace('_', ' ')}{number}"
        case ConditionResult():
            yield f"{'✓ holds' if found.holds else '- does not hold'}: {found.expression}"
        case TransformResult():
            yield f"✓ {found.count} {'value' if found.count == 1 else 'values'}"
        case _:
            pass


def _what(check: Check) -> str:
    return f"{check.name} of {check.target}" if check.target else check.name


def run_table(found: Sequence[RunRecord]) -> Table:
    """Make a table with one row per run. A narrow terminal cuts the last column, not the ids."""
    rows = [
        (
            run.run_id[:SHORT],
            status_of(run),
            run.trace_id if len(run.trace_id) < 2 * SHORT else run.trace_id[:SHORT],
            run.source,
            f"{run.created_at:%Y-%m-%d %H:%M:%S}",
            duration(run.total_duration_ms),
            shortened(run.title),
        )
        for run in found
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, title in enumerate(_COLUMNS):
        widest = max((len(row[column]) for row in rows), default=0)
        table.add_column(title, no_wrap=True, min_width=4 if title == _COLUMNS[-1] else max(len(title), widest))
    for run, row in zip(found, rows, strict=True):
        table.add_row(*(Text(cell, style=STYLES.get(run.status, "") if i == 1 else "") for i, cell in enumerate(row)))
    return table


def show_upcoming(found: Sequence[RunRecord]) -> None:
    """Print the runs that wait for their time."""
    if not found:
        output.print("Nothing waits for its time")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("DUE", "REASON", "INCIDENT", "RUN ID"):
        table.add_column(title, no_wrap=True, min_width=len(title))
    table.add_column("WHAT", no_wrap=True, min_width=4)
    for run in found:
        due = f"{run.due_at:%Y-%m-%d %H:%M:%S}" if run.due_at else ""
        table.add_row(due, run.reason.value, run.incident_id or "-", run.run_id[:SHORT], Text(run.title))
    output.print(table)


def status_of(run: RunRecord) -> str:
    """The status of a run, and the reason if it was skipped."""
    return run.status.value + (f" ({run.skip_reason})" if run.skip_reason else "")


def duration(milliseconds: float | None) -> str:
    """Format a duration as `412 ms` or `15.3 s`; `-` if there is none."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"
