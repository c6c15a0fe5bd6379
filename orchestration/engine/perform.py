"""A node from its decision to its end: it is left out, or tried with its retries, or its fallback stands in.

The linear pipeline and the graph of a definition share `perform()`. Whoever makes the attempts (a Prefect task, or the
direct engine's loop) comes as a `StageTask`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from orchestration.contracts import Contract, Stage, StageError
from orchestration.engine.attempt import attempt_node
from orchestration.engine.run import ActiveRun, StageFailed, Step
from orchestration.engine.values import value_of
from orchestration.graph import Edge, Expression
from orchestration.reasons import Reason
from orchestration.redaction import redact_text
from orchestration.signals import logger
from orchestration.states import RunReason, RunStatus

MAX_CONCURRENT_NODES = 8
"""How many nodes of one run are performed side by side."""

NOT_TAKEN = "branch_not_taken"
ERRORS = "errors_in"
CONDITION = "skip_if_condition"
NO_NOTIFY = "no_notify_node"

_SAYS_AGAIN = {
    RunReason.REDELIVERY: (Stage.INGEST, Stage.NOTIFY),
    RunReason.STATE: (Stage.INGEST, Stage.NOTIFY),
    RunReason.ANALYSIS: (Stage.INGEST, Stage.ANALYZE, Stage.NOTIFY),
}
"""The reasons of runs that say again what another run has found, and the stages that are their own all the same."""


class StageTask(Protocol):
    """Makes the attempts at one node."""

    @property
    def name(self) -> str:
        """The id of the node."""
        ...

    async def __call__(self, run: ActiveRun, node_id: str, /) -> Contract:
        """Try the node until it succeeds, its error is not worth a retry, or its retries are used up.

        Raises:
            StageFailed: the last attempt's.
        """
        ...


async def perform(run: ActiveRun, stage: StageTask) -> None:
    """Bring one node to its end. Nothing happens if the run is over or has failed, or the node is done.

    Raises:
        Exception: whatever breaks the run off in the middle; it goes on where it stands. A node that fails for good
            raises nothing: it is kept as the run's failure if the run needs the node.
    """
    step = run.plan.steps[stage.name]
    if run.over or run.failure is not None or await _is_settled(run, step):
        return
    reason = await reason_to_skip(run, step)
    if reason is not None:
        await run.skip(step.node, reason)
        return
    try:
        with run.waits.at(stage.name):
            await stage(run, stage.name)
    except StageFailed as failure:
        await _fall_back(run, step, failure)


async def finish(run: ActiveRun) -> None:
    """Give the run the final status that its nodes lead to."""
    if run.over:
        return
    if run.failure is not None:
        node = run.failure.node
        where = "stage" if node.id == node.stage.value else "node"
        failure = redact_text(str(run.failure))
        logger.error(
            "Run %s failed in %s %s. Resume it with: alert-pipeline resume %s", run.run_id, where, failure, run.run_id
        )
        await _notify_later(run, run.failure)
        await run.end(RunStatus.FAILED, error=run.failure.error)
    elif any(_has_notified(run, step) for step in run.plan.steps.values()):
        await run.end(RunStatus.NOTIFIED)
    else:
        await run.end(RunStatus.SKIPPED, skip_reason=_reason_nobody_was_notified(run))


async def _notify_later(run: ActiveRun, failure: StageFailed) -> None:
    """Let a later run send the message that this one has not sent.

    After a failed analysis none does: it fails a run only where the operator wants no message without one.
    """
    if failure.node.stage is Stage.ANALYZE:
        return
    for step in run.plan.steps.values():
        if step.kind.after_failure is not None:
            await step.kind.after_failure(run, failure)
            return


def _has_notified(run: ActiveRun, step: Step) -> bool:
    """Whether the node has told somebody something. That every channel was up to date is no message."""
    result, silences = run.results.get(step.node.id), step.kind.silences
    return step.kind.notifies and result is not None and (silences is None or silences(result) is None)


async def _is_settled(run: ActiveRun, step: Step) -> bool:
    """Whether an earlier execution is done with the node. A resume tries a failed node again if the run needs it."""
    node_id = step.node.id
    if node_id in run.results or node_id in run.skipped:
        return True
    error = run.failed.get(node_id)
    return error is not None and not step.definition.required and await _fallback(run, step, error) is None


async def _fall_back(run: ActiveRun, step: Step, failure: StageFailed) -> None:
    given = await _fallback(run, step, failure.error)
    if given is not None:
        # The failed attempts stay on record; the page goes out without the analysis, and says so.
        await attempt_node(run, step, retries_left=0, given=given)
    elif step.definition.required:
        run.failure = run.failure or failure
    else:
        logger.warning("Run %s goes on without %s", run.run_id, redact_text(str(failure)))


async def _fallback(run: ActiveRun, step: Step, error: StageError) -> Contract | None:
    return None if step.kind.fallback is None else await step.kind.fallback(run, step, error)


async def reason_to_skip(run: ActiveRun, step: Step) -> str | None:
    """Why a node is left out, now that all nodes before it are done; None if it is not. The first rule decides:

    redelivery, state, analysis: the run only sends again what was refused, or brings messages up to date that are
        there, with the results of the run that it follows; and what was left out there is left out here. The analysis
        of a late answer is its own.
    process_lost: processes ended during this run, and the node is no part of its message.
    branch_not_taken: it is only reached through a branch that its condition did not take.
    (the reason of an earlier result): a node before it, such as ingest, found that nobody is notified.
    (a rule of the node's kind): for example checks_only, resolved, checkers_skip_all, no_result_of.
    errors_in: a node that its skip_if_errors names has errors.
    skip_if_condition: the expression holds.
    """
    node_id = step.node.id
    if (own := _SAYS_AGAIN.get(run.record.reason)) is not None and step.kind.stage not in own:
        return run.recall_followed(step.node) or run.record.reason.value
    if run.suspect and step.kind.stage in (Stage.CHECK, Stage.ANALYZE):
        return Reason.PROCESS_LOST
    if _is_dead(run, node_id):
        return f"{NOT_TAKEN}: {', '.join(edge.source for edge in run.plan.graph.incoming(node_id))}"
    if (reason := _silenced(run, step.before)) is not None:
        return reason
    if step.kind.reason_to_skip is not None and (reason := await step.kind.reason_to_skip(run, step)) is not None:
        return reason
    return await _own_rules(run, step)


async def _own_rules(run: ActiveRun, step: Step) -> str | None:
    """The rules that the node's definition states."""
    node = step.definition
    names = node.skip_if_errors
    if isinstance(names, bool):
        names = tuple(run.plan.graph.predecessors(node.id)) if names else ()
    if wrong := [one for one in names if run.has_errors(one)]:
        return f"{ERRORS}: {', '.join(wrong)}"
    if node.skip_if_condition is not None:
        await run.catch_up()
        if Expression.parse(node.skip_if_condition).holds(lambda reference: value_of(run, reference)):
            return f"{CONDITION}: {node.skip_if_condition}"
    return None


def _is_dead(run: ActiveRun, node_id: str) -> bool:
    """Whether no branch that was taken leads here. All nodes before it are done, so the answer is final."""
    ways = run.plan.graph.incoming(node_id)
    return bool(ways) and not any(_is_taken(run, way) for way in ways)


def _is_taken(run: ActiveRun, way: Edge) -> bool:
    if run.skipped.get(way.source, "").startswith(NOT_TAKEN):
        return False
    if way.branch is None:
        return True
    # A condition that was left out, or failed although the run does not need it, does not hold.
    holds, result = run.plan.steps[way.source].kind.holds, run.results.get(way.source)
    return way.branch is (holds is not None and result is not None and holds(result))


def _silenced(run: ActiveRun, node_ids: tuple[str, ...], *, notifying: bool = False) -> str | None:
    for node_id in node_ids:
        silences, result = run.plan.steps[node_id].kind.silences, run.results.get(node_id)
        if not notifying and run.plan.steps[node_id].kind.notifies:
            continue  # that one message was not necessary says nothing about the next
        if silences is not None and result is not None and (reason := silences(result)) is not None:
            return reason
    return None


def _reason_nobody_was_notified(run: ActiveRun) -> str:
    if (reason := _silenced(run, run.plan.graph.order, notifying=True)) is not None:
        return reason
    silent = [node_id for node_id in run.plan.graph.order if run.plan.steps[node_id].kind.notifies]
    if not silent:
        return NO_NOTIFY
    return next((run.skipped[one] for one in silent if one in run.skipped), f"{ERRORS}: {', '.join(silent)}")


async def perform_all(run: ActiveRun, task_of: Callable[[Step], StageTask], *, at_once: bool = False) -> None:
    """Perform every node of the run's plan in the order of its graph, several side by side where it branches.

    When a node fails that the run needs, no other is begun; those that are being performed come to their end, with
    their retries, so that nothing is cut off that may be half done, such as a message. `at_once` says that nothing
    else happens between two nodes: then the end of the first is written together with the beginning of the second.
    """
    await _GraphRun(run, task_of, at_once=at_once).go()


class _GraphRun:
    """One way through a plan: whatever is ready is performed, until nothing is left."""

    def __init__(self, run: ActiveRun, task_of: Callable[[Step], StageTask], *, at_once: bool) -> None:
        self._run = run
        self._at_once = at_once
        self._task_of = task_of
        self._left = list(run.plan.graph.order)
        self._done: set[str] = set()
        self._going: set[asyncio.Task[None]] = set()

    async def go(self) -> None:
        try:
            while (ready := self._ready()) or self._going:
                await self._start(ready)
        finally:
            await self._stop()

    def _ready(self) -> list[str]:
        """The nodes that can be begun now."""
        if self._run.failure is not None:
            return []
        before = self._run.plan.graph.predecessors
        return [one for one in self._left if self._done.issuperset(before(one))]

    async def _start(self, ready: list[str]) -> None:
        is_alone = len(ready) == 1 and not self._going
        self._run.in_a_row = self._at_once and is_alone
        if is_alone:
            # In a row a task of its own gains nothing.
            self._left.remove(ready[0])
            await self._perform(ready[0])
            return
        for node_id in ready[: MAX_CONCURRENT_NODES - len(self._going)]:
            self._left.remove(node_id)
            self._going.add(asyncio.create_task(self._perform(node_id)))
        ended, self._going = await asyncio.wait(self._going, return_when=asyncio.FIRST_COMPLETED)
        _consume_exceptions(ended)
        for task in ended:
            task.result()

    async def _perform(self, node_id: str) -> None:
        await perform(self._run, self._task_of(self._run.plan.steps[node_id]))
        self._done.add(node_id)

    async def _stop(self) -> None:
        """An error in one branch, or a cancellation, ends them all; each closes its rows first."""
        for task in self._going:
            task.cancel()
        if self._going:
            ended, _ = await asyncio.wait(self._going)
            _consume_exceptions(ended)


def _consume_exceptions(ended: set[asyncio.Task[None]]) -> None:
    """Of several branches that broke off at once one error is raised; asyncio must not report the others as lost."""
    for task in ended:
        if not task.cancelled():
            task.exception()
