"""What is set up, as tables: definitions, workers, API keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from markupsafe import Markup
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.store.models import ApiKeyRow, DefinitionRow, WorkerRow
from service.admin import cells, words
from service.admin.records import Page, RecordView


class KeyView(RecordView, model=ApiKeyRow):
    """API keys: neither their hashes nor their signing secrets are even read."""

    address = "keys"
    name = "API key"
    name_plural = "API keys"
    about = "Made and revoked with the command alert-pipeline keys. Of a key itself only the hash is stored."
    details = False
    own_columns = ("revoked_at",)
    column_list = ("name", "prefix", "scopes", "created_at", "last_used_at", "revoked_at")
    column_labels: ClassVar[cells.Labels] = {
        "name": "Name", "prefix": "Key", "scopes": "Allows", "created_at": "Created", "last_used_at": "Last used",
        "revoked_at": "State",
    }  # fmt: skip
    column_formatters: ClassVar[cells.Formatters] = {
        "prefix": lambda row, _: Markup("<code>{}…</code>").format(row.prefix),
        "scopes": lambda row, _: ", ".join(sorted(row.scopes)),
        "created_at": cells.moment,
        "last_used_at": lambda row, _: words.ago(row.last_used_at) or "never",
        "revoked_at": lambda row, _: words.badge("failed" if row.revoked_at else "succeeded",
                                                 "revoked" if row.revoked_at else "in use"),
    }  # fmt: skip


class DefinitionView(RecordView, model=DefinitionRow):
    """Pipeline definitions, each version of each."""

    address = "definitions"
    name = "Definition"
    name_plural = "Definitions"
    about = "Every version of every pipeline definition. They are changed with the command alert-pipeline definitions."
    search_hint = "name"
    own_columns = ("is_active", "is_current", "config")
    column_list = ("is_current", "name", "version", "description", "config", "created_by", "created_at")
    column_details_list = ("is_current", "name", "version", "description", "tags", "created_by", "created_at",
                           "updated_at", "config")  # fmt: skip
    column_labels: ClassVar[cells.Labels] = {
        "is_current": "State", "name": "Definition", "version": "Version", "description": "Description",
        "config": "Nodes", "created_by": "By", "created_at": "Created", "tags": "Tags", "updated_at": "Last changed",
    }  # fmt: skip
    column_formatters: ClassVar[cells.Formatters] = {
        "is_current": lambda row, _: _state_of(row),
        "name": lambda row, _: cells.link(f"/definitions/{row.id}/", row.name),
        "config": lambda row, _: len(row.config.get("nodes") or ()),
        "created_at": cells.ago,
    }
    column_formatters_detail: ClassVar[cells.Formatters] = {
        "is_current": lambda row, _: _state_of(row), "tags": lambda row, _: ", ".join(row.tags),
        "created_at": cells.moment, "updated_at": cells.moment, "config": cells.json,
    }  # fmt: skip

    def found_by(self, text: str) -> ColumnElement[bool]:
        """By its name."""
        return DefinitionRow.name == text


def _state_of(row: Any) -> Markup:
    if row.is_current:
        return words.badge("succeeded" if row.is_active else "failed", "active" if row.is_active else "disabled")
    return words.badge("skipped", "earlier")


class WorkerView(RecordView, model=WorkerRow):
    """Workers that live, or did until a day ago."""

    address = "workers"
    name = "Worker"
    name_plural = "Workers"
    about = "Who carries runs out. One whose heartbeat stops is taken for dead after 20 s, and its runs go to others."
    details = False
    column_list = ("name", "heartbeat_at", "running", "prefect_ok", "started_at", "host", "pid")
    column_labels: ClassVar[cells.Labels] = {
        "name": "Worker", "heartbeat_at": "Heartbeat", "running": "Runs now", "prefect_ok": "Prefect",
        "started_at": "Started", "host": "Host", "pid": "Process",
    }  # fmt: skip
    column_formatters: ClassVar[cells.Formatters] = {
        "heartbeat_at": lambda row, _: words.heartbeat(row.heartbeat_at),
        "started_at": cells.ago,
        "prefect_ok": lambda row, _: words.badge("succeeded" if row.prefect_ok else "failed",
                                                 "answers" if row.prefect_ok else "does not answer"),
    }  # fmt: skip

    async def page(self, tx: AsyncConnection, params: Mapping[str, str]) -> Page:
        """All of them: a dead one is forgotten after a day."""
        columns = [getattr(WorkerRow, name) for name in self._list_prop_names]
        rows = (await tx.execute(select(*columns).order_by(WorkerRow.heartbeat_at.desc()).limit(500))).all()
        return Page(rows=rows, older=None, asked=self.asked(params))
