"""Notify as a Prefect task."""

from __future__ import annotations

from prefect import task

from orchestration.contracts import Contract
from orchestration.engine.run import ActiveRun
from tasks.retries import STAGE_TASK, attempt_in_prefect


@task(name="notify", **STAGE_TASK)
async def notify(run: ActiveRun, node_id: str = "notify") -> Contract:
    """Send the message on every channel."""
    return await attempt_in_prefect(run, node_id)
