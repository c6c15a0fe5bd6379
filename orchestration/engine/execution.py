"""From a leased run to its end. Whoever begins first, a Prefect flow or the direct engine, executes the run.

The other one waits for the end. So a Prefect that answers too late finds the work done, and does not do it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar

from orchestration.contracts import Contract, StageError
from orchestration.engine.attempt import attempt_node
from orchestration.engine.perform import finish, perform_all
from orchestration.engine.plan import plan_for
from orchestration.engine.run import ActiveRun, Plan, StageFailed, Step
from orchestration.errors import BadInput, RunBusy, RunNotFound, Unavailable
from orchestration.redaction import redact_text
from orchestration.signals import Signal, logger
from orchestration.states import RunStatus
from orchestration.store import attempts, incidents, runs
from orchestration.store.present import read_present

DIRECT = "direct"
"""The engine's name for runs that are executed without Prefect."""

CANCELLED = StageError(error_type="Cancelled", message="The run was cancelled in Prefect", retryable=True)
"""The error of a run that an operator cancelled. It can be resumed."""

_by_flow_run: dict[str, Execution] = {}

_offered: ContextVar[Execution | None] = ContextVar("alert_pipeline_execution", default=None)


class Execution:
    """One leased run on its way to its end."""

    def __init__(self, run: ActiveRun) -> None:
        self.run = run
        self.cancelled = False
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        """What broke the execution off, the last time that it broke off."""
        self._task: asyncio.Task[object] | None = None
        self._signalled = False

    @property
    def over(self) -> bool:
        """Whether the run has a final status."""
        return self.run.over

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[ActiveRun]:
        """Execute the run in the body. If somebody else has begun already, the body gets the run when it is over.

        A cancellation by an operator ends the body quietly, with the run FAILED. Every other exception is raised: the
        run is not over then, and can be begun again after `reopen()`.

        Raises:
            RunBusy: somebody else has begun, and broke off.
        """
        if self.begun.is_set():
            await self.ended.wait()
            if not self.over:
                raise RunBusy(f"Run {self.run.run_id} is being executed by the {self.run.engine} engine")
            yield self.run
            return
        self.begun.set()
        self._task = asyncio.current_task()
        try:
            self._signal_start()
            if self.cancelled:
                await self.fail(CANCELLED)
            await _adopt_plan(self.run)
            yield self.run
        except asyncio.CancelledError as error:
            if not self.cancelled or self._task is None or self._task.uncancel() > 0:
                self.error = error
                raise
            await self.fail(CANCELLED)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._task = None
            self.ended.set()

    def reopen(self) -> None:
        """Let the run be begun again, after its execution broke off."""
        self.begun.clear()
        self.ended.clear()
        self.error = None

    def cancel(self) -> None:
        """An operator cancelled the run: stop it where it stands."""
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def fail(self, error: StageError) -> None:
        """End the run as FAILED, whatever its nodes have found."""
        run = self.run
        self._signal_start()
        if error is not CANCELLED:
            await self._after_failure(error)
        with suppress(RunBusy):
            async with run.services.database.transaction() as tx:
                run.record = await runs.change(tx, run.run_id, owner=run.owner, values=runs.error_columns(error))
            await run.end(RunStatus.FAILED)

    async def _after_failure(self, error: StageError) -> None:
        """The run ends before it came to its message: a later run sends it, without what may have killed processes."""
        for step in self.run.plan.steps.values():
            if step.kind.after_failure is not None:
                await step.kind.after_failure(self.run, StageFailed(step.node, error))
                return

    async def execute_directly(self) -> None:
        """Execute the run, or what is left of it, without Prefect."""
        if self.cancelled:
            await self.fail(CANCELLED)
            return
        if self.begun.is_set():
            self.reopen()
        if self.run.engine != DIRECT:
            await self._switch_engine(DIRECT)
        async with self.begin() as run:
            await perform_all(run, DirectTask, at_once=True)
            await finish(run)

    async def _switch_engine(self, engine: str) -> None:
        """From here on another engine executes the run, and its row and signals say so."""
        run = self.run
        run.engine = engine
        try:
            async with run.services.database.transaction() as tx:
                run.record = await runs.change(tx, run.run_id, owner=run.owner, values={"engine": engine})
        except Unavailable as error:
            logger.warning("The engine of run %s could not be recorded: %s", run.run_id, error)

    def _signal_start(self) -> None:
        """Signal once that the run starts: within the flow run, if it has one, so that its log has the signal."""
        if not self._signalled:
            self._signalled = True
            self.run.emit(Signal.STARTED, self.run.tags(), resumed=self.run.resumed or None)


