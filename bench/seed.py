"""Fills a database as months of service would: `python -m bench.seed DATABASE_URL 100000`.

Each run has the attempts that its status needs (about four), and a delivery if it notified somebody. There is one
incident for every eight runs, with two alerts, their history and what its channel knows; the last twenty are open.
One push in fifty was refused, and one change in two hundred runs was posted. The times are spread
evenly over the last 30 days, or as many as the caller says.
"""

from __future__ import annotations

import sys
import time
from typing import LiteralString

import psycopg

from orchestration.store.database import libpq_url, migrate

_PLAN = """
create temporary table plan on commit drop as
select
    i,
    %(first)s + i as pk,
    %(incidents)s + 1 + i / 8 as incident,
    md5(%(salt)s || 'run' || i) as run_id,
    md5(%(salt)s || 'trace' || i / 3) as trace_id,
    md5(%(salt)s || 'fingerprint' || i / 4) as fingerprint,
    now() - %(days)s * interval '1 day' * (1 - i::float / %(runs)s) - interval '1 second' as created_at,
    case when r < 0.9 then 'notified' when r < 0.985 then 'skipped' else 'failed' end as status,
    case when a < 0.55 then 'alertmanager' when a < 0.8 then 'grafana' else 'generic' end as source,
    case when b < 0.7 then 'production' when b < 0.9 then 'staging' else 'development' end as environment,
    case when c < 0.2 then 'critical' when c < 0.7 then 'warning' else 'info' end as severity,
    case when d < 0.97 then 'prefect' else 'direct' end as engine,
    d > 0.5 and d < 0.52 as fallback,
    (array['HighCPU', 'DiskFull', 'HighMemory', 'ServiceDown', 'LatencyHigh', 'CertExpires'])[1 + floor(e * 6)::int]
        as name,
    'web-' || 1 + floor(f * 40)::int as host,
    (array['ingest', 'check', 'analyze', 'notify', 'notify', 'notify'])[1 + floor(g * 6)::int] as failed_at,
    150 + 400 * h * h as total_ms,
    g < 0.5 as repeat
from (
    select i, random() r, random() a, random() b, random() c, random() d, random() e, random() f, random() g, random() h
    from generate_series(0, %(runs)s - 1) as i
) as dice
"""

_INCIDENTS = """
insert into incident (
    id, incident_key, title, status, severity, description, summary, opened_at, resolved_at, updated_at
)
select
    incident, 'seed/' || %(salt)s || '/' || incident, max(name) || ' on ' || max(host),
    case when incident > %(incidents)s + %(runs)s / 8 - 20 then 'open' else 'resolved' end,
    max(severity), 'More than usual for ten minutes', '', min(created_at),
    case when incident > %(incidents)s + %(runs)s / 8 - 20 then null else max(created_at) end, max(created_at)
from plan group by incident order by incident
"""

_ALERTS = """
insert into alert (
    source, fingerprint, name, severity, status, description, labels, annotations, raw_payload,
    started_at, received_at, heard_at, updated_at
)
select
    source, fingerprint, name, severity,
    case when incident > %(incidents)s + %(runs)s / 8 - 20 then 'firing' else 'resolved' end,
    'More than usual for ten minutes', jsonb_build_object('alertname', name, 'instance', host, 'env', environment),
    jsonb_build_object('runbook_url', 'https://runbooks.example.com/' || name),
    jsonb_build_object('labels', jsonb_build_object('alertname', name, 'instance', host)),
    created_at, created_at, created_at, created_at
from (select distinct on (fingerprint) * from plan order by fingerprint, i) as first order by i
"""

_MEMBERS = """
insert into membership (incident_id, alert_id, status, joined_at, updated_at)
select distinct on (alert.id) plan.incident, alert.id, alert.status, plan.created_at, plan.created_at
from plan join alert on alert.fingerprint = plan.fingerprint and alert.source = plan.source
order by alert.id, plan.i
"""

