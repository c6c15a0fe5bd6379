"""Which version of an incident is news, and which channels can show a state without a new message"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("incident", sa.Column("news_version", sa.Integer(), server_default="1", nullable=False))
    op.execute("update incident set news_version = version")
    shows_state = sa.Column("shows_state", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    op.add_column("incident_channel", shows_state)


def downgrade() -> None:
    op.drop_column("incident_channel", "shows_state")
    op.drop_column("incident", "news_version")
