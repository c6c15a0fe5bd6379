"""The escalation of an incident, and the timer of its next step"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0009"
branch_labels = None
depends_on = None

_TIMER = "uq_pipeline_run_timer"


def upgrade() -> None:
    op.add_column("incident", sa.Column("escalation", JSONB(), nullable=True))
    _index_timers("'reminder', 'expiry', 'escalation'")


def downgrade() -> None:
    # Whoever is left without a timer gets one from a worker.
    op.execute("delete from pipeline_run where reason = 'escalation' and status = 'pending'")
    _index_timers("'reminder', 'expiry'")
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