_HISTORY = """
insert into history (alert_id, incident_id, run_id, event, old_status, new_status, at)
select alert_id, incident_id, null, event, null, case event when 'created' then 'firing' else status end, joined_at
from membership cross join (values ('created'), ('updated')) as events (event)
where incident_id > %(incidents)s
"""

_RUNS = """
insert into pipeline_run (
    id, run_id, trace_id, status, current_stage, incident_id, incident_key, title, source, alert_fingerprint, severity,
    priority, environment, payload, intelligence_fallback_used, skip_reason, total_attempts, last_error_type,
    last_error_message, last_error_retryable, engine, prefect_flow_run_id, created_at, updated_at, started_at,
    completed_at, total_duration_ms
)
select
    pk, run_id, trace_id, status,
    case status when 'notified' then 'notify' when 'failed' then failed_at else 'ingest' end,
    incident, 'seed/' || %(salt)s || '/' || incident, name || ' on ' || host, source, fingerprint,
    severity, case severity when 'critical' then 2 when 'warning' then 1 else 0 end, environment,
    jsonb_build_object('alerts', jsonb_build_array(jsonb_build_object(
        'name', name, 'source', source, 'fingerprint', fingerprint, 'severity', severity, 'status', 'firing',
        'labels', jsonb_build_object('alertname', name, 'instance', host, 'team', 'platform'),
        'description', repeat('More than usual for ten minutes. ', 8)
    ))),
    fallback and status = 'notified',
    case status when 'skipped' then case when repeat then 'repeat' else 'some_resolved' end end,
    case status when 'skipped' then 1 when 'failed' then 4 else 4 end,
    case status when 'failed' then 'DeliveryFailed' end,
    case status when 'failed' then 'The webhook answered 503 Service Unavailable' end,
    case status when 'failed' then true end,
    engine, case engine when 'prefect' then gen_random_uuid()::text end,
    created_at, created_at + total_ms * interval '1 ms', created_at + interval '8 ms',
    created_at + total_ms * interval '1 ms', total_ms
from plan order by i
"""

# In a failed run, the stages before the failed one have succeeded, and that one has four attempts. In a skipped run,
# all stages after ingest are skipped.
_ATTEMPTS = """
insert into stage_execution (
    pipeline_run_id, node_id, stage, status, attempt, idempotency_key, input_ref, output_ref, output_snapshot,
    error_type, error_message, error_stack, error_retryable, started_at, completed_at, duration_ms
)
select
    pk, stage.name, stage.name,
    case when failing and attempt = 4 then 'failed' when failing then 'retrying'
         when plan.status = 'skipped' and stage.place > 1 then 'skipped' else 'succeeded' end,
    attempt, plan.run_id || '/' || stage.name || '/' || attempt, 'payload/' || plan.run_id,
    case when not failing then 'output/' || plan.run_id || '/' || stage.name || '/' || attempt end,
    case when not failing then jsonb_build_object(
        'duration_ms', plan.total_ms * stage.share,
        'errors', jsonb_build_array(repeat('What was found, in words. ', 12)))
        || case stage.name when 'analyze' then '{"summary": "A process needs more memory"}' else '{}' end::jsonb end,
    case when failing then 'DeliveryFailed' end,
    case when failing then 'The webhook answered 503 Service Unavailable' end,
    case when failing then repeat('  File "tasks/notify/stage.py", line 1, in deliver' || chr(10), 12) end,
    case when failing then true end,
    plan.created_at + plan.total_ms * stage.begins * interval '1 ms' + (attempt - 1) * interval '2 s',
    plan.created_at + plan.total_ms * (stage.begins + stage.share) * interval '1 ms' + (attempt - 1) * interval '2 s',
    plan.total_ms * stage.share
from plan
cross join (values ('ingest', 1, 0.05, 0.1), ('check', 2, 0.15, 0.4), ('analyze', 3, 0.55, 0.2),
    ('notify', 4, 0.75, 0.25)) as stage (name, place, begins, share)
cross join lateral (select plan.status = 'failed' and stage.name = plan.failed_at as failing) as verdict
cross join lateral generate_series(1, case when failing then 4 else 1 end) as attempt
where plan.status <> 'failed'
    or stage.place <= array_position(array['ingest', 'check', 'analyze', 'notify'], plan.failed_at)
order by pk, stage.place, attempt
"""

