"""Ingest as a Prefect task."""

from __future__ import annotations

from prefect import task

from orchestration.contracts import Contract
from orchestration.engine.run import ActiveRun
from tasks.retries import STAGE_TASK, attempt_in_prefect


@task(name="ingest", **STAGE_TASK)
async def ingest(run: ActiveRun, node_id: str = "ingest") -> Contract:
    """Record the alerts of the run, and decide whether a human is notified."""
    return await attempt_in_prefect(run, node_id)
