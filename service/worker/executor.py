"""Executes one claimed run, from the claim to its end: through Prefect, or without it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow
from prefect.states import Cancelled
from prefect_warm_worker.execution import without_own_watch

from blocks.prefect_api import PrefectUnavailable, prefect_errors
from flows.alert_pipeline import alert_pipeline
from flows.definition_pipeline import definition_pipeline
from flows.flow_run import ENGINE
from flows.services import use_services
from orchestration.alert import OWN_SOURCE, STORM_KEY, Severity
from orchestration.contracts import StageError
from orchestration.engine.execution import DIRECT, Execution, offer, registered
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.errors import PipelineError
from orchestration.signals import logger
from orchestration.states import RunReason, RunStatus
from orchestration.store import attempts, storms
from orchestration.store.claims import Claim
from orchestration.store.records import RunRecord
from service.mirror.flow_runs import FlowRunMirror
from service.mirror.stories import StoryWriter
from service.worker.alone import execute_alone
from service.worker.breaker import Breaker
from service.worker.own_alerts import given_up_run, report

NON_CRITICAL_TIMEOUT_FACTOR = 5
"""How many times longer than a critical run any other run waits for Prefect."""

SETTLE_SECONDS = 5.0
"""How long a run that is over keeps its slot while Prefect records its end."""

SUSPECT_AFTER = 2
"""After so many attempts at one node during which the process ended, a run is executed alone, in a process of its own.
Whichever run has ended the process, the others that it executed are suspects as well."""

MAX_KILLED = 3
"""A run that has killed so many processes that executed nothing else is not executed again by itself."""

MAX_ALONE = 2
"""How many processes of one worker execute a suspect at the same time. The other suspects wait, without a slot."""

DEADLY = StageError(
    error_type="ProcessKilled",
    message=f"{MAX_KILLED} processes were killed that executed this run alone: read their logs before you resume it",
    retryable=False,
)

_ALONE = "alone"

FlowTask = asyncio.Task[State[Any]]


class RunExecutor:
    """Executes claimed runs. Prefect comes first; the direct engine does whatever Prefect fails at."""

    def __init__(
        self,
        services: Services,
        mirror: FlowRunMirror,
        stories: StoryWriter,
        breaker: Breaker,
        results: Path,
        *,
        hurry: bool = True,
    ) -> None:
        """`hurry` is whether critical runs wait a shorter time for Prefect than others."""
        self._hurry = hurry
        self._services = services
        self._mirror = mirror
        self._stories = stories
        self._breaker = breaker
        # Without a named storage each run would ask the server for its default one. Nothing is written there.
        # The parameters are made here, and need no validation.
        self._linear, self._of_definitions = (
            cast("Flow[..., Any]", flow).with_options(result_storage=results, validate_parameters=False)
            for flow in (alert_pipeline, definition_pipeline)
        )
        self._settling: set[FlowTask] = set()
        self._places_alone = asyncio.Semaphore(MAX_ALONE)

    async def execute(self, claim: Claim, *, storm: bool = False) -> None:
        """Bring a claimed run to its end.

        In a `storm` a critical run outside of it does not wait for Prefect, which is as busy as everything else. What
        only adds to a storm never does: the one run that opens it is shown in Prefect.

        Raises:
            RunBusy, RunNotFound, BadInput: the run cannot be executed here.
            Unavailable: the database broke off; the run goes on where it stands when somebody claims it.
        """
        lost, killed = await self._count_lost(claim.record)
        if lost >= SUSPECT_AFTER:
            await self._execute_alone(claim, deadly=killed >= MAX_KILLED)
            return
        at_once = claim.overdue or await self._goes_at_once(claim.record, storm=storm)
        flow_run = None if at_once or not self._breaker.closed else await self._open_flow_run(claim.record)
        flow_run_id = None if flow_run is None else str(flow_run.id)
        engine = DIRECT if flow_run is None else ENGINE
        with ExitStack() as ending:
            async with lease_run(
                self._services,
                claim.run_id,
                engine=engine,
                prefect_flow_run_id=flow_run_id,
                owner=claim.owner,
                claimed=claim.record,
                at_once=flow_run is None,
            ) as run:
                execution = Execution(run)
                # Registered until Prefect has the final state, so that reconcile() leaves its flow run alone.
                ending.enter_context(registered(flow_run_id, execution))
                flow = None if flow_run is None or execution.over else self._start_flow(flow_run, execution)
                try:
                    if flow is not None:
                        await self._follow(flow, execution, self._timeout_seconds(claim.record))
                    if not execution.over:
                        await execution.execute_directly()
                except asyncio.CancelledError:
                    await self._stop(flow)
                    raise
            await self._report_unrecorded(execution)
            if flow_run is not None and flow is not None:
                await self._settle(flow_run, flow, execution)
                if execution.begun.is_set():
                    self._stories.add(flow_run.id, execution.run.record)

    async def close(self) -> None:
        """Let Prefect record the ends of runs, `SETTLE_SECONDS` at most; the rest is reconciled by a later worker.

        Then it hears the stories that wait.
        """
        if self._settling:
            with suppress(TimeoutError):
                async with self._breaker.limit(SETTLE_SECONDS):
                    await asyncio.wait(set(self._settling))
        for task in self._settling:
            task.cancel()
        if self._settling:
            await asyncio.wait(set(self._settling), timeout=1)
        await self._stories.end()

    async def _goes_at_once(self, record: RunRecord, *, storm: bool) -> bool:
        key = (record.environment, record.incident_key or "")
        if not key[1].startswith(STORM_KEY):
            return storm and record.severity is Severity.CRITICAL
        if record.reason is not RunReason.PUSH:
            return False
        async with self._services.database.statement() as tx:
            return key in await storms.list_open(tx, [key])

    async def _open_flow_run(self, record: RunRecord) -> FlowRun | None:
        """The run's flow run; None if Prefect does not give one in time."""
        try:
            with prefect_errors():
                async with self._breaker.limit(self._timeout_seconds(record)):
                    return await self._mirror.open(record)
        except PrefectUnavailable as error:
            self._breaker.trip(str(error))
        except Exception as error:  # noqa: BLE001 - whatever Prefect's client meets, the direct engine executes the run
            logger.exception("No flow run could be opened for run %s", record.run_id)
            self._breaker.trip(f"opening a flow run ended with {type(error).__name__}")
        return None

    async def _count_lost(self, record: RunRecord) -> tuple[int, int]:
        """How many processes ended at one node of this run, and how many of them executed nothing else.

        A run that is resumed by hand is tried as if none had.
        """
        if record.started_at is None or record.completed_at is not None:
            return 0, 0
        async with self._services.database.transaction() as tx:
            return await attempts.count_lost(tx, record.run_id)

    async def _execute_alone(self, claim: Claim, *, deadly: bool) -> None:
        """Execute a run that other processes did not survive, in a process of its own; or give it up, and say so."""
        services, run_id = self._services, claim.run_id
        async with lease_run(services, run_id, engine=DIRECT, owner=claim.owner) as run:
            async with services.database.transaction() as tx:
                await attempts.close_lost(tx, run_id, attempts.LOST)
            if deadly:
                await Execution(run).fail(DEADLY)
                await report(services, given_up_run(run.record, DEADLY.message))
                return
            async with run.waits.outside(_ALONE), self._places_alone:
                logger.warning("Run %s is executed in a process of its own: others ended during it", run_id)
                lived = await execute_alone(services.settings, services.database.url, run_id, owner=claim.owner)
            if not lived:
                logger.error("Run %s has killed the process that executed nothing else", run_id)
                async with services.database.transaction() as tx:
                    await attempts.close_lost(tx, run_id, attempts.KILLED)

    async def _report_unrecorded(self, execution: Execution) -> None:
        """Tell people of a push, or of a heartbeat, that failed before its alerts were recorded: no other run speaks of
        them."""
        record = execution.run.record
        is_lost = record.status is RunStatus.FAILED and record.incident_id is None and not execution.cancelled
        speaks = record.reason is RunReason.HEARTBEAT or (record.reason is RunReason.PUSH and execution.run.alerts)
        if not is_lost or not speaks:
            return
        if record.source != OWN_SOURCE:  # or it would report itself for ever
            await report(self._services, given_up_run(record, f"It failed: {record.last_error_message}"))

    def _start_flow(self, flow_run: FlowRun, execution: Execution) -> FlowTask:
        bare = without_own_watch(flow_run)
        parameters = {"run_id": execution.run.run_id}
        flow = self._of_definitions if execution.run.record.options.defined else self._linear
        with use_services(self._services), offer(execution):
            running = run_flow(flow, flow_run=bare, parameters=parameters, return_type="state")
            return asyncio.create_task(cast("Any", running))

    async def _follow(self, flow: FlowTask, execution: Execution, timeout_seconds: float) -> None:
        """Wait until the flow has executed the run, or it is clear that it does not."""
        with suppress(TimeoutError):
            async with self._breaker.limit(timeout_seconds):
                await _first(flow, execution.begun)
        if execution.begun.is_set():
            await _first(flow, execution.ended)
            # A domain error is the same without Prefect. Any other error is Prefect's, and the direct engine helps.
            if isinstance(execution.error, PipelineError):
                raise execution.error
        elif not execution.cancelled:
            why = f"ended as {_ending(flow)}" if flow.done() else f"did not begin within {timeout_seconds:g} s"
            self._breaker.trip(f"a flow run {why}")

    async def _settle(self, flow_run: FlowRun, flow: FlowTask, execution: Execution) -> None:
        """Wait until Prefect has recorded the end. If that takes long, it goes on beside the next run."""
        execution.ended.set()
        with suppress(TimeoutError):
            async with self._breaker.limit(SETTLE_SECONDS):
                await asyncio.wait({flow})
        if not flow.done():
            self._settling.add(flow)
            flow.add_done_callback(self._settling.discard)
        elif not flow.cancelled() and (error := flow.exception()) is not None:
            logger.info("Prefect has not recorded the end of run %s: %s", execution.run.run_id, type(error).__name__)
        if execution.cancelled and flow.done():
            with suppress(PrefectUnavailable), prefect_errors():
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._mirror.set_state(flow_run.id, Cancelled(message="Cancelled by an operator."))

    async def _stop(self, flow: FlowTask | None) -> None:
        """Stop the flow, which this worker executes no more. Prefect gets two seconds to record that."""
        if flow is not None and not flow.done():
            flow.cancel()
            await asyncio.wait({flow}, timeout=2)

    def _timeout_seconds(self, record: RunRecord) -> float:
        seconds = self._services.settings.prefect_patience_seconds
        hurried = self._hurry and record.severity is Severity.CRITICAL
        return seconds if hurried else seconds * NON_CRITICAL_TIMEOUT_FACTOR


async def _first(flow: FlowTask, event: asyncio.Event) -> None:
    """Wait for the flow's end or the event, whichever comes first."""
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({flow, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()


def _ending(flow: FlowTask) -> str:
    if flow.cancelled():
        return "cancelled"
    if (error := flow.exception()) is not None:
        return type(error).__name__
    return str(flow.result().name)
