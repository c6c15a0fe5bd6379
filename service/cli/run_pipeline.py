"""The command `run_pipeline`: one push through the whole pipeline, from the command line."""

from __future__ import annotations

import gc
from typing import Annotated, Any

import typer

from orchestration.contracts import PipelineOutcome, PipelineResult
from orchestration.settings import Settings, load_settings
from service.cli.payload import read_payload
from service.cli.results import show_results
from service.cli.terminal import as_json, fail, progress, resumable, run_app
from tasks.ingest.sources import SOURCES, parse_push

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

USAGE = 2


@app.command(
    epilog="Examples:\n\n"
    "run_pipeline --sample --dry-run\n\n"
    "run_pipeline --sample --source grafana\n\n"
    'run_pipeline --payload \'{"alertname": "HighCPU", "severity": "critical"}\' --notify-driver slack\n\n'
    "run_pipeline --file alert.json --json | jq .status"
)
def run_pipeline(
    sample: Annotated[
        bool, typer.Option("--sample", help="Use a sample alert (of --source, if it names one).")
    ] = False,
    payload: Annotated[str | None, typer.Option(help="The alert as JSON, as a monitoring system sends it.")] = None,
    file: Annotated[
        str | None, typer.Option(metavar="PATH", help="A file with the alert as JSON; - for stdin.")
    ] = None,
    source: Annotated[
        str, typer.Option(help=f"Who sent it: {', '.join(SOURCES)}. By default: recognised by its shape.")
    ] = "cli",
    environment: Annotated[str, typer.Option(help="Where it happened, such as production.")] = "development",
    trace_id: Annotated[str | None, typer.Option(help="The id that all runs of this push share.")] = None,
    checks_only: Annotated[
        bool, typer.Option("--checks-only", help="Check, analyze and report this host, without an alert.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen; write nothing, send nothing.")
    ] = False,
    notify_driver: Annotated[
        str | None, typer.Option(help="slack, email, generic, console, or the name of a channel block.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
    definition: Annotated[str | None, typer.Option(metavar="NAME", help="Run a stored pipeline definition.")] = None,
    config: Annotated[str | None, typer.Option(metavar="PATH", help="Run a definition from a JSON file.")] = None,
) -> int:
    """Run an alert through the pipeline: [bold]ingest → check → analyze → notify[/].

    The payload is that of --payload, else --file, else --sample. The stack (PostgreSQL and Prefect) is the
    one that runs, or one that is started for the duration of the command.

    Exit code: 0 when the run succeeded, 1 when it failed or the input is bad, 2 for wrong usage.
    """
    if definition is not None or config is not None:
        option = "--definition" if definition is not None else "--config"
        fail(f"{option}: pipeline definitions are not part of this version; run without it", code=USAGE)
    settings = load_settings()
    given = read_payload(payload, file, sample=sample, source=source, limit=settings.max_payload_bytes)
    if given is None and not checks_only:
        fail("Nothing to run: give --sample, --payload, --file or --checks-only (see --help)", code=USAGE)
    call: dict[str, Any] = {"source": source, "environment": environment, "notify_driver": notify_driver}
    if dry_run:
        from service.cli.dry_run import show_dry_run

        return show_dry_run(settings, None if checks_only else given, as_json_text=json, **call)
    results = _run(settings, None if checks_only else given, trace_id=trace_id, **call)
    if json:
        shown = [result.model_dump(mode="json") for result in results]
        as_json(shown[0] if len(shown) == 1 else shown)
    else:
        show_results(results)
    return 1 if any(result.status is PipelineOutcome.FAILED for result in results) else 0


def _run(settings: Settings, payload: dict[str, Any] | None, **call: Any) -> list[PipelineResult]:
    if payload is not None:
        # What would be refused is refused now, not after a stack was started for it.
        parse_push(payload, source=call["source"])
    from service.orchestrator import PipelineOrchestrator

    with progress() as show, PipelineOrchestrator(settings, progress=show) as orchestrator:
        if payload is None:
            started = orchestrator.start_health_check(**call)
        else:
            started = orchestrator.start_pipeline(payload, **call)
        with resumable(started.run_ids):
            return started.wait()


def main() -> None:
    """The entry point."""
    # The command is over before garbage matters, and looking for it takes a tenth of its time.
    gc.disable()
    run_app(app)
