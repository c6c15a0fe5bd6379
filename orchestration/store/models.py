"""The tables. Only the store and the lists of the admin use these classes; everybody else gets `store/records.py`.

Rows refer to their run, incident or alert without foreign keys. With them, PostgreSQL looks at and locks the other row
for each that is written, and looks into each table that refers to a row for each that is deleted. Only `retention.py`
deletes rows that others refer to, together with those.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from orchestration.alert import STORM_KEY, IncidentStatus
from orchestration.states import TIMER_REASONS, RunStatus
from orchestration.store.table import Base, Now, RowId

OPEN_STATUSES = tuple(status.value for status in IncidentStatus if not status.ended)
"""The statuses of an incident that new alerts join. At most one incident of a key has one of them."""

CLAIMABLE_STATUSES = tuple(status.value for status in RunStatus if not status.final)
"""The statuses of a run that is not over: a process executes it, or a worker can claim it."""

FINAL_STATUSES = tuple(status.value for status in RunStatus if status.final)
"""The statuses of a run that is over."""

HAS_VALUES = (
    f"alert_fingerprint is null and status in {tuple(each for each in FINAL_STATUSES if each != 'failed')!r} "
    "and payload -> 'data' <> 'null'::jsonb"
)
"""The run is over, has not failed, and still has the payload of a definition without an ingest node."""


class IncidentRow(Base):
    """An incident: the alerts that share an environment and an incident key, as one matter for a human."""

    __tablename__ = "incident"

    id: Mapped[RowId]
    environment: Mapped[str] = mapped_column(server_default="production")
    incident_key: Mapped[str]
    title: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="open")
    severity: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    summary: Mapped[str] = mapped_column(server_default="")
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    opened_at: Mapped[Now]
    version: Mapped[int] = mapped_column(server_default="1")
    """Grows with each change that a channel can show. `incident_channel` says which version each channel knows."""
    news_version: Mapped[int] = mapped_column(server_default="1")
    """The latest version that somebody should hear of. A later one is only shown where that disturbs nobody."""
    heard_at: Mapped[Now]
    """When a push spoke of it last."""
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]
    snoozed_until: Mapped[datetime | None]
    escalation: Mapped[dict[str, Any] | None]
    """An `EscalationProgress`."""
    held: Mapped[dict[str, Any] | None]
    """A `Hold`: why nobody is notified for now."""
    resolved_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    updated_at: Mapped[Now]

    __table_args__ = (
        Index(
            "uq_incident_open_key",
            "environment",
            "incident_key",
            unique=True,
            postgresql_where=text(f"status in {OPEN_STATUSES!r}"),
        ),
        Index(None, "incident_key", "id"),
        Index(None, "opened_at"),
        # For lists, each of which shows the newest first.
        Index(None, "status", "id"),
        Index(None, "severity", "id"),
        Index(None, "environment", "id"),
        Index("ix_incident_source", text("(metadata ->> 'source')"), "id"),
        Index(
            "ix_incident_title",
            literal_column("lower(title)", Text).label("words"),
            "id",
            postgresql_ops={"words": "text_pattern_ops"},
        ),
    )


class AlertRow(Base):
    """One alert, unique by (source, environment, fingerprint), in its latest episode."""

    __tablename__ = "alert"

    id: Mapped[RowId]
    source: Mapped[str]
    environment: Mapped[str] = mapped_column(server_default="production")
    fingerprint: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    severity: Mapped[str]
    status: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    annotations: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    links: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    raw_payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    state_reason: Mapped[str] = mapped_column(server_default="")
    episode_at: Mapped[datetime | None]
    """The start of the present episode, if the sender names it in each event."""
    occurred_at: Mapped[datetime | None]
    """The latest moment that a push named. What is older is stale."""
    heard_at: Mapped[Now]
    """Until when the present episode is known to have been heard of."""
    last_run: Mapped[int | None] = mapped_column(BigInteger)
    """The id of the `pipeline_run` that spoke of it last, in the order of acceptance."""
    received_at: Mapped[Now]
    updated_at: Mapped[Now]

    __table_args__ = (
        UniqueConstraint("source", "environment", "fingerprint"),
        # For `why`, which looks at the alerts that were heard of last, and for retention.
        Index(None, "heard_at"),
        # For inhibitions.
        Index("ix_alert_firing", "environment", "id", postgresql_where=text("status = 'firing'")),
        # For the lists of the admin.
        Index(None, "status", "id"),
        Index(None, "severity", "id"),
        Index(None, "source", "id"),
    )


class MembershipRow(Base):
    """An alert in an incident. One alert can be in several; it fires in an incident until it ends there."""

    __tablename__ = "membership"

    incident_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    alert_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, index=True)
    status: Mapped[str]
    joined_at: Mapped[Now]
    updated_at: Mapped[Now]


class HistoryRow(Base):
    """One event in the life of an alert or an incident. Ids increase with time."""

    __tablename__ = "history"

    id: Mapped[RowId]
    alert_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    incident_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    run_id: Mapped[str | None]
    event: Mapped[str]
    old_status: Mapped[str | None]
    new_status: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class PipelineRunRow(Base):
    """One run: the alerts of one push that share an incident key, or what is due for an incident by itself.

    `records.py` and `pushes.NewRun` name its columns. An index of a column that changes often, such as `updated_at`,
    would give each change of a run a new entry in every index.
    """

    __tablename__ = "pipeline_run"

    id: Mapped[RowId]
    run_id: Mapped[str] = mapped_column(unique=True)
    trace_id: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(server_default="push")
    """Why there is this run: a `RunReason`."""
    due_at: Mapped[datetime | None]
    """Nobody claims the run before. None means that it is due at once."""
    awaits_ingest: Mapped[bool] = mapped_column(server_default=text("false"))
    """Its alerts are not recorded yet, and are to be recorded in the order of acceptance."""
    status: Mapped[str] = mapped_column(server_default="pending")
    current_stage: Mapped[str | None]
    incident_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    incident_key: Mapped[str | None]
    title: Mapped[str] = mapped_column(server_default="")
    source: Mapped[str]
    alert_fingerprint: Mapped[str | None] = mapped_column(index=True)
    severity: Mapped[str] = mapped_column(server_default="info")
    priority: Mapped[int] = mapped_column(SmallInteger(), server_default="0")
    content_hash: Mapped[str | None]
    duplicate_of: Mapped[str | None]
    environment: Mapped[str]
    payload: Mapped[dict[str, Any]]
    options: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    normalized_payload_ref: Mapped[str | None]
    checker_output_ref: Mapped[str | None]
    intelligence_output_ref: Mapped[str | None]
    notify_output_ref: Mapped[str | None]
    ingest_result: Mapped[dict[str, Any] | None]
    intelligence_fallback_used: Mapped[bool] = mapped_column(server_default=text("false"))
    skip_reason: Mapped[str | None]
    total_attempts: Mapped[int] = mapped_column(server_default="0")
    max_retries: Mapped[int] = mapped_column(server_default="3")
    last_error_type: Mapped[str | None]
    last_error_message: Mapped[str | None]
    last_error_retryable: Mapped[bool | None]
    prefect_flow_run_id: Mapped[str | None]
    engine: Mapped[str | None]
    carried_by: Mapped[str | None]
    definition_name: Mapped[str | None]
    definition_version: Mapped[int | None]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[Now]
    updated_at: Mapped[Now]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    total_duration_ms: Mapped[float | None]

    __table_args__ = (
        Index(None, "created_at"),
        Index(None, "status", "created_at"),
        # For lists, each of which shows the newest first. Without them a value that is rare, or that no run has, is
        # looked for in all runs.
        Index(None, "source", "created_at", "id"),
        Index(None, "environment", "created_at", "id"),
        Index(None, "current_stage", "created_at", "id"),
        Index(
            "ix_pipeline_run_failed", "current_stage", "created_at", "id", postgresql_where=text("status = 'failed'")
        ),
        # For `why`: the runs that belong to no incident, or not yet.
        Index("ix_pipeline_run_loose", "created_at", postgresql_where=text("incident_id is null")),
        Index(
            "ix_pipeline_run_loose_key",
            "incident_key",
            "environment",
            "created_at",
            postgresql_where=text("incident_id is null"),
        ),
        # For retention.
        Index("ix_pipeline_run_values", "created_at", postgresql_where=text(HAS_VALUES)),
        Index(
            "ix_pipeline_run_claim",
            priority.desc(),
            "id",
            postgresql_where=text(f"status in {CLAIMABLE_STATUSES!r} and due_at is null"),
        ),
        Index(
            "ix_pipeline_run_due",
            "priority",
            "due_at",
            postgresql_where=text(f"status in {CLAIMABLE_STATUSES!r} and due_at is not null"),
        ),
        Index(
            "ix_pipeline_run_awaits_ingest",
            "incident_key",
            "environment",
            "id",
            postgresql_where=text("awaits_ingest"),
        ),
        Index(
            "ix_pipeline_run_storms",
            "id",
            postgresql_where=text(f"awaits_ingest and starts_with(incident_key, '{STORM_KEY}')"),
        ),
        # Of each kind of follow-up an incident has at most one that waits. One that is executed has no `due_at`: it
        # schedules the next one before it has another status.
        Index(
            "uq_pipeline_run_timer",
            "incident_id",
            unique=True,
            postgresql_where=text(f"reason in {TIMER_REASONS!r} and status = 'pending' and due_at is not null"),
        ),
        Index(
            "uq_pipeline_run_redelivery",
            "incident_id",
            unique=True,
            postgresql_where=text("reason = 'redelivery' and status = 'pending'"),
        ),
        Index(
            "uq_pipeline_run_heartbeat",
            "incident_key",
            "environment",
            unique=True,
            postgresql_where=text("reason = 'heartbeat' and status = 'pending' and due_at is not null"),
        ),
        Index(
            "ix_pipeline_run_latest",
            "incident_key",
            "environment",
            "id",
            postgresql_where=text("duplicate_of is null"),
        ),
    )


class StageExecutionRow(Base):
    """One attempt at one node of a run."""

    __tablename__ = "stage_execution"

    id: Mapped[RowId]
    pipeline_run_id: Mapped[int] = mapped_column(BigInteger)
    node_id: Mapped[str]
    stage: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="pending")
    attempt: Mapped[int]
    idempotency_key: Mapped[str]
    """The run, the node and the attempt in one word."""
    input_ref: Mapped[str | None]
    output_ref: Mapped[str | None]
    output_snapshot: Mapped[dict[str, Any] | None]
    error_type: Mapped[str | None]
    error_message: Mapped[str | None]
    error_stack: Mapped[str | None]
    error_retryable: Mapped[bool | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    duration_ms: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("pipeline_run_id", "node_id", "attempt"),
        # For the lists of the admin. Most attempts have no error, and an index of the status would have to follow them.
        Index("ix_stage_execution_errors", "id", postgresql_where=text("error_type is not null")),
    )


class DeliveryRow(Base):
    """The delivery ledger: one row for each message to a channel, written before sending, settled after."""

    __tablename__ = "delivery"

    id: Mapped[RowId]
    pipeline_run_id: Mapped[int] = mapped_column(BigInteger, index=True)
    """The run that tries to send it."""
    incident_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    version: Mapped[int | None]
    """The version of the incident that the message is about."""
    node_id: Mapped[str]
    channel: Mapped[str]
    driver: Mapped[str]
    target: Mapped[str]
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str] = mapped_column(server_default="sending")
    tries: Mapped[int] = mapped_column(server_default="1")
    provider_id: Mapped[str | None]
    response: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    error: Mapped[str | None]
    created_at: Mapped[Now]
    settled_at: Mapped[datetime | None]


class IncidentChannelRow(Base):
    """What a channel was told of an incident last."""

    __tablename__ = "incident_channel"

    incident_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    channel: Mapped[str] = mapped_column(primary_key=True)
    driver: Mapped[str]
    shows_state: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the channel can bring its message up to date without a new one."""
    version: Mapped[int] = mapped_column(server_default="0")
    """The incident's version that the channel knows. 0 means that it was told nothing."""
    status: Mapped[str | None]
    severity: Mapped[str | None]
    provider_id: Mapped[str | None]
    thread_id: Mapped[str | None]
    """What the channel needs to add to its messages about this episode: `Delivery.thread` of the last one."""
    run_id: Mapped[str | None]
    sent_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    """Since when messages about this incident have been refused."""
    given_up_at: Mapped[datetime | None]


