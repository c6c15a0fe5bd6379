"""How Prefect retries a stage: set from the settings when a run starts, never at import."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ParamSpec, TypeVar, cast

import prefect.runtime.task_run
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from orchestration.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


def worth_another_try(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: the error itself says whether a retry can help.

    Prefect takes plain functions only: a partial or a callable object would silently mean "never".
    """
    return bool(getattr(state.data, "retryable", False))


def with_retries(
    task: Task[P, R], settings: Settings, *, retries: int | None = None, name: str | None = None
) -> Task[P, R]:
    """The task, retrying as the settings say: `max_retries` times, `factor ** n` seconds before retry n.

    `retries` is another number of them, `name` what the task and its runs are called.
    """
    count = settings.max_retries_per_stage if retries is None else retries
    found = _retrying(task, name, count, tuple(settings.delays(count)))
    return cast("Task[P, R]", found)


@lru_cache(maxsize=512)
def _retrying(task: Task[..., Any], name: str | None, retries: int, delays: tuple[float, ...]) -> Task[..., Any]:
    # Making a task takes 2 ms, of which a process with many runs would spend four on each.
    named: dict[str, Any] = {} if name is None else {"name": name, "task_run_name": name}
    return task.with_options(
        retries=retries, retry_delay_seconds=list(delays), retry_condition_fn=worth_another_try, **named
    )


def retries_left(retries: int) -> int:
    """How many tries follow the present one of the current task run, if all of them fail."""
    return max(retries + 1 - (prefect.runtime.task_run.run_count or 1), 0)
