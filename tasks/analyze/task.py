"""Analyze as a Prefect task."""

from __future__ import annotations

from prefect import task

from orchestration.contracts import Contract
from orchestration.engine.run import ActiveRun
from tasks.retries import STAGE_TASK, attempt_in_prefect


@task(name="analyze", **STAGE_TASK)
async def analyze(run: ActiveRun, node_id: str = "analyze") -> Contract:
    """Ask for the probable cause and what to do."""
    return await attempt_in_prefect(run, node_id)
