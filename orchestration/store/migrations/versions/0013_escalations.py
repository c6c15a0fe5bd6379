"""The escalation of an incident with the timer of its next step; silences, and why an incident is kept back"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TIMER = "uq_pipeline_run_timer"


def upgrade() -> None:
    op.add_column("incident", sa.Column("escalation", JSONB(), nullable=True))
    op.add_column("incident", sa.Column("held", JSONB(), nullable=True))
    _index_timers("'reminder', 'expiry', 'escalation'")
    op.create_table(
        "silence",
        sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True),
        sa.Column("matchers", JSONB(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("via", sa.Text(), server_default="", nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
    )


def downgrade() -> None:
    # Whoever is left without a timer gets one from a worker.
    op.execute("delete from pipeline_run where reason = 'escalation' and status = 'pending'")
    _index_timers("'reminder', 'expiry'")
    op.drop_table("silence")
    op.drop_column("incident", "held")
    op.drop_column("incident", "escalation")


def _index_timers(reasons: str) -> None:
    op.drop_index(_TIMER, table_name="pipeline_run")
    op.create_index(
        _TIMER,
        "pipeline_run",
        ["incident_id"],
        unique=True,
        postgresql_where=sa.text(f"reason in ({reasons}) and status = 'pending' and due_at is not null"),
    )
