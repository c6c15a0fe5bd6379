"""Growth: an index for each list, for `why` and for retention; tables of many changes are vacuumed early"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_OPEN = "('open', 'acknowledged')"
_INDEXES = {
    "ix_pipeline_run_source_created_at_id": ("pipeline_run", ["source", "created_at", "id"], None),
    "ix_pipeline_run_environment_created_at_id": ("pipeline_run", ["environment", "created_at", "id"], None),
    "ix_pipeline_run_current_stage_created_at_id": ("pipeline_run", ["current_stage", "created_at", "id"], None),
    "ix_pipeline_run_failed": ("pipeline_run", ["current_stage", "created_at", "id"], "status = 'failed'"),
    "ix_pipeline_run_loose": ("pipeline_run", ["created_at"], "incident_id is null"),
    "ix_pipeline_run_loose_key": ("pipeline_run", ["incident_key", "environment", "created_at"], "incident_id is null"),
    "ix_pipeline_run_ended": ("pipeline_run", ["updated_at"], "status in ('notified', 'failed', 'skipped')"),
    "ix_pipeline_run_values": (
        "pipeline_run",
        ["updated_at"],
        "alert_fingerprint is null and status in ('notified', 'skipped') and payload -> 'data' <> 'null'::jsonb",
    ),
    "ix_incident_status_id": ("incident", ["status", "id"], None),
    "ix_incident_severity_id": ("incident", ["severity", "id"], None),
    "ix_incident_environment_id": ("incident", ["environment", "id"], None),
    "ix_incident_source": ("incident", [sa.text("(metadata ->> 'source')"), "id"], None),
    "ix_incident_title": ("incident", [sa.text("lower(title) text_pattern_ops"), "id"], None),
    "ix_incident_ended": ("incident", ["updated_at"], f"status not in {_OPEN}"),
    "ix_alert_heard_at": ("alert", ["heard_at"], None),
    "ix_alert_firing": ("alert", ["environment", "id"], "status = 'firing'"),
    "ix_alert_status_id": ("alert", ["status", "id"], None),
    "ix_alert_severity_id": ("alert", ["severity", "id"], None),
    "ix_alert_source_id": ("alert", ["source", "id"], None),
    "ix_history_at": ("history", ["at"], None),
    "ix_stage_execution_unusual": ("stage_execution", ["status", "id"], "status <> 'succeeded'"),
}
"""The table, the columns and the condition of each new index."""

_BUSY = ("pipeline_run", "stage_execution", "delivery", "alert", "incident", "history")
_SOON = {
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.02",
}
"""By default a table waits until a fifth of it is dead: of a million runs, the claim would read past 200,000."""


def upgrade() -> None:
    # The default sorts a million runs on disk.
    op.execute("set local maintenance_work_mem = '256MB'")
    for name, (table, columns, condition) in _INDEXES.items():
        op.create_index(name, table, columns, postgresql_where=None if condition is None else sa.text(condition))
    op.drop_index("ix_pipeline_run_source", "pipeline_run")
    for table in _BUSY:
        op.execute(f"alter table {table} set ({', '.join(f'{name} = {value}' for name, value in _SOON.items())})")
    # What the planner knows of an index of an expression it learns only now.
    op.execute("analyze incident")


def downgrade() -> None:
    for table in _BUSY:
        op.execute(f"alter table {table} reset ({', '.join(_SOON)})")
    op.create_index("ix_pipeline_run_source", "pipeline_run", ["source"])
    for name, (table, _, _) in reversed(_INDEXES.items()):
        op.drop_index(name, table)
