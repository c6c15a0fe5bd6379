"""One attempt at a node, on record.

Attempt row → signal → time limit → stage → result kept, status advanced → signal. A failure is recorded with its error
and with whether another attempt can help; the run is RETRYING while it waits for one.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import suppress
from typing import Any

from orchestration.contracts import Contract, StageError
from orchestration.engine.run import ActiveRun, StageFailed, Step, Tries, Unwritten
from orchestration.engine.shield import raise_if_cancelled, shielded_write
from orchestration.errors import RunBusy, Unavailable, is_retryable
from orchestration.redaction import MAX_TEXT, redact, redact_text
from orchestration.signals import Signal, logger
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, runs
from orchestration.store.attempts import close_attempt, open_attempt
from orchestration.store.endings import Ending, output_ref
from orchestration.store.records import Node, RunRecord
from orchestration.timeouts import awake_timeout

_STACK_CHARACTERS = 8000


async def attempt_node(run: ActiveRun, step: Step, *, retries_left: int, given: Contract | None = None) -> Contract:
    """Try a node once, on record; its result as it is kept.

    `retries_left` says how many more attempts the caller makes if this one fails with a retryable error. The next one
    begins when it is due, however early the caller comes. `given` is a result that stands in for what the node does.

    Raises:
        StageFailed: the attempt failed; its row and signals are written.
        RunBusy: another process has taken the run over, and has closed the attempt as lost.
        asyncio.CancelledError: the run was cancelled; the attempt is closed as failed.
    """
    await run.waits.until_due(step.node.id)
    number, cancelled = await shielded_write(_open(run, step))
    seconds = step.timeout_seconds or run.services.settings.stage_timeout_seconds
    limit: asyncio.Timeout | None = None
    started = time.perf_counter()
    try:
        raise_if_cancelled(cancelled)
        async with awake_timeout(seconds) as limit:
            result = given or await step.kind.function(run.context(step, number), await step.kind.set_up(run, step))
        kept, cancelled = await shielded_write(_succeed(run, step, number, result, _elapsed_ms(started)))
    except asyncio.CancelledError:
        with suppress(RunBusy):
            await asyncio.shield(_fail(run, step, number, attempts.CANCELLED, _elapsed_ms(started), retries_left=0))
        raise
    except RunBusy:
        raise
    except Exception as error:
        described = describe(error, timed_out_after=seconds if limit and limit.expired() else None)
        failing = _fail(run, step, number, described, _elapsed_ms(started), retries_left=retries_left)
        retry_in, cancelled = await shielded_write(failing)
        raise_if_cancelled(cancelled)
        raise StageFailed(step.node, described, retry_in_seconds=retry_in) from error
    raise_if_cancelled(cancelled)
    return kept


def describe(error: BaseException, *, timed_out_after: float | None = None) -> StageError:
    """An error as it is kept and shown: redacted, with its stack, and whether a retry can help.

    `timed_out_after` is the node's time limit in seconds, if that is what ended the attempt.
    """
    message = str(error)
    if isinstance(error, TimeoutError) and not message:
        message = f"Took longer than {timed_out_after:g} s" if timed_out_after else "Something in it took too long"
    stack = "".join(traceback.format_exception(error))[-MAX_TEXT:]
    return StageError(
        error_type=type(error).__name__,
        message=redact_text(message or type(error).__name__),
        # Cut last: a cut through a secret would leave a half that nothing recognizes.
        stack_trace=redact_text(stack)[-_STACK_CHARACTERS:],
        retryable=is_retryable(error),
        retry_after_seconds=getattr(error, "retry_after_seconds", None),
    )


async def _open(run: ActiveRun, step: Step) -> int:
    node = step.node
    async with run.writing:
        run.waits.begin(node.id)
        tries = run.tries.setdefault(node.id, Tries())
        tries.count += 1
        if (number := run.opened.pop(node.id, None)) is None:
            run.record, number = await open_attempt(
                run.services.database,
                run.record,
                node,
                owner=run.owner,
                status=run.status,
                input_ref=run.input_ref(step.before),
                due_in_seconds=run.waits.seconds_until_retry,
                before=None if run.unwritten is None else run.unwritten.ending,
            )
        run.note_written()
        tries.number = number
    run.emit(Signal.STAGE_STARTED, run.tags(node.stage.value, number), node=_own_name(node))
    return number


async def _succeed(run: ActiveRun, step: Step, number: int, result: Contract, duration_ms: float) -> Contract:
    node, kind = step.node, step.kind
    ref = output_ref(run.run_id, node.id, number)
    # Ingest names the payload that it has normalized; the other results are found under their own record.
    named = getattr(result, kind.result_ref) or ref
    kept = result.model_copy(update={kind.result_ref: named, "duration_ms": round(duration_ms, 3)})
    fallback = getattr(kept, "fallback_used", None) or None
    snapshot: dict[str, Any] = redact(kept.model_dump(mode="json"))  # pyright: ignore[reportAssignmentType]
    values: dict[str, Any] = {kind.run_ref: named} if kind.run_ref else {}
    if fallback:
        values["intelligence_fallback_used"] = True

    def signal() -> None:
        tags = run.tags(node.stage.value, number)
        run.emit(Signal.STAGE_SUCCEEDED, tags, duration_ms=duration_ms, node=_own_name(node), fallback=fallback)

    async with run.writing:
        ending = Ending(
            node=node,
            attempt=number,
            status=StageStatus.SUCCEEDED,
            # The final status is written once, by `ActiveRun.end()`, with the run's total duration.
            run_status=run.status_with(node),
            run_values=values | runs.error_columns(None),
            duration_ms=duration_ms,
            snapshot=snapshot,
        )
        if run.in_a_row:
            run.unwritten = Unwritten(ending=ending, signal=signal)
        else:
            run.record = await _close(run, ending)
            signal()
        run.note_result(node, kept, ref)
    return kept


async def _close(run: ActiveRun, ending: Ending) -> RunRecord:
    due_in_seconds = run.waits.seconds_until_retry
    return await close_attempt(
        run.services.database, run.record, ending, owner=run.owner, due_in_seconds=due_in_seconds
    )


async def _fail(
    run: ActiveRun, step: Step, number: int, error: StageError, duration_ms: float, *, retries_left: int
) -> float | None:
    """Record a failure. Returns the time after which the node is tried again, in seconds; None if it is not.

    Raises:
        RunBusy: another process has taken the run over.
    """
    node = step.node
    retry_in = step.retry_in_seconds(run.services.settings, error, retries_left=retries_left)
    retrying = retry_in is not None
    try:
        async with run.writing:
            if retry_in is not None:
                run.waits.retry_in(node.id, retry_in)
            elif error is not attempts.CANCELLED:
                run.failed[node.id] = error
            ending = Ending(
                node=node,
                attempt=number,
                status=StageStatus.RETRYING if retrying else StageStatus.FAILED,
                # When a node fails for good, the run keeps the status that the start of the attempt gave it.
                run_status=RunStatus.RETRYING if retrying else None,
                run_values=runs.error_columns(error),
                duration_ms=duration_ms,
                error=error,
            )
            run.record = await _close(run, ending)
    except Unavailable as unwritten:
        # The next attempt, or a resume, finds the row open and closes it as lost.
        logger.error(
            "Attempt %d at %s of run %s could not be written to the database: %s",
            number,
            node.id,
            run.run_id,
            unwritten,
        )
    _signal_failure(run, node, number, error, duration_ms, retries_left=retries_left if retrying else None)
    return retry_in


def _signal_failure(
    run: ActiveRun, node: Node, number: int, error: StageError, duration_ms: float, *, retries_left: int | None
) -> None:
    """Send the signals of a failed attempt. `retries_left` None means that the node is not tried again."""
    tags = run.tags(node.stage.value, number)
    facts: dict[str, str | bool] = {
        "error_type": error.error_type,
        "message": error.message,
        "retryable": error.retryable,
    }
    run.emit(Signal.STAGE_FAILED, tags, duration_ms=duration_ms, node=_own_name(node), **facts)
    if retries_left is not None:
        run.emit(Signal.STAGE_RETRYING, tags, retries_left=retries_left, node=_own_name(node), **facts)


def _own_name(node: Node) -> str | None:
    """The node's id, if it says more than the stage."""
    return None if node.id == node.stage.value else node.id


def _elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
