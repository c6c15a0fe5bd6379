"""The worker: finds the flow runs that are due, executes them in this process, and ends in good order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio.abc
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.exceptions import ObjectNotFound
from prefect.logging.loggers import patch_print
from prefect.plugins import load_prefect_collections
from prefect.settings import PREFECT_API_URL, PREFECT_WORKER_QUERY_SECONDS
from prefect.states import Failed
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

from prefect_warm_worker.allowed import AllowedFlows, AnyFlow, CannotLoadFlows, Refused
from prefect_warm_worker.blocking import warn_of_blocking
from prefect_warm_worker.execution import Execution, Why, name_result_storage
from prefect_warm_worker.internals import ask_each_run_for_its_intent, ensure_suspension, keep_own_sigterm_handler
from prefect_warm_worker.job_variables import refuse_job_variables
from prefect_warm_worker.next_look import NextLook
from prefect_warm_worker.settings import WarmWorkerSettings
from prefect_warm_worker.sigint import hear_sigint
from prefect_warm_worker.unreported import Unreported
from prefect_warm_worker.watch import listen, stop_what_was_stopped

RETRY_SECONDS = 5.0
"""How long the worker waits before it asks Prefect again after a failure."""

AHEAD_SECONDS = 5.0
"""How much further than its next poll the worker looks ahead, to start scheduled runs on the second."""

STOP_SECONDS = 10.0
"""How long runs have to report their end after they were stopped at the end of the worker."""


class WarmProcessWorker(BaseWorker[BaseJobConfiguration, Any, BaseWorkerResult]):
    """Executes flow runs of allowed flows in one process and one event loop."""

    type = "warm-process"
    job_configuration = BaseJobConfiguration
    _description = (
        "Runs the flows that were named when the worker was started in one warm process, so that a run starts in a "
        "fraction of a second. Runs have no process, environment or code of their own."
    )
    _documentation_url = "https://docs.prefect.io/latest/concepts/workers/"

    def __init__(
        self,
        work_pool_name: str,
        work_queues: list[str] | None = None,
        name: str | None = None,
        prefetch_seconds: float | None = None,
        create_pool_if_not_found: bool = True,
        limit: int | None = None,
        heartbeat_interval_seconds: int | None = None,
        *,
        base_job_template: dict[str, Any] | None = None,
        own_settings: WarmWorkerSettings | None = None,
    ) -> None:
        """As any Prefect worker. `prefetch_seconds` has no effect: a run starts at once, so it is never fetched before
        its time. `own_settings` None reads the environment."""
        del prefetch_seconds
        self.own_settings = own_settings or WarmWorkerSettings()
        super().__init__(
            work_pool_name,
            work_queues,
            name,
            0,
            create_pool_if_not_found,
            limit or self.own_settings.limit,
            heartbeat_interval_seconds,
            base_job_template=base_job_template,
        )
        self._allowed = AllowedFlows({})
        self._executions: dict[UUID, Execution] = {}
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._unreported = Unreported()
        self._own_client: PrefectClient | None = None
        self._named: Callable[[AnyFlow], AnyFlow] | None = None
        self._next_look = NextLook()
        self._some_may_stop = asyncio.Event()
        self._polling = asyncio.Lock()
        self._more_wait = self._ending = self._is_away = False

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """A template without variables: Prefect's server refuses deployments that set one."""
        return {
            "job_configuration": {"env": {}},  # the server takes no empty one
            "variables": {"type": "object", "properties": {}, "additionalProperties": False},
        }

    # What a subclass may say otherwise.

    def load_flows(self) -> AllowedFlows:
        """The flows that this worker may run, imported now. Called once, when the worker starts.

        Raises:
            CannotLoadFlows: there is none, or some cannot be imported.
        """
        return AllowedFlows.load(self.own_settings.entrypoints())

    async def find_flow(self, flow_run: FlowRun, deployment: DeploymentResponse | None) -> AnyFlow:
        """The flow that a flow run executes.

        Raises:
            Refused: this worker does not execute it.
        """
        refuse_job_variables(self.work_pool, deployment, flow_run)
        if deployment is None:
            raise Refused(
                f"This worker executes flow runs of deployments, and flow run {flow_run.id} has none. Start it with "
                "`prefect deployment run`"
            )
        return self._allowed.find(deployment)

    def around(self, flow_run: FlowRun) -> AbstractContextManager[object]:
        """What surrounds the execution of a flow run, such as shared resources."""
        del flow_run
        return nullcontext()

    def may_stop(self, execution: Execution) -> bool:
        """Whether this worker stops a run that was cancelled or suspended. False means that something else does."""
        del execution
        return True

    @property
    def free_slots(self) -> int:
        """How many more flow runs may be started now."""
        return (self._limit or self.own_settings.limit) - len(self._tasks)

    # From the start to the end.

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """Execute flow runs until cancelled; then those that are being executed have the grace time to end.

        Raises:
            SystemExit: no flow is allowed, or some cannot be imported. Why is printed.
            ValueError: `PREFECT_API_URL` is not set.
            AttributeError: this version of Prefect lacks a name that is used or replaced.
        """
        printer = never_failing(printer)
        if not PREFECT_API_URL.value():
            raise ValueError("PREFECT_API_URL must be set: it says where Prefect's server is")
        try:
            self._allowed, self._ending = self.load_flows(), False
        except CannotLoadFlows as error:
            printer(str(error))  # without the traceback that Prefect's command would print
            raise SystemExit(1) from error
        printer(f"This worker executes {', '.join(self._allowed.names)}, at most {self._limit} runs at once")
        load_prefect_collections()  # the first heartbeat would import them, and block the event loop
        keep_own_sigterm_handler()
        hear_sigint()
        ask_each_run_for_its_intent()
        ensure_suspension()
        async with AsyncExitStack() as opening:
            # Prefect patches print() for each run and restores what it found: of two runs at once, the first to end
            # would take it away from the second. With the patch around all of them there is nothing to restore.
            opening.enter_context(patch_print())
            opening.enter_context(warn_of_blocking(self.own_settings.blocked_seconds, self._logger))
            self._own_client = await self._open_clients(opening)
            duties = [self._listen, self._start_what_is_due, self._look_after_runs]
            try:
                with _in_background([self._keep_up(duty) for duty in duties]):
                    await super().start(run_once=run_once, with_healthcheck=with_healthcheck, printer=printer)
                    if run_once and self._tasks:
                        await asyncio.wait(set(self._tasks.values()))
            finally:
                self._ending = True
                with anyio.CancelScope(shield=True):
                    await self._end(printer)

    async def _open_clients(self, opening: AsyncExitStack) -> PrefectClient:
        """One client of each kind for all runs: otherwise each run opens both, and loads the certificates twice."""
        while True:
            try:
                client = (await opening.enter_async_context(AsyncClientContext.get_or_create())).client
                opening.enter_context(SyncClientContext.get_or_create())
            except Exception as error:  # noqa: BLE001 - whatever it is, Prefect is asked again
                self._note_outage(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return client

    async def sync_with_backend(self) -> None:
        """Send a heartbeat and read the work pool. A Prefect that does not answer is asked again, without end."""
        try:
            await super().sync_with_backend()
        except Exception as error:  # noqa: BLE001 - Prefect's own loop would give up, and end all runs with it
            self._note_outage(error)

    async def _end(self, printer: Callable[..., None]) -> None:
        """Wait for the runs as long as the grace time; stop those that still go on, and say so to Prefect."""
        seconds = self.own_settings.grace_seconds
        if self._tasks:
            printer(f"Waiting for {len(self._tasks)} runs, {seconds:g} s at most")
            await asyncio.wait(set(self._tasks.values()), timeout=seconds)
        if self._tasks:
            self._logger.warning("Stopping %d runs that have not ended within %g s", len(self._tasks), seconds)
            for execution in tuple(self._executions.values()):
                execution.stop(_why_at_the_end())
            await asyncio.wait(set(self._tasks.values()), timeout=STOP_SECONDS)
        for execution in tuple(self._executions.values()):
            execution.abandon()
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=1)
        await self._report_ends()

    # Which flow runs are started.

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Start the flow runs that are due. A Prefect that does not answer is asked again, without end."""
        async with self._polling:
            try:
                return await self._start_due()
            except Exception as error:  # noqa: BLE001 - Prefect's own loop would give up, and end all runs with it
                self._note_outage(error)
                return []

    async def _start_due(self) -> list[FlowRun]:
        if self._ending or not self._has_successfully_synced:
            return []
        now = datetime.now(UTC)
        ahead = timedelta(seconds=PREFECT_WORKER_QUERY_SECONDS.value() + AHEAD_SECONDS)
        try:
            found = await self.client.get_scheduled_flow_runs_for_work_pool(
                self._work_pool_name, work_queue_names=list(self._work_queues), scheduled_before=now + ahead
            )
        except ObjectNotFound:
            return []  # somebody has deleted the work pool: the next heartbeat creates it again
        self._last_polled_time = datetime.now(UTC)
        self._note_answer()
        self._next_look.note_found(one.flow_run.id for one in found)
        waiting = [one.flow_run for one in found if one.flow_run.id not in self._tasks]
        due = [flow_run for flow_run in waiting if _time_of(flow_run) <= self._last_polled_time]
        self._next_look.at(min((_time_of(flow_run) for flow_run in waiting if flow_run not in due), default=None))
        started = due[: max(self.free_slots, 0)]
        self._more_wait = len(started) < len(due)
        deployments = await self._read_deployments(started)
        for flow_run in started:
            self._start_task(flow_run, deployments)
        return started

    async def _read_deployments(self, flow_runs: Sequence[FlowRun]) -> dict[UUID, DeploymentResponse]:
        """The deployments of flow runs, with one request. Those that were deleted are missing."""
        ids = {flow_run.deployment_id for flow_run in flow_runs if flow_run.deployment_id is not None}
        if not ids:
            return {}
        wanted = DeploymentFilter(id=DeploymentFilterId(any_=list(ids)))
        return {one.id: one for one in await self.client.read_deployments(deployment_filter=wanted)}

    def _start_task(self, flow_run: FlowRun, deployments: dict[UUID, DeploymentResponse]) -> None:
        task = asyncio.create_task(self._claim_and_execute(flow_run, deployments), name=f"the flow run {flow_run.name}")
        self._tasks[flow_run.id] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._tasks[flow_run.id]
            # A limit of the pool lets the server hold back the others, so that nobody knows whether more wait.
            if self._more_wait or (self._work_pool is not None and self._work_pool.concurrency_limit is not None):
                self._next_look.soon()

        task.add_done_callback(ended)

    async def _claim_and_execute(self, flow_run: FlowRun, deployments: dict[UUID, DeploymentResponse]) -> None:
        """Claim a flow run and execute it. Nothing that happens ends the worker."""
        try:
            try:
                flow = await self.find_flow(flow_run, await self._deployment_of(flow_run, deployments))
            except Refused as refusal:
                await self._refuse(flow_run, refusal)
                return
            if not self._ending and await self._propose_pending_state(flow_run):
                await self.run(flow_run, BaseJobConfiguration(), flow=flow)
        except ObjectNotFound as error:
            self._logger.warning("Flow run %s or its deployment is gone: %s", flow_run.id, error)
        except Exception:
            self._logger.exception("Flow run %s could not be started", flow_run.id)

    async def _deployment_of(
        self, flow_run: FlowRun, deployments: dict[UUID, DeploymentResponse]
    ) -> DeploymentResponse | None:
        if flow_run.deployment_id is None:
            return None
        if (known := deployments.get(flow_run.deployment_id)) is not None:
            return known
        try:
            return await self.client.read_deployment(flow_run.deployment_id)
        except ObjectNotFound:
            message = f"Deployment {flow_run.deployment_id} no longer exists, cancelled run."
            await self._mark_flow_run_as_cancelled(flow_run, state_updates={"message": message})
            raise

    async def _refuse(self, flow_run: FlowRun, refusal: Refused) -> None:
        self._logger.warning("Flow run %s was refused. %s", flow_run.name, refusal)
        await self.client.set_flow_run_state(flow_run.id, Failed(message=str(refusal)), force=True)

    # How they are executed.

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
        *,
        flow: AnyFlow | None = None,
    ) -> BaseWorkerResult:
        """Execute a flow run in this process. `flow` None means that its deployment says which.

        Raises:
            Refused: this worker does not execute it.
        """
        del configuration
        if flow is None:
            flow = await self.find_flow(flow_run, await self._deployment_of(flow_run, {}))
        if task_status is not None:
            task_status.started(os.getpid())
        self.get_flow_run_logger(flow_run).info("Worker '%s' executes this flow run in its own process", self.name)
        execution = Execution(flow_run, await self._name_results(flow))
        self._executions[flow_run.id] = execution
        try:
            with self.around(flow_run):
                problem = await execution.run()
        except Exception as error:
            self._logger.exception("Flow run %s broke off", flow_run.name)
            problem = f"{type(error).__name__}: {error}"
        finally:
            self._executions.pop(flow_run.id, None)
        self._unreported.add(execution, problem)
        await self._report_ends()
        return BaseWorkerResult(identifier=str(flow_run.id), status_code=0)

    async def _name_results(self, flow: AnyFlow) -> AnyFlow:
        """The flow with its result storage named. While Prefect does not say where that is, the flow as it is."""
        if self._named is None:
            with suppress(Exception):
                self._named = await name_result_storage(self._shared_client)
        return flow if self._named is None else self._named(flow)

    async def _report_ends(self) -> None:
        """Report the ends that the engine could not report. What fails is tried again later."""
        try:
            await self._unreported.report(self._shared_client)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            self._note_outage(error)

    @property
    def _shared_client(self) -> PrefectClient:
        if self._own_client is None:
            raise RuntimeError("The worker was not started")
        return self._own_client

    # The duties in the background.

    async def _listen(self) -> None:
        starting, stopping = self._next_look.announce, self._some_may_stop.set
        await listen(self._work_pool_name, starting=starting, stopping=stopping, logger=self._logger)

    async def _start_what_is_due(self) -> None:
        """Start flow runs as soon as an event says so, or at their time. Prefect's own loop polls beside that."""
        while True:
            announced = await self._next_look.wait()
            await self.get_and_submit_flow_runs()
            self._next_look.note_looked(announced, started=self._tasks)

    async def _look_after_runs(self) -> None:
        """Stop runs that were cancelled or suspended, as soon as an event says so, and after a while without events."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.own_settings.watch_seconds):
                    await self._some_may_stop.wait()
            self._some_may_stop.clear()
            watched = [execution for execution in self._executions.values() if self.may_stop(execution)]
            await stop_what_was_stopped(self._shared_client, watched)
            await self._report_ends()

    async def _keep_up(self, duty: Callable[[], Awaitable[None]]) -> None:
        """Do a duty until cancelled, and again after an error."""
        while True:
            try:
                await duty()
            except Exception as error:  # noqa: BLE001 - whatever it is, the duty goes on
                self._note_outage(error)
            await asyncio.sleep(RETRY_SECONDS)

    def _note_outage(self, error: Exception) -> None:
        if not self._is_away:
            said = " ".join(str(error).split())[:300]
            self._logger.warning("Prefect is asked again, until it answers: %s: %s", type(error).__name__, said)
        self._is_away = True

    def _note_answer(self) -> None:
        if self._is_away:
            self._logger.info("Prefect answers again")
        self._is_away = False


@contextmanager
def _in_background(duties: Sequence[Awaitable[None]]) -> Generator[None]:
    tasks = [asyncio.ensure_future(duty) for duty in duties]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def _time_of(flow_run: FlowRun) -> datetime:
    return flow_run.next_scheduled_start_time or flow_run.expected_start_time or datetime.min.replace(tzinfo=UTC)


def never_failing(printer: Callable[..., None]) -> Callable[..., None]:
    """The printer, as one that a closed terminal or pipe does not break: a worker works on when nobody reads."""

    def print_if_possible(*text: object) -> None:
        with suppress(OSError, ValueError):  # ValueError: the file is closed
            printer(*text)

    return print_if_possible


def _why_at_the_end() -> Why:
    """What happens to a run that the worker does not wait for. Prefect reads the same variable in its own processes."""
    wanted = os.environ.get("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR", "").lower()
    return "reschedule" if wanted == "reschedule" else "crash"
