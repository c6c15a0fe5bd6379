"""Runs in the engine, as the tests drive it: whole ones, single attempts, and node kinds of a test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orchestration.contracts import Contract
from orchestration.engine.attempt import attempt_node
from orchestration.engine.execution import DIRECT, DirectTask, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.perform import StageTask, finish, perform_all
from orchestration.engine.run import ActiveRun, NodeKind, NodeKinds, Services, Step
from orchestration.store.records import RunRecord
from tasks.kinds import KINDS


async def execute(
    services: Services, run_id: str, task_of: Callable[[Step], StageTask] = DirectTask, *, engine: str = DIRECT
) -> RunRecord:
    """Bring a stored run to its end, as a worker without Prefect does. `task_of` makes the attempts."""
    async with lease_run(services, run_id, engine=engine) as run:
        await execute_leased(Execution(run), task_of)
    return run.record


async def execute_leased(execution: Execution, task_of: Callable[[Step], StageTask] = DirectTask) -> RunRecord:
    """Bring a leased run to its end, or wait for it."""
    async with execution.begin() as run:
        await perform_all(run, task_of, at_once=True)
        await finish(run)
    return execution.run.record


async def attempt(run: ActiveRun, node_id: str, *, retries_left: int = 0, given: Contract | None = None) -> Any:
    """Try one node of a run's plan once, on record."""
    return await attempt_node(run, run.plan.steps[node_id], retries_left=retries_left, given=given)


def with_kind(services: Services, kind: NodeKind[Any], **changes: Any) -> Services:
    """These services, with one of the node kinds changed."""
    by_type = {**services.kinds.by_type, kind.name: replace(kind, **changes)}
    return replace(services, kinds=NodeKinds(by_type=by_type, linear=KINDS.linear))
