"""What the stages share as Prefect tasks: an attempt on record, and retries as the settings or the definition say."""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from typing import Any, cast

import prefect.runtime.task_run
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from orchestration.contracts import Contract
from orchestration.engine.attempt import attempt_node
from orchestration.engine.perform import StageTask
from orchestration.engine.run import ActiveRun


def worth_another_attempt(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: the failure itself says whether and when the node is tried again.

    Prefect takes plain functions only: a partial or a callable object would silently mean "never".
    """
    seconds: float | None = getattr(state.data, "retry_in_seconds", None)
    _retry_in_seconds.set(seconds)
    return seconds is not None


_retry_in_seconds: ContextVar[float | None] = ContextVar("alert_pipeline_retry_in_seconds", default=None)


class RetryDelays(list[float]):
    """The delays of a task, of which Prefect reads one each time that `worth_another_attempt` has agreed to a retry.

    It gets the wait that the failure asks for, if that is known: a channel may ask for longer than the settings say. A
    version of Prefect that reads the delays otherwise is no harm, as an attempt that comes too early waits.
    """

    def __getitem__(self, index: Any) -> Any:
        """The wait before the next retry, in seconds."""
        seconds = _retry_in_seconds.get()
        return cast("Any", super().__getitem__(index)) if seconds is None else seconds


STAGE_TASK: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retry_condition_fn": worth_another_attempt,
}
"""The options of every stage's `@task`."""


def with_retries(task: Task[..., Any], run: ActiveRun, node_id: str | None = None) -> StageTask:
    """A stage's task for one node, with the retries of the node's definition or of the settings.

    `node_id` is the node, by default the one that is called like the task.
    """
    name = node_id or task.name
    settings = run.services.settings
    retries = run.plan.steps[name].retries(settings)
    return cast("StageTask", _retrying(task, name, retries, tuple(settings.delays(retries))))


@lru_cache(maxsize=512)
def _retrying(task: Task[..., Any], name: str, retries: int, delays: tuple[float, ...]) -> Task[..., Any]:
    # Making a task takes 2 ms, of which a process with many runs would spend four on each.
    return task.with_options(name=name, task_run_name=name, retries=retries, retry_delay_seconds=RetryDelays(delays))


async def attempt_in_prefect(run: ActiveRun, node_id: str) -> Contract:
    """Try a node once, on record, within its task; Prefect tries again where that can help.

    Raises:
        StageFailed: the attempt failed.
    """
    step = run.plan.steps[node_id]
    attempts = step.retries(run.services.settings) + 1
    left = max(attempts - (prefect.runtime.task_run.run_count or 1), 0)
    return await attempt_node(run, step, retries_left=left)
