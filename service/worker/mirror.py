"""What the worker tells Prefect of its runs: opens their flow runs, and sets right those that nobody ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Crashed, Pending, to_state_create

from flows.flow_run import final_state, flow_run_name, flow_run_tags
from orchestration.errors import RunNotFound
from orchestration.signals import logger
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.records import RunRecord, new_id

FLOW_NAME = "alert-pipeline"
DEPLOYMENT_NAME = "default"

DEFINITION_FLOW_NAME = "definition-pipeline"
"""The flow of runs of a definition; each stored definition has a deployment of its name."""

PREFECT_ERRORS = (httpx.HTTPError, PrefectException, TimeoutError, OSError)
"""What a call to Prefect's API may end with."""

_UNENDED = ("PENDING", "RUNNING", "CANCELLING")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where flow runs of claimed runs belong."""

    flow_id: UUID
    deployment_id: UUID | None = None
    pool: str | None = None
    queue: str | None = None
    queue_id: UUID | None = None


class Mirror:
    """Prefect's side of the runs. Every method may raise one of `PREFECT_ERRORS`."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._place: Place | None = None
        self._places: dict[str, Place] = {}

    async def place(self, *, renew: bool = False) -> Place:
        """The deployment `alert-pipeline/default`; until it is registered, the flow alone."""
        if self._place is None or self._place.deployment_id is None or renew:
            self._places.clear()
            self._place = await self._find_place(FLOW_NAME, DEPLOYMENT_NAME)
        return self._place

    async def _place_of(self, record: RunRecord) -> Place:
        """The deployment of the run's definition, or that of the linear pipeline."""
        options = record.options
        if options.definition is None and options.definition_config is None:
            return await self.place()
        name = options.definition or ""
        if name not in self._places:
            found = await self._find_place(DEFINITION_FLOW_NAME, name)
            if found.deployment_id is None:
                return found
            self._places[name] = found
        return self._places[name]

    async def open(self, record: RunRecord) -> FlowRun:
        """The flow run for a run: PENDING, on the deployment, under a key by which it is made once."""
        key = record.run_id
        if record.prefect_flow_run_id is not None:
            if record.completed_at is None:
                # Taken over from a worker that is gone: it could not end its flow run. A run that is resumed
                # after its end has told Prefect of that end, or is about to.
                await self.crash(record.prefect_flow_run_id)
            key = f"{record.run_id}/{record.total_attempts}"
        flow_run = await self._create(record, key)
        if flow_run.state is not None and flow_run.state.type is StateType.PENDING:
            return flow_run
        # It was opened before, by a worker that died or by a try that broke off.
        await self.end(flow_run, Crashed(message="The worker that was at this run is gone; another one goes on."))
        return await self._create(record, f"{record.run_id}/{new_id()[:8]}")

    async def crash(self, flow_run_id: str) -> None:
        """The process that was at this flow run is gone."""
        try:
            flow_run = await self._client.read_flow_run(UUID(flow_run_id))
        except (ObjectNotFound, ValueError):
            return
        await self.end(flow_run, Crashed(message="The worker that was at this run is gone; another one goes on."))

    async def end(self, flow_run: FlowRun, state: State[Any]) -> None:
        """Give a flow run its last state, unless it has one."""
        if flow_run.state is None or not flow_run.state.is_final():
            await self._client.set_flow_run_state(flow_run.id, state, force=True)

    async def set_state(self, flow_run_id: UUID, state: State[Any]) -> None:
        """Set a state, whatever Prefect's rules say."""
        await self._client.set_flow_run_state(flow_run_id, state, force=True)

    async def reconcile(self, database: Database, busy: Collection[str]) -> int:
        """End the flow runs that Prefect holds for unended although nobody is at them; how many.

        `busy` are the flow runs that this process is at. Those of other workers are known by their leases.
        """
        deployments = await self._deployments()
        if not deployments:
            return 0
        wanted = {"deployment_id": {"any_": deployments}, "state": {"type": {"any_": _UNENDED}}}
        found = await self._client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted), limit=200)
        ended = 0
        for flow_run in found:
            state = None if str(flow_run.id) in busy else await _missing_end(database, flow_run)
            if state is not None:
                await self.end(flow_run, state)
                ended += 1
        if ended:
            logger.info("%d flow runs that nobody had ended are set right in Prefect", ended)
        return ended

    async def _deployments(self) -> list[str]:
        """The ids of our deployments: that of the linear pipeline, and those of definitions."""
        place = await self.place()
        only = FlowFilter(name=FlowFilterName(any_=[DEFINITION_FLOW_NAME]))
        others = await self._client.read_deployments(flow_filter=only, limit=200)
        return [str(one) for one in (place.deployment_id, *(other.id for other in others)) if one is not None]

    async def _create(self, record: RunRecord, key: str) -> FlowRun:
        place = await self._place_of(record)
        wanted = FlowRunCreate(
            name=flow_run_name(record),
            tags=flow_run_tags(record),
            flow_id=place.flow_id,
            deployment_id=place.deployment_id,
            work_pool_name=place.pool,
            work_queue_name=place.queue,
            parameters={"run_id": record.run_id},
            idempotency_key=key,
            state=to_state_create(Pending()),
        )
        try:
            answer = await self._client.request("POST", "/flow_runs/", json=wanted.model_dump(mode="json"))
        except PrefectException:
            # The deployment or its queue may have been deleted, or made anew: look again next time.
            self._place = None
            self._places.clear()
            raise
        return FlowRun.model_validate(answer.json())

    async def _find_place(self, flow: str, deployment: str) -> Place:
        try:
            if not deployment:  # a definition from a file, which is stored nowhere
                return Place(flow_id=await self._client.create_flow_from_name(flow))
            found = await self._client.read_deployment_by_name(f"{flow}/{deployment}")
        except ObjectNotFound:
            return Place(flow_id=await self._client.create_flow_from_name(flow))
        return Place(
            flow_id=found.flow_id,
            deployment_id=found.id,
            pool=found.work_pool_name,
            queue=found.work_queue_name,
            queue_id=found.work_queue_id,
        )


async def _missing_end(database: Database, flow_run: FlowRun) -> State[Any] | None:
    """The state in which a flow run should have ended; None: somebody may be at it."""
    run_id = flow_run.parameters.get("run_id")
    if not isinstance(run_id, str):
        return None
    try:
        async with database.transaction() as tx:
            record = await runs.get_run(tx, run_id)
    except RunNotFound:
        return Crashed(message=f"Run {run_id} is no longer stored.")
    if record.prefect_flow_run_id != str(flow_run.id):
        # A later flow run has taken its place; one that is being opened right now has not been recorded yet.
        return None if record.prefect_flow_run_id is None else Crashed(message="Another flow run goes on with it.")
    return final_state(record) if record.status.final else None
