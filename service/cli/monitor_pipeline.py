"""The command `monitor_pipeline`: the latest runs, or one run with all its attempts."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestration.settings import load_settings
from orchestration.states import RunStatus, StageStatus, parse_run_status
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.listing import find_run
from orchestration.store.records import AttemptRecord, DeliveryRecord, RunRecord
from orchestration.store.story import Story, read_story
from service.cli.reader import read
from service.cli.terminal import as_json, output, run_app

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

_COLUMNS = ("RUN ID", "STATUS", "TRACE ID", "SOURCE", "CREATED", "DURATION", "WHAT")
_SHORT = 12
"""Digits of an id in the list: enough to tell runs apart, and `--run-id` takes them."""

_STYLES = {
    RunStatus.NOTIFIED: "green",
    RunStatus.FAILED: "red",
    RunStatus.RETRYING: "yellow",
    RunStatus.SKIPPED: "dim",
}
_MARKS = {StageStatus.SUCCEEDED: "✓", StageStatus.SKIPPED: "-", StageStatus.RUNNING: "…", StageStatus.PENDING: "…"}


@app.command(
    epilog="Examples:\n\nmonitor_pipeline --limit 50\n\nmonitor_pipeline --status failed\n\n"
    "monitor_pipeline --run-id 4be1 --json"
)
def monitor_pipeline(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many runs to list.")] = 10,
    status: Annotated[
        str | None,
        typer.Option(
            help="Only runs with this status, in any case: pending, ingested, checked, analyzed, notified "
            "(or completed), failed, retrying, skipped."
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only runs of this source, such as grafana.")] = None,
    run_id: Annotated[str | None, typer.Option(help="Show one run; the start of its id is enough.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> int:
    """List the latest pipeline runs, or show one run with every attempt and delivery.

    Exit code: 0, or 1 when there is no such run or the database does not answer.
    """
    settings = load_settings()
    if run_id is not None:
        wanted = run_id
        story = read(settings, lambda database: _one(database, wanted))
        as_json(story.model_dump(mode="json")) if json else _show_run(story)
        return 0
    only = None if status is None else parse_run_status(status)
    found = read(settings, lambda database: _list(database, limit, only, source))
    as_json([run.model_dump(mode="json") for run in found]) if json else _show_list(found)
    return 0


async def _list(database: Database, limit: int, status: RunStatus | None, source: str | None) -> list[RunRecord]:
    async with database.transaction() as tx:
        return await runs.list_runs(tx, limit=limit, status=status, source=source)


async def _one(database: Database, id_prefix: str) -> Story:
    async with database.transaction() as tx:
        return await read_story(tx, (await find_run(tx, id_prefix)).run_id)


def _show_list(found: list[RunRecord]) -> None:
    if not found:
        output.print("No pipeline runs", markup=False)
        return
    rows = [_row(run) for run in found]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, cells in zip(_COLUMNS, zip(*rows, strict=True), strict=True):
        # On a narrow terminal the last column gives way, not the ids.
        width = 4 if title == _COLUMNS[-1] else max(len(title), *(len(cell) for cell in cells))
        table.add_column(title, no_wrap=True, min_width=width)
    for run, row in zip(found, rows, strict=True):
        table.add_row(*(Text(cell, style=_STYLES.get(run.status, "") if i == 1 else "") for i, cell in enumerate(row)))
    output.print(table)


def _row(run: RunRecord) -> tuple[str, ...]:
    return (
        run.run_id[:_SHORT],
        run.status.value + (f" ({run.skip_reason})" if run.skip_reason else ""),
        run.trace_id if len(run.trace_id) < 2 * _SHORT else run.trace_id[:_SHORT],
        run.source,
        f"{run.created_at:%Y-%m-%d %H:%M:%S}",
        _duration(run.total_duration_ms),
        run.title,
    )


def _show_run(story: Story) -> None:
    run = story.run
    output.print(f"{run.title or 'Run'}: {run.status.value}", style=f"bold {_STYLES.get(run.status, '')}", markup=False)
    facts: dict[str, Any] = {
        "Run": run.run_id,
        "Trace": run.trace_id,
        "Source": f"{run.source}, {run.environment}",
        "Severity": run.severity.value,
        "Incident": run.incident_id,
        "Fingerprint": run.alert_fingerprint,
        "Definition": _definition(run),
        "Stage": run.current_stage,
        "Skipped": run.skip_reason,
        "Created": f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "Duration": _duration(run.total_duration_ms),
        "Attempts": run.total_attempts,
        "AI fallback": "used" if run.intelligence_fallback_used else None,
        "Engine": run.engine,
        "Flow run": run.prefect_flow_run_id,
        "Last error": f"{run.last_error_type}: {run.last_error_message}" if run.last_error_type else None,
    }
    for label, value in facts.items():
        if value is not None:
            output.print(f"  {label + ':':<13} {value}", markup=False)
    output.print("  Attempts", style="bold")
    for attempt in story.attempts:
        output.print(f"    {_attempt(attempt)}", markup=False)
    if story.deliveries:
        output.print("  Deliveries", style="bold")
    for delivery in story.deliveries:
        output.print(f"    {_delivery(delivery)}", markup=False)


def _definition(run: RunRecord) -> str | None:
    if run.definition_version is None:
        return run.chosen_definition
    return f"{run.definition_name}, version {run.definition_version}"


def _attempt(attempt: AttemptRecord) -> str:
    mark = _MARKS.get(attempt.status, "✗")
    skipped = str((attempt.output_snapshot or {}).get("skipped", ""))
    said = f"{attempt.error_type}: {attempt.error_message}" if attempt.error_type else skipped
    return (
        f"{mark} {attempt.node_id:<8} attempt {attempt.attempt}  {attempt.status.value:<9} "
        f"{_duration(attempt.duration_ms):>9}  {said}"
    ).rstrip()


def _delivery(delivery: DeliveryRecord) -> str:
    mark = {"sent": "✓", "sending": "…"}.get(delivery.status, "✗")
    tries = f"{delivery.tries} {'try' if delivery.tries == 1 else 'tries'}"
    said = delivery.error or delivery.provider_id or ""
    return f"{mark} {delivery.channel} to {delivery.target}: {delivery.status} after {tries}  {said}".rstrip()


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


def main() -> None:
    """The entry point."""
    run_app(app)
