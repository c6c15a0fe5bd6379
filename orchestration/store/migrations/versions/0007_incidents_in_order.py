"""Episodes and membership of alerts, versions of incidents, what each channel was told, timers, refused pushes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_OPEN = "status in ('open', 'acknowledged')"
_CLAIMABLE = "status in ('pending', 'ingested', 'checked', 'analyzed', 'retrying')"
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _incidents_and_alerts()
    _runs()
    _channels()
    _pushes()


def _incidents_and_alerts() -> None:
    op.add_column("incident", sa.Column("environment", sa.Text(), server_default="production", nullable=False))
    op.add_column("incident", sa.Column("version", sa.Integer(), server_default="1", nullable=False))
    op.add_column("incident", sa.Column("heard_at", _MOMENT, server_default=sa.text("now()"), nullable=False))
    op.add_column("incident", sa.Column("acknowledged_by", sa.Text(), nullable=True))
    op.add_column("incident", sa.Column("snoozed_until", _MOMENT, nullable=True))
    op.add_column("alert", sa.Column("environment", sa.Text(), server_default="production", nullable=False))
    op.add_column(
        "alert",
        sa.Column("links", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("alert", sa.Column("state_reason", sa.Text(), server_default="", nullable=False))
    op.add_column("alert", sa.Column("episode_at", _MOMENT, nullable=True))
    op.add_column("alert", sa.Column("occurred_at", _MOMENT, nullable=True))
    op.add_column("alert", sa.Column("heard_at", _MOMENT, server_default=sa.text("now()"), nullable=False))
    op.add_column("alert", sa.Column("last_run", sa.BigInteger(), nullable=True))
    # An alert and an incident lived in the environment of the runs that spoke of it last.
    op.execute(
        """
        update incident set environment = run.environment
        from (
            select distinct on (incident_id) incident_id, environment
            from pipeline_run where incident_id is not null order by incident_id, id desc
        ) as run
        where run.incident_id = incident.id
        """
    )
    # An open one is heard of now: it was not noted when it was repeated, and it must not expire because of that.
    op.execute(f"update incident set heard_at = updated_at where not {_OPEN}")
    op.execute(
        "update alert set environment = incident.environment from incident where incident.id = alert.incident_id"
    )
    op.execute("update alert set heard_at = received_at, occurred_at = coalesce(ended_at, started_at)")
    op.drop_constraint("uq_alert_source_fingerprint", "alert")
    op.create_unique_constraint(
        op.f("uq_alert_source_environment_fingerprint"), "alert", ["source", "environment", "fingerprint"]
    )
    op.drop_index("uq_incident_open_key", table_name="incident")
    op.create_index(
        "uq_incident_open_key",
        "incident",
        ["environment", "incident_key"],
        unique=True,
        postgresql_where=sa.text(_OPEN),
    )
    op.create_table(
        "membership",
        sa.Column("incident_id", sa.BigInteger(), nullable=False),
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("joined_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incident.id"], name=op.f("fk_membership_incident_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["alert_id"], ["alert.id"], name=op.f("fk_membership_alert_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("incident_id", "alert_id", name=op.f("pk_membership")),
    )
    op.create_index(op.f("ix_membership_alert_id"), "membership", ["alert_id"])
    op.execute(
        """
        insert into membership (incident_id, alert_id, status, joined_at, updated_at)
        select incident_id, id, status, received_at, updated_at from alert where incident_id is not null
        """
    )


def _runs() -> None:
    op.add_column("pipeline_run", sa.Column("reason", sa.Text(), server_default="push", nullable=False))
    op.add_column("pipeline_run", sa.Column("due_at", _MOMENT, nullable=True))
    op.add_column(
        "pipeline_run", sa.Column("awaits_ingest", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.execute(
        f"""
        update pipeline_run set awaits_ingest = true
        where incident_key is not null and ingest_result is null and {_CLAIMABLE}
            and options->>'definition' is null and options->>'definition_config' is null
        """
    )
    op.drop_index("ix_pipeline_run_claim", table_name="pipeline_run")
    op.create_index(
        "ix_pipeline_run_claim",
        "pipeline_run",
        [sa.text("priority DESC"), "id"],
        postgresql_where=sa.text(f"{_CLAIMABLE} and due_at is null"),
    )
    op.create_index(
        "ix_pipeline_run_due",
        "pipeline_run",
        ["priority", "due_at"],
        postgresql_where=sa.text(f"{_CLAIMABLE} and due_at is not null"),
    )
    op.create_index(
        "ix_pipeline_run_awaits_ingest",
        "pipeline_run",
        ["incident_key", "environment", "id"],
        postgresql_where=sa.text("awaits_ingest"),
    )
    op.drop_index("ix_pipeline_run_latest", table_name="pipeline_run")
    op.create_index(
        "ix_pipeline_run_latest",
        "pipeline_run",
        ["incident_key", "environment", "id"],
        postgresql_where=sa.text("duplicate_of is null"),
    )
    for name, kind in (
        ("timer", "due_at is not null and reason in ('reminder', 'expiry')"),
        ("redelivery", "reason = 'redelivery'"),
    ):
        op.create_index(
            f"uq_pipeline_run_{name}",
            "pipeline_run",
            ["incident_id"],
            unique=True,
            postgresql_where=sa.text(f"{kind} and status = 'pending'"),
        )


def _channels() -> None:
    op.add_column("delivery", sa.Column("incident_id", sa.BigInteger(), nullable=True))
    op.add_column("delivery", sa.Column("version", sa.Integer(), nullable=True))
    op.create_foreign_key(
        op.f("fk_delivery_incident_id"), "delivery", "incident", ["incident_id"], ["id"], ondelete="SET NULL"
    )
    op.drop_constraint("uq_delivery_pipeline_run_id_node_id_channel", "delivery")
    op.create_index(op.f("ix_delivery_pipeline_run_id"), "delivery", ["pipeline_run_id"])
    op.create_index(op.f("ix_delivery_incident_id"), "delivery", ["incident_id"])
    op.execute(
        """
        update delivery set incident_id = run.incident_id
        from pipeline_run as run where run.id = delivery.pipeline_run_id and run.incident_id is not null
        """
    )
    op.create_table(
        "incident_channel",
        sa.Column("incident_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("severity", sa.Text(), nullable=True),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("sent_at", _MOMENT, nullable=True),
        sa.Column("failing_since", _MOMENT, nullable=True),
        sa.Column("given_up_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incident.id"], name=op.f("fk_incident_channel_incident_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("incident_id", "channel", name=op.f("pk_incident_channel")),
    )
    # Version 1 counts as told on every channel, so that nobody is told of anything because of the migration.
    op.execute(
        """
        insert into incident_channel (incident_id, channel, driver, version, status, provider_id, sent_at)
        select distinct on (delivery.incident_id, delivery.channel)
            delivery.incident_id, delivery.channel, delivery.driver, 1,
            case when incident.status in ('open', 'acknowledged') then 'firing' else 'resolved' end,
            delivery.provider_id, coalesce(delivery.settled_at, delivery.created_at)
        from delivery join incident on incident.id = delivery.incident_id
        where delivery.status = 'sent'
        order by delivery.incident_id, delivery.channel, delivery.id desc
        """
    )
    op.create_table(
        "channel_health",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", _MOMENT, nullable=True),
        sa.Column("not_before", _MOMENT, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("sent_at", _MOMENT, nullable=True),
        sa.Column("reported_at", _MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_channel_health")),
    )


def _pushes() -> None:
    op.create_table(
        "refused_push",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("sender", sa.Text(), server_default="", nullable=False),
        sa.Column("address", sa.Text(), server_default="", nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), server_default="", nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refused_push")),
    )
    op.create_index(op.f("ix_refused_push_at"), "refused_push", ["at"])


def downgrade() -> None:
    op.drop_table("refused_push")
    op.drop_table("channel_health")
    op.drop_table("incident_channel")
    op.drop_index(op.f("ix_delivery_incident_id"), table_name="delivery")
    op.drop_index(op.f("ix_delivery_pipeline_run_id"), table_name="delivery")
    op.drop_constraint(op.f("fk_delivery_incident_id"), "delivery")
    op.execute(
        """
        delete from delivery using delivery as later
        where later.pipeline_run_id = delivery.pipeline_run_id and later.node_id = delivery.node_id
            and later.channel = delivery.channel and later.id > delivery.id
        """
    )
    op.create_unique_constraint(
        op.f("uq_delivery_pipeline_run_id_node_id_channel"), "delivery", ["pipeline_run_id", "node_id", "channel"]
    )
    op.drop_column("delivery", "version")
    op.drop_column("delivery", "incident_id")
    for index in (
        "uq_pipeline_run_redelivery",
        "uq_pipeline_run_timer",
        "ix_pipeline_run_awaits_ingest",
        "ix_pipeline_run_due",
        "ix_pipeline_run_claim",
    ):
        op.drop_index(index, table_name="pipeline_run")
    op.drop_index("ix_pipeline_run_latest", table_name="pipeline_run")
    op.create_index(
        "ix_pipeline_run_latest",
        "pipeline_run",
        ["incident_key", "id"],
        postgresql_where=sa.text("duplicate_of is null"),
    )
    # An older version would execute timers at once, as if they were pushes.
    op.execute("delete from pipeline_run where reason <> 'push'")
    for name in ("awaits_ingest", "due_at", "reason"):
        op.drop_column("pipeline_run", name)
    op.create_index(
        "ix_pipeline_run_claim",
        "pipeline_run",
        [sa.text("priority DESC"), "id"],
        postgresql_where=sa.text(_CLAIMABLE),
    )
    _alerts_without_environment()


def _alerts_without_environment() -> None:
    op.drop_table("membership")
    # What only the environment told apart becomes one again: the newest stays.
    op.execute(
        """
        delete from alert using alert as later
        where later.source = alert.source and later.fingerprint = alert.fingerprint and later.id > alert.id
        """
    )
    op.execute(
        """
        update incident set status = 'resolved', resolved_at = now()
        from incident as later
        where later.incident_key = incident.incident_key and later.id > incident.id
            and later.status in ('open', 'acknowledged') and incident.status in ('open', 'acknowledged')
        """
    )
    op.drop_index("uq_incident_open_key", table_name="incident")
    op.create_index("uq_incident_open_key", "incident", ["incident_key"], unique=True, postgresql_where=sa.text(_OPEN))
    op.drop_constraint("uq_alert_source_environment_fingerprint", "alert")
    op.create_unique_constraint(op.f("uq_alert_source_fingerprint"), "alert", ["source", "fingerprint"])
    for name in ("last_run", "heard_at", "occurred_at", "episode_at", "state_reason", "links", "environment"):
        op.drop_column("alert", name)
    for name in ("snoozed_until", "acknowledged_by", "heard_at", "version", "environment"):
        op.drop_column("incident", name)
