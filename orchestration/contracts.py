"""What the stages hand to each other and to the outside. Frozen; moments are aware and in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SkipValidation

from orchestration.alert import Severity, UtcDatetime


class Contract(BaseModel):
    """A value that does not change once made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(StrEnum):
    """What a node of a run does. In the linear pipeline a node's id is its stage's name."""

    INGEST = "ingest"
    CHECK = "check"
    ANALYZE = "analyze"
    NOTIFY = "notify"
    TRANSFORM = "transform"
    CONDITION = "condition"


LINEAR_STAGES = (Stage.INGEST, Stage.CHECK, Stage.ANALYZE, Stage.NOTIFY)
"""The four stages of the linear pipeline, in order. The others are nodes of definitions that come in between."""

ALL_CLEAR = "resolved"
"""The reason to skip checks and analysis in a run about a resolved incident: only the all-clear goes out."""


class StageError(Contract):
    """One failed attempt, in words."""

    error_type: str
    message: str
    stack_trace: str | None = None
    retryable: bool = False
    retry_after_seconds: float | None = Field(default=None, exclude=True)
    """The wait that the other side has asked for. It is not kept: the run's `due_at` says when the run goes on."""


class CheckStatus(StrEnum):
    """What a checker found. `unknown`: it could not find out."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def is_unhealthy(self) -> bool:
        """Whether something wrong was found. To have found nothing out is not unhealthy."""
        return self in (CheckStatus.CRITICAL, CheckStatus.WARNING)


WORST_FIRST = (CheckStatus.CRITICAL, CheckStatus.WARNING, CheckStatus.UNKNOWN, CheckStatus.OK)


class Target(Contract):
    """What an alert is about, found once in each run."""

    host: str = Field(default="", description="The host or address, in lower case and without a port.")
    port: int | None = None
    url: str = Field(default="", description="The address that a probe has asked, or that the labels name.")
    is_own: bool = Field(default=False, description="Whether it is the host that runs this pipeline.")
    labels: dict[str, str] = Field(
        default_factory=dict[str, str], description="What else names it: the labels that all firing alerts share."
    )

    @property
    def name(self) -> str:
        """The target for people: its address, its host with the port, or its service; "" if nothing is named."""
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return self.url or (f"{host}:{self.port}" if host and self.port else host) or self.labels.get("service", "")


class Check(Contract):
    """One checker's finding. An unhealthy check is data; a broken one has `error` and status unknown."""

    name: str
    target: str = Field(default="", description="What it looked at, for people, such as db-77:5432.")
    status: CheckStatus
    message: str
    metrics: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    duration_ms: float = 0.0
    error: str | None = None


class Change(Contract):
    """A series that behaves unlike its own past."""

    entity: str = Field(description="What the series is of, such as an instance or a service.")
    metric: str
    now: float = Field(description="The value while it was strange.")
    low: float = Field(description="The lower end of the range in which it is normally.")
    high: float = Field(description="The upper end of that range.")
    score: float = Field(description="How far it is from its normal range: the larger, the stranger.")
    since: UtcDatetime | None = Field(default=None, description="When it left its normal range, if that is known.")
    until: UtcDatetime | None = Field(default=None, description="When it came back; null if it has not.")


class ChangeEvent(Contract):
    """Something that somebody has done, such as a deployment, as `POST /changes/` received it."""

    id: str
    at: UtcDatetime
    kind: str = Field(default="change", description="deploy, config, scale, flag, or any other word.")
    title: str
    by: str = ""
    url: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str], description="What it changed: service, host, ….")


class Episode(Contract):
    """An earlier incident with the same key, or an earlier firing of the same one."""

    id: str
    began_at: UtcDatetime
    ended_at: UtcDatetime | None = None
    ended_by: str = Field(default="", description="The person who ended it, if one did.")
    notes: list[str] = Field(default_factory=list[str], description="What people wrote down, the newest first.")


class StormFacts(Contract):
    """What a message says of a storm beside what it says of each incident."""

    shared: dict[str, str] = Field(description="The labels that at least 80 % of what fires in it have.")
    released: int = Field(description="How many alerts have outlived it, each as an incident of its own.")


