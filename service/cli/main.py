"""The command `alert-pipeline`: the stack, and what is done by hand."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from orchestration.contracts import PipelineOutcome
from orchestration.settings import load_settings
from service.cli.results import show_results
from service.cli.terminal import as_json, output, progress, resumable, run_app
from service.stack import attach

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def about() -> None:
    """From a webhook to the person on call. See also: run_pipeline, monitor_pipeline."""


@app.command()
def up(
    prefect_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where Prefect's API and UI listen, on 127.0.0.1.")
    ] = 4200,
) -> int:
    """Keep the stack running (PostgreSQL, Prefect's server and UI) until Ctrl-C.

    Commands that run meanwhile use it and start in no time. Parts that DATABASE_URL or PREFECT_API_URL
    name are used instead of embedded ones.
    """
    settings = load_settings()
    port = None if settings.prefect_api_url else prefect_port
    # For a service both mean the same: a clean end.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as opening:
        with progress() as show:
            addresses = opening.enter_context(attach(settings, progress=show, prefect_port=port))
        embedded = "postgres" in addresses.embedded
        output.print(f"Prefect   {(addresses.prefect_api_url or '').removesuffix('/api')}", markup=False)
        output.print(f"Database  {'embedded, by socket only' if embedded else 'DATABASE_URL'}", markup=False)
        output.print("Ready. Ctrl-C ends it.", markup=False)
        threading.Event().wait()
    return 0


@app.command()
def resume(
    run_id: Annotated[str, typer.Argument(help="The run, as monitor_pipeline shows it.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> int:
    """Go on with a run that failed or was abandoned, at the first stage that has not succeeded.

    What was delivered is not sent again. Exit code: 0 when the run succeeded, 1 when not.
    """
    from service.orchestrator import PipelineOrchestrator

    with (
        progress() as show,
        PipelineOrchestrator(load_settings(), progress=show) as orchestrator,
        resumable([run_id]),
    ):
        result = orchestrator.resume_pipeline(run_id)
    as_json(result.model_dump(mode="json")) if json else show_results([result])
    return 1 if result.status is PipelineOutcome.FAILED else 0


def main() -> None:
    """The entry point."""
    run_app(app)
