"""What happened, as tables: runs, incidents, alerts, attempts. Which columns and filters, what a search finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from markupsafe import Markup
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import AlertStatus, IncidentStatus, Severity
from orchestration.contracts import Stage
from orchestration.states import RunStatus, StageStatus
from orchestration.store.models import (
    AlertRow,
    IncidentRow,
    PipelineRunRow,
    StageExecutionRow,
)
from orchestration.store.runs import RunFilter, list_page, seen_lately
from service.admin import cells, words
from service.admin.mount import PATH
from service.admin.records import PAGE, Filter, Page, RecordView, number

LEVELS = tuple(Severity)


class RunView(RecordView, model=PipelineRunRow):
    """Runs. The list is the API's own; a run's page is `pages.py`."""

    address = "runs"
    name = "Run"
    name_plural = "Runs"
    about = "One run takes the alerts of one incident from a push to the people on call."
    search_hint = "run id, trace id or fingerprint"
    filters = (
        Filter(name="status", label="Status", choices=tuple(RunStatus)),
        Filter(name="stage", label="Stage", choices=tuple(Stage)),
        Filter(name="source", label="Source"),
        Filter(name="environment", label="Environment"),
    )
    column_list = ("status", "title", "severity", "source", "environment", "current_stage", "created_at",
                   "total_duration_ms", "run_id")  # fmt: skip
    column_labels: ClassVar[cells.Labels] = {
        "title": "Run", "current_stage": "Stage", "created_at": "Came in", "total_duration_ms": "Took",
        "run_id": "Run id", "severity": "Severity", "status": "Status", "source": "Source",
        "environment": "Environment",
    }  # fmt: skip
    column_formatters: ClassVar[cells.Formatters] = {
        "status": cells.badge,
        "title": lambda row, _: _run_title(row),
        "severity": cells.badge,
        "created_at": cells.ago,
        "total_duration_ms": cells.milliseconds,
        "run_id": lambda row, _: Markup("<code>{}</code>").format(words.short(row.run_id)),
    }

    async def page(self, tx: AsyncConnection, params: Mapping[str, str]) -> Page:
        """The runs that the API would list."""
        asked = self.asked(params)
        wanted = RunFilter(
            status=RunStatus(asked["status"]) if "status" in asked else None,
            stage=asked.get("stage"),
            source=asked.get("source"),
            environment=asked.get("environment"),
            search=asked.get("search"),
        )
        found = await list_page(tx, wanted, limit=PAGE, cursor=asked.get("before"))
        suggestions = {name: await seen_lately(tx, name) for name in ("source", "environment")}
        return Page(rows=found.runs, older=found.next_cursor, asked=asked, suggestions=suggestions)


def _run_title(row: Any) -> Markup:
    why = row.skip_reason or (row.last_error_message if row.status is RunStatus.FAILED else None)
    below = Markup('<div class="why">{}</div>').format(why[:160]) if why else ""
    return cells.link(f"/runs/{row.run_id}/", row.title or words.short(row.run_id)) + below


class IncidentView(RecordView, model=IncidentRow):
    """Incidents. An incident's page is `pages.py`."""

    address = "incidents"
    name = "Incident"
    name_plural = "Incidents"
    about = "What a human handles: the alerts that belong together, from the first to the last that fires."
    search_hint = "number or incident key"
    filters = (
        Filter(name="status", label="Status", choices=tuple(IncidentStatus)),
        Filter(name="severity", label="Severity", choices=LEVELS),
    )
    column_list = ("status", "title", "severity", "opened_at", "resolved_at", "id")
    column_labels: ClassVar[cells.Labels] = {
        "title": "Incident", "opened_at": "Opened", "resolved_at": "Resolved", "id": "Number", "status": "Status",
        "severity": "Severity",
    }  # fmt: skip
    column_formatters: ClassVar[cells.Formatters] = {
        "status": cells.badge,
        "title": lambda row, _: cells.link(f"/incidents/{row.id}/", row.title or f"#{row.id}"),
        "severity": cells.badge,
        "opened_at": cells.ago,
        "resolved_at": cells.ago,
    }

    def found_by(self, text: str) -> ColumnElement[bool]:
        """By its number or its key."""
        if text.lstrip("#").isdecimal():
            return IncidentRow.id == number(text.lstrip("#"))
        return IncidentRow.incident_key == text


