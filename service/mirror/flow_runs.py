"""The flow runs of the worker's runs in Prefect: opens them, and ends those that no process is executing."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Crashed, Pending, to_state_create

from blocks.prefect_api import PAGE_SIZE, read_pages
from flows.flow_run import LINEAR_FLOW, final_state, flow_run_name, flow_run_tags
from orchestration.errors import RunNotFound
from orchestration.signals import logger
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.records import RunRecord, new_id

FLOW_NAME = LINEAR_FLOW
DEPLOYMENT_NAME = "default"

DEFINITION_FLOW_NAME = "definition-pipeline"
"""The flow of runs of a definition. Each stored definition has a deployment with its name."""

_NOT_ENDED = ("PENDING", "RUNNING", "CANCELLING")

_LOST = "The worker that executed this run is gone; another worker continues."


@dataclass(frozen=True, kw_only=True)
class DeploymentTarget:
    """The flow, and usually the deployment, on which Prefect shows a run."""

    flow_id: UUID
    deployment_id: UUID | None = None
    pool: str | None = None
    queue: str | None = None
    queue_id: UUID | None = None


class FlowRunMirror:
    """Shows runs in Prefect as flow runs.

    The methods raise whatever Prefect's client raises: call them within `blocks.prefect_api.prefect_errors()`.
    """

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._targets: dict[tuple[str, str], DeploymentTarget] = {}

    async def target(self, *, renew: bool = False) -> DeploymentTarget:
        """The deployment `alert-pipeline/default`; only the flow while the deployment is not registered."""
        if renew:
            self._targets.clear()
        return await self._find_target(FLOW_NAME, DEPLOYMENT_NAME)

    async def open(self, record: RunRecord) -> FlowRun:
        """Create the flow run of a run, in PENDING. The idempotency key makes a second call return the same one."""
        key = record.run_id
        if record.prefect_flow_run_id is not None:
            if record.completed_at is None:
                # The worker that executed the run is gone, and could not end its flow run. A run that is resumed
                # after its end has reported that end to Prefect, or is about to.
                with suppress(ObjectNotFound):
                    lost = await self._client.read_flow_run(UUID(record.prefect_flow_run_id))
                    await self.end(lost, Crashed(message=_LOST))
            key = f"{record.run_id}/{record.total_attempts}"
        flow_run = await self._create(record, key)
        if flow_run.state is not None and flow_run.state.type is StateType.PENDING:
            return flow_run
        # A worker that died, or a request that broke off, has created it before.
        await self.end(flow_run, Crashed(message=_LOST))
        return await self._create(record, f"{record.run_id}/{new_id()[:8]}")

    async def end(self, flow_run: FlowRun, state: State[Any]) -> None:
        """Set the final state of a flow run, unless it has one."""
        if flow_run.state is None or not flow_run.state.is_final():
            await self._client.set_flow_run_state(flow_run.id, state, force=True)

    async def set_state(self, flow_run_id: UUID, state: State[Any]) -> None:
        """Set a state, whatever Prefect's orchestration rules say."""
        await self._client.set_flow_run_state(flow_run_id, state, force=True)

    async def reconcile(self, database: Database, busy: Collection[str]) -> int:
        """End the flow runs that Prefect believes to run although no process executes them; their number.

        `busy` are the ids of the flow runs that this process executes. The rows of the runs say which ones other
        workers execute.

        Raises:
            Unavailable: the database does not answer.
        """
        # By flow: a flow run that was opened before its deployment was registered belongs to none.
        ours = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME, DEFINITION_FLOW_NAME]))
        not_ended = FlowRunFilter.model_validate({"state": {"type": {"any_": _NOT_ENDED}}})
        found = await self._client.read_flow_runs(flow_filter=ours, flow_run_filter=not_ended, limit=PAGE_SIZE)
        ended = 0
        for flow_run in found:
            state = None if str(flow_run.id) in busy else await _missing_end(database, flow_run)
            if state is not None:
                await self.end(flow_run, state)
                ended += 1
        if ended:
            logger.info("Set %d abandoned flow runs in Prefect to their final states", ended)
        return ended

    async def _create(self, record: RunRecord, key: str) -> FlowRun:
        if record.options.defined:
            target = await self._find_target(DEFINITION_FLOW_NAME, record.options.definition or "")
        else:
            target = await self.target()
        wanted = FlowRunCreate(
            name=flow_run_name(record),
            tags=flow_run_tags(record),
            flow_id=target.flow_id,
            deployment_id=target.deployment_id,
            work_pool_name=target.pool,
            work_queue_name=target.queue,
            parameters={"run_id": record.run_id},
            idempotency_key=key,
            state=to_state_create(Pending()),
        )
        try:
            answer = await self._client.request("POST", "/flow_runs/", json=wanted.model_dump(mode="json"))
        except PrefectException:
            # Somebody may have deleted the deployment or its queue, or created it again: look it up next time.
            self._targets.clear()
            raise
        return FlowRun.model_validate(answer.json())

    async def _find_target(self, flow: str, deployment: str) -> DeploymentTarget:
        if (known := self._targets.get((flow, deployment))) is not None:
            return known
        with suppress(ObjectNotFound):
            if deployment:  # a definition from a file is not stored and has none
                found = await self._client.read_deployment_by_name(f"{flow}/{deployment}")
                self._targets[flow, deployment] = target = DeploymentTarget(
                    flow_id=found.flow_id,
                    deployment_id=found.id,
                    pool=found.work_pool_name,
                    queue=found.work_queue_name,
                    queue_id=found.work_queue_id,
                )
                return target
        return DeploymentTarget(flow_id=await self._client.create_flow_from_name(flow))


async def definition_deployments(client: PrefectClient) -> list[DeploymentResponse]:
    """All deployments of the flow `definition-pipeline`. Call it within `prefect_errors()`."""
    only = FlowFilter(name=FlowFilterName(any_=[DEFINITION_FLOW_NAME]))
    return await read_pages(lambda offset: client.read_deployments(flow_filter=only, limit=PAGE_SIZE, offset=offset))


async def _missing_end(database: Database, flow_run: FlowRun) -> State[Any] | None:
    """The state in which a flow run should have ended. None means that a process may be executing it."""
    run_id = flow_run.parameters.get("run_id")
    if not isinstance(run_id, str):
        return None
    try:
        async with database.transaction() as tx:
            record = await runs.get_run(tx, run_id)
    except RunNotFound:
        return Crashed(message=f"Run {run_id} is no longer stored.")
    if record.prefect_flow_run_id != str(flow_run.id):
        # A later flow run has replaced it. The id of one that is being opened right now is not stored yet.
        return None if record.prefect_flow_run_id is None else Crashed(message="Another flow run continues the run.")
    return final_state(record) if record.status.final else None
