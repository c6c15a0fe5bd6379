"""How attempts end. The row of an attempt is closed in the statement that changes its run, so that they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestration.contracts import StageError
from orchestration.json_text import to_json
from orchestration.states import RunStatus, StageStatus, advance
from orchestration.store.records import Node


def output_ref(run_id: str, node_id: str, attempt: int) -> str:
    """The reference to an attempt's output, for `resolve()`."""
    return f"output/{run_id}/{node_id}/{attempt}"


def idempotency_key(run_id: str, node: Node, attempt: int) -> str:
    """The unique name of one attempt."""
    return f"{run_id}/{node.id}/{attempt}"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of one attempt, and what it changes in its run."""

    node: Node
    attempt: int
    status: StageStatus
    run_status: RunStatus | None
    """The run's status after it. None leaves its status."""
    duration_ms: float
    run_values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Columns of the run."""
    snapshot: dict[str, Any] | None = None
    error: StageError | None = None

    def parameters(self, run_id: str) -> dict[str, Any]:
        """The parameters of `CLOSED`."""
        return {
            "running": StageStatus.RUNNING.value,
            "ending": advance(StageStatus.RUNNING, self.status).value,
            "ended_key": idempotency_key(run_id, self.node, self.attempt),
            "output_ref": None if self.snapshot is None else output_ref(run_id, self.node.id, self.attempt),
            "output_snapshot": None if self.snapshot is None else to_json(self.snapshot).decode(),
            "duration_ms": self.duration_ms,
            **(self.error.model_dump() if self.error else _NO_ERROR),
        }


_NO_ERROR = dict.fromkeys(StageError.model_fields)

# The parameters with the error have the names of the fields of `StageError`. A closed attempt stays as it is.
CLOSED = """
    closed as (
        update stage_execution as attempt
        set status = :ending, output_snapshot = cast(:output_snapshot as jsonb), output_ref = :output_ref,
            completed_at = clock_timestamp(), duration_ms = :duration_ms, error_type = :error_type,
            error_message = :message, error_stack = :stack_trace, error_retryable = :retryable
        from run
        where attempt.pipeline_run_id = run.id and attempt.idempotency_key = :ended_key and attempt.status = :running
    )
"""
"""A part of a statement (`with run as (update pipeline_run …), …`) that closes an attempt of the run."""