class AlertView(RecordView, model=AlertRow):
    """Alerts as they stand now."""

    address = "alerts"
    name = "Alert"
    name_plural = "Alerts"
    about = "Each alert as it stands now; one is told from another by its source and fingerprint."
    search_hint = "fingerprint"
    filters = (
        Filter(name="status", label="Status", choices=tuple(AlertStatus)),
        Filter(name="severity", label="Severity", choices=LEVELS),
        Filter(name="source", label="Source"),
    )
    window = 50_000
    column_list = ("status", "name", "severity", "source", "incident_id", "updated_at", "fingerprint")
    column_details_list = ("status", "severity", "name", "source", "fingerprint", "incident_id", "description",
                           "started_at", "ended_at", "received_at", "updated_at", "labels", "annotations",
                           "raw_payload")  # fmt: skip
    column_labels: ClassVar[cells.Labels] = {
        "status": "Status", "name": "Alert", "severity": "Severity", "source": "Source", "incident_id": "Incident",
        "updated_at": "Last heard of", "fingerprint": "Fingerprint", "description": "Description",
        "started_at": "Began", "ended_at": "Ended", "received_at": "First received", "labels": "Labels",
        "annotations": "Annotations", "raw_payload": "What was sent",
    }  # fmt: skip
    column_formatters: ClassVar[cells.Formatters] = {
        "status": cells.badge,
        "name": lambda row, _: cells.link(f"/alerts/{row.id}/", row.name),
        "severity": cells.badge,
        "incident_id": cells.incident,
        "updated_at": cells.ago,
        "fingerprint": lambda row, _: Markup("<code>{}</code>").format(row.fingerprint[:16]),
    }
    column_formatters_detail: ClassVar[cells.Formatters] = {
        "status": cells.badge,
        "severity": cells.badge,
        "incident_id": cells.incident,
        "started_at": cells.moment,
        "ended_at": cells.moment,
        "received_at": cells.moment,
        "updated_at": cells.moment,
        "labels": cells.json,
        "annotations": cells.json,
        "raw_payload": cells.json,
        "fingerprint": lambda row, _: Markup('<code>{}</code> <a href="{}/runs/?{}">its runs</a>').format(
            row.fingerprint, PATH, words.query(search=row.fingerprint)
        ),
    }

    def found_by(self, text: str) -> ColumnElement[bool]:
        """By its fingerprint."""
        return AlertRow.fingerprint == text


class AttemptView(RecordView, model=StageExecutionRow):
    """Attempts at stages, of all runs."""

    address = "attempts"
    name = "Stage execution"
    name_plural = "Stage executions"
    about = "Every attempt at every stage, also of stages that were left out."
    search_hint = "run id"
    filters = (
        Filter(name="status", label="Status", choices=tuple(StageStatus)),
        Filter(name="stage", label="Stage", choices=tuple(Stage)),
    )
    window = 50_000
    own_columns = ("idempotency_key", "node_id")
    column_list = ("status", "stage", "attempt", "duration_ms", "started_at", "error_message", "pipeline_run_id")
    column_details_list = ("status", "stage", "node_id", "attempt", "pipeline_run_id", "started_at", "completed_at",
                           "duration_ms", "error_type", "error_message", "error_retryable", "input_ref",
                           "output_ref", "output_snapshot", "error_stack")  # fmt: skip
    column_labels: ClassVar[cells.Labels] = {
        "status": "Status", "stage": "Stage", "attempt": "Attempt", "duration_ms": "Took", "started_at": "Started",
        "error_message": "Error", "pipeline_run_id": "Run", "node_id": "Node", "completed_at": "Completed",
        "error_type": "Kind of error", "error_retryable": "Worth a retry", "input_ref": "Input",
        "output_ref": "Output", "output_snapshot": "What it found", "error_stack": "Stack",
    }  # fmt: skip
    column_formatters: ClassVar[cells.Formatters] = {
        "status": cells.badge,
        "stage": lambda row, _: cells.link(f"/attempts/{row.id}/", row.stage),
        "duration_ms": cells.milliseconds,
        "started_at": cells.ago,
        "error_message": lambda row, _: (row.error_message or "")[:160],
        "pipeline_run_id": lambda row, _: _run_of(row),
    }
    column_formatters_detail: ClassVar[cells.Formatters] = {
        "status": cells.badge,
        "duration_ms": cells.milliseconds,
        "started_at": cells.moment,
        "completed_at": cells.moment,
        "output_snapshot": cells.json,
        "pipeline_run_id": lambda row, _: _run_of(row),
        "error_stack": lambda row, _: Markup("<pre>{}</pre>").format(row.error_stack) if row.error_stack else "",
    }

    def found_by(self, text: str) -> ColumnElement[bool]:
        """By the id of its run."""
        run = select(PipelineRunRow.id).where(PipelineRunRow.run_id == text).scalar_subquery()
        return StageExecutionRow.pipeline_run_id == run


def _run_of(row: Any) -> Markup:
    """The run of an attempt: an attempt's name begins with it."""
    run_id = row.idempotency_key.partition("/")[0]
    return cells.link(f"/runs/{run_id}/", Markup("<code>{}</code>").format(words.short(run_id)))
