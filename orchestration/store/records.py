"""The rows that the store hands out, as frozen values without a connection to the database."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from orchestration.alert import Severity, UtcDatetime
from orchestration.contracts import Contract, Stage
from orchestration.redaction import one_line, redact_text
from orchestration.requests import RunOptions
from orchestration.signals import logger
from orchestration.states import RunReason, RunStatus, StageStatus

ResultT = TypeVar("ResultT", bound=Contract)
RecordT = TypeVar("RecordT", bound=BaseModel)


def new_id() -> str:
    """A new id of a run or a trace: 32 hexadecimal digits."""
    return os.urandom(16).hex()


@dataclass(frozen=True, kw_only=True)
class Node:
    """One step of a run. In the linear pipeline its id is its stage's name."""

    id: str
    stage: Stage

    @classmethod
    def of(cls, stage: Stage) -> Node:
        """The step of the linear pipeline that executes this stage."""
        return cls(id=stage.value, stage=stage)


class RunRecord(Contract):
    """A row of `pipeline_run`."""

    run_id: str
    trace_id: str
    reason: RunReason = RunReason.PUSH
    due_at: UtcDatetime | None = None
    status: RunStatus
    current_stage: str | None = None
    incident_id: str | None = None
    incident_key: str | None = None
    title: str = ""
    source: str
    alert_fingerprint: str | None = None
    severity: Severity = Severity.INFO
    environment: str
    options: RunOptions = RunOptions()
    normalized_payload_ref: str | None = None
    checker_output_ref: str | None = None
    intelligence_output_ref: str | None = None
    notify_output_ref: str | None = None
    intelligence_fallback_used: bool = False
    skip_reason: str | None = None
    duplicate_of: str | None = None
    total_attempts: int = 0
    max_retries: int = 3
    last_error_type: str | None = None
    last_error_message: str | None = None
    last_error_retryable: bool | None = None
    prefect_flow_run_id: str | None = None
    engine: str | None = None
    carried_by: str | None = None
    definition_name: str | None = None
    definition_version: int | None = None
    lease_owner: str | None = None
    lease_expires_at: UtcDatetime | None = None
    created_at: UtcDatetime
    updated_at: UtcDatetime
    started_at: UtcDatetime | None = None
    completed_at: UtcDatetime | None = None
    total_duration_ms: float | None = None

    @property
    def chosen_definition(self) -> str | None:
        """The definition that the run executes, also before it has begun. None means the linear pipeline."""
        # What the policy has named, and could not be executed, was not.
        fell_back = self.options.routed and self.started_at is not None
        return self.definition_name or (None if fell_back else self.options.definition)


def readable(record: type[RecordT], rows: Iterable[Mapping[Any, Any]]) -> list[RecordT]:
    """The records of those rows that this version can read; the log says what it cannot read.

    For rows that are read together: another version may have written one of them, and the others do not wait for it.
    """
    found: list[RecordT] = []
    for row in rows:
        try:
            found.append(record.model_validate(dict(row)))
        except ValidationError as error:
            logger.error("A row cannot be read by this version: %s", one_line(str(error), 500))
    return found


class AttemptRecord(Contract):
    """A row of `stage_execution`."""

    node_id: str
    stage: Stage
    status: StageStatus
    attempt: int
    idempotency_key: str
    input_ref: str | None = None
    output_ref: str | None = None
    output_snapshot: dict[str, Any] | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_stack: str | None = None
    error_retryable: bool | None = None
    started_at: UtcDatetime | None = None
    completed_at: UtcDatetime | None = None
    duration_ms: float | None = None

    def result(self, result_type: type[ResultT]) -> ResultT | None:
        """The attempt's result. None means that it did not succeed, or that this version cannot read it."""
        if self.status is not StageStatus.SUCCEEDED or self.output_snapshot is None:
            return None
        try:
            return result_type.model_validate(self.output_snapshot)
        except ValidationError as error:
            logger.warning("The output of %s cannot be read: %s", self.idempotency_key, redact_text(str(error)))
            return None


class DeliveryRecord(Contract):
    """A row of the delivery ledger."""

    incident_id: int | None = None
    version: int | None = None
    node_id: str
    channel: str
    driver: str
    target: str
    idempotency_key: str
    status: str
    tries: int
    provider_id: str | None = None
    response: dict[str, Any] = Field(default_factory=dict[str, Any])
    error: str | None = None
    created_at: UtcDatetime
    settled_at: UtcDatetime | None = None

    @property
    def perhaps_accepted(self) -> bool:
        """Whether the channel may have it, although its answer did not come."""
        return self.response.get("perhaps_accepted") is True

    @property
    def silent(self) -> bool:
        """Whether it only brought a message up to date, and notified nobody."""
        return self.response.get("silent") is True


ACKNOWLEDGEMENT_ENDED = "acknowledgement_ended"
"""The event of a line of history: an acknowledgement is over, and nobody has undone it."""

CHANNEL_GIVEN_UP = "channel_given_up"
"""The event of a line of history that names a channel which an incident could not be told on."""


class HistoryRecord(Contract):
    """A row of `history`."""

    alert_id: int | None = None
    incident_id: int | None = None
    run_id: str | None = None
    event: str
    old_status: str | None = None
    new_status: str | None = None
    details: dict[str, Any] = Field(default_factory=dict[str, Any])
    at: UtcDatetime

    @property
    def in_words(self) -> str:
        """What happened to the incident, such as `snoozed by ada (slack, U01 in acme) until 2026-11-27 02:39`."""
        details = {name: " ".join(str(value).split()) for name, value in self.details.items() if value}
        said = {
            "channel": " {}",
            "to": " to {}",
            "number": " (step {})",
            "by": " by {}",
            "via": " ({})",
            "until": " until {}",
            "why": ": {}",
            "text": ": {}",
        }
        if account := details.get("account"):
            details["via"] = f"{details.get('via')}, {account}"
        if until := details.get("until"):
            details["until"] = until[:16].replace("T", " ")
        name = self.event.removeprefix("incident_").replace("_", " ")
        if self.event == CHANNEL_GIVEN_UP:
            name = "given up on"
        elif self.event == ACKNOWLEDGEMENT_ENDED and (whose := details.pop("by", "")):
            name = f"acknowledgement of {whose} ended"  # by itself: somebody else's end of it is another event
        return name + "".join(form.format(details[key]) for key, form in said.items() if key in details)