class DirectTask:
    """The direct engine's attempts at a node: plain calls, each of which begins when it is due."""

    def __init__(self, step: Step) -> None:
        self.name = step.node.id

    async def __call__(self, run: ActiveRun, node_id: str, /) -> Contract:
        """Try the node until it succeeds, its error is not worth a retry, or its retries are used up.

        Raises:
            StageFailed: the last attempt's.
        """
        step = run.plan.steps[node_id]
        retries_left = step.retries(run.services.settings)
        while True:
            try:
                return await attempt_node(run, step, retries_left=retries_left)
            except StageFailed as failure:
                if failure.retry_in_seconds is None:
                    raise
                seconds, words = failure.retry_in_seconds, redact_text(str(failure))
                logger.info("Run %s is tried again in %g s: %s", run.run_id, seconds, words)
            retries_left -= 1


async def _adopt_plan(run: ActiveRun) -> None:
    """Give the run its plan. A definition that cannot be executed ends the run before anything is done."""
    run.failure = None
    if run.over:
        return
    record, services = run.record, run.services
    try:
        plan = await plan_for(record.options, services.definitions, services.kinds, version=record.definition_version)
        await _record_plan(run, plan)
    except BadInput as error:
        logger.error("Run %s is refused: %s", run.run_id, redact_text(str(error)))
        described = StageError(error_type=type(error).__name__, message=redact_text(str(error)), retryable=False)
        await run.end(RunStatus.FAILED, error=described)
    else:
        run.adopt(plan)
        await _follow(run, plan)
        await _read_alerts(run)


async def _read_alerts(run: ActiveRun) -> None:
    """Let a run that was asked about an incident, and got no alerts, work on those that the incident has."""
    if run.record.options.incident_id is None or run.record.incident_id is None or run.alerts:
        return
    async with run.services.database.transaction() as tx:
        present = await read_present(tx, run.record.incident_id)
    run.restate(run.push.model_copy(update={"alerts": present.alerts}).model_dump(mode="json"))


_MAX_FOLLOWED = 3
"""How many runs in a row may each follow the next."""


async def _follow(run: ActiveRun, plan: Plan, depth: int = 0) -> None:
    """Let the run work with what the run has found that it follows. If that one is not stored any more, it does not."""
    followed_id = run.record.options.follows
    if followed_id is None:
        return
    async with run.services.database.transaction() as tx:
        try:
            record, payload = await runs.get_run_with_payload(tx, followed_id)
        except RunNotFound:
            return
        done = await attempts.list_attempts(tx, followed_id)
    followed = ActiveRun(run.services, record, engine=run.engine, owner="", earlier_attempts=done)
    followed.restate(payload)
    followed.adopt(plan)
    if record.options.follows is not None and depth < _MAX_FOLLOWED:
        # It has found out only a part of what its messages say, such as the model's late answer.
        await _follow(followed, plan, depth + 1)
        for step in plan.steps.values():
            if step.node.id not in followed.results:
                followed.recall_followed(step.node)
    run.follow(followed)


async def _record_plan(run: ActiveRun, plan: Plan) -> None:
    """Record which definition the run executes, the first time that it is executed.

    Raises:
        BadInput: the incident that the run is about does not exist.
    """
    record = run.record
    if plan.name is None or (record.definition_name, record.definition_version) == (plan.name, plan.version):
        return
    values: dict[str, object] = {"definition_name": plan.name, "definition_version": plan.version}
    async with run.services.database.transaction() as tx:
        if (incident_id := record.options.incident_id) is not None and record.incident_id is None:
            incident = await incidents.find_incident(tx, incident_id)
            values["incident_id"] = int(incident.id)
        run.record = await runs.change(tx, run.run_id, owner=run.owner, known=record.status, values=values)


@contextmanager
def registered(flow_run_id: str | None, execution: Execution) -> Generator[None]:
    """While the body works, `executions()` knows the execution under its flow run, so that it can be cancelled."""
    if flow_run_id is None:
        yield
        return
    _by_flow_run[flow_run_id] = execution
    try:
        yield
    finally:
        _by_flow_run.pop(flow_run_id, None)


def executions() -> dict[str, Execution]:
    """This process's executions, by the ids of their flow runs."""
    return dict(_by_flow_run)


@contextmanager
def offer(execution: Execution) -> Generator[None]:
    """A flow for this run that starts within the body finds the run leased already."""
    token = _offered.set(execution)
    try:
        yield
    finally:
        _offered.reset(token)


def offered_execution(run_id: str) -> Execution | None:
    """The execution that the worker has offered to this flow, if it is of this run."""
    execution = _offered.get()
    return execution if execution is not None and execution.run.run_id == run_id else None
