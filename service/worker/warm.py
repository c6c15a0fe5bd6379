"""The worker as a Prefect worker type: `prefect worker start --pool alerts --type warm`.

One process and one event loop executes runs claimed from the queue, and scheduled runs of the work pool. While Prefect
does not answer the claims go on, and the part that asks for scheduled runs is started again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio.abc
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Failed
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

from blocks.prefect_api import prefect_errors
from flows.alert_pipeline import alert_pipeline
from flows.services import flow_services, use_services
from orchestration.embedded_stack import find_database_url
from orchestration.engine.waits import Slot
from orchestration.errors import BadSetting, Unavailable
from orchestration.redaction import one_line
from orchestration.settings import Settings, load_settings
from orchestration.signals import logger
from orchestration.store.database import Database
from service.mirror.definitions import own_flows, sync
from service.mirror.deployments import POOL_TYPE, is_registered, register
from service.stack import StackAddresses
from service.worker.broken_blocks import BrokenBlocks
from service.worker.process import open_worker
from service.worker.worker import RUNS_PER_SLOT, Worker

RETRY_AFTER_SECONDS = 5.0
"""How long a worker waits before it asks Prefect again after a failure."""

SYNC_SECONDS = 60.0
"""How often a worker brings Prefect's blocks and deployments in step with the definitions."""


class WarmWorker(BaseWorker[BaseJobConfiguration, Any, BaseWorkerResult]):
    """Executes claimed runs, and scheduled flow runs, in this process."""

    type = POOL_TYPE
    job_configuration = BaseJobConfiguration
    _description = "Runs alert pipelines in one warm process, claimed from the queue or scheduled by Prefect."

    def __init__(
        self,
        work_pool_name: str,
        *arguments: Any,
        settings: Settings | None = None,
        addresses: StackAddresses | None = None,
        **options: Any,
    ) -> None:
        self._ours = settings or load_settings()
        self._addresses = addresses
        self._worker: Worker | None = None
        self._slots: set[Slot] = set()
        self._broken_blocks = BrokenBlocks()
        self._ending = False
        concurrency = options.get("limit") or self._ours.worker_concurrency
        # A run starts at once here, so it is never fetched before its time.
        super().__init__(work_pool_name, *arguments, **{**options, "limit": concurrency, "prefetch_seconds": 0})

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """Execute claimed and scheduled runs until cancelled.

        Raises:
            BadSetting: nothing says where the database is.
            Unavailable: the database does not answer.
        """
        database_url, prefect_api_url = self._find_database()
        async with open_worker(
            self._ours,
            database_url=database_url,
            prefect_api_url=prefect_api_url,
            concurrency=self._limit,
            prepare=self._keep_registered,
        ) as worker:
            self._worker = worker
            printer(f"Worker {worker.name} claims runs, at most {worker.concurrency} at once")
            asking = asyncio.create_task(self._ask(run_once, with_healthcheck, printer))
            claiming = worker.start()
            try:
                ended, _ = await asyncio.wait({asking, claiming}, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
            finally:
                # Scheduled runs that are being executed have the same grace time; new ones are not started.
                self._ending = True
                await worker.end(self._ours.worker_grace_seconds)
                asking.cancel()
                await asyncio.wait({asking})

    async def _ask(self, run_once: bool, with_healthcheck: bool, printer: Callable[..., None]) -> None:
        """Start scheduled runs with Prefect's own worker loop, which gives up after a long outage of Prefect."""
        while True:
            try:
                await super().start(run_once=run_once, with_healthcheck=with_healthcheck, printer=printer)
            except Exception as error:  # noqa: BLE001 - whatever Prefect's part meets, claims go on
                logger.warning("Scheduled runs are not started for now: %s: %s", type(error).__name__, error)
            if run_once:
                return
            await asyncio.sleep(RETRY_AFTER_SECONDS)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Start the scheduled runs that are due, unless this worker ends. Those that only wait do not count."""
        if self._ending:
            return []
        if self._limit is not None:
            waiting = sum(slot.idle for slot in self._slots)
            self.limiter.total_tokens = self._limit + min(waiting, self._limit * (RUNS_PER_SLOT - 1))
        return await super().get_and_submit_flow_runs()

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> BaseWorkerResult:
        """Execute one scheduled flow run in this process."""
        del configuration
        if task_status is not None:
            task_status.started(1)
        if (flow := await self._own_flow(flow_run)) is None:
            return BaseWorkerResult(identifier=str(flow_run.id), status_code=0)
        if (worker := self._worker) is None:
            raise RuntimeError("The worker was not started")
        # A flow run with its deployment's id would open an event subscription of its own; the server's keeps it.
        bare = flow_run.model_copy(update={"deployment_id": None})
        with worker.occupy() as slot, use_services(worker.services):
            self._slots.add(slot)
            try:
                await cast("Awaitable[Any]", run_flow(flow, flow_run=bare, return_type="state"))
            finally:
                self._slots.discard(slot)
        return BaseWorkerResult(identifier=str(flow_run.id), status_code=0)

    async def _own_flow(self, flow_run: FlowRun) -> Flow[..., Any] | None:
        """The flow of this project that the flow run's deployment names. None means that it was refused.

        Whoever reaches Prefect's API can name any file and any module of this machine as an entry point, and importing
        it here would already execute it. So the name is only looked up among our own flows.
        """
        if flow_run.deployment_id is None:
            return cast("Flow[..., Any]", alert_pipeline)
        entrypoint = (await self.client.read_deployment(flow_run.deployment_id)).entrypoint or ""
        # Reading prefect.yaml takes a moment, in which other runs want to go on.
        flows = await asyncio.to_thread(own_flows)
        if (flow := flows.get(entrypoint)) is not None:
            return flow
        message = (
            f"This worker does not execute {one_line(repr(entrypoint), 200)}: it executes the flows "
            f"{', '.join(sorted(flows))} and nothing else. Use another work pool for your own flows"
        )
        logger.warning("The flow run %s was refused. %s", flow_run.id, message)
        await self.client.set_flow_run_state(flow_run.id, Failed(message=message), force=True)
        return None

    async def _keep_registered(self, client: PrefectClient, database: Database) -> None:
        """Register the deployments as soon as Prefect answers, and whenever one is gone; then write the definitions to
        Prefect."""
        registered = False
        while True:
            seconds = SYNC_SECONDS
            try:
                with prefect_errors():
                    registered = registered and await is_registered(client)
                    if not registered:
                        await register(client, canary=self._ours.canary_channel is not None)
                        registered = True
                    broken = await sync(client, database)
                async with flow_services() as services:
                    await self._broken_blocks.report(services, broken)
            except BadSetting as error:
                logger.error("The deployments cannot be registered: %s", error)
            except Unavailable as error:
                logger.debug("The deployments could not be registered yet: %s", error)
                seconds = RETRY_AFTER_SECONDS
            except Exception:  # noqa: BLE001 - a bug here must not end the registration
                logger.exception("The deployments and definitions could not be written to Prefect")
            await asyncio.sleep(seconds)

    def _find_database(self) -> tuple[str, str | None]:
        if self._addresses is not None:
            return self._addresses.database_url, self._addresses.prefect_api_url
        return find_database_url(self._ours), None