class EvidenceKind(StrEnum):
    """Where a piece of evidence comes from."""

    ALERT = "alert"
    CHECK = "check"
    CHANGE = "change"
    EVENT = "event"
    EPISODE = "episode"
    RUNBOOK = "runbook"


class Evidence(Contract):
    """One thing that is known, which claims cite by its id."""

    id: str = Field(description="Its kind and a number, such as check-2.")
    kind: EvidenceKind
    about: str = Field(default="", description="What it is about: a host, a service, a series.")
    says: str = Field(description="What is known, in one line, with its numbers.")
    status: CheckStatus | None = Field(default=None, description="Of a check: what it found.")
    topic: str = Field(default="", description="Of a check or a change: memory, disk, cpu, network, ….")

    @property
    def is_unhealthy(self) -> bool:
        """Whether it is a check that found something wrong."""
        return self.status is not None and self.status.is_unhealthy


class ClaimKind(StrEnum):
    """What a claim says."""

    CAUSE = "cause"
    EFFECT = "effect"
    HEALTHY = "healthy"


class Claim(Contract):
    """One sentence of an analysis, with what it rests on."""

    kind: ClaimKind
    says: str
    topic: str = Field(default="", description="memory, disk, cpu, network, process, deploy, dependency, …, or empty.")
    cites: list[str] = Field(default_factory=list[str], description="The ids of the evidence.")
    quotes: list[str] = Field(
        default_factory=list[str], description="The words or numbers of that evidence on which it rests."
    )


class Recommendation(Contract):
    """One thing that a human could do."""

    type: str = Field(description="memory, disk, cpu, network, process, or general.")
    priority: str = Field(description="high, medium or low.")
    title: str
    description: str = ""
    actions: list[str] = Field(default_factory=list[str])


class Delivery(Contract):
    """What became of one message on one channel."""

    driver: str
    provider: str
    channel: str
    status: str = Field(
        description="sent, failed, already_sent (an earlier attempt delivered it), up_to_date (another run has said "
        "what is true now), left_to_another (another run is saying it), or given_up."
    )
    provider_id: str | None = Field(default=None, description="The vendor's own id of the message, where it has one.")
    thread: str | None = Field(
        default=None,
        description="What the channel needs to add to this message later: it gets it back as `Message.thread`. "
        "None means that it cannot.",
    )
    response: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    error: str | None = None


class IngestResult(Contract):
    """What the push did to alerts and incidents, and whether a human is told."""

    incident_id: str | None = None
    alert_fingerprint: str | None = None
    severity: Severity = Severity.INFO
    source: str = "unknown"
    normalized_payload_ref: str | None = None
    alerts_created: int = 0
    alerts_updated: int = 0
    alerts_resolved: int = 0
    incidents_created: int = 0
    incidents_updated: int = 0
    errors: list[str] = Field(default_factory=list[str])
    duration_ms: float = 0.0
    tell: bool = True
    reason: str = Field(default="", description="Why a human is told or not: the name of the decision's rule.")
    note: str = Field(default="", description="What else the message says of it, such as what kept it back until now.")


class CheckResult(Contract):
    """Every checker's finding."""

    checks: list[Check] = Field(default_factory=list[Check])
    checks_run: int = 0
    checks_passed: int = 0
    checks_failed: int = 0
    timings: dict[str, float] = Field(default_factory=dict[str, float], description="Milliseconds by checker.")
    errors: list[str] = Field(default_factory=list[str])
    target: Target | None = Field(default=None, description="What the alert is about; null if it names nothing.")
    left_out: dict[str, str] = Field(
        default_factory=dict[str, str], description="Why a checker did not look, by its name."
    )
    changes: list[Change] = Field(default_factory=list[Change], description="What is unlike its past, strangest first.")
    checker_output_ref: str | None = None
    duration_ms: float = 0.0

    @property
    def reasons_to_leave_out(self) -> dict[str, list[str]]:
        """The names of the checkers that did not look, by the reason that they share."""
        return {
            reason: [name for name, why in self.left_out.items() if why == reason]
            for reason in dict.fromkeys(self.left_out.values())
        }


