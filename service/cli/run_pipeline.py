"""The command `run_pipeline`: sends one alert, or one push of alerts, through the pipeline."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from secrets import token_hex
from typing import Annotated, Any, cast

import typer

from orchestration.contracts import PipelineOutcome, PipelineResult
from orchestration.errors import BadInput, json_kind
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings, load_settings
from service.cli.run_views import show_results
from service.cli.source_input import check_readable, known_sources, parse_body, read_body
from service.cli.terminal import USAGE, Json, as_json, fail, progress, resumable, run_app
from tasks.ingest.sources import ENTRY_POINTS, IN_CODE, SOURCES, source_named

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

_DEFAULT_SAMPLE = "alertmanager"


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
        bool, typer.Option("--sample", help="Use a sample alert of --source. Its message says that it is a test.")
    ] = False,
    payload: Annotated[str | None, typer.Option(help="The alert as JSON, as a monitoring system sends it.")] = None,
    file: Annotated[str | None, typer.Option(metavar="PATH", help="A file with the alert as JSON; - is stdin.")] = None,
    source: Annotated[
        str, typer.Option(help=f"The sender: {', '.join(SOURCES)}. Any other name: recognized by the payload's fields.")
    ] = "cli",
    environment: Annotated[str, typer.Option(help="Where it happened, such as production.")] = "development",
    trace_id: Annotated[
        str | None, typer.Option(help="The id that all runs of this push share. By default a new one.")
    ] = None,
    checks_only: Annotated[
        bool,
        typer.Option(
            "--checks-only",
            help="Check, analyze and report this host, without an alert. The message says that it is a test.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what a run would do; write nothing, send nothing.")
    ] = False,
    notify_driver: Annotated[
        str | None,
        typer.Option(help="A channel, such as slack, email or pagerduty: see `alert-pipeline channels list`."),
    ] = None,
    json: Json = False,
    definition: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run a stored definition (alert-pipeline definitions list).")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Run the definition in a JSON file; - is stdin. It is not stored."),
    ] = None,
) -> int:
    """Run an alert through the pipeline: [bold]ingest → check → analyze → notify[/], or through a definition.

    The payload is --payload, or else --file, or else --sample. A definition without an ingest node needs none.
    The command uses the running stack (PostgreSQL and Prefect), or starts one and stops it at its end.

    Exit code: 0 if all runs succeeded, 1 if a run failed or the input is wrong, 2 after wrong usage.
    """
    settings = load_settings()
    defined = _names_definition(definition, config, checks_only=checks_only)
    given = _read_payload(payload, file, settings, sample=sample, source=source)
    if given is None and not checks_only and not defined:
        fail("Nothing to run: give --sample, --payload, --file, --checks-only or --definition (see --help)", code=USAGE)
    request = RunRequest(
        payload=None if checks_only else given,
        source=source,
        environment=environment,
        trace_id=trace_id,
        options=RunOptions(
            notify_driver=notify_driver,
            checks_only=checks_only,
            test=checks_only or (sample and payload is None and file is None),
            definition=definition,
        ),
    )
    request = _with_definition(request, config)
    if dry_run:
        # It imports Prefect, which a real run does while the stack starts.
        from service.cli.dry_run import show_dry_run

        show_dry_run(settings, request, json=json)
        return 0
    results = _run(settings, request)
    _show(results, json=json)
    return 1 if any(result.status is PipelineOutcome.FAILED for result in results) else 0


def _names_definition(definition: str | None, config: str | None, *, checks_only: bool) -> bool:
    """Whether the flags name a definition. Ends the command if they name two, or one that cannot be run."""
    if definition is not None and config is not None:
        fail("--definition and --config both name a definition: give one of them", code=USAGE)
    defined = definition is not None or config is not None
    if defined and checks_only:
        fail("--checks-only runs no definition: leave one of them out (local-monitor is a sample like it)", code=USAGE)
    return defined


def _with_definition(request: RunRequest, config: str | None) -> RunRequest:
    """The request, checked before a stack is started for it, with the definition of the file `config`, if any.

    Raises:
        BadInput: the file, or the payload, is wrong.
    """
    if config is None:
        if request.options.definition is None and not request.options.checks_only:
            check_readable(request)
        return request
    from service.cli.definition_input import check_payload, read_definition

    parsed, written = read_definition(config)
    check_payload(request, parsed)
    options = request.options.with_given(definition=parsed.name, definition_config=written)
    return request.model_copy(update={"options": options})


def _run(settings: Settings, request: RunRequest) -> list[PipelineResult]:
    """Execute the runs of a request on the stack; their results, in the order of its alerts."""
    from service.orchestrator import PipelineOrchestrator

    with progress() as show, PipelineOrchestrator(settings, progress=show, console=True) as orchestrator:
        started = orchestrator.start(request)
        with resumable(started.run_ids):
            return started.wait()


def _show(results: Sequence[PipelineResult], *, json: bool) -> None:
    if not json:
        show_results(results)
        return
    shown = [result.model_dump(mode="json") for result in results]
    as_json(shown[0] if len(shown) == 1 else shown)


def _read_payload(
    text: str | None, file: str | None, settings: Settings, *, sample: bool, source: str
) -> dict[str, Any] | None:
    """Read the payload that the flags name. None means that they name none."""
    limit = settings.max_payload_bytes
    if text is not None:
        return _as_object(parse_body(text.encode(errors="surrogateescape"), "--payload", limit), "--payload")
    if file is not None:
        return _as_object(read_body(file, limit), file)
    return _sample_of(source, settings) if sample else None


def _sample_of(source: str, settings: Settings) -> dict[str, Any]:
    """The sample of a source, or the usual one if there is no source of this name. Each is a new incident.

    Raises:
        BadInput: it is that of a mapping without a sample.
    """
    name = source.strip().lower()
    # The database is looked at only where it can help.
    known = SOURCES if name in IN_CODE or name in ENTRY_POINTS else known_sources(settings)
    return source_named(name if name in known else _DEFAULT_SAMPLE, known).sample(token_hex(2))


def _as_object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f'{name} is {json_kind(value)}, not a JSON object such as {{"name": "HighCPU"}}')
    return cast("dict[str, Any]", value)


def main() -> None:
    """Run the command `run_pipeline`."""
    # The command ends before garbage matters, and collecting it takes a tenth of its time.
    gc.disable()
    run_app(app)
