"""The state machine of runs and of attempts: one table each, and `advance()`, the only way through them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from orchestration.contracts import PipelineOutcome, Stage
from orchestration.errors import BadInput, IllegalTransition


class RunStatus(StrEnum):
    """Where a pipeline run stands."""

    PENDING = "pending"
    INGESTED = "ingested"
    CHECKED = "checked"
    ANALYZED = "analyzed"
    NOTIFIED = "notified"
    FAILED = "failed"
    RETRYING = "retrying"
    SKIPPED = "skipped"

    @property
    def final(self) -> bool:
        """Whether nothing more happens by itself. A failed run can be resumed by hand."""
        return self in _OUTCOMES

    @property
    def outcome(self) -> PipelineOutcome | None:
        """The word of the contract for a final status, else None."""
        return _OUTCOMES.get(self)

    @property
    def label(self) -> str:
        """The name that people and Prefect see, such as "Notified"."""
        return self.value.capitalize()


class StageStatus(StrEnum):
    """Where one attempt at a stage stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRYING = "retrying"
    SKIPPED = "skipped"


StatusT = TypeVar("StatusT", RunStatus, StageStatus)

_OUTCOMES = {
    RunStatus.NOTIFIED: PipelineOutcome.COMPLETED,
    RunStatus.FAILED: PipelineOutcome.FAILED,
    RunStatus.SKIPPED: PipelineOutcome.SKIPPED,
}

_R = RunStatus
_ENDS_OR_WAITS = {_R.FAILED, _R.SKIPPED, _R.RETRYING}

# A stage that a run leaves out is stepped over, so every later status is within reach.
RUN_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    _R.PENDING: frozenset({_R.INGESTED, _R.CHECKED, _R.ANALYZED, _R.NOTIFIED} | _ENDS_OR_WAITS),
    _R.INGESTED: frozenset({_R.CHECKED, _R.ANALYZED, _R.NOTIFIED} | _ENDS_OR_WAITS),
    _R.CHECKED: frozenset({_R.ANALYZED, _R.NOTIFIED} | _ENDS_OR_WAITS),
    _R.ANALYZED: frozenset({_R.NOTIFIED} | _ENDS_OR_WAITS),
    # Back to where it was when the wait is over; a second failure in a row stays.
    _R.RETRYING: frozenset({_R.PENDING, _R.INGESTED, _R.CHECKED, _R.ANALYZED, _R.FAILED, _R.SKIPPED, _R.RETRYING}),
    _R.FAILED: frozenset({_R.RETRYING}),  # a resume
    _R.NOTIFIED: frozenset(),
    _R.SKIPPED: frozenset(),
}

_S = StageStatus
STAGE_TRANSITIONS: Mapping[StageStatus, frozenset[StageStatus]] = {
    _S.PENDING: frozenset({_S.RUNNING, _S.SKIPPED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.RETRYING, _S.SKIPPED}),
    _S.RETRYING: frozenset({_S.FAILED}),  # the wait was cut short
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.SKIPPED: frozenset(),
}

STATUS_AFTER: Mapping[Stage, RunStatus] = {
    Stage.INGEST: RunStatus.INGESTED,
    Stage.CHECK: RunStatus.CHECKED,
    Stage.ANALYZE: RunStatus.ANALYZED,
    Stage.NOTIFY: RunStatus.NOTIFIED,
}
"""What a run's status is once this stage is done. The other stages do not move a run."""


def furthest(done: Iterable[Stage]) -> RunStatus:
    """The furthest status that these stages lead to: branches that end in any order only move a run forward.

    NOTIFIED is not among them: the end of a run is written by itself.
    """
    order = list(RunStatus)
    reached = [STATUS_AFTER[stage] for stage in done if stage in STATUS_AFTER and stage is not Stage.NOTIFY]
    return max(reached, key=order.index, default=RunStatus.PENDING)


def advance(current: StatusT, new: StatusT) -> StatusT:
    """The new status, if the table has the move; every change of a status goes through here.

    Raises:
        IllegalTransition: naming both.
    """
    if new not in allowed(current):
        raise IllegalTransition(f"A {type(current).__name__} cannot go from {current.value} to {new.value}")
    return new


def allowed(current: RunStatus | StageStatus) -> frozenset[RunStatus] | frozenset[StageStatus]:
    """The statuses that can follow."""
    return RUN_TRANSITIONS[current] if isinstance(current, RunStatus) else STAGE_TRANSITIONS[current]


def parse_run_status(text: str) -> RunStatus:
    """A status in any case; `completed` is another name of `notified`.

    Raises:
        BadInput: naming the statuses there are.
    """
    word = text.strip().lower()
    try:
        return RunStatus.NOTIFIED if word == "completed" else RunStatus(word)
    except ValueError:
        known = ", ".join(status.value for status in RunStatus)
        raise BadInput(f"There is no status {text!r}. Known: {known} (completed is notified)") from None
