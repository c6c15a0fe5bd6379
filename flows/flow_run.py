"""A run as a flow run of Prefect: how it is opened, and under which name, tags and final state Prefect shows it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

import prefect.runtime.flow_run
from prefect import Flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Failed

from blocks.prefect_api import address_settings
from flows.report import tell_story
from flows.services import flow_services
from orchestration.embedded_stack import find_running_stack
from orchestration.engine.execution import CANCELLED, Execution, offered_execution, registered
from orchestration.engine.lease import lease_run, new_lease_owner
from orchestration.engine.run import ActiveRun, Services
from orchestration.errors import BadInput, RunBusy, error_in_words
from orchestration.requests import RunRequest
from orchestration.settings import load_settings
from orchestration.signals import logger
from orchestration.states import RunStatus
from orchestration.store import runs, workers
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from tasks.analyze.stage import ensure_provider
from tasks.ingest.inbox import PushMetadata, accept

P = ParamSpec("P")
R = TypeVar("R")

LINEAR_FLOW = "alert-pipeline"
"""The name of the flow of runs that name no definition."""

ENGINE = "prefect"
"""The engine's name for runs that a flow executes."""


def returns_state(flow: Flow[P, R]) -> Flow[P, R]:
    """Let a call of the flow return its final state, also if it failed: `state = asyncio.run(flow(…))`.

    Prefect's own call returns the result of the state, which is None here, and raises if the flow failed.
    """
    flow.__class__ = _StateFlow
    return flow


class _StateFlow(Flow[Any, Any]):
    """A flow whose call returns its state, at the embedded stack's Prefect if no other one is set."""

    def __call__(self, *arguments: Any, return_state: bool = True, **parameters: Any) -> Any:
        del return_state
        return self._call(*arguments, **parameters)

    async def _call(self, *arguments: Any, **parameters: Any) -> State[Any]:
        with temporary_settings(embedded) if (embedded := _embedded_settings()) else nullcontext():
            call = cast("Callable[..., Awaitable[State[Any]]]", super().__call__)  # pyright: ignore[reportUnknownMemberType]
            return await call(*arguments, return_state=True, **parameters)


def _embedded_settings() -> dict[Any, Any]:
    """Prefect's settings for the embedded stack, if it runs and no other server is set."""
    settings = load_settings()
    if (url := PREFECT_API_URL.value()) is None and (stack := find_running_stack(settings)) is not None:
        url = stack.prefect_api_url
    return {} if url is None else address_settings(settings, url)


@asynccontextmanager
async def open_run(flow: Flow[..., Any], run_id: str | None, request: RunRequest | None) -> AsyncGenerator[ActiveRun]:
    """Execute a stored run, or the first run of a request, in the body; afterwards Prefect shows what happened.

    A run that is over already comes as it is, so that a flow run that is retried in Prefect ends as it did. The further
    runs of a request are left to the workers, or become flow runs within this one if no worker lives.

    Raises:
        BadInput: neither a run nor a request is given, or the request cannot be used.
        RunNotFound, RunBusy: there is no such run, or another process executes it.
        Unavailable: the database does not answer.
    """
    async with flow_services() as services:
        owner, others = None, list[str]()
        if run_id is None:
            owner = new_lease_owner()
            run_id, *others = await _accept(services, flow, request, owner)
        async with _leased(services, flow, run_id, owner) as execution, execution.begin() as run:
            yield run
        if offered_execution(run_id) is None:  # else the worker has named it, and writes its story when there is time
            await _introduce(execution.run.record)
            async with get_client() as client:
                flow_run_id = UUID(str(prefect.runtime.flow_run.id))
                await write_story(client, services.database, execution.run.record, flow_run_id)
        for other in others:
            await _execute_within(flow, other)


async def _accept(services: Services, flow: Flow[..., Any], request: RunRequest | None, owner: str) -> list[str]:
    """Store a request, whose first run is this flow run's; the ids of the runs that have to be executed here."""
    if request is None:
        raise BadInput("Neither a definition nor a run is named: give the name of a stored definition")
    ensure_provider(request.options.provider)
    written = await accept(
        services, request, PushMetadata(reserved_by=owner, reserved_runs=1, linear=flow.name == LINEAR_FLOW)
    )
    async with services.database.transaction() as tx:
        worker_lives = bool(await workers.list_workers(tx))
    return written.run_ids[:1] if worker_lives else written.run_ids


