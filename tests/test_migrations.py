"""The schema: made from nothing, kept in step with the models, by any number of processes, with clear refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from psycopg.sql import SQL, Identifier
from sqlalchemy import create_engine, inspect

from orchestration.errors import Unavailable
from orchestration.store.database import (
    MIGRATIONS,
    Database,
    migrate,
    open_database,
    sqlalchemy_url,
)
from orchestration.store.models import Base
from service.worker.worker import Worker
from tests.inbox_helpers import accept_push
from tests.notify_helpers import rows
from tests.receivers import http_receiver
from tests.stack_fixtures import as_superuser
from tests.worker_helpers import NOWHERE, eventually, over, worker_settings, working


@pytest.fixture
def empty_url(postgres_url: str) -> Iterator[str]:
    """A database without a table, on the session's server."""
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(as_superuser(postgres_url), autocommit=True) as connection:
        connection.execute(SQL("create database {} owner alert_pipeline").format(Identifier(name)))
        yield urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
        connection.execute(SQL("drop database {} with (force)").format(Identifier(name)))


def tables(url: str) -> set[str]:
    engine = create_engine(sqlalchemy_url(url))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def config_of(url: str) -> Config:
    """What Alembic needs to bring this database to a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = sqlalchemy_url(url)
    return config


def differences(url: str) -> list[object]:
    """What the schema lacks, or has more than the models."""
    engine = create_engine(sqlalchemy_url(url))
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            return compare_metadata(context, Base.metadata)
    finally:
        engine.dispose()


def test_an_empty_database_becomes_current(empty_url: str) -> None:
    migrate(empty_url)

    assert tables(empty_url) == {*Base.metadata.tables, "alembic_version"}


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    migrate(empty_url)
    before = tables(empty_url)
    migrate(empty_url)

    assert tables(empty_url) == before


def test_models_and_migrations_agree(empty_url: str) -> None:
    migrate(empty_url)

    assert differences(empty_url) == []


REVISIONS = sorted(path.name.split("_", 1)[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_database_of_an_earlier_version_becomes_current(empty_url: str, revision: str) -> None:
    command.upgrade(config_of(empty_url), revision)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        columns = "run_id, trace_id, source, environment, payload, severity"
        connection.execute(f"insert into pipeline_run ({columns}) values ('r', 't', 's', 'e', '{{}}', 'critical')")

    migrate(empty_url)

    assert tables(empty_url) == {*Base.metadata.tables, "alembic_version"}
    assert differences(empty_url) == []
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select run_id, status from pipeline_run").fetchall() == [("r", "pending")]


BEFORE_TIMERS = """
insert into incident (incident_key, title, status, severity, opened_at, acknowledged_at, resolved_at, updated_at)
select 'generic:' || name, name || ' on web-1', status, 'critical', moment,
    case status when 'acknowledged' then moment end, case status when 'resolved' then moment end, moment
from (select *, now() - interval '3 days' as moment from given) as given;

insert into alert (
    source, fingerprint, name, severity, status, started_at, ended_at, received_at, updated_at, incident_id
)
select 'generic', name, name, 'critical', case given.status when 'resolved' then 'resolved' else 'firing' end,
    opened_at, resolved_at, opened_at, opened_at, incident.id
from given join incident on incident_key = 'generic:' || name;

insert into pipeline_run (
    run_id, trace_id, status, current_stage, incident_id, incident_key, title, source, alert_fingerprint, severity,
    priority, environment, payload, ingest_result, last_error_type, last_error_message, last_error_retryable, engine,
    total_attempts, created_at, updated_at, started_at, completed_at
)
select md5(name), md5('trace' || name), run, 'notify', incident.id, incident_key, title, 'generic', name, 'critical', 2,
    'production', '{"alerts": [], "errors": []}',
    jsonb_build_object('incident_id', incident.id::text, 'tell', true, 'reason', 'opened'),
    case run when 'failed' then 'DeliveryFailed' end, case run when 'failed' then 'generic: it answered 503' end,
    case run when 'failed' then true end, 'direct', 4, opened_at, opened_at, opened_at, opened_at
from given join incident on incident_key = 'generic:' || name;

insert into history (alert_id, incident_id, run_id, event, new_status, at)
select null, incident_id, run_id, 'incident_opened', 'open', created_at from pipeline_run;

insert into delivery (
    pipeline_run_id, node_id, channel, driver, target, idempotency_key, status, tries, error, created_at, settled_at
)
select id, 'notify', 'generic', 'generic', 'hooks.example.com', run_id || '/notify/generic',
    case status when 'failed' then 'failed' else 'sent' end, 1, last_error_message, created_at, created_at
