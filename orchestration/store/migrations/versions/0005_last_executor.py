"""The process that executed a run last"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pipeline_run", sa.Column("carried_by", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("pipeline_run", "carried_by")
