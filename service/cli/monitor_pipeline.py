"""The command `monitor_pipeline`: the latest runs, or one run with all its attempts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestration.settings import Settings, load_settings
from orchestration.states import StageStatus, parse_run_status
from orchestration.store.database import Database
from orchestration.store.records import AttemptRecord, DeliveryRecord, RunRecord
from orchestration.store.runs import RunFilter, find_run, list_page
from orchestration.store.story import Story, read_story
from service.cli.reader import read
from service.cli.run_table import STYLES, duration, run_table
from service.cli.terminal import INTERRUPTED, Stopped, as_json, fail, output, run_app

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

USAGE = 2

_MARKS = {StageStatus.SUCCEEDED: "✓", StageStatus.SKIPPED: "-", StageStatus.RUNNING: "…", StageStatus.PENDING: "…"}


@app.command(
    epilog="Examples:\n\nmonitor_pipeline --limit 50\n\nmonitor_pipeline --status failed\n\n"
    "monitor_pipeline --watch --environment production\n\nmonitor_pipeline --run-id 4be1 --json"
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
    environment: Annotated[str | None, typer.Option(help="Only runs of this environment, such as production.")] = None,
    run_id: Annotated[str | None, typer.Option(help="Show one run; the start of its id is enough.")] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on until Ctrl-C: new runs appear, statuses move. In a pipe, a line a change."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else; with --watch, an object a line.")
    ] = False,
) -> int:
    """List the latest pipeline runs, or show one run with every attempt and delivery.

    Exit code: 0 (also after Ctrl-C of --watch), or 1 when there is no such run or the database does not answer.
    """
    settings = load_settings()
    if run_id is not None:
        if watch:
            fail("--watch shows the latest runs: leave out --run-id", code=USAGE)
        story = read(settings, lambda database: _one(database, run_id))
        as_json(story.model_dump(mode="json")) if json else _show_run(story)
        return 0
    only = parse_run_status(status) if status is not None else None
    wanted = RunFilter(status=only, source=source, environment=environment)
    if watch:
        return _watch(settings, wanted, limit, as_json_lines=json)
    found = read(settings, lambda database: _list(database, wanted, limit))
    if json:
        as_json([run.model_dump(mode="json") for run in found])
    elif found:
        output.print(run_table(found))
    else:
        output.print("No pipeline runs", markup=False)
    return 0


def _watch(settings: Settings, wanted: RunFilter, limit: int, *, as_json_lines: bool) -> int:
    """Watch until Ctrl-C, which is how it is meant to end."""
    from service.cli.watching import view, watch_runs

    async def work(database: Database) -> None:
        with view(as_json_lines=as_json_lines) as shown:
            await watch_runs(database, wanted, limit, shown)

    try:
        read(settings, work)
    except Stopped as stop:
        if stop.exit_code != INTERRUPTED:
            raise
    return 0


async def _list(database: Database, wanted: RunFilter, limit: int) -> list[RunRecord]:
    async with database.transaction() as tx:
        return (await list_page(tx, wanted, limit=limit)).runs


async def _one(database: Database, id_prefix: str) -> Story:
    async with database.transaction() as tx:
        return await read_story(tx, (await find_run(tx, id_prefix)).run_id)


def _show_run(story: Story) -> None:
    run = story.run
    output.print(f"{run.title or 'Run'}: {run.status.value}", style=f"bold {STYLES.get(run.status, '')}", markup=False)
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
        "Duration": duration(run.total_duration_ms),
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
        f"{duration(attempt.duration_ms):>9}  {said}"
    ).rstrip()


def _delivery(delivery: DeliveryRecord) -> str:
    mark = {"sent": "✓", "sending": "…"}.get(delivery.status, "✗")
    tries = f"{delivery.tries} {'try' if delivery.tries == 1 else 'tries'}"
    said = delivery.error or delivery.provider_id or ""
    return f"{mark} {delivery.channel} to {delivery.target}: {delivery.status} after {tries}  {said}".rstrip()


def main() -> None:
    """The entry point."""
    run_app(app)
