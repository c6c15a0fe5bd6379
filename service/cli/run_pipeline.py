"""The command `run_pipeline`: one push through the whole pipeline, from the command line."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.contracts import PipelineOutcome, PipelineResult
from orchestration.settings import Settings, load_settings
from service.cli.payload import read_payload
from service.cli.results import show_results
from service.cli.terminal import as_json, fail, progress, resumable, run_app
from tasks.ingest.sources import SOURCES, parse_push

if TYPE_CHECKING:
    from service.cli.chosen import Chosen

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

USAGE = 2


@app.command(
    epilog="Examples:\n\n"
    "run_pipeline --sample --dry-run\n\n"
    "run_pipeline --sample --source grafana\n\n"
    'run_pipeline --payload \'{"alertname": "HighCPU", "severity": "critical"}\' --notify-driver slack\n\n'
    "run_pipeline --file alert.json --json | jq .status\n\n"
    "run_pipeline --definition local-monitor\n\n"
    "run_pipeline --config pipeline.json --sample --dry-run"
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
    definition: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run a stored definition (alert-pipeline definitions list).")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Run a definition from a JSON file; - for stdin. It is not stored."),
    ] = None,
) -> int:
    """Run an alert through the pipeline: [bold]ingest → check → analyze → notify[/], or through a definition.

    The payload is that of --payload, else --file, else --sample; a definition without an ingest node needs none.
    The stack (PostgreSQL and Prefect) is the one that runs, or one that is started for the duration of the command.

    Exit code: 0 when the run succeeded, 1 when it failed or the input is bad, 2 for wrong usage.
    """
    settings = load_settings()
    chosen = _chosen(definition, config, checks_only=checks_only)
    given = read_payload(payload, file, sample=sample, source=source, limit=settings.max_payload_bytes)
    if given is None and not checks_only and chosen is None:
        fail("Nothing to run: give --sample, --payload, --file, --checks-only or --definition (see --help)", code=USAGE)
    given = None if checks_only else given
    call: dict[str, Any] = {"source": source, "notify_driver": notify_driver}
    if dry_run and chosen is not None:
        return chosen.show_dry_run(settings, given, as_json_text=json, **call)
    call["environment"] = environment
    if dry_run:
        from service.cli.dry_run import show_dry_run

        return show_dry_run(settings, given, as_json_text=json, **call)
    results = _run(settings, given, chosen, trace_id=trace_id, **call)
    if json:
        shown = [result.model_dump(mode="json") for result in results]
        as_json(shown[0] if len(shown) == 1 else shown)
    else:
        show_results(results)
    return 1 if any(result.status is PipelineOutcome.FAILED for result in results) else 0


def _chosen(name: str | None, file: str | None, *, checks_only: bool) -> Chosen | None:
    """The definition that the command line names; None: the linear pipeline."""
    if name is None and file is None:
        return None
    if name is not None and file is not None:
        fail("--definition and --config both name a definition: give one of them", code=USAGE)
    if checks_only:
        fail("--checks-only runs no definition: leave one of them out (local-monitor is a sample like it)", code=USAGE)
    from service.cli.chosen import Chosen

    return Chosen.of_file(file) if file is not None else Chosen(name=name or "")


def _run(
    settings: Settings, payload: dict[str, Any] | None, chosen: Chosen | None, **call: Any
) -> list[PipelineResult]:
    # What would be refused is refused now, not after a stack was started for it.
    if chosen is not None:
        chosen.check_input(payload, call["source"])
    elif payload is not None:
        parse_push(payload, source=call["source"])
    from service.orchestrator import PipelineOrchestrator

    with progress() as show, PipelineOrchestrator(settings, progress=show) as orchestrator:
        if chosen is not None:
            started = orchestrator.start_pipeline(payload, **chosen.options, **call)
        elif payload is None:
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
