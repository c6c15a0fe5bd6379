"""The stage runtime: what happens around every attempt at every stage, whoever runs it.

Attempt row → signal → time limit → stage → result kept, status advanced → signal. A failure is recorded
with its error, says whether it is worth another try, and shows the run as RETRYING while it waits for one.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from orchestration.contracts import Contract, Stage, StageContext, StageError
from orchestration.errors import PipelineError, RunBusy, Unavailable, is_retryable
from orchestration.redaction import MAX_TEXT, redact, redact_text
from orchestration.settings import Settings
from orchestration.signals import Signal, logger
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, runs
from orchestration.store.progress import close_attempt, open_attempt
from orchestration.store.records import Node
from tasks.run import ActiveRun
from tasks.whole import ensure_going, whole

ConfigT = TypeVar("ConfigT")
ResultT = TypeVar("ResultT", bound=Contract)

StageFunction = Callable[[StageContext, ConfigT], Awaitable[ResultT]]
"""What a stage is: a plain async function of what it is told and how it is set up."""


@dataclass(frozen=True, kw_only=True)
class StageSpec(Generic[ConfigT, ResultT]):
    """A stage with what sets it up for a run."""

    stage: Stage
    function: StageFunction[ConfigT, ResultT]
    configure: Callable[[ActiveRun], Awaitable[ConfigT]]


RUN_REFS = {
    Stage.INGEST: "normalized_payload_ref",
    Stage.CHECK: "checker_output_ref",
    Stage.ANALYZE: "intelligence_output_ref",
    Stage.NOTIFY: "notify_output_ref",
}
"""The column of the run that names each stage's output; of ingest, the payload that it has normalized."""

RESULT_REFS = {
    **RUN_REFS,
    Stage.ANALYZE: "ai_output_ref",
    Stage.TRANSFORM: "transform_output_ref",
    Stage.CONDITION: "condition_output_ref",
}
"""The field of the result that names its own record."""

_STACK_CHARACTERS = 8000


