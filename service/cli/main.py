"""The command `alert-pipeline`: the stack, and what is done by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.contracts import PipelineOutcome
from orchestration.settings import load_settings
from service.cli import definitions, keys
from service.cli.api import api
from service.cli.doctor import doctor
from service.cli.results import show_results
from service.cli.terminal import as_json, progress, resumable, run_app
from service.cli.trace import trace
from service.cli.up import up
from service.cli.worker import worker

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def about() -> None:
    """From a webhook to the person on call. See also: run_pipeline, monitor_pipeline."""


@app.command()
def resume(
    run_id: Annotated[str, typer.Argument(help="The run; the start of its id is enough.")],
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


app.command()(up)
app.command()(worker)
app.command()(api)
app.command()(trace)
app.command()(doctor)
app.add_typer(keys.app, name="keys")
app.add_typer(definitions.app, name="definitions")


def main() -> None:
    """The entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
