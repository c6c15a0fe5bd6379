"""Bodies of requests and answers, as the OpenAPI document describes them.

A caller gives names of things that the operator has set up, and limits. It gives no address and no template: a caller
that could name hosts would have this service scan its network, and one that could name URLs or templates would have
it send any text to anywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from orchestration.alert import Severity, UtcDatetime
from orchestration.contracts import Stage
from orchestration.definitions import in_order
from orchestration.requests import RunOptions, RunRequest
from orchestration.states import RunStatus, StageStatus
from orchestration.store.definitions import DefinitionRecord
from orchestration.store.records import RunRecord
from orchestration.store.story import Story

_RUN_ID = "177db13394314a4faea4fc22302669eb"
_TRACE_ID = "ff3a11d0cc2d4081acd430f2340c96d0"

Short = Annotated[str, Field(max_length=256)]


def _channel_name(name: str) -> str:
    # Credentials that are saved in Prefect have a destination behind a slash: ops-bot/#oncall.
    block, _, where = name.partition("/")
    if not block.replace("-", "").replace("_", "").isalnum() or len(name) > 128:
        raise ValueError("expected the name of a channel: letters, digits, dashes")
    if not where.isprintable() or " " in where:
        raise ValueError("expected a destination without spaces behind the name of a channel")
    return name


def _limits_only(configs: dict[str, dict[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
    for checker, options in configs.items():
        for name, value in options.items():
            if (checker, name) == ("dns", "port"):
                raise ValueError("dns.port cannot be set over HTTP: which servers are asked is the operator's choice")
            if not isinstance(value, bool | int | float):
                raise ValueError(
                    f"{checker}.{name} cannot be set over HTTP, where only numbers and booleans can: "
                    "which hosts, paths and processes are looked at is the operator's choice"
                )
    return configs


ChannelName = Annotated[str, AfterValidator(_channel_name)]
"""The name of a channel block or of a driver."""


class RunRequestBody(BaseModel):
    """What a caller sends and chooses. Fields that are not listed are ignored."""

    model_config = ConfigDict(extra="ignore")

    trace_id: Short | None = Field(
        default=None, description="The id that all runs of this push share. By default a new one."
    )
    environment: Short = Field(default="production", description="Where it happened.")
    driver: Short | None = Field(
        default=None, description="The source whose parser reads the payload, whatever `source` says."
    )
    checker_names: list[Short] | None = Field(default=None, max_length=64, description="The checkers to run.")
    checker_configs: Annotated[dict[Short, dict[Short, JsonValue]], AfterValidator(_limits_only)] | None = Field(
        default=None,
        description="Limits of checkers by name: numbers and booleans only.",
        examples=[{"cpu": {"warn": 50}}],
    )
    labels: dict[Short, Annotated[str, Field(max_length=1024)]] | None = Field(
        default=None, max_length=64, description="Labels that are kept with the runs."
    )
    provider: Short | None = Field(default=None, description="Who analyzes: local, model, or model/NAME.")
    notify_driver: ChannelName | None = Field(default=None, description="A driver, such as slack, email or pagerduty.")
    notify_channel: ChannelName | None = Field(
        default=None, description="A channel block's name. It overrules the driver."
    )

    test: bool = Field(default=False, description="The message says that this is a test, and nobody is reminded.")

    def _request(
        self,
        payload: dict[str, Any] | None,
        source: str,
        *,
        definition: str | None = None,
        incident_id: str | None = None,
    ) -> RunRequest:
        options = RunOptions().with_given(
            checker_names=self.checker_names,
            checker_configs=self.checker_configs,
            labels=self.labels,
            provider=self.provider,
            notify_driver=self.notify_channel or self.notify_driver,
            test=self.test or None,
            definition=definition,
            incident_id=incident_id,
        )
        return RunRequest(
            payload=payload,
            source=self.driver or source,
            environment=self.environment,
            trace_id=self.trace_id,
            options=options,
        )

    @property
    def channel_field(self) -> str:
        """The field that names the channel."""
        return "notify_driver" if self.notify_channel is None else "notify_channel"


class Trigger(RunRequestBody):
    """One or more alerts, and how to handle them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "payload": {"alertname": "HighCPU", "severity": "critical", "instance": "web-1"},
                    "source": "grafana",
                    "environment": "production",
                }
            ]
        }
    )

    payload: dict[str, Any] = Field(description="What the monitoring system sent, unchanged.")
    source: Short = Field(default="webhook", description="Who sent it. A source's name forces its parser.")
    definition: Short | None = Field(
        default=None,
        description="The stored definition to run instead of the linear pipeline. "
        "One without an ingest node needs no payload.",
    )

    @model_validator(mode="before")
    @classmethod
    def _payload_of_definition(cls, body: Any) -> dict[str, Any]:
        """Whether a run of a definition needs a payload depends on the definition."""
        given = cast("dict[str, Any]", body)
        if given.get("definition") is not None and given.get("payload") is None:
            return {**given, "payload": {}}
        return given

    def run_request(self) -> RunRequest:
        """The request for runs that this body makes."""
        payload = self.payload if self.definition is None else self.payload or None
        return self._request(payload, self.source, definition=self.definition)