class StageFailed(PipelineError):
    """An attempt at a stage failed. Says what Prefect, or whoever runs the stage, needs for its next move."""

    def __init__(self, node: Node, error: StageError) -> None:
        super().__init__(f"{node.id}: {error.message}")
        self.node = node
        self.error = error
        self.retryable = error.retryable


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node of a definition, ready to be tried. None stands for what the settings say, or all that is done."""

    node: Node
    spec: StageSpec[Any, Any]
    max_retries: int | None = None
    timeout_seconds: float | None = None
    before: tuple[str, ...] | None = None
    """The nodes before it, in order: what it is told comes from these."""

    def retries(self, settings: Settings) -> int:
        """How often it is tried again."""
        return settings.max_retries_per_stage if self.max_retries is None else self.max_retries


async def try_step(run: ActiveRun, step: Step, *, retries_left: int) -> Contract:
    """Try a node once, on record. As `run_stage()`."""
    return await _try(run, step, retries_left)


async def run_stage(
    run: ActiveRun, spec: StageSpec[ConfigT, ResultT], *, retries_left: int, node: Node | None = None
) -> ResultT:
    """Try a stage once, on record. `node` is the step that it is, by default that of the linear pipeline.

    `retries_left` says how many more tries the caller will make if this one fails with a retryable error.

    Raises:
        StageFailed: the attempt failed; the rows and signals are written.
        asyncio.CancelledError: the run was cancelled; the attempt is closed as failed.
    """
    return await _try(run, Step(node=node or Node.of(spec.stage), spec=spec), retries_left)


async def _try(run: ActiveRun, step: Step, retries_left: int) -> Any:
    node, spec = step.node, step.spec
    attempt, cancelled = await whole(_start(run, step))
    seconds = step.timeout_seconds or run.services.settings.stage_timeout_seconds
    patience = asyncio.timeout(seconds)
    started = time.perf_counter()
    try:
        ensure_going(cancelled)
        async with patience:
            config = await spec.configure(run)
            result = await spec.function(run.context(attempt, step.before), config)
        kept, cancelled = await whole(_succeed(run, node, attempt, result, _elapsed_ms(started)))
    except asyncio.CancelledError:
        await asyncio.shield(_fail(run, node, attempt, attempts.CANCELLED, _elapsed_ms(started), retries_left=0))
        raise
    except Exception as error:
        described = describe(error, timed_out_after=seconds if patience.expired() else None)
        failing = _fail(run, node, attempt, described, _elapsed_ms(started), retries_left=retries_left)
        _, cancelled = await whole(failing)
        ensure_going(cancelled)
        raise StageFailed(node, described) from error
    ensure_going(cancelled)
    return kept


def describe(error: BaseException, *, timed_out_after: float | None = None) -> StageError:
    """An error as it is kept and shown: redacted, with the stack, and whether a retry can help.

    `timed_out_after` is the stage's own time limit in seconds, where that is what ended the attempt.
    """
    message = str(error)
    if isinstance(error, TimeoutError) and not message:
        message = f"Took longer than {timed_out_after:g} s" if timed_out_after else "Something in it took too long"
    stack = "".join(traceback.format_exception(error))[-MAX_TEXT:]
    return StageError(
        error_type=type(error).__name__,
        message=redact_text(message or type(error).__name__),
        # Cut last: a cut through a secret would leave the half that nothing recognises.
        stack_trace=redact_text(stack)[-_STACK_CHARACTERS:],
        retryable=is_retryable(error),
    )


async def _start(run: ActiveRun, step: Step) -> int:
    node = step.node
    async with run.writing:
        run.waiting.discard(node.id)
        run.record, attempt = await open_attempt(
            run.services.database,
            run.record,
            node,
            owner=run.owner,
            status=run.status,
            input_ref=run.input_ref(step.before),
        )
    run.emit(Signal.STAGE_STARTED, run.tags(node.stage.value, attempt), node=_own_name(node))
    return attempt


async def _succeed(run: ActiveRun, node: Node, attempt: int, result: ResultT, duration_ms: float) -> ResultT:
    ref = attempts.output_ref(run.run_id, node.id, attempt)
    # Ingest names what it has normalized, the payload; the other results are found under their own record.
    named = getattr(result, RESULT_REFS[node.stage]) or ref
    kept = result.model_copy(update={RESULT_REFS[node.stage]: named, "duration_ms": round(duration_ms, 3)})
    fallback = getattr(kept, "fallback_used", None) or None
    snapshot: dict[str, Any] = redact(kept.model_dump(mode="json"))  # pyright: ignore[reportAssignmentType]
    values: dict[str, Any] = {RUN_REFS[node.stage]: named} if node.stage in RUN_REFS else {}
    if fallback:
        values["intelligence_fallback_used"] = True
    async with run.writing:
        run.record = await close_attempt(
            run.services.database,
            run.record,
            node,
            attempt,
            StageStatus.SUCCEEDED,
            owner=run.owner,
            # The last status is given by finish(), once, with the run's total duration.
            status=run.status_with(node),
            values=values | runs.error_columns(None),
            duration_ms=duration_ms,
            snapshot=snapshot,
        )
        run.note_result(node, kept, ref)
    tags = run.tags(node.stage.value, attempt)
    run.emit(Signal.STAGE_SUCCEEDED, tags, duration_ms=duration_ms, node=_own_name(node), fallback=fallback)
    return kept


async def _fail(
    run: ActiveRun, node: Node, attempt: int, error: StageError, duration_ms: float, *, retries_left: int
) -> None:
    retrying = error.retryable and retries_left > 0
    try:
        async with run.writing:
            if retrying:
                run.waiting.add(node.id)
            elif error is not attempts.CANCELLED:
                run.failed[node.id] = error
            run.record = await close_attempt(
                run.services.database,
                run.record,
                node,
                attempt,
                StageStatus.RETRYING if retrying else StageStatus.FAILED,
                owner=run.owner,
                # A node that fails for good leaves the run where its start has put it.
                status=RunStatus.RETRYING if retrying else None,
                values=runs.error_columns(error),
                duration_ms=duration_ms,
                error=error,
            )
    except (Unavailable, RunBusy) as unwritten:
        # The next attempt, or a resume, finds the row open and closes it as lost.
        logger.error("Attempt %d at %s of run %s is not on record: %s", attempt, node.id, run.run_id, unwritten)
    tags = run.tags(node.stage.value, attempt)
    facts: dict[str, str | bool] = {
        "error_type": error.error_type,
        "message": error.message,
        "retryable": error.retryable,
    }
    run.emit(Signal.STAGE_FAILED, tags, duration_ms=duration_ms, node=_own_name(node), **facts)
    if retrying:
        run.emit(Signal.STAGE_RETRYING, tags, retries_left=retries_left, node=_own_name(node), **facts)


def _own_name(node: Node) -> str | None:
    """The node's id where it says more than the stage."""
    return None if node.id == node.stage.value else node.id


def _elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
