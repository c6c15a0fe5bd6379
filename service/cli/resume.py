"""`alert-pipeline resume`: a failed or abandoned run goes on where it stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.contracts import PipelineOutcome
from orchestration.settings import load_settings
from service.cli.run_views import show_results
from service.cli.terminal import Json, as_json, progress, resumable


def resume(
    run_id: Annotated[str, typer.Argument(help="The run's id, or the start of it.")],
    json: Json = False,
) -> int:
    """Resume a failed or abandoned run at the first stage that has not succeeded.

    No message that was delivered is sent again. Exit code: 0 if the run succeeded, 1 if it failed.
    """
    # Prefect takes seconds to import, and `--help` does not need it.
    from service.orchestrator import PipelineOrchestrator

    with (
        progress() as show,
        PipelineOrchestrator(load_settings(), progress=show, console=True) as orchestrator,
        resumable([run_id]),
    ):
        result = orchestrator.resume_pipeline(run_id)
    as_json(result.model_dump(mode="json")) if json else show_results([result])
    return 1 if result.status is PipelineOutcome.FAILED else 0
