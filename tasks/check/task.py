"""Check as a Prefect task."""

from __future__ import annotations

from prefect import task

from orchestration.contracts import Contract
from orchestration.engine.run import ActiveRun
from tasks.retries import STAGE_TASK, attempt_in_prefect


@task(name="check", **STAGE_TASK)
async def check(run: ActiveRun, node_id: str = "check") -> Contract:
    """Run the checkers."""
    return await attempt_in_prefect(run, node_id)
