"""The flow `definition-pipeline`: a run of a definition, node by node in the order of its graph."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State

from flows.flow_run import final_state, open_run, returns_state
from orchestration.contracts import Contract, Stage
from orchestration.engine.perform import StageTask, finish, perform_all
from orchestration.engine.run import ActiveRun, Step
from orchestration.requests import RunOptions, RunRequest
from tasks.analyze.task import analyze
from tasks.check.task import check
from tasks.ingest.task import ingest
from tasks.notify.task import notify
from tasks.retries import STAGE_TASK, attempt_in_prefect, with_retries


@task(name="transform", **STAGE_TASK)
async def transform(run: ActiveRun, node_id: str = "transform") -> Contract:
    """Extract from an earlier result what later nodes need."""
    return await attempt_in_prefect(run, node_id)


@task(name="condition", **STAGE_TASK)
async def condition(run: ActiveRun, node_id: str = "condition") -> Contract:
    """Decide which branch the run takes."""
    return await attempt_in_prefect(run, node_id)


TASKS = {
    Stage.INGEST: ingest,
    Stage.CHECK: check,
    Stage.ANALYZE: analyze,
    Stage.NOTIFY: notify,
    Stage.TRANSFORM: transform,
    Stage.CONDITION: condition,
}


@returns_state
@flow(name="definition-pipeline", persist_result=False, validate_parameters=True)
async def definition_pipeline(
    definition: str | None = None,
    run_id: str | None = None,
    payload: dict[str, Any] | None = None,
    source: str = "api",
    environment: str = "production",
    trace_id: str | None = None,
    incident_id: str | None = None,
    checker_names: list[str] | None = None,
    checker_configs: dict[str, dict[str, Any]] | None = None,
    labels: dict[str, str] | None = None,
    notify_driver: str | None = None,
    options: RunOptions | None = None,
) -> State[Any]:
    """Execute a pipeline definition.

    Args:
        definition: The name of a stored definition. Either this or the id of a run is given.
        run_id: A stored run.
        payload: What the definition starts with. With an ingest node: what a monitoring system sent, and each of
            its incidents becomes a run. Without one: anything, or nothing.
        source: Who sent it.
        environment: Where it happened, such as production or staging.
        trace_id: The id that all runs of this payload share. None means a new one.
        incident_id: The incident that a run without alerts is about.
        checker_names: The checkers of context nodes that name none.
        checker_configs: Options by checker, such as {"disk": {"paths": ["/data"]}}.
        labels: Labels that are kept with the run.
        notify_driver: The channel of notify nodes that name none.
        options: Further options, such as {"provider": "local"}; the parameters above override them.
    """
    given = {"checker_names": checker_names, "checker_configs": checker_configs, "labels": labels}
    chosen = (options or RunOptions()).with_given(
        **given, notify_driver=notify_driver, definition=definition, incident_id=incident_id
    )
    request = RunRequest(payload=payload, source=source, environment=environment, trace_id=trace_id, options=chosen)
    async with open_run(definition_pipeline, run_id, request if chosen.defined else None) as run:
        await perform_all(run, lambda step: _task_of(step, run))
        await finish(run)
    return final_state(run.record)


def _task_of(step: Step, run: ActiveRun) -> StageTask:
    return with_retries(TASKS[step.kind.stage], run, step.node.id)
