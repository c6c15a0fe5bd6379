"""Storms that wait: the few runs of storms whose alerts are not recorded yet are found at once"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_WAITING = sa.text("awaits_ingest and starts_with(incident_key, 'policy:storm:')")


def upgrade() -> None:
    op.create_index("ix_pipeline_run_storms", "pipeline_run", ["id"], postgresql_where=_WAITING)


def downgrade() -> None:
    op.drop_index("ix_pipeline_run_storms", "pipeline_run")