class AnalyzeResult(Contract):
    """What probably happened, and what to do."""

    summary: str
    probable_cause: str = ""
    actions: list[str] = Field(default_factory=list[str])
    recommendations: list[Recommendation] = Field(default_factory=list[Recommendation])
    confidence: float = Field(default=0.0, ge=0.0, le=1.0)
    claims: list[Claim] = Field(default_factory=list[Claim], description="What it rests on; each cites evidence.")
    evidence: list[Evidence] = Field(default_factory=list[Evidence], description="All that was known.")
    dropped: list[str] = Field(default_factory=list[str], description="The claims that evidence does not support, why.")
    ai_output_ref: str | None = None
    model_info: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    fallback_used: bool = False
    errors: list[str] = Field(default_factory=list[str])
    duration_ms: float = 0.0


class NotifyResult(Contract):
    """What became of the message on each channel."""

    deliveries: list[Delivery] = Field(default_factory=list[Delivery])
    provider_ids: list[str] = Field(default_factory=list[str])
    messages: list[str] = Field(default_factory=list[str], description="The text that was sent, once a message.")
    notify_output_ref: str | None = None
    channels_attempted: int = 0
    channels_succeeded: int = 0
    channels_failed: int = 0
    skip_reason: str | None = Field(
        default=None, description="Why nobody was notified, such as coalesced or no_channel."
    )
    errors: list[str] = Field(default_factory=list[str])
    duration_ms: float = 0.0


class TransformResult(Contract):
    """What a transform made of an earlier result."""

    output: JsonValue = None
    count: int = Field(default=0, description="Items of a list, 1 for any other value, 0 for null.")
    transform_output_ref: str | None = None
    errors: list[str] = Field(default_factory=list[str])
    duration_ms: float = 0.0


class ConditionResult(Contract):
    """How a condition came out."""

    holds: bool
    expression: str
    condition_output_ref: str | None = None
    errors: list[str] = Field(default_factory=list[str])
    duration_ms: float = 0.0


class StageContext(Contract):
    """What every stage knows of its run."""

    trace_id: str
    run_id: str
    incident_id: str | None = None
    attempt: int = 1
    environment: str = "production"
    source: str = "unknown"
    alert_fingerprint: str | None = None
    payload: dict[str, Any] = Field(default_factory=dict[str, Any])
    previous_results: SkipValidation[Mapping[str, Any]] = Field(
        default_factory=dict[str, Any],
        description="The results of the nodes before, by node id, as JSON values; each is dumped when it is read.",
    )


class PipelineOutcome(StrEnum):
    """How a run ended, in the words of the contract."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


class NodeResult(Contract):
    """One node of a run of a definition, as it stands."""

    id: str
    stage: Stage
    status: str = Field(description="pending, running, succeeded, failed, retrying or skipped.")
    attempts: int = 0
    duration_ms: float | None = Field(default=None, description="Of the last attempt.")
    result: dict[str, Any] | None = Field(default=None, description="What it found, redacted; the fields of its stage.")
    error: StageError | None = Field(default=None, description="Of the last attempt, if it failed.")
    skip_reason: str | None = Field(default=None, description="Why it was left out, if it was.")


class PipelineResult(Contract):
    """A run as a whole."""

    trace_id: str
    run_id: str
    status: PipelineOutcome
    incident_id: str | None = None
    ingest: IngestResult | None = None
    check: CheckResult | None = None
    analyze: AnalyzeResult | None = None
    notify: NotifyResult | None = None
    started_at: UtcDatetime
    completed_at: UtcDatetime
    total_duration_ms: float = 0.0
    stages_completed: list[str] = Field(default_factory=list[str])
    final_error: StageError | None = None
    skip_reason: str | None = Field(default=None, description="Why the run was skipped, if it was.")
    definition_name: str | None = Field(default=None, description="The definition that was run, if it was one.")
    definition_version: int | None = None
    nodes: list[NodeResult] = Field(
        default_factory=list[NodeResult],
        description="Each node, in the order in which they began. In the linear pipeline their `result` is null: "
        "the results are in `ingest`, `check`, `analyze` and `notify`.",
    )
