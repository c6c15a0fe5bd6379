"""The tables of the admin: which columns, filters and searches each has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import AlertStatus, IncidentStatus, Severity
from orchestration.contracts import Stage
from orchestration.definitions import Kind
from orchestration.graph import BadDefinition, parse_definition
from orchestration.graph.drawing import draw
from orchestration.reasons import in_words
from orchestration.states import RunStatus, StageStatus
from orchestration.store.incidents import AlertRecord, read_alert_times
from orchestration.store.models import (
    AlertRow,
    ApiKeyRow,
    DefinitionRow,
    IncidentRow,
    MembershipRow,
    PipelineRunRow,
    StageExecutionRow,
    WorkerRow,
)
from orchestration.store.runs import RunFilter, list_page, seen_lately
from service.admin import PUBLIC_PATH, formatting
from service.admin.records import PAGE_ROWS, Column, Filter, Page, RecordView, row_number
from tasks.kinds import KINDS

_MAX_WORKERS = 500
_MOST_INCIDENTS = 5  # of an alert, the newest
_MAX_SUMMARY_CHARACTERS = 160

_STATUS = Column("status", "Status", formatting.badge)
_SEVERITY = Column("severity", "Severity", formatting.badge)


def _run_link(row: Any) -> Markup:
    why = row.last_error_message if row.status is RunStatus.FAILED else None
    why = in_words(row.skip_reason) if row.skip_reason else why
    below = Markup('<div class="why">{}</div>').format(why[:_MAX_SUMMARY_CHARACTERS]) if why else ""
    return formatting.link(f"/runs/{row.run_id}/", row.title or formatting.short(row.run_id)) + below


class RunView(RecordView, model=PipelineRunRow):
    """Runs. The list is the same as the API's; the page of a run is in `pages.py`."""

    address = "runs"
    name = "Run"
    about = "One run takes the alerts of one incident from a push to the people on call."
    search_hint = "run id, trace id or fingerprint"
    filters = (
        Filter(name="status", choices=tuple(RunStatus)),
        Filter(name="stage", choices=tuple(Stage)),
        Filter(name="source"),
        Filter(name="environment"),
    )
    columns = (
        _STATUS,
        Column("title", "Run", show_row=_run_link),
        _SEVERITY,
        Column("source", "Source"),
        Column("environment", "Environment"),
        Column("current_stage", "Stage"),
        Column("created_at", "Came in", formatting.ago),
        Column("total_duration_ms", "Took", formatting.milliseconds),
        Column("run_id", "Run id", lambda run_id: formatting.code(formatting.short(run_id))),
    )

    async def page(self, tx: AsyncConnection, params: Mapping[str, str]) -> Page:
        """The runs that the API lists for the same filters."""
        asked = self.read_query(params)
        wanted = dict(asked)
        cursor = wanted.pop("before", None)
        found = await list_page(tx, RunFilter.model_validate(wanted), limit=PAGE_ROWS, cursor=cursor)
        suggestions = {name: await seen_lately(tx, name) for name in ("source", "environment")}
        return Page(rows=found.runs, older=found.next_cursor, asked=asked, suggestions=suggestions)


class IncidentView(RecordView, model=IncidentRow):
    """Incidents. The page of an incident is in `pages.py`."""

    address = "incidents"
    name = "Incident"
    about = "What a human handles: the alerts that belong together, from the first to the last that fires."
    search_hint = "number or incident key"
    filters = (
        Filter(name="status", choices=tuple(IncidentStatus)),
        Filter(name="severity", choices=tuple(Severity)),
    )
    columns = (
        _STATUS,
        Column("title", "Incident",
               show_row=lambda row: formatting.link(f"/incidents/{row.id}/", row.title or f"#{row.id}")),
        _SEVERITY,
        Column("environment", "Environment"),
        Column("opened_at", "Opened", formatting.ago),
        Column("acknowledged_by", "Acknowledged by"),
        Column("resolved_at", "Resolved", formatting.ago),
        Column("id", "Number"),
    )  # fmt: skip

    def search(self, text: str) -> ColumnElement[bool]:
        """By number or key."""
        if text.lstrip("#").isdecimal():
            return IncidentRow.id == row_number(text.lstrip("#"))
        return IncidentRow.incident_key == text


