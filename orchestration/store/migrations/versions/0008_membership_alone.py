"""`membership` alone says which incidents an alert is in"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index(op.f("ix_alert_incident_id"), table_name="alert")
    op.drop_constraint(op.f("fk_alert_incident_id"), "alert")
    op.drop_column("alert", "incident_id")


def downgrade() -> None:
    op.add_column("alert", sa.Column("incident_id", sa.BigInteger(), nullable=True))
    op.execute(
        """
        update alert set incident_id = latest.incident_id
        from (select alert_id, max(incident_id) as incident_id from membership group by alert_id) as latest
        where latest.alert_id = alert.id
        """
    )
    op.create_foreign_key(op.f("fk_alert_incident_id"), "alert", "incident", ["incident_id"], ["id"])
    op.create_index(op.f("ix_alert_incident_id"), "alert", ["incident_id"])
