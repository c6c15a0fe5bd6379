"""Stories: who carried a run, and traces found by the start of their id"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pipeline_run", sa.Column("carried_by", sa.Text(), nullable=True))
    # The same index, but for the start of an id as well, whatever the database's collation is.
    op.drop_index(op.f("ix_pipeline_run_trace_id"), table_name="pipeline_run")
    op.create_index(
        op.f("ix_pipeline_run_trace_id"),
        "pipeline_run",
        ["trace_id"],
        postgresql_ops={"trace_id": "text_pattern_ops"},
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_pipeline_run_trace_id"), table_name="pipeline_run")
    op.create_index(op.f("ix_pipeline_run_trace_id"), "pipeline_run", ["trace_id"])
    op.drop_column("pipeline_run", "carried_by")