class AlertView(RecordView, model=AlertRow):
    """Alerts as they stand now."""

    address = "alerts"
    name = "Alert"
    about = "Each alert as it stands now, by source and fingerprint."
    search_hint = search_column = "fingerprint"
    filters = (
        Filter(name="status", choices=tuple(AlertStatus)),
        Filter(name="severity", choices=tuple(Severity)),
        Filter(name="source"),
    )
    window = 50_000
    computed = {  # noqa: RUF012 - a class variable of the base
        "incident_ids": func.array(
            select(MembershipRow.incident_id)
            .where(MembershipRow.alert_id == AlertRow.id)
            .order_by(MembershipRow.incident_id.desc())
            .limit(_MOST_INCIDENTS)
            .scalar_subquery()
        )
    }
    columns = (
        _STATUS,
        Column("name", "Alert", show_row=lambda row: formatting.link(f"/alerts/{row.id}/", row.name)),
        _SEVERITY,
        Column("source", "Source"),
        Column("incident_ids", "Incidents", formatting.incident_links),
        Column("updated_at", "Last recorded", formatting.ago),
        Column("fingerprint", "Fingerprint", lambda fingerprint: formatting.code(fingerprint[:16])),
    )
    page_columns = (
        _STATUS,
        _SEVERITY,
        Column("name", "Alert"),
        Column("source", "Source"),
        Column("fingerprint", "Fingerprint", lambda fingerprint: formatting.code(fingerprint) + Markup(
            ' <a href="{}/runs/?{}">its runs</a>').format(PUBLIC_PATH, urlencode({"search": fingerprint}))),
        Column("incident_ids", "Incidents", formatting.incident_links),
        Column("description", "Description"),
        Column("started_at", "Began", formatting.moment),
        Column("ended_at", "Ended", formatting.moment),
        Column("first_received_at", "First received", formatting.moment),
        Column("last_received_at", "Last heard of", formatting.moment),
        Column("labels", "Labels", formatting.named_values),
        Column("annotations", "Annotations", formatting.named_values),
        Column("raw_payload", "What was sent", formatting.json_block),
    )  # fmt: skip
    extra_columns = ("received_at", "updated_at")

    async def one(self, tx: AsyncConnection, key: str) -> Any | None:
        """An alert, and when it was received first and last."""
        row = await super().one(tx, key)
        if row is None:
            return None
        values = dict(row._mapping)
        first, last = await read_alert_times(tx, AlertRecord.model_validate(values, extra="ignore"))
        return SimpleNamespace(**values, first_received_at=first, last_received_at=last)


def _run_of_attempt(row: Any) -> Markup:
    # The idempotency key of an attempt begins with the id of its run.
    run_id = row.idempotency_key.partition("/")[0]
    return formatting.link(f"/runs/{run_id}/", formatting.code(formatting.short(run_id)))


class AttemptView(RecordView, model=StageExecutionRow):
    """The attempts at stages, of all runs."""

    address = "attempts"
    name = "Stage execution"
    about = "Every attempt at every stage, and every stage that was skipped."
    search_hint = "run id"
    filters = (
        Filter(name="status", choices=tuple(StageStatus)),
        Filter(name="stage", choices=tuple(Stage)),
    )
    window = 50_000
    extra_columns = ("idempotency_key", "node_id")
    columns = (
        _STATUS,
        Column("stage", "Stage", show_row=lambda row: formatting.link(f"/attempts/{row.id}/", row.stage)),
        Column("attempt", "Attempt"),
        Column("duration_ms", "Took", formatting.milliseconds),
        Column("started_at", "Started", formatting.ago),
        Column("error_message", "Error", lambda message: (message or "")[:_MAX_SUMMARY_CHARACTERS]),
        Column("pipeline_run_id", "Run", show_row=_run_of_attempt),
    )
    page_columns = (
        _STATUS,
        Column("stage", "Stage"),
        Column("node_id", "Node"),
        Column("attempt", "Attempt"),
        Column("pipeline_run_id", "Run", show_row=_run_of_attempt),
        Column("started_at", "Started", formatting.moment),
        Column("completed_at", "Completed", formatting.moment),
        Column("duration_ms", "Took", formatting.milliseconds),
        Column("error_type", "Kind of error"),
        Column("error_message", "Error"),
        Column("error_retryable", "Worth a retry", lambda retryable: {True: "yes", False: "no"}.get(retryable)),
        Column("input_ref", "Input"),
        Column("output_ref", "Output"),
        Column("output_snapshot", "What it found", formatting.json_block),
        Column("error_stack", "Stack", formatting.block),
    )

    def narrowed(self, asked: Mapping[str, str]) -> Sequence[ColumnElement[bool]]:
        """Attempts that failed all have an error, and an index. Of the others the newest are looked at."""
        if asked.get("status") in (StageStatus.FAILED, StageStatus.RETRYING):
            return (StageExecutionRow.error_type.is_not(None),)
        return super().narrowed(asked)

    def search(self, text: str) -> ColumnElement[bool]:
        """By the id of the run."""
        run = select(PipelineRunRow.id).where(PipelineRunRow.run_id == text).scalar_subquery()
        return StageExecutionRow.pipeline_run_id == run


