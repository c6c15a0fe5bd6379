"""What goes over the wire: requests and answers, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from orchestration.alert import Severity, UtcDatetime
from orchestration.contracts import Stage
from orchestration.definitions import in_order
from orchestration.states import RunStatus, StageStatus
from orchestration.store.definitions import DefinitionRecord
from orchestration.store.records import RunRecord
from orchestration.store.story import Story

Short = Annotated[str, Field(max_length=256)]


def _no_template(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 128:
        raise ValueError("expected the name of a channel: letters, digits, dashes")
    return name


ChannelName = Annotated[str, AfterValidator(_no_template)]
"""The name of a channel block, or a driver: never where a message goes, nor what it says."""


class Wishes(BaseModel):
    """How alerts are to be handled."""

    model_config = ConfigDict(extra="ignore")

    trace_id: Short | None = Field(None, description="The id that all runs of this push share; one is made.")
    environment: Short = Field("production", description="Where it happened.")
    driver: Short | None = Field(None, description="The source whose parser reads the payload, whatever `source` says.")
    checker_names: list[Short] | None = Field(None, max_length=64, description="The checkers to run.")
    checker_configs: dict[Short, dict[Short, JsonValue]] | None = Field(
        None, description="Limits of checkers, by name: numbers and booleans only."
    )
    labels: dict[Short, Annotated[str, Field(max_length=1024)]] | None = Field(
        None, max_length=64, description="Labels that are kept with the runs."
    )
    provider: Short | None = Field(None, description="Who analyzes: local.")
    notify_driver: ChannelName | None = Field(None, description="A driver: slack, email, generic, console.")
    notify_channel: ChannelName | None = Field(None, description="A channel block's name; it comes before the driver.")


class Trigger(Wishes):
    """An alert, or many, and how to handle them."""

    payload: dict[str, Any] = Field(description="What the monitoring system sent, as it came.")
    source: Short = Field("webhook", description="Who sent it: a source's name forces its parser.")
    definition: Short | None = Field(
        None,
        description="The stored definition to run instead of the linear pipeline. "
        "One without an ingest node needs no payload.",
    )


class Execute(Wishes):
    """What a definition is to be run with. One without an ingest node needs no payload."""

    payload: dict[str, Any] | None = Field(None, description="What a monitoring system sent, as it came.")
    source: Short = Field("api", description="Who sent it: a source's name forces its parser.")
    incident_id: Short | None = Field(
        None, description="The incident that it is about, where the definition does not take in alerts itself."
    )


class DefinitionSummary(BaseModel):
    """A stored definition, without what it says."""

    name: str
    description: str
    version: int
    is_active: bool = Field(description="Whether it runs; false: an operator disabled it.")
    tags: list[str]
    node_count: int
    created_by: str
    created_at: UtcDatetime
    updated_at: UtcDatetime

    @classmethod
    def of(cls, record: DefinitionRecord) -> Self:
        """The definition as a list shows it."""
        return cls(**{name: getattr(record, name) for name in DefinitionSummary.model_fields})


class DefinitionDetail(DefinitionSummary):
    """A stored definition with what it says."""

    config: dict[str, JsonValue] = Field(description="The definition as a file holds it: nodes, defaults and so on.")

    @classmethod
    def of(cls, record: DefinitionRecord) -> Self:
        """The definition, whole."""
        summary = {name: getattr(record, name) for name in DefinitionSummary.model_fields}
        return cls(**summary, config=in_order(record.config))


class DefinitionList(BaseModel):
    """The definitions."""

    count: int
    definitions: list[DefinitionSummary]


class Fault(BaseModel):
    """One thing that is wrong with a definition."""

    node: str | None = Field(description="The node's id; null: the definition as a whole.")
    field: str
    message: str


class Verdict(BaseModel):
    """Whether a definition can be run."""

    name: str
    version: int | None = Field(description="The stored version that was looked at; null: it was the body's.")
    valid: bool
    errors: list[Fault]


class Queued(BaseModel):
    """The push is stored; its runs will run."""

    status: Literal["queued"] = "queued"
    task_id: str = Field(description="The first run's id.")
    run_id: str
    run_ids: list[str] = Field(description="One run for each incident of the push.")
    trace_id: str
    message: str


class Problem(BaseModel):
    """What went wrong."""

    error: str


class LastError(BaseModel):
    """What a run failed of last."""

    type: str
    message: str
    retryable: bool


class Attempt(BaseModel):
    """One attempt at one stage."""

    node_id: str
    stage: Stage
    status: StageStatus
    attempt: int
    started_at: UtcDatetime | None
    completed_at: UtcDatetime | None
    duration_ms: float | None
    error_type: str | None
    error_message: str | None


class RunSummary(BaseModel):
    """Where a run stands."""

    trace_id: str
    run_id: str
    status: RunStatus
    current_stage: str | None
    incident_id: str | None
    title: str
    severity: Severity
    source: str
    environment: str
    total_attempts: int
    intelligence_fallback_used: bool
    skip_reason: str | None
    duplicate_of: str | None
    engine: str | None
    definition_name: str | None
    definition_version: int | None
    created_at: UtcDatetime
    started_at: UtcDatetime | None
    completed_at: UtcDatetime | None
    total_duration_ms: float | None
    last_error: LastError | None

    @classmethod
    def fields_of(cls, run: RunRecord) -> dict[str, Any]:
        """The fields, from the store's record."""
        error = None
        if run.last_error_type is not None:
            error = LastError(
                type=run.last_error_type,
                message=run.last_error_message or "",
                retryable=bool(run.last_error_retryable),
            )
        names = RunSummary.model_fields.keys() - {"last_error", "definition_name"}
        named = {"last_error": error, "definition_name": run.chosen_definition}
        return {**named, **{name: getattr(run, name) for name in names}}

    @classmethod
    def of(cls, run: RunRecord) -> RunSummary:
        """The run as a list shows it."""
        return cls(**cls.fields_of(run))


class RunDetail(RunSummary):
    """Where a run stands, with every attempt."""

    stage_executions: list[Attempt]

    @classmethod
    def of_story(cls, story: Story) -> RunDetail:
        """The run with all that it left behind."""
        executions = [
            Attempt(**{name: getattr(attempt, name) for name in Attempt.model_fields}) for attempt in story.attempts
        ]
        return cls(**cls.fields_of(story.run), stage_executions=executions)


class RunList(BaseModel):
    """A page of runs."""

    count: int = Field(description="How many runs this page has.")
    next_cursor: str | None = Field(description="Where the next page begins; null: this is the last.")
    runs: list[RunSummary]


class Part(BaseModel):
    """One thing that the service needs."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """Whether alerts that come in now are also carried out."""

    status: Literal["ready", "degraded", "not ready"]
    database: Part
    migrations: Part
    worker: Part
    prefect: Part
