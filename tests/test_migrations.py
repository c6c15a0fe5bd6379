"""The schema: made from nothing, kept in step with the models, by any number of processes, with clear refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture
def empty_url(postgres_url: str) -> Iterator[str]:
    """A database without a table, on the session's server."""
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(SQL("create database {}").format(Identifier(name)))
        yield urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
        connection.execute(SQL("drop database {} with (force)").format(Identifier(name)))


def tables(url: str) -> set[str]:
    engine = create_engine(sqlalchemy_url(url))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


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
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = sqlalchemy_url(empty_url)
    command.upgrade(config, revision)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        columns = "run_id, trace_id, source, environment, payload, severity"
        connection.execute(f"insert into pipeline_run ({columns}) values ('r', 't', 's', 'e', '{{}}', 'critical')")

    migrate(empty_url)

    assert tables(empty_url) == {*Base.metadata.tables, "alembic_version"}
    assert differences(empty_url) == []
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select run_id, status from pipeline_run").fetchall() == [("r", "pending")]


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
        ("postgresql://me:hunter2@no-such-host.invalid/alerts", "no-such-host.invalid"),
        ("postgresql://me:hunter2@[broken/alerts", "IPv6"),
        ("postgresql://me:hunter2@db/alerts?no_such_option=1", "no_such_option"),
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
