"""Heartbeats that are expected, and since when they can be accepted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "heartbeat",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("every_seconds", sa.Float(), nullable=False),
        sa.Column("grace_seconds", sa.Float(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("last_beat_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("missing_since", _MOMENT, nullable=True),
        sa.Column("created_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_heartbeat")),
        sa.UniqueConstraint("name", "environment", name=op.f("uq_heartbeat_name_environment")),
    )
    op.create_table(
        "door",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("open_since", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_door")),
    )
    op.create_index(
        "uq_pipeline_run_heartbeat",
        "pipeline_run",
        ["incident_key", "environment"],
        unique=True,
        postgresql_where=sa.text("reason = 'heartbeat' and status = 'pending' and due_at is not null"),
    )


def downgrade() -> None:
    op.drop_index("uq_pipeline_run_heartbeat", table_name="pipeline_run")
    op.execute("delete from pipeline_run where reason = 'heartbeat'")
    op.drop_table("door")
    op.drop_table("heartbeat")
