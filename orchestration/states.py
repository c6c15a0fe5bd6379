"""The state machines of runs and attempts: one table each. Each change of status goes through `advance()`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from orchestration.contracts import PipelineOutcome, Stage
from orchestration.errors import BadInput, IllegalTransition


class RunStatus(StrEnum):
    """The status of a pipeline run."""

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
        """Whether the run is over. A failed run can be resumed by hand."""
        return self in _OUTCOMES

    @property
    def outcome(self) -> PipelineOutcome | None:
        """The outcome in the contract, if the status is final; else None."""
        return _OUTCOMES.get(self)

    @property
    def label(self) -> str:
        """The name for people and Prefect, such as "Notified"."""
        return self.value.capitalize()


class RunReason(StrEnum):
    """Why there is a run. All of them wait in one queue."""

    PUSH = "push"
    """A sender, or a person, asked for it."""
    REMINDER = "reminder"
    """The incident still fires, and nobody has acknowledged it."""
    EXPIRY = "expiry"
    """Nobody has heard of the incident for long."""
    ESCALATION = "escalation"
    """Nobody has acknowledged the incident: the next ones are notified."""
    REDELIVERY = "redelivery"
    """A channel has not accepted a message."""
    MEMBER_ENDED = "member_ended"
    """An alert of the incident has ended, or changed, in a push about another incident."""
    ACTION = "action"
    """A person has resolved the incident."""
    STATE = "state"
    """A person has acknowledged or snoozed the incident, or undone that: messages that can be edited show it."""
    HEARTBEAT = "heartbeat"
    """A heartbeat is expected until then."""
    ANALYSIS = "analysis"
    """A model answers later than its page went out: messages that can be edited show its answer."""

    @property
    def disturbs_nobody(self) -> bool:
        """Whether such a run sends no new message: it only brings those up to date that can be edited."""
        return self in (RunReason.STATE, RunReason.ANALYSIS)


TIMER_REASONS = tuple(reason.value for reason in (RunReason.REMINDER, RunReason.EXPIRY, RunReason.ESCALATION))
"""Why an incident has a run that waits for its time: of these at most one waits."""


class StageStatus(StrEnum):
    """The status of one attempt at a stage."""

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
_END_OR_WAIT = {_R.FAILED, _R.SKIPPED, _R.RETRYING}

# A run can skip stages, so it can go to any later status.
RUN_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    _R.PENDING: frozenset({_R.INGESTED, _R.CHECKED, _R.ANALYZED, _R.NOTIFIED} | _END_OR_WAIT),
    _R.INGESTED: frozenset({_R.CHECKED, _R.ANALYZED, _R.NOTIFIED} | _END_OR_WAIT),
    _R.CHECKED: frozenset({_R.ANALYZED, _R.NOTIFIED} | _END_OR_WAIT),
    _R.ANALYZED: frozenset({_R.NOTIFIED} | _END_OR_WAIT),
    # After the wait it goes back to where it was. After a second failure it stays RETRYING.
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
"""The status of a run after each stage. The other stages do not change it."""


def furthest(done: Iterable[Stage]) -> RunStatus:
    """The furthest status that these stages lead to: branches that end in any order only move a run forward.

    NOTIFIED is not among them: the end of a run is written by itself.
    """
    order = list(RunStatus)
    reached = [STATUS_AFTER[stage] for stage in done if stage in STATUS_AFTER and stage is not Stage.NOTIFY]
    return max(reached, key=order.index, default=RunStatus.PENDING)


def advance(current: StatusT, new: StatusT) -> StatusT:
    """Return the new status, if it may follow the current one.

    Raises:
        IllegalTransition: it may not; the message names both.
    """
    if new not in allowed(current):
        raise IllegalTransition(f"A {type(current).__name__} cannot go from {current.value} to {new.value}")
    return new


def allowed(current: RunStatus | StageStatus) -> frozenset[RunStatus] | frozenset[StageStatus]:
    """The statuses that may follow."""
    return RUN_TRANSITIONS[current] if isinstance(current, RunStatus) else STAGE_TRANSITIONS[current]


def parse_run_status(text: str) -> RunStatus:
    """Parse a status, in any case; `completed` is another name of `notified`.

    Raises:
        BadInput: there is no such status; the message lists all.
    """
    word = text.strip().lower()
    try:
        return RunStatus.NOTIFIED if word == "completed" else RunStatus(word)
    except ValueError:
        known = ", ".join(status.value for status in RunStatus)
        raise BadInput(f"There is no status {text!r}. Known: {known} (completed is notified)") from None
