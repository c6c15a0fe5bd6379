"""The runner: carries a run through the graph of its definition. The linear pipeline is one of four nodes in a row.

Who makes a node's attempts (Prefect's tasks, or a loop of our own) is the caller's matter.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from flows.decisions import Decisions
from orchestration.contracts import Contract, Stage, StageError
from orchestration.errors import BadInput
from orchestration.graph import NodeDefinition
from orchestration.redaction import redact_text
from orchestration.signals import logger
from orchestration.states import RunStatus
from orchestration.store import incidents, runs
from tasks.analyze.stage import fallback_spec
from tasks.definitions import Plan, plan_of
from tasks.run import ActiveRun
from tasks.stage import StageFailed, Step, try_step

AT_ONCE = 8
"""How many nodes of one run go on side by side."""


class Steps(Protocol):
    """Whoever makes the attempts at a node."""

    async def take(self, run: ActiveRun, step: Step) -> Contract:
        """Try a node until it succeeds, its error is not worth a retry, or all retries are used up.

        Raises:
            StageFailed: the last attempt's.
        """
        ...


async def run_graph(run: ActiveRun, steps: Steps) -> None:
    """Carry a run from where it stands to a final status. Nodes that are done are not done again.

    Raises whatever breaks the run off in the middle: it is not over then, and goes on where it stands.
    """
    try:
        plan = await plan_of(run.record, run.services.definitions)
        await _adopt(run, plan)
    except BadInput as error:
        await _refuse(run, error)
        return
    walk = Walk(run, plan, steps)
    failure = await walk.go()
    if failure is not None:
        logger.error("Run %s failed at %s", run.run_id, redact_text(str(failure)))
        await run.finish(RunStatus.FAILED, error=failure.error)
    elif walk.somebody_was_told:
        await run.finish(RunStatus.NOTIFIED)
    else:
        await run.finish(RunStatus.SKIPPED, skip_reason=walk.decisions.reason_of_silence())


class Walk:
    """One way through a plan: whatever is ready runs, several nodes side by side, until nothing is left.

    When a node fails that the run needs, no other is begun; those that go on side by side are let end, with their
    retries, so that nothing is cut off that may be half done, such as a message.
    """

    def __init__(self, run: ActiveRun, plan: Plan, steps: Steps) -> None:
        self.decisions = Decisions(run, plan)
        self._run = run
        self._plan = plan
        self._steps = steps
        self._left = list(plan.graph.order)
        self._through: set[str] = set()
        self._going: set[asyncio.Task[None]] = set()
        self._failure: StageFailed | None = None
        run.waiting.clear()

    @property
    def somebody_was_told(self) -> bool:
        """Whether a message went out."""
        nodes = self._plan.graph.nodes.values()
        return any(node.id in self._run.results for node in nodes if node.stage is Stage.NOTIFY)

    async def go(self) -> StageFailed | None:
        """Walk to the end; the failure that ends the run, if there is one."""
        try:
            while (ready := self._ready()) or self._going:
                await self._take(ready)
        finally:
            await self._stop()
        return self._failure

    def _ready(self) -> list[str]:
        """The nodes that can be begun now."""
        if self._failure is not None:
            return []
        before = self._plan.graph.predecessors
        return [one for one in self._left if self._through.issuperset(before(one))]

    async def _take(self, ready: list[str]) -> None:
        if len(ready) == 1 and not self._going:
            # In a row there is nothing to be gained by a task of its own.
            self._left.remove(ready[0])
            await self._pass(ready[0])
            return
        for node_id in ready[: AT_ONCE - len(self._going)]:
            self._left.remove(node_id)
            self._going.add(asyncio.create_task(self._pass(node_id)))
        ended, self._going = await asyncio.wait(self._going, return_when=asyncio.FIRST_COMPLETED)
        _look_at(ended)
        for task in ended:
            task.result()

    async def _stop(self) -> None:
        """What broke off one branch, or a cancelled run, ends them all; each closes its rows first."""
        for task in self._going:
            task.cancel()
        if self._going:
            ended, _ = await asyncio.wait(self._going)
            _look_at(ended)

    async def _pass(self, node_id: str) -> None:
        """Bring one node through: done, left out, or failed."""
        run, node = self._run, self._plan.graph.nodes[node_id]
        if not self._is_settled(node):
            reason = await self.decisions.reason_to_skip(node)
            if reason is not None:
                await run.skip(self._plan.steps[node_id].node, reason)
            else:
                await self._do(node)
        self._through.add(node_id)

    def _is_settled(self, node: NodeDefinition) -> bool:
        """Whether an earlier time at this run has done with the node. What the run needs and failed is tried again."""
        run = self._run
        if node.id in run.results or node.id in run.skipped:
            return True
        return node.id in run.failed and not node.required and not self._falls_back(node)

    async def _do(self, node: NodeDefinition) -> None:
        step = self._plan.steps[node.id]
        try:
            await self._try(step, node)
        except StageFailed as failure:
            if node.required:
                self._failure = self._failure or failure
            else:
                logger.warning("Run %s goes on without %s", self._run.run_id, redact_text(str(failure)))

    async def _try(self, step: Step, node: NodeDefinition) -> None:
        try:
            await self._steps.take(self._run, step)
        except StageFailed as failure:
            if not self._falls_back(node):
                raise
            # The failed attempts stay on record; the page goes out without the analysis, and says so.
            await try_step(self._run, replace(step, spec=fallback_spec(failure.error)), retries_left=0)

    def _falls_back(self, node: NodeDefinition) -> bool:
        return node.stage is Stage.ANALYZE and self._run.services.settings.intelligence_fallback_enabled


def _look_at(ended: set[asyncio.Task[None]]) -> None:
    """Of several branches that broke off at once one error is raised; asyncio is not to report the others as lost."""
    for task in ended:
        if not task.cancelled():
            task.exception()


async def _adopt(run: ActiveRun, plan: Plan) -> None:
    """Write down which definition the run is of, the first time that it is run.

    Raises:
        BadInput: the incident that it is to be about is not there.
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


async def _refuse(run: ActiveRun, error: BadInput) -> None:
    """A definition that cannot be run ends the run before anything is done."""
    logger.error("Run %s is refused: %s", run.run_id, redact_text(str(error)))
    described = StageError(error_type=type(error).__name__, message=redact_text(str(error)), retryable=False)
    await run.finish(RunStatus.FAILED, error=described)
