"""Policies beside pipeline definitions, in one table"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("definition", sa.Column("kind", sa.Text(), server_default="pipeline", nullable=False))
    op.drop_constraint("uq_definition_name_version", "definition")
    op.create_unique_constraint("uq_definition_kind_name_version", "definition", ["kind", "name", "version"])
    op.drop_index("uq_definition_current", "definition")
    op.create_index(
        "uq_definition_current", "definition", ["kind", "name"], unique=True, postgresql_where=sa.text("is_current")
    )


def downgrade() -> None:
    op.execute("delete from definition where kind <> 'pipeline'")
    op.drop_index("uq_definition_current", "definition")
    op.create_index(
        "uq_definition_current", "definition", ["name"], unique=True, postgresql_where=sa.text("is_current")
    )
    op.drop_constraint("uq_definition_kind_name_version", "definition")
    op.create_unique_constraint("uq_definition_name_version", "definition", ["name", "version"])
    op.drop_column("definition", "kind")
