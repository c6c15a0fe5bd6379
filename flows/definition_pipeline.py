"""The flow `definition-pipeline`: a run of a definition of your own, node by node."""

from __future__ import annotations

from typing import Any, cast

from prefect import Flow, flow
from prefect.client.schemas.objects import State

from flows.alert_pipeline import alert_pipeline, carry_runs, held_runs
from flows.services import flow_services
from orchestration.errors import BadInput
from orchestration.requests import RunOptions, RunRequest
from orchestration.store.records import RunRecord
from tasks.holders import holder_name
from tasks.ingest.inbox import PushMetadata, accept


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
) -> State[Any]:
    """Run a pipeline definition.

    Args:
        definition: The name of a stored definition. Either this or the id of a run is given.
        run_id: A run that is in the inbox already.
        payload: What the definition starts with. With an ingest node: what a monitoring system sent, and each of
            its incidents becomes a run. Without one: anything, or nothing.
        source: Who sent it.
        environment: Where it happened, such as production or staging.
        trace_id: The id that all runs of this payload share; a new one if none is given.
        incident_id: The incident that a run without alerts is about.
        checker_names: The checkers of context nodes that name none.
        checker_configs: Options by checker, such as {"disk": {"paths": ["/data"]}}.
        labels: Labels that are kept with the run.
        notify_driver: The channel of notify nodes that name none.
    """
    async with flow_services() as services:
        if run_id is not None:
            return await carry_runs(services, [run_id], _this_flow())
        if definition is None:
            raise BadInput("Neither a definition nor a run is named: give the name of a stored definition")
        options = RunOptions(
            definition=definition,
            incident_id=incident_id,
            checker_names=checker_names,
            checker_configs=checker_configs or {},
            labels=labels or {},
            notify_driver=notify_driver,
        )
        own = await held_runs(services)
        run_ids = (
            await accept(
                services,
                RunRequest(payload=payload, source=source, environment=environment, trace_id=trace_id, options=options),
                PushMetadata(reserved_by=holder_name(), reserved_runs=own),
            )
        ).run_ids
        return await carry_runs(services, run_ids[:own], _this_flow())


def flow_of(record: RunRecord) -> Flow[..., Any]:
    """The flow that a stored run is a run of."""
    return cast("Flow[..., Any]", definition_pipeline if record.options.defined else alert_pipeline)


def _this_flow() -> Flow[..., Any]:
    return cast("Flow[..., Any]", definition_pipeline)
