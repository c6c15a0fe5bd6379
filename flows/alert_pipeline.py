"""The flow `alert-pipeline`: ingest → check → analyze → notify, one run for one incident of a push."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, cast

import prefect.runtime.flow_run
from prefect import Flow, flow, get_client
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Completed, Failed

from flows.handover import CANCELLED, Handover, cancellable, handed_run
from flows.report import tell_story
from flows.services import flow_services
from orchestration.requests import RunOptions, RunRequest
from orchestration.signals import logger
from orchestration.states import RunStatus
from orchestration.store import runs, workers
from orchestration.store.records import RunRecord
from tasks.holders import holder_name
from tasks.ingest.inbox import PushMetadata, accept
from tasks.run import Services
from tasks.taking import take_run
from tasks.task import PrefectSteps

ENGINE = "prefect"


@flow(name="alert-pipeline", persist_result=False, validate_parameters=True)
async def alert_pipeline(
    run_id: str | None = None,
    payload: dict[str, Any] | None = None,
    source: str = "unknown",
    environment: str = "production",
    trace_id: str | None = None,
    checker_names: list[str] | None = None,
    checker_configs: dict[str, dict[str, Any]] | None = None,
    labels: dict[str, str] | None = None,
    notify_driver: str | None = None,
) -> State[Any]:
    """Take one incident's alerts to the person on call.

    Args:
        run_id: A run that is in the inbox already. Either this or a payload is given.
        payload: What a monitoring system sent, as it came. Each of its incidents becomes a run.
        source: Who sent it (alertmanager, grafana, generic); anything else: recognised by its shape.
        environment: Where it happened, such as production or staging.
        trace_id: The id that all runs of this payload share; a new one if none is given.
        checker_names: The checkers to run, instead of those of the settings.
        checker_configs: Options by checker, such as {"disk": {"paths": ["/data"]}}.
        labels: Labels that are kept with the run.
        notify_driver: The name of a channel block, or a driver (slack, email, generic, console).
    """
    async with flow_services() as services:
        others: list[str] = []
        if run_id is None:
            options = RunOptions(
                checker_names=checker_names,
                checker_configs=checker_configs or {},
                labels=labels or {},
                notify_driver=notify_driver,
            )
            own = await held_runs(services)
            run_id, *others = (
                await accept(
                    services,
                    RunRequest(
                        payload=payload, source=source, environment=environment, trace_id=trace_id, options=options
                    ),
                    PushMetadata(reserved_by=holder_name(), reserved_runs=own),
                )
            ).run_ids
            others = others if own is None else []
        return await carry_runs(services, [run_id, *others], alert_pipeline)


async def carry_in_prefect(record: RunRecord, of: Flow[..., Any] | None = None) -> State[Any]:
    """Open a flow run for a stored run, under its name, and run it here; its final state, also of a failure.

    `of` is the flow that it is a run of, by default `alert-pipeline`.

    Raises:
        httpx.HTTPError, prefect.exceptions.PrefectException: Prefect's API broke off.
    """
    parameters = {"run_id": record.run_id}
    opened = of or cast("Flow[..., Any]", alert_pipeline)
    async with get_client() as client:
        flow_run = await client.create_flow_run(
            opened, name=flow_run_name(record), tags=flow_run_tags(record), parameters=parameters
        )
    # Called directly the flow would be named after nothing, and import FastAPI (0.3 s) to write one id as JSON.
    running = run_flow(opened, flow_run=flow_run, parameters=parameters, return_type="state")
    return await cast("Awaitable[State[Any]]", running)


async def held_runs(services: Services) -> int | None:
    """How many runs of a payload its flow run carries itself; None: all.

    A worker that lives takes the further incidents, each as a flow run of its own deployment.
    """
    async with services.database.transaction() as tx:
        return 1 if await workers.list_workers(tx) else None


async def carry_runs(services: Services, run_ids: Sequence[str], of: Flow[..., Any]) -> State[Any]:
    """Carry the first run within the present flow run, and each other one as a flow run of its own; the first's end."""
    record = await _carry(services, run_ids[0])
    for other in run_ids[1:]:
        async with services.database.transaction() as tx:
            further = await runs.get_run(tx, other)
        await carry_in_prefect(further, of)
    return final_state(record)


async def _carry(services: Services, run_id: str) -> RunRecord:
    """Bring one run to its end, and then write its story where a human can read it."""
    if (handed := handed_run(run_id)) is not None:
        record = await handed.carry(PrefectSteps())
    else:
        flow_run_id = prefect.runtime.flow_run.id
        async with take_run(services, run_id, engine=ENGINE, prefect_flow_run_id=flow_run_id) as run:
            own = Handover(run)
            with cancellable(flow_run_id, own):
                record = await own.carry(PrefectSteps())
    await _introduce(record)
    await _write_artifact(services, record)
    return record


def flow_run_name(record: RunRecord) -> str:
    """What the flow run is called in Prefect: "critical · HighCPU on web-1"."""
    # Prefect takes braces for a template.
    return f"{record.severity.value} · {record.title or 'alert'}"[:200].replace("{", "(").replace("}", ")")


def flow_run_tags(record: RunRecord) -> list[str]:
    """By what a flow run is found in Prefect: source, severity, environment, and the trace."""
    return [record.source, record.severity.value, record.environment, f"trace:{record.trace_id}"]


def final_state(record: RunRecord) -> State[Any]:
    """Prefect's final state, under the domain's name, with the reason where there is one."""
    match record.status:
        case RunStatus.NOTIFIED:
            fallback = " AI analysis was unavailable." if record.intelligence_fallback_used else ""
            return Completed(name=record.status.label, message=f"Run {record.run_id}: the message is out.{fallback}")
        case RunStatus.SKIPPED:
            return Completed(name=record.status.label, message=f"Nobody is told: {record.skip_reason}.")
        case _ if record.last_error_type == CANCELLED.error_type:
            return Cancelled(message=f"Run {record.run_id} was cancelled. It can be resumed.")
        case _:
            return Failed(message=f"{record.last_error_type}: {record.last_error_message}")


async def _introduce(record: RunRecord) -> None:
    """Name and tag a flow run that Prefect opened before the alert was known."""
    if prefect.runtime.flow_run.name == flow_run_name(record):
        return
    known_tags: list[str] = prefect.runtime.flow_run.tags or []
    tags = {*known_tags, *flow_run_tags(record)}
    try:
        async with get_client() as client:
            await client.update_flow_run(prefect.runtime.flow_run.id, name=flow_run_name(record), tags=sorted(tags))
    except Exception as error:  # noqa: BLE001 - the message is out; a name in the UI is not worth a failure
        logger.warning("The flow run of %s could not be named: %s", record.run_id, error)


async def _write_artifact(services: Services, record: RunRecord) -> None:
    key = f"incident-{record.incident_id}" if record.incident_id else "host-health"
    try:
        await acreate_markdown_artifact(
            await tell_story(services.database, record.run_id), key=key, description=flow_run_name(record)
        )
    except Exception as error:  # noqa: BLE001 - the message is out; its story in the UI is not worth a failure
        logger.warning("The story of run %s could not be written to Prefect: %s", record.run_id, error)