_DELIVERIES = """
insert into delivery (
    pipeline_run_id, node_id, channel, driver, target, idempotency_key, status, tries, error, created_at, settled_at
)
select
    pk, 'notify', 'oncall', 'generic', 'hooks.example.com', plan.run_id || '/notify/oncall',
    case plan.status when 'notified' then 'sent' else 'failed' end,
    case plan.status when 'notified' then 1 else 4 end,
    case plan.status when 'failed' then 'The webhook answered 503 Service Unavailable' end,
    plan.created_at + plan.total_ms * 0.8 * interval '1 ms', plan.created_at + plan.total_ms * interval '1 ms'
from plan
where plan.status = 'notified' or plan.status = 'failed' and plan.failed_at = 'notify'
"""

_CHANNELS = """
insert into incident_channel (incident_id, channel, driver, version, status, severity, sent_at)
select id, 'oncall', 'generic', version, status, severity, updated_at
from incident where id > %(incidents)s
"""

_REFUSED = """
insert into refused_push (at, sender, address, path, size_bytes, status, reason, body)
select created_at, 'alertmanager', '192.0.2.7', '/alerts/webhook/', 300, 422, 'alerts: expected a list',
    '{"alerts": {"alertname": "' || name || '", "instance": "' || host || '"}}'
from plan where i %% 50 = 0
"""

_CHANGES = """
insert into change_event (sender, sender_id, at, kind, title, made_by, labels, received_at)
select 'ci', run_id, created_at, 'deploy', 'Deploy of ' || host, 'ada', jsonb_build_object('instance', host), created_at
from plan where i %% 200 = 0
"""


def seed(database_url: str, runs: int, *, days: float = 30.0) -> None:
    """Add the runs of so many days, with all that belongs to them, to a database. Its schema is migrated first.

    Each call adds to the rows that are there.
    """
    migrate(database_url)
    with psycopg.connect(libpq_url(database_url)) as connection:
        # Concurrent inserts wait for the lock, and get the ids after ours.
        connection.execute("lock table incident, pipeline_run in exclusive mode")
        values = {
            "runs": runs,
            "days": days,
            "salt": str(time.time_ns()),
            "incidents": _last_id(connection, "incident"),
            "first": _last_id(connection, "pipeline_run") + 1,
        }
        connection.execute("select setseed(0.42)")
        for statement in (_PLAN, _INCIDENTS, _ALERTS, _MEMBERS, _HISTORY, _RUNS):
            connection.execute(statement, values)
        for table in ("incident", "pipeline_run"):
            last = _last_id(connection, table)
            connection.execute("select setval(pg_get_serial_sequence(%s, 'id'), %s)", (table, last))
        for statement in (_ATTEMPTS, _DELIVERIES, _CHANNELS, _REFUSED, _CHANGES):
            connection.execute(statement, values)
        connection.commit()
        connection.autocommit = True
        connection.execute("vacuum analyze")


def _last_id(connection: psycopg.Connection, table: LiteralString) -> int:
    found = connection.execute(f"select coalesce(max(id), 0) from {table}").fetchone()
    return int(found[0]) if found else 0


def main() -> None:
    """Seed the database that the command line names."""
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal() or int(sys.argv[2]) < 1:
        raise SystemExit("usage: python -m bench.seed DATABASE_URL RUNS")
    began = time.perf_counter()
    seed(sys.argv[1], int(sys.argv[2]))
    print(f"{int(sys.argv[2]):,} runs in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
