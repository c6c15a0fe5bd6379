"""What a channel needs to add to its earlier message about an incident"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("incident_channel", sa.Column("thread_id", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("incident_channel", "thread_id")
