"""Storms: how many incidents were opened lately is asked before each claim"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_incident_opened_at"), "incident", ["opened_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_incident_opened_at"), "incident")