from pipeline_run;
"""
"""Incidents as version 8af95ec left them three days ago, from the table `given`."""


async def test_nobody_hears_of_the_incidents_of_an_earlier_version_until_something_new_is_pushed(
    empty_url: str, home: Path
) -> None:
    command.upgrade(config_of(empty_url), "0006")
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("create temporary table given (name text, status text, run text)")
        connection.execute(
            "insert into given values ('Told', 'open', 'notified'), ('Untold', 'open', 'failed'), "
            "('Seen', 'acknowledged', 'notified'), ('Over', 'resolved', 'notified'), ('Silent', 'resolved', 'failed')"
        )
        connection.execute(BEFORE_TIMERS)
    migrate(empty_url)

    with http_receiver() as receiver:
        async with working(worker_settings(home, receiver), empty_url, NOWHERE) as worker:
            database = worker.services.database

            async def timers() -> list[dict[str, Any]]:
                found = await rows(
                    database,
                    "select title, reason, due_at > now() + interval '55 min' as is_later, status from pipeline_run "
                    "where reason <> 'push' order by incident_id",
                )
                return found if len(found) == 3 else []

            waits = {"reason": "reminder", "is_later": True, "status": "pending"}
            assert await eventually(timers, "the timers of the open incidents") == [
                {"title": f"Incident {number}", **waits} for number in (1, 2, 3)
            ]
            await push_again(worker, "Told")
            assert receiver.requests == []

            await push_again(worker, "Untold")
            await push_again(worker, "Told", status="resolved")
            await push_again(worker, "Over")
            said = [request.json["title"].split(" on ")[0] for request in receiver.requests]
    assert said == ["[CRITICAL] Untold", "[RESOLVED] Told", "[CRITICAL] Over"]


async def push_again(worker: Worker, name: str, **more: str) -> None:
    """An event about an alert of an earlier version, to the end of its run."""
    event = {"name": name, "fingerprint": name, "incident_key": name, "severity": "critical", "host": "web-1", **more}
    (run_id,) = await accept_push(worker.services, event, source="generic", environment="production")
    await over(worker.services.database, run_id)


def test_the_one_open_incident_of_a_key_is_enforced_by_the_schema(empty_url: str) -> None:
    migrate(empty_url)
    open_one = "insert into incident (incident_key, title, severity, status) values ('k', 't', 'info', %s)"
    with psycopg.connect(empty_url, autocommit=True) as connection:
        for status in ("resolved", "closed", "resolved", "open"):
            connection.execute(open_one, (status,))
        with pytest.raises(psycopg.errors.UniqueViolation, match="uq_incident_open_key"):
            connection.execute(open_one, ("acknowledged",))


def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    code = "import sys; from orchestration.store.database import migrate; migrate(sys.argv[1])"
    together = [
        subprocess.Popen([sys.executable, "-c", code, empty_url], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[1] for process in together]

    assert [process.returncode for process in together] == [0, 0, 0], said
    assert tables(empty_url) == {*Base.metadata.tables, "alembic_version"}


def test_a_schema_of_a_newer_version_is_refused_and_left_alone(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("update alembic_version set version_num = '9999'")

        with pytest.raises(Unavailable, match=r"made by a newer one\. Upgrade this installation"):
            migrate(empty_url)

        assert connection.execute("select version_num from alembic_version").fetchone() == ("9999",)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/alerts", "Connection refused"),
        ("postgresql://me:hunter2@no-such-host.invalid/alerts", "failed to resolve host …"),
        ("postgresql://me:hunter2@[broken/alerts", "IPv6"),
        ("postgresql://me:hunter2@db/alerts?no_such_option=1", "invalid URI query parameter"),
        ("postgresql://me:hunter2@db:port/alerts", "resolve"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_clear_sentence(url: str, says: str) -> None:
    with pytest.raises(Unavailable) as refused:
        async with open_database(url):
            pass

    said = str(refused.value)
    assert said.startswith("The database cannot be used: ")
    assert says in said
    assert "hunter2" not in said
    assert len(said.splitlines()) == 1


END_OTHERS = """
select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
"""


async def test_a_database_that_goes_away_is_unavailable_and_comes_back(empty_url: str) -> None:
    async def lose_the_connection(database: Database) -> None:
        async with database.transaction() as tx:
            await tx.exec_driver_sql("select 1")
            with psycopg.connect(empty_url, autocommit=True) as connection:
                connection.execute(END_OTHERS)
            await tx.exec_driver_sql("select 1")

    async with open_database(empty_url) as database:
        with pytest.raises(Unavailable, match="database"):
            await lose_the_connection(database)

        async with database.transaction() as tx:
            assert (await tx.exec_driver_sql("select 1")).scalar_one() == 1


async def test_a_transaction_that_finds_no_connection_free_is_unavailable(empty_url: str) -> None:
    database = Database(empty_url, pool_size=1)
    database.engine.pool._timeout = 0.05  # it would wait for 30 s
    try:
        async with database.transaction(), database.transaction():
            with pytest.raises(Unavailable, match="The database does not answer: QueuePool limit"):
                async with database.transaction():
                    pass
    finally:
        await database.close()