class HeartbeatRow(Base):
    """A sender that is expected to say regularly that it lives. One run waits for the moment at which it is missing."""

    __tablename__ = "heartbeat"

    id: Mapped[RowId]
    name: Mapped[str]
    environment: Mapped[str]
    every_seconds: Mapped[float]
    grace_seconds: Mapped[float]
    severity: Mapped[str]
    last_beat_at: Mapped[Now]
    missing_since: Mapped[datetime | None]
    """When it was found to be missing. None means that it is not."""
    created_at: Mapped[Now]

    __table_args__ = (UniqueConstraint("name", "environment"),)


class DoorRow(Base):
    """Since when heartbeats can be accepted without a gap, in the only row of this table."""

    __tablename__ = "door"

    id: Mapped[int] = mapped_column(SmallInteger(), primary_key=True, autoincrement=False)
    open_since: Mapped[datetime]
    seen_at: Mapped[datetime]
    """When a process that accepts heartbeats last said so."""


class ChangeEventRow(Base):
    """Something that somebody has done, such as a deployment, as a sender has posted it."""

    __tablename__ = "change_event"

    id: Mapped[RowId]
    sender: Mapped[str]
    sender_id: Mapped[str]
    """What comes with the same one is the same event."""
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str]
    title: Mapped[str]
    made_by: Mapped[str] = mapped_column(server_default="")
    url: Mapped[str] = mapped_column(server_default="")
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    received_at: Mapped[Now]

    __table_args__ = (UniqueConstraint("sender", "sender_id"),)


