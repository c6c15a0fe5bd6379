"""A run with everything that belongs to it, read at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    Contract,
    IngestResult,
    NodeResult,
    NotifyResult,
    PipelineOutcome,
    PipelineResult,
    Stage,
    StageError,
)
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts, deliveries, runs
from orchestration.store.records import AttemptRecord, DeliveryRecord, RunRecord

ResultT = TypeVar("ResultT", bound=Contract)


class Story(Contract):
    """What a run leaves behind."""

    run: RunRecord
    attempts: list[AttemptRecord]
    deliveries: list[DeliveryRecord]

    def output(self, stage: Stage, result_type: type[ResultT]) -> ResultT | None:
        """The result of a stage, if it succeeded."""
        for attempt in reversed(self.attempts):
            if attempt.stage is stage and (found := attempt.result(result_type)) is not None:
                return found
        return None

    def outputs(self, stage: Stage, result_type: type[ResultT]) -> list[ResultT]:
        """The results of all nodes that are this stage, in the order in which they began: there may be many."""
        found = {
            attempt.node_id: result
            for attempt in self.attempts
            if attempt.stage is stage and (result := attempt.result(result_type)) is not None
        }
        return list(found.values())

    def result(self) -> PipelineResult:
        """The run as the contract has it. One that is not over yet is FAILED as it stands: nobody was told."""
        run = self.run
        return PipelineResult(
            trace_id=run.trace_id,
            run_id=run.run_id,
            status=run.status.outcome or PipelineOutcome.FAILED,
            incident_id=run.incident_id,
            ingest=self.output(Stage.INGEST, IngestResult),
            check=all_checks(self.outputs(Stage.CHECK, CheckResult)),
            analyze=self.output(Stage.ANALYZE, AnalyzeResult),
            notify=_all_deliveries(self.outputs(Stage.NOTIFY, NotifyResult)),
            started_at=run.started_at or run.created_at,
            completed_at=run.completed_at or run.updated_at,
            total_duration_ms=run.total_duration_ms or 0.0,
            stages_completed=self.stages_completed,
            final_error=self.final_error,
            skip_reason=run.skip_reason,
            definition_name=run.chosen_definition,
            definition_version=run.definition_version,
            nodes=self.nodes if run.options.defined else [_without_result(node) for node in self.nodes],
        )

    @property
    def nodes(self) -> list[NodeResult]:
        """Every node that was begun or left out, as its last attempt has it, in the order in which they began."""
        last = {attempt.node_id: attempt for attempt in self.attempts}
        return [_node(last[node_id]) for node_id in dict.fromkeys(attempt.node_id for attempt in self.attempts)]

    @property
    def stages_completed(self) -> list[str]:
        """The nodes that succeeded, in order."""
        done = [attempt.node_id for attempt in self.attempts if attempt.status is StageStatus.SUCCEEDED]
        return list(dict.fromkeys(done))

    @property
    def final_error(self) -> StageError | None:
        """What a failed run failed of."""
        run = self.run
        if run.status is not RunStatus.FAILED or run.last_error_type is None:
            return None
        return StageError(
            error_type=run.last_error_type,
            message=run.last_error_message or "",
            retryable=bool(run.last_error_retryable),
        )


def _node(last: AttemptRecord) -> NodeResult:
    snapshot = last.output_snapshot
    skipped = last.status is StageStatus.SKIPPED
    error = None
    if last.error_type is not None:
        error = StageError(
            error_type=last.error_type,
            message=last.error_message or "",
            retryable=bool(last.error_retryable),
        )
    return NodeResult(
        id=last.node_id,
        stage=last.stage,
        status=last.status.value,
        attempts=0 if skipped else last.attempt,
        duration_ms=last.duration_ms,
        result=None if skipped else snapshot,
        error=error,
        skip_reason=str((snapshot or {}).get("skipped", "")) if skipped else None,
    )


def _without_result(node: NodeResult) -> NodeResult:
    """A stage of the linear pipeline. `PipelineResult` has its result in a field of its own."""
    return node.model_copy(update={"result": None})


def all_checks(found: Sequence[CheckResult]) -> CheckResult | None:
    """The findings of several check nodes as one."""
    if len(found) < 2:
        return next(iter(found), None)
    return CheckResult(
        checks=[check for one in found for check in one.checks],
        checks_run=sum(one.checks_run for one in found),
        checks_passed=sum(one.checks_passed for one in found),
        checks_failed=sum(one.checks_failed for one in found),
        timings={name: ms for one in found for name, ms in one.timings.items()},
        errors=[error for one in found for error in one.errors],
        checker_output_ref=found[-1].checker_output_ref,
        duration_ms=sum(one.duration_ms for one in found),
    )


def _all_deliveries(found: Sequence[NotifyResult]) -> NotifyResult | None:
    """The messages of several notify nodes as one."""
    if len(found) < 2:
        return next(iter(found), None)
    return NotifyResult(
        deliveries=[delivery for one in found for delivery in one.deliveries],
        provider_ids=[provider_id for one in found for provider_id in one.provider_ids],
        messages=[message for one in found for message in one.messages],
        notify_output_ref=found[-1].notify_output_ref,
        channels_attempted=sum(one.channels_attempted for one in found),
        channels_succeeded=sum(one.channels_succeeded for one in found),
        channels_failed=sum(one.channels_failed for one in found),
        errors=[error for one in found for error in one.errors],
        duration_ms=sum(one.duration_ms for one in found),
    )


async def read_story(tx: AsyncConnection, run_id: str) -> Story:
    """A run, its attempts and its deliveries.

    Raises:
        RunNotFound: there is no such run.
    """
    return Story(
        run=await runs.get_run(tx, run_id),
        attempts=await attempts.list_attempts(tx, run_id),
        deliveries=await deliveries.list_deliveries(tx, run_id),
    )


async def read_clock(tx: AsyncConnection) -> datetime:
    """The database's clock, by which all moments of a story go."""
    return (await tx.execute(select(func.clock_timestamp()))).scalar_one()
