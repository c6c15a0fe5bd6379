"""The worker as a Prefect worker type: `prefect worker start --pool alerts --type warm`.

One process and one event loop executes runs claimed from the queue, and scheduled runs of the work pool. The package
prefect-warm-worker executes the scheduled ones; this module adds the queue, the slots that both share, and the
registration of our deployments. While Prefect does not answer, the claims go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect_warm_worker import AllowedFlows, WarmProcessWorker
from prefect_warm_worker.execution import Execution
from prefect_warm_worker.settings import WarmWorkerSettings
from prefect_warm_worker.worker import never_failing

from blocks.prefect_api import prefect_errors
from flows.alert_pipeline import alert_pipeline
from flows.services import flow_services, use_services
from orchestration.embedded_stack import find_database_url
from orchestration.engine.execution import executions
from orchestration.engine.waits import Slot
from orchestration.errors import BadSetting, Unavailable
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


class WarmWorker(WarmProcessWorker):
    """Executes claimed runs, and scheduled flow runs, in this process."""

    type = POOL_TYPE
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
        self._concurrency: int = options.get("limit") or self._ours.worker_concurrency
        own = WarmWorkerSettings(grace_seconds=self._ours.worker_grace_seconds)
        more = {**options, "limit": self._concurrency, "own_settings": own}
        super().__init__(work_pool_name, *arguments, **more)

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """Execute claimed and scheduled runs until cancelled.

        Raises:
            BadSetting: nothing says where the database is.
            Unavailable: the database does not answer.
        """
        printer = never_failing(printer)
        database_url, prefect_api_url = self._find_database()
        async with open_worker(
            self._ours,
            database_url=database_url,
            prefect_api_url=prefect_api_url,
            concurrency=self._concurrency,
            prepare=self._keep_registered,
        ) as worker:
            self._worker = worker
            printer(f"Worker {worker.name} claims runs, at most {worker.concurrency} at once")
            scheduled = asyncio.create_task(self._start_scheduled(run_once, with_healthcheck, printer))
            claiming = worker.start()
            try:
                ended, _ = await asyncio.wait({scheduled, claiming}, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
            finally:
                scheduled.cancel()  # no further scheduled run starts, and those that go on have the same grace time
                await worker.end(self._ours.worker_grace_seconds)
                await asyncio.wait({scheduled})

    async def _start_scheduled(self, run_once: bool, with_healthcheck: bool, printer: Callable[..., None]) -> None:
        """Start scheduled runs. Whatever fails here, such as a broken prefect.yaml, claims go on."""
        while True:
            try:
                await super().start(run_once=run_once, with_healthcheck=with_healthcheck, printer=printer)
            except Exception as error:  # noqa: BLE001 - whatever it is
                logger.warning("Scheduled runs are not started for now: %s: %s", type(error).__name__, error)
            if run_once or self._is_being_ended():
                return
            await asyncio.sleep(RETRY_AFTER_SECONDS)

    @staticmethod
    def _is_being_ended() -> bool:
        """Whether somebody cancelled this task. An error at the end of what it waits for hides the cancellation."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def load_flows(self) -> AllowedFlows:
        """The flows of our deployments.

        Raises:
            BadSetting: prefect.yaml is missing or broken.
        """
        return AllowedFlows(own_flows(), how_to_allow="Use another work pool for your own flows")

    async def find_flow(self, flow_run: FlowRun, deployment: DeploymentResponse | None) -> Flow[..., Any]:
        """The flow of this project that the flow run executes. One without a deployment is an alert's, retried.

        Raises:
            Refused: the flow is not one of ours, or the deployment wants what one process cannot give.
        """
        if deployment is None:
            return cast("Flow[..., Any]", alert_pipeline)
        return await super().find_flow(flow_run, deployment)

    @contextmanager
    def around(self, flow_run: FlowRun) -> Generator[None]:
        """A scheduled run has a slot of the worker, and its services."""
        del flow_run
        if (worker := self._worker) is None:
            raise RuntimeError("The worker was not started")
        with worker.occupy() as slot, use_services(worker.services):
            self._slots.add(slot)
            try:
                yield
            finally:
                self._slots.discard(slot)

    def may_stop(self, execution: Execution) -> bool:
        """Runs of alerts are stopped by the watch over Prefect, which also says so in their row."""
        return str(execution.id) not in executions()

    @property
    def free_slots(self) -> int:
        """How many more scheduled runs may be started. Those that only wait do not count."""
        waiting = sum(slot.idle for slot in self._slots)
        return super().free_slots + min(waiting, self._concurrency * (RUNS_PER_SLOT - 1))

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
