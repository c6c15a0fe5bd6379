"""Ingest as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from orchestration.contracts import IngestResult
from tasks.ingest.stage import INGEST
from tasks.retries import retries_left
from tasks.run import ActiveRun
from tasks.stage import run_stage


@task(name="ingest", task_run_name="ingest", cache_policy=NO_CACHE, persist_result=False)
async def ingest_task(run: ActiveRun) -> IngestResult:
    """Record the alerts and decide whether a human is told."""
    return await run_stage(run, INGEST, retries_left=retries_left(run.services.settings))
