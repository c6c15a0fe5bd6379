"""API keys, used signatures, pushes with their duplicates, and the priority of runs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CLAIMABLE = "status in ('pending', 'ingested', 'checked', 'analyzed', 'retrying')"


def upgrade() -> None:
    op.add_column("pipeline_run", sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("pipeline_run", sa.Column("content_hash", sa.Text(), nullable=True))
    op.add_column("pipeline_run", sa.Column("duplicate_of", sa.Text(), nullable=True))
    op.execute(
        "update pipeline_run set priority = case severity when 'critical' then 2 when 'warning' then 1 else 0 end"
    )
    op.create_index(
        "ix_pipeline_run_claim",
        "pipeline_run",
        [sa.text("priority DESC"), "id"],
        postgresql_where=sa.text(CLAIMABLE),
    )
    op.create_index(
        "ix_pipeline_run_latest",
        "pipeline_run",
        ["incident_key", "id"],
        postgresql_where=sa.text("duplicate_of is null"),
    )
    op.create_table(
        "push",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=False),
        sa.Column("run_ids", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_push")),
        sa.UniqueConstraint("sender", "idempotency_key", name=op.f("uq_push_sender_idempotency_key")),
    )
    op.create_index(op.f("ix_push_created_at"), "push", ["created_at"])
    op.create_table(
        "api_key",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("sealed_signing_secret", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("name", name=op.f("uq_api_key_name")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_key_prefix")),
    )
    op.create_table(
        "used_signature",
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("signature", name=op.f("pk_used_signature")),
    )
    op.create_index(op.f("ix_used_signature_used_at"), "used_signature", ["used_at"])


def downgrade() -> None:
    op.drop_table("used_signature")
    op.drop_table("api_key")
    op.drop_table("push")
    op.drop_index("ix_pipeline_run_latest", table_name="pipeline_run")
    op.drop_index("ix_pipeline_run_claim", table_name="pipeline_run")
    op.drop_column("pipeline_run", "duplicate_of")
    op.drop_column("pipeline_run", "content_hash")
    op.drop_column("pipeline_run", "priority")
