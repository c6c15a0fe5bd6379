"""Sessions of the admin that were signed out, and an index of alerts by their fingerprint"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ended_session",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_ended_session")),
    )
    op.create_index(op.f("ix_alert_fingerprint"), "alert", ["fingerprint"])


def downgrade() -> None:
    op.drop_index(op.f("ix_alert_fingerprint"), table_name="alert")
    op.drop_table("ended_session")
