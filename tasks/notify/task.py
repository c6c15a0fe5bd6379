"""Notify as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from orchestration.contracts import NotifyResult
from tasks.notify.stage import NOTIFY
from tasks.retries import retries_left
from tasks.run import ActiveRun
from tasks.stage import run_stage


@task(name="notify", task_run_name="notify", cache_policy=NO_CACHE, persist_result=False)
async def notify_task(run: ActiveRun) -> NotifyResult:
    """Send the message, once on each channel."""
    return await run_stage(run, NOTIFY, retries_left=retries_left(run.services.settings))
