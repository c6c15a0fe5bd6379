"""A run with everything that belongs to it, read at once."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    Contract,
    IngestResult,
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

    def result(self) -> PipelineResult:
        """The run as the contract has it. One that is not over yet is FAILED as it stands: nobody was told."""
        run = self.run
        return PipelineResult(
            trace_id=run.trace_id,
            run_id=run.run_id,
            status=run.status.outcome or PipelineOutcome.FAILED,
            incident_id=run.incident_id,
            ingest=self.output(Stage.INGEST, IngestResult),
            check=self.output(Stage.CHECK, CheckResult),
            analyze=self.output(Stage.ANALYZE, AnalyzeResult),
            notify=self.output(Stage.NOTIFY, NotifyResult),
            started_at=run.started_at or run.created_at,
            completed_at=run.completed_at or run.updated_at,
            total_duration_ms=run.total_duration_ms or 0.0,
            stages_completed=self.stages_completed,
            final_error=self.final_error,
            skip_reason=run.skip_reason,
        )

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
