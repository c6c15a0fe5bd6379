"""Deleting together: no foreign keys, and no index of a column that changes often"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_REFERENCES = (
    ("stage_execution", "pipeline_run_id", "pipeline_run", "CASCADE"),
    ("delivery", "pipeline_run_id", "pipeline_run", "CASCADE"),
    ("delivery", "incident_id", "incident", "SET NULL"),
    ("pipeline_run", "incident_id", "incident", "SET NULL"),
    ("history", "alert_id", "alert", "CASCADE"),
    ("history", "incident_id", "incident", "CASCADE"),
    ("membership", "alert_id", "alert", "CASCADE"),
    ("membership", "incident_id", "incident", "CASCADE"),
    ("incident_channel", "incident_id", "incident", "CASCADE"),
)
_VALUES = "alert_fingerprint is null and status in ('notified', 'skipped') and payload -> 'data' <> 'null'::jsonb"
_FINAL = "status in ('notified', 'failed', 'skipped')"
_ENDED = "status not in ('open', 'acknowledged')"


def upgrade() -> None:
    op.execute("set local maintenance_work_mem = '256MB'")
    for table, column, _, _ in _REFERENCES:
        op.drop_constraint(f"fk_{table}_{column}", table)
    op.drop_constraint("uq_stage_execution_idempotency_key", "stage_execution")
    op.drop_index("ix_stage_execution_unusual", "stage_execution")
    errors = sa.text("error_type is not null")
    op.create_index("ix_stage_execution_errors", "stage_execution", ["id"], postgresql_where=errors)
    op.drop_index("ix_pipeline_run_ended", "pipeline_run")
    op.drop_index("ix_pipeline_run_values", "pipeline_run")
    op.create_index("ix_pipeline_run_values", "pipeline_run", ["created_at"], postgresql_where=sa.text(_VALUES))
    op.drop_index("ix_incident_ended", "incident")
    # Where a page has room, a new version of a row stays on it, and needs no new entry in any index.
    op.execute("alter table pipeline_run set (fillfactor = 80)")


def downgrade() -> None:
    op.execute("alter table pipeline_run reset (fillfactor)")
    op.create_index("ix_incident_ended", "incident", ["updated_at"], postgresql_where=sa.text(_ENDED))
    op.drop_index("ix_pipeline_run_values", "pipeline_run")
    op.create_index("ix_pipeline_run_values", "pipeline_run", ["updated_at"], postgresql_where=sa.text(_VALUES))
    op.create_index("ix_pipeline_run_ended", "pipeline_run", ["updated_at"], postgresql_where=sa.text(_FINAL))
    op.drop_index("ix_stage_execution_errors", "stage_execution")
    unusual = sa.text("status <> 'succeeded'")
    op.create_index("ix_stage_execution_unusual", "stage_execution", ["status", "id"], postgresql_where=unusual)
    op.create_unique_constraint("uq_stage_execution_idempotency_key", "stage_execution", ["idempotency_key"])
    for table, column, parent, on_delete in _REFERENCES:
        op.create_foreign_key(f"fk_{table}_{column}", table, parent, [column], ["id"], ondelete=on_delete)
