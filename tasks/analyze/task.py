"""Analyze as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from orchestration.contracts import AnalyzeResult
from tasks.analyze.stage import ANALYZE
from tasks.retries import retries_left
from tasks.run import ActiveRun
from tasks.stage import run_stage


@task(name="analyze", task_run_name="analyze", cache_policy=NO_CACHE, persist_result=False)
async def analyze_task(run: ActiveRun) -> AnalyzeResult:
    """Say what probably happened and what to do."""
    return await run_stage(run, ANALYZE, retries_left=retries_left(run.services.settings))
