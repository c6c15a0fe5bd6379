"""Check as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from orchestration.contracts import CheckResult
from tasks.check.stage import CHECK
from tasks.retries import retries_left
from tasks.run import ActiveRun
from tasks.stage import run_stage


@task(name="check", task_run_name="check", cache_policy=NO_CACHE, persist_result=False)
async def check_task(run: ActiveRun) -> CheckResult:
    """Look at the host and what it depends on."""
    return await run_stage(run, CHECK, retries_left=retries_left(run.services.settings))
