"""A node as a Prefect task. In the rooms of the stages nobody knows Prefect."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from orchestration.contracts import Contract
from tasks.retries import retries_left, with_retries
from tasks.run import ActiveRun
from tasks.stage import Step, try_step


class Call:
    """A node of a run. A plain object: Prefect looks into dataclasses and models for futures, which takes time."""

    __slots__ = ("run", "step")

    def __init__(self, run: ActiveRun, step: Step) -> None:
        self.run = run
        self.step = step


@task(name="node", cache_policy=NO_CACHE, persist_result=False)
async def node_task(call: Call) -> Contract:
    """Try a node once, on record; Prefect tries again where that can help."""
    retries = call.step.retries(call.run.services.settings)
    return await try_step(call.run, call.step, retries_left=retries_left(retries))


class PrefectSteps:
    """The nodes as Prefect tasks, each under its own id, which retry as their definition or the settings say."""

    async def take(self, run: ActiveRun, step: Step) -> Contract:
        """Let Prefect run a node.

        Raises:
            StageFailed: the last attempt's.
        """
        settings = run.services.settings
        named = with_retries(node_task, settings, retries=step.retries(settings), name=step.node.id)
        return await named(Call(run, step))
