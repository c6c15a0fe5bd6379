"""A run that a worker holds already, handed to the flow that is to carry it.

The worker keeps the lease. Whoever comes first, the flow in Prefect's engine or the direct engine, carries the
run; the other one waits for its end. So a Prefect that answers too late finds the work done, not done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from flows.graph import Steps, run_graph
from orchestration.contracts import StageError
from orchestration.errors import RunBusy, Unavailable
from orchestration.signals import logger
from orchestration.states import RunStatus
from orchestration.store import runs
from orchestration.store.records import RunRecord
from tasks.run import ActiveRun

CANCELLED = StageError(error_type="Cancelled", message="The run was cancelled in Prefect", retryable=True)
"""The error of a run that an operator cancelled. It can be resumed."""

_live: dict[str, Handover] = {}

_handed: ContextVar[Handover | None] = ContextVar("alert_pipeline_handover", default=None)


class Handover:
    """One held run on its way to its end."""

    def __init__(self, run: ActiveRun) -> None:
        self.run = run
        self.cancelled = False
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        """What broke off the steps, the last time they broke off."""
        self._work: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether the run has come to its end."""
        return self.run.record.status.final

    async def carry(self, steps: Steps) -> RunRecord:
        """Bring the run to its end with these steps, or wait while somebody else does.

        Raises whatever breaks off the steps: then the run is not over, and may be carried on.
        """
        if self.begun.is_set():
            await self.ended.wait()
            return self.run.record
        self.begun.set()
        try:
            await self._carry(steps)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()
        return self.run.record

    def reopen(self) -> None:
        """Let the run be carried on by somebody else, after what carried it broke off."""
        self.begun.clear()
        self.ended.clear()
        self.error = None

    def cancel(self) -> None:
        """An operator cancelled the run: stop where it stands."""
        self.cancelled = True
        if self._work is not None:
            self._work.cancel()

    async def fail(self, error: StageError) -> None:
        """End the run as failed, whatever its stages say."""
        run = self.run
        with suppress(RunBusy):
            async with run.services.database.transaction() as tx:
                run.record = await runs.change(tx, run.run_id, owner=run.owner, values=runs.error_columns(error))
            await run.finish(RunStatus.FAILED)

    async def switch_engine(self, engine: str) -> None:
        """From here on another engine carries the run, and the row and all signals say so."""
        run = self.run
        run.engine = engine
        try:
            async with run.services.database.transaction() as tx:
                run.record = await runs.change(tx, run.run_id, owner=run.owner, values={"engine": engine})
        except Unavailable as error:
            logger.warning("The engine of run %s could not be recorded: %s", run.run_id, error)

    async def _carry(self, steps: Steps) -> None:
        # A task of its own: an operator's cancellation ends the steps, and not the flow around them.
        self._work = asyncio.create_task(run_graph(self.run, steps))
        if self.cancelled:
            self._work.cancel()
        try:
            await self._work
        except asyncio.CancelledError:
            if not self.cancelled:
                raise
            await self.fail(CANCELLED)


@contextmanager
def cancellable(flow_run_id: str | None, handover: Handover) -> Generator[None]:
    """While the body works, `live_runs()` knows the run under its flow run."""
    if flow_run_id is None:
        yield
        return
    _live[flow_run_id] = handover
    try:
        yield
    finally:
        _live.pop(flow_run_id, None)


def live_runs() -> dict[str, Handover]:
    """The runs that this process is at, by the ids of their flow runs."""
    return dict(_live)


@contextmanager
def hand_over(handover: Handover) -> Generator[None]:
    """A flow that starts within, for this run, finds it held already."""
    token = _handed.set(handover)
    try:
        yield
    finally:
        _handed.reset(token)


def handed_run(run_id: str) -> Handover | None:
    """The run, if a worker holds it for this flow."""
    handover = _handed.get()
    return handover if handover is not None and handover.run.run_id == run_id else None