class Execute(RunRequestBody):
    """The input of a definition. One without an ingest node needs no payload."""

    payload: dict[str, Any] | None = Field(
        default=None,
        description="What a monitoring system sent, unchanged.",
        examples=[{"alertname": "HighCPU", "severity": "critical", "instance": "web-1"}],
    )
    source: Short = Field(default="api", description="Who sent it. A source's name forces its parser.")
    incident_id: Short | None = Field(
        default=None, description="The incident that the run is about, if the definition has no ingest node."
    )

    def run_request(self, definition: str) -> RunRequest:
        """The request for runs of this definition that this body makes."""
        return self._request(self.payload, self.source, definition=definition, incident_id=self.incident_id)


class Validate(BaseModel):
    """What to validate: the stored definition, or `config` in its place."""

    config: Any = Field(
        default=None, description="A definition that is not stored. Anything is accepted and validated."
    )


class DefinitionSummary(BaseModel):
    """A stored definition without its nodes."""

    name: str
    description: str
    version: int
    is_active: bool = Field(description="False means that an operator disabled it.")
    tags: list[str]
    node_count: int
    created_by: str
    created_at: UtcDatetime
    updated_at: UtcDatetime

    @classmethod
    def of(cls, record: DefinitionRecord) -> Self:
        """The summary of a stored definition."""
        return cls(**{name: getattr(record, name) for name in DefinitionSummary.model_fields})


class DefinitionDetail(DefinitionSummary):
    """A stored definition with its nodes."""

    config: dict[str, JsonValue] = Field(description="The definition as in a file: nodes, defaults and so on.")

    @classmethod
    def of(cls, record: DefinitionRecord) -> Self:
        """The details of a stored definition."""
        summary = {name: getattr(record, name) for name in DefinitionSummary.model_fields}
        return cls(**summary, config=in_order(record.config))


class DefinitionList(BaseModel):
    """The stored definitions by name."""

    count: int
    definitions: list[DefinitionSummary]


class Fault(BaseModel):
    """One error in a definition."""

    node: str | None = Field(description="The node's id. Null means the definition itself.")
    field: str
    message: str


class Verdict(BaseModel):
    """Whether a definition can be run."""

    name: str
    version: int | None = Field(description="The stored version that was validated. Null means the `config` given.")
    valid: bool
    errors: list[Fault]


class Queued(BaseModel):
    """The push is stored, and its runs are queued."""

    status: Literal["queued"] = "queued"
    task_id: str = Field(description="The first run's id.", examples=[_RUN_ID])
    run_id: str = Field(description="The first run's id.", examples=[_RUN_ID])
    run_ids: list[str] = Field(description="One run for each incident of the push.", examples=[[_RUN_ID]])
    trace_id: str = Field(examples=[_TRACE_ID])
    message: str = Field(examples=["Pipeline queued for execution"])
    note: str = Field(
        description="Whether somebody is going to be notified, as far as it is known when the push is stored.",
        examples=["Whether it is notified is decided when it is processed: see status_url"],
    )
    status_url: str = Field(description="The path of the first run.", examples=[f"/orchestration/pipeline/{_RUN_ID}/"])


class LastError(BaseModel):
    """The last error of a run."""

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
    """The state of a run."""

    trace_id: str = Field(examples=[_TRACE_ID])
    run_id: str = Field(examples=[_RUN_ID])
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
        """The fields of this model, from a stored run."""
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
        """The summary of a stored run."""
        return cls(**cls.fields_of(run))


class RunDetail(RunSummary):
    """The state of a run, with every attempt."""

    stage_executions: list[Attempt]

    @classmethod
    def of_story(cls, story: Story) -> RunDetail:
        """The details of a stored run."""
        executions = [
            Attempt(**{name: getattr(attempt, name) for name in Attempt.model_fields}) for attempt in story.attempts
        ]
        return cls(**cls.fields_of(story.run), stage_executions=executions)


class RunList(BaseModel):
    """A page of runs."""

    count: int = Field(description="How many runs this page has.")
    next_cursor: str | None = Field(description="Where the next page begins. Null means that this is the last.")
    runs: list[RunSummary]
