"""One claimed run, from the claim to its end: through Prefect, or without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow
from prefect.states import Cancelled

from blocks.prefect_api import PrefectUnavailable, prefect_errors
from flows import direct
from flows.alert_pipeline import ENGINE, alert_pipeline
from flows.definition_pipeline import definition_pipeline
from flows.handover import CANCELLED, Handover, cancellable, hand_over
from orchestration.alert import Severity
from orchestration.contracts import StageError
from orchestration.errors import BadInput, PipelineError, RunBusy, RunNotFound
from orchestration.signals import logger
from orchestration.store import attempts
from orchestration.store.claims import Claim
from orchestration.store.records import RunRecord
from service.mirror.flow_runs import FlowRunMirror
from service.worker.breaker import Breaker
from tasks.run import Services
from tasks.taking import take_run

UNHURRIED = 5
"""How many times the patience of a critical run any other one has."""

SETTLE_SECONDS = 5.0
"""How long a run that is over keeps its place while Prefect is told of its end."""

DEADLY_ATTEMPTS = 5
"""After so many attempts at one node at whose time the process died, a run is not taken up again by itself."""

DEADLY = StageError(
    error_type="ProcessLost",
    message=f"{DEADLY_ATTEMPTS} processes ended while they were at this run: look at their logs before you resume it",
    retryable=False,
)

FlowTask = asyncio.Task[State[Any]]


class Carrier:
    """Carries claimed runs. Prefect comes first; whatever it fails at, the direct engine does."""

    def __init__(self, services: Services, mirror: FlowRunMirror, breaker: Breaker, results: Path) -> None:
        self._services = services
        self._mirror = mirror
        self._breaker = breaker
        # A named storage spares each run the question for the server's default one. Nothing is written there.
        # Nor need parameters be validated that are made here.
        self._flow, self._of_definitions = (
            cast("Flow[..., Any]", flow).with_options(result_storage=results, validate_parameters=False)
            for flow in (alert_pipeline, definition_pipeline)
        )
        self._settling: set[FlowTask] = set()

    async def carry(self, claim: Claim) -> None:
        """Bring a claimed run to its end.

        Raises:
            Unavailable: the database broke off; the run goes on where it stands when somebody claims it.
        """
        try:
            flow_run = None if claim.overdue or not self._breaker.closed else await self._open(claim.record)
            await self._carry(claim, claim.record, flow_run)
        except (RunBusy, RunNotFound, BadInput) as error:
            logger.warning("Run %s is left alone: %s", claim.run_id, error)

    async def close(self) -> None:
        """Leave what Prefect has still to be told; it is set right later."""
        for task in self._settling:
            task.cancel()
        if self._settling:
            await asyncio.wait(self._settling, timeout=1)

    async def _open(self, record: RunRecord) -> FlowRun | None:
        """The run's flow run; None when Prefect does not give one in time."""
        try:
            with prefect_errors():
                async with self._breaker.patience(self._patience(record)):
                    return await self._mirror.open(record)
        except PrefectUnavailable as error:
            self._breaker.trip(str(error))
            return None

    async def _carry(self, claim: Claim, record: RunRecord, flow_run: FlowRun | None) -> None:
        flow_run_id = None if flow_run is None else str(flow_run.id)
        engine = direct.ENGINE if flow_run is None else ENGINE
        with ExitStack() as ending:
            async with take_run(
                self._services, claim.run_id, engine=engine, prefect_flow_run_id=flow_run_id, held_as=claim.owner
            ) as run:
                handover = Handover(run)
                # Until Prefect knows of the end: nobody else is to set its flow run right before.
                ending.enter_context(cancellable(flow_run_id, handover))
                if await self._keeps_dying(record):
                    await handover.fail(DEADLY)
                task = None if flow_run is None or handover.over else self._start(flow_run, handover)
                try:
                    if task is not None:
                        await self._follow(task, handover, self._patience(record))
                    if not handover.over:
                        await self._directly(handover)
                except asyncio.CancelledError:
                    await self._stop(task)
                    raise
            if flow_run is not None and task is not None:
                await self._settle(flow_run, task, handover)

    async def _keeps_dying(self, record: RunRecord) -> bool:
        """Whether process after process has died at this run. One that is resumed by hand is tried again."""
        if record.started_at is None or record.completed_at is not None:
            return False
        async with self._services.database.transaction() as tx:
            lost = await attempts.count_lost(tx, record.run_id)
        return lost >= DEADLY_ATTEMPTS

    def _start(self, flow_run: FlowRun, handover: Handover) -> FlowTask:
        # A flow run with its deployment's id would open an event subscription of its own; the server's keeps it.
        bare = flow_run.model_copy(update={"deployment_id": None})
        parameters = {"run_id": handover.run.run_id}
        flow = self._of_definitions if handover.run.record.options.defined else self._flow
        with hand_over(handover):
            running = run_flow(flow, flow_run=bare, parameters=parameters, return_type="state")
            return asyncio.create_task(_awaited(cast("Awaitable[State[Any]]", running)))

    async def _follow(self, task: FlowTask, handover: Handover, patience: float) -> None:
        """Wait until the flow has carried the run, or it is clear that it does not."""
        with suppress(TimeoutError):
            async with self._breaker.patience(patience):
                await _first(task, handover.begun)
        if handover.begun.is_set():
            await _first(task, handover.ended)
            # A domain error is the same without Prefect. Anything else is Prefect's, and the direct engine helps.
            if isinstance(handover.error, PipelineError):
                raise handover.error
        elif not handover.cancelled:
            why = f"ended as {_ending(task)}" if task.done() else f"did not begin within {patience:g} s"
            self._breaker.trip(f"a flow run {why}")

    async def _directly(self, handover: Handover) -> None:
        if handover.cancelled:
            await handover.fail(CANCELLED)
            return
        if handover.begun.is_set():
            handover.reopen()
        if handover.run.engine != direct.ENGINE:
            await handover.switch_engine(direct.ENGINE)
        await handover.carry(direct.DirectSteps())

    async def _settle(self, flow_run: FlowRun, task: FlowTask, handover: Handover) -> None:
        """Let Prefect be told of the end. Where that takes long, it goes on behind the next run."""
        handover.ended.set()
        with suppress(TimeoutError):
            async with self._breaker.patience(SETTLE_SECONDS):
                await asyncio.wait({task})
        if not task.done():
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
        elif not task.cancelled() and (error := task.exception()) is not None:
            logger.info("Prefect was not told of the end of run %s: %s", handover.run.run_id, type(error).__name__)
        if handover.cancelled and task.done():
            with suppress(PrefectUnavailable), prefect_errors():
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._mirror.set_state(flow_run.id, Cancelled(message="Cancelled by an operator."))

    async def _stop(self, task: FlowTask | None) -> None:
        """This worker gives the run up: what runs stops, and Prefect hears of it if it listens."""
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=2)

    def _patience(self, record: RunRecord) -> float:
        seconds = self._services.settings.prefect_patience_seconds
        return seconds if record.severity is Severity.CRITICAL else seconds * UNHURRIED


async def _awaited(running: Awaitable[State[Any]]) -> State[Any]:
    return await running


async def _first(task: FlowTask, event: asyncio.Event) -> None:
    """Wait for the task or the event, whichever comes first."""
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()


def _ending(task: FlowTask) -> str:
    if task.cancelled():
        return "cancelled"
    if (error := task.exception()) is not None:
        return type(error).__name__
    return str(task.result().name)