class ChannelHealthRow(Base):
    """How a channel has answered lately, whatever the message."""

    __tablename__ = "channel_health"

    name: Mapped[str] = mapped_column(primary_key=True)
    failures: Mapped[int] = mapped_column(server_default="0")
    """In a row."""
    failing_since: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    """Nothing is sent before: the vendor asked to wait, or the channel is down."""
    reserved_until: Mapped[datetime | None]
    """Until then it is the turn of others: of the one that tries it while it fails, or of those that keep its pace."""
    last_error: Mapped[str | None]
    sent_at: Mapped[datetime | None]
    reported_at: Mapped[datetime | None]
    """When the present outage was reported on the other channels."""


class WorkerRow(Base):
    """A worker. It is alive if its heartbeat is recent."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[Now]
    heartbeat_at: Mapped[Now]
    prefect_ok: Mapped[bool]
    running: Mapped[int]


class EventCursorRow(Base):
    """Up to where Prefect has heard of what has happened, in the only row of this table."""

    __tablename__ = "event_cursor"

    id: Mapped[int] = mapped_column(SmallInteger(), primary_key=True, autoincrement=False)
    history_id: Mapped[int] = mapped_column(BigInteger)
    delivery_id: Mapped[int] = mapped_column(BigInteger)
    unsettled: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """The deliveries up to there that had not ended: by id, whether their failure was reported."""
    owner: Mapped[str | None]
    """The worker that reports to Prefect."""
    leased_until: Mapped[datetime | None]


class SealedCopyRow(Base):
    """What is needed while Prefect does not answer, encrypted."""

    __tablename__ = "sealed_copy"

    name: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[bytes]
    updated_at: Mapped[Now]


class PushRow(Base):
    """A push with an idempotency key of its sender: sending it again makes no new runs."""

    __tablename__ = "push"

    id: Mapped[RowId]
    sender: Mapped[str]
    idempotency_key: Mapped[str]
    body_hash: Mapped[str]
    trace_id: Mapped[str]
    run_ids: Mapped[list[str]] = mapped_column(JSONB())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)

    __table_args__ = (UniqueConstraint("sender", "idempotency_key"),)


class RefusedPushRow(Base):
    """A push that was not accepted, or that no source could read, so that `why` can say why nobody was notified."""

    __tablename__ = "refused_push"

    id: Mapped[RowId]
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    sender: Mapped[str] = mapped_column(server_default="")
    """The name of the API key. Empty means that there was none, or the local key."""
    address: Mapped[str] = mapped_column(server_default="")
    path: Mapped[str]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[int]
    """The HTTP status of the answer."""
    reason: Mapped[str]
    body: Mapped[str] = mapped_column(server_default="")
    """Its beginning, redacted; of a push that no source could read, as much as is needed to read it later."""
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class ApiKeyRow(Base):
    """A key of the HTTP API: its hash, and its signing secret, which is encrypted."""

    __tablename__ = "api_key"

    id: Mapped[RowId]
    name: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str] = mapped_column(unique=True)
    hash: Mapped[str]
    sealed_signing_secret: Mapped[bytes]
    scopes: Mapped[list[str]] = mapped_column(JSONB())
    created_at: Mapped[Now]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class UsedSignatureRow(Base):
    """The signature of a request that was accepted. The same signature is not accepted again."""

    __tablename__ = "used_signature"

    signature: Mapped[str] = mapped_column(primary_key=True)
    used_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class DefinitionRow(Base):
    """One version of a definition, of the policy or of a mapping. A version is never changed: runs refer to it."""

    __tablename__ = "definition"

    id: Mapped[RowId]
    kind: Mapped[str] = mapped_column(server_default="pipeline")
    name: Mapped[str]
    version: Mapped[int]
    description: Mapped[str] = mapped_column(server_default="")
    config: Mapped[dict[str, Any]]
    content_hash: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(JSONB(), server_default=text("'[]'"))
    is_current: Mapped[bool] = mapped_column(server_default=text("false"))
    is_active: Mapped[bool] = mapped_column(server_default=text("false"))
    created_by: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[Now]
    updated_at: Mapped[Now]

    __table_args__ = (
        UniqueConstraint("kind", "name", "version"),
        # Runs execute the current version, unless the definition is disabled. A definition without a current version
        # was deleted.
        Index("uq_definition_current", "kind", "name", unique=True, postgresql_where=text("is_current")),
        CheckConstraint("is_current or not is_active", name="ck_definition_active"),
    )


class ModelQuestionRow(Base):
    """One question to a model: what it cost, and what it answered. The budget of an hour is the sum of these rows."""

    __tablename__ = "model_question"

    id: Mapped[RowId]
    key: Mapped[str]
    """The hash of the evidence, and of the model that was asked."""
    model: Mapped[str]
    """The name of the model's block, or `settings`."""
    run_id: Mapped[str | None]
    asked_at: Mapped[Now]
    ended_at: Mapped[datetime | None]
    """None means that it is being asked, or that the process that asked has died."""
    reserved_tokens: Mapped[int] = mapped_column(server_default="0")
    """How many tokens count until it is known how many there were."""
    requests: Mapped[int] = mapped_column(server_default="0")
    input_tokens: Mapped[int] = mapped_column(server_default="0")
    output_tokens: Mapped[int] = mapped_column(server_default="0")
    cost: Mapped[float] = mapped_column(server_default="0")
    error: Mapped[str | None]
    answer: Mapped[dict[str, Any] | None]
    """An `AnalyzeResult`, without secrets. None means that it has not answered."""

    __table_args__ = (
        Index(None, "key", postgresql_where=text("answer is not null")),
        Index(None, "model", "asked_at"),
        Index(None, "asked_at"),
    )


class SilenceRow(Base):
    """Alerts that a person does not want to hear of for some time."""

    __tablename__ = "silence"

    id: Mapped[RowId]
    matchers: Mapped[list[str]] = mapped_column(JSONB())
    starts_at: Mapped[Now]
    ends_at: Mapped[datetime] = mapped_column(index=True)
    by: Mapped[str]
    via: Mapped[str] = mapped_column(server_default="")
    comment: Mapped[str] = mapped_column(server_default="")


class OverrideRow(Base):
    """A person who is on call instead of the one that a schedule of the policy says, for a time."""

    __tablename__ = "oncall_override"

    id: Mapped[RowId]
    schedule: Mapped[str]
    """The name of the schedule. The policy may have none of this name any more."""
    person: Mapped[str]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    created_by: Mapped[str]
    created_at: Mapped[Now]

    __table_args__ = (
        Index(None, "schedule", "ends_at"),
        CheckConstraint("starts_at < ends_at", name="ck_oncall_override_span"),
    )


class EndedSessionRow(Base):
    """A session of the admin that was signed out. Without this row its cookie would still be valid."""

    __tablename__ = "ended_session"

    session: Mapped[str] = mapped_column(primary_key=True)
    ended_at: Mapped[Now]