@asynccontextmanager
async def _leased(
    services: Services, flow: Flow[..., Any], run_id: str, owner: str | None
) -> AsyncGenerator[Execution]:
    """The run's execution: the one that the worker offers, or one of this flow run's own."""
    execution = offered_execution(run_id)
    if execution is not None:
        yield execution
        return
    async with services.database.transaction() as tx:
        record = await runs.get_run(tx, run_id)
    if record.options.defined and flow.name == LINEAR_FLOW:
        raise BadInput(f"Run {run_id} executes a definition: start it with the flow definition-pipeline")
    if record.status in (RunStatus.NOTIFIED, RunStatus.SKIPPED):
        yield Execution(ActiveRun(services, record, engine=ENGINE, owner=""))
        return
    flow_run_id: str | None = prefect.runtime.flow_run.id
    async with lease_run(services, run_id, engine=ENGINE, prefect_flow_run_id=flow_run_id, owner=owner) as run:
        execution = Execution(run)
        with registered(flow_run_id, execution):
            yield execution


async def _execute_within(flow: Flow[..., Any], run_id: str) -> None:
    """Execute a further run of a push as a flow run within the present one."""
    try:
        await flow(run_id=run_id)
    except RunBusy as error:
        logger.info("Run %s is left to the process that executes it: %s", run_id, error)


def flow_run_name(record: RunRecord) -> str:
    """The flow run's name in Prefect: "critical · HighCPU on web-1"."""
    # Prefect takes braces for a template.
    return f"{record.severity.value} · {record.title or 'alert'}"[:200].replace("{", "(").replace("}", ")")


def flow_run_tags(record: RunRecord) -> list[str]:
    """The tags by which a flow run is found in Prefect: source, severity, environment and trace."""
    return [record.source, record.severity.value, record.environment, f"trace:{record.trace_id}"]


def final_state(record: RunRecord) -> State[Any]:
    """Prefect's final state, under the run's own status, with the reason if there is one."""
    match record.status:
        case RunStatus.NOTIFIED:
            fallback = " AI analysis was unavailable." if record.intelligence_fallback_used else ""
            return Completed(name=record.status.label, message=f"Run {record.run_id}: the message is out.{fallback}")
        case RunStatus.SKIPPED:
            return Completed(name=record.status.label, message=f"Nobody is notified: {record.skip_reason}.")
        case _ if record.last_error_type == CANCELLED.error_type:
            return Cancelled(message=f"Run {record.run_id} was cancelled. It can be resumed.")
        case _:
            return Failed(message=error_in_words(record.last_error_type, record.last_error_message))


async def _introduce(record: RunRecord) -> None:
    """Name and tag a flow run that Prefect opened before the alert was known."""
    if prefect.runtime.flow_run.name == flow_run_name(record):
        return
    known_tags: list[str] = prefect.runtime.flow_run.tags or []
    tags = {*known_tags, *flow_run_tags(record)}
    with _not_worth_a_failure(record, "its flow run could not be named"):
        async with get_client() as client:
            await client.update_flow_run(prefect.runtime.flow_run.id, name=flow_run_name(record), tags=sorted(tags))


async def write_story(client: PrefectClient, database: Database, record: RunRecord, flow_run_id: UUID) -> None:
    """Write the story of a run that is over as an artifact of its flow run. A failure is logged and nothing else."""
    with _not_worth_a_failure(record, "its story could not be written to Prefect"):
        artifact = ArtifactCreate(
            type="markdown",
            key=f"incident-{record.incident_id}" if record.incident_id else "host-health",
            description=flow_run_name(record),
            data=await tell_story(database, record.run_id),
            flow_run_id=flow_run_id,
        )
        await client.create_artifact(artifact)


@contextmanager
def _not_worth_a_failure(record: RunRecord, what: str) -> Generator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the message is out, whatever Prefect shows of it
        logger.warning("Run %s: %s: %s", record.run_id, what, error)