def _definition_state(row: Any) -> Markup:
    if row.is_current:
        return formatting.badge_of(row.is_active, "active", "disabled")
    return formatting.badge("skipped", "earlier")


def _definition_graph(row: Any) -> Markup:
    if row.kind == Kind.POLICY:
        return formatting.block("A policy has no graph: alert-pipeline policy show")
    if row.kind == Kind.SOURCE:
        return formatting.block(f"A mapping has no graph: alert-pipeline sources show {row.name}")
    try:
        return formatting.block("\n".join(draw(parse_definition(row.config, KINDS.by_type))))
    except BadDefinition as error:
        return formatting.block(f"This version of alert-pipeline cannot draw it: {error}")


class DefinitionView(RecordView, model=DefinitionRow):
    """Every version of every pipeline definition, of the policy and of the mappings of senders."""

    address = "definitions"
    name = "Definition"
    about = (
        "Every version of every pipeline definition, of the policy and of the mappings of senders. They are changed "
        "with the commands alert-pipeline definitions, alert-pipeline policy and alert-pipeline sources."
    )
    search_hint = search_column = "name"
    extra_columns = ("is_active", "is_current", "config")
    columns = (
        Column("is_current", "State", show_row=_definition_state),
        Column("name", "Definition", show_row=lambda row: formatting.link(f"/definitions/{row.id}/", row.name)),
        Column("version", "Version"),
        Column("description", "Description"),
        Column("kind", "Kind"),
        Column("node_count", "Nodes", show_row=lambda row: len(row.config.get("nodes") or ())),
        Column("created_by", "By"),
        Column("created_at", "Created", formatting.ago),
    )
    page_columns = (
        Column("is_current", "State", show_row=_definition_state),
        Column("name", "Definition"),
        Column("version", "Version"),
        Column("description", "Description"),
        Column("kind", "Kind"),
        Column("tags", "Tags", ", ".join),
        Column("created_by", "By"),
        Column("created_at", "Created", formatting.moment),
        Column("updated_at", "Last changed", formatting.moment),
        Column("graph", "Graph", show_row=_definition_graph),
        Column("config", "Definition as JSON", formatting.json_block),
    )


class WorkerView(RecordView, model=WorkerRow):
    """Workers that are alive, or were within the last day."""

    address = "workers"
    name = "Worker"
    about = "Processes that execute runs. A worker whose heartbeat stops is dead after 20 s, and others claim its runs."
    columns = (
        Column("name", "Worker"),
        Column("heartbeat_at", "Heartbeat", formatting.heartbeat),
        Column("running", "Runs now"),
        Column("prefect_ok", "Prefect", lambda ok: formatting.badge_of(ok, "answers", "does not answer")),
        Column("started_at", "Started", formatting.ago),
        Column("host", "Host"),
        Column("pid", "Process"),
    )

    async def page(self, tx: AsyncConnection, params: Mapping[str, str]) -> Page:
        """All workers; a dead worker is deleted after a day."""
        latest = self._select(self.columns).order_by(WorkerRow.heartbeat_at.desc()).limit(_MAX_WORKERS)
        rows = (await tx.execute(latest)).all()
        return Page(rows=rows, older=None, asked=self.read_query(params))


class KeyView(RecordView, model=ApiKeyRow):
    """API keys. Their hashes and signing secrets are never read."""

    address = "keys"
    name = "API key"
    about = "Made and revoked with the command alert-pipeline keys. Of a key itself only the hash is stored."
    columns = (
        Column("name", "Name"),
        Column("prefix", "Key", lambda prefix: formatting.code(f"{prefix}…")),
        Column("scopes", "Allows", lambda scopes: ", ".join(sorted(scopes))),
        Column("created_at", "Created", formatting.moment),
        Column("last_used_at", "Last used", lambda at: formatting.ago(at) or "never"),
        Column("revoked_at", "State", lambda at: formatting.badge_of(at is None, "in use", "revoked")),
    )


TABLES = (RunView, IncidentView, AlertView, AttemptView, DefinitionView, WorkerView, KeyView)
"""The tables in the order of the menu."""
