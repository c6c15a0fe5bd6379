"""The health checks of the API, and its answers during an outage of the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from orchestration.settings import Settings
from orchestration.store import workers
from orchestration.store.database import Database, reason_of
from service.api import app as api_app
from tests.api_helpers import alert, all_runs, eventually, open_api, trigger, until
from tests.stack_fixtures import as_superuser

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


@pytest.fixture
def database_name(postgres_url: str) -> Iterator[str]:
    """The name of a database that does not exist yet."""
    name = f"later_{uuid4().hex}"
    yield name
    with psycopg.connect(as_superuser(postgres_url), autocommit=True) as connection:
        connection.execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))


async def beat(database: Database, *, prefect_ok: bool = True) -> None:
    async with database.transaction() as tx:
        await workers.beat(tx, name="w", host="h", pid=1, prefect_ok=prefect_ok, running=2)


async def test_it_is_alive(api: httpx.AsyncClient) -> None:
    answer = await api.get("/health/")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "path",
    ["/health/", "/health", "/ready/", "/alerts/webhook/", "/alerts/webhook/grafana/", "/orchestration/pipelines/"],
)
async def test_head_answers_like_get(api: httpx.AsyncClient, path: str) -> None:
    """Uptime monitors and `wget --spider` ask with HEAD."""
    head, get = await api.head(path), await api.get(path)

    assert head.status_code == get.status_code != 405
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.content == b""


async def test_a_wrong_method_is_told_the_right_ones(api: httpx.AsyncClient) -> None:
    answer = await api.delete("/alerts/webhook/")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_it_is_ready_with_a_worker(api: httpx.AsyncClient, database: Database) -> None:
    await beat(database)
    answer = await api.get("/ready/")

    assert answer.status_code == 200
    said = answer.json()
    assert said["status"] == "ready"
    assert all(said[part]["ok"] for part in ("database", "migrations", "worker", "prefect"))
    assert said["worker"]["detail"] == "1 alive, 2 runs in progress"


async def test_without_a_worker_it_is_not_ready(api: httpx.AsyncClient, database: Database) -> None:
    answer = await api.get("/ready/")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    assert answer.json()["database"]["ok"]
    assert "alert-pipeline worker" in answer.json()["worker"]["detail"]
    assert "retry-after" in answer.headers

    await beat(database)
    async with database.transaction() as tx:
        await tx.exec_driver_sql("update worker set heartbeat_at = now() - interval '1 minute'")
    assert (await api.get("/ready/")).status_code == 503


async def test_without_prefect_it_goes_on(api: httpx.AsyncClient, database: Database) -> None:
    await beat(database, prefect_ok=False)
    answer = await api.get("/ready/")

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert "run without it" in answer.json()["prefect"]["detail"]


async def test_without_a_database_nothing_is_promised(settings: Settings) -> None:
    async with open_api(settings, NOWHERE) as api:
        calls = {
            "/orchestration/pipeline/": trigger(),
            "/orchestration/pipeline/sync/": trigger(),
            "/orchestration/pipeline/abc/resume/": {},
            "/alerts/webhook/": alert(),
            "/alerts/webhook/generic/": alert(),
        }
        answers = [await api.post(path, json=asked) for path, asked in calls.items()]
        answers += [await api.get("/orchestration/pipelines/"), await api.get("/orchestration/pipeline/abc/")]
        with_key = await api.get("/orchestration/pipelines/", headers={"X-API-Key": "apk_unknown"})
        alive, ready = await api.get("/health/"), await api.get("/ready/")

    for answer in [*answers, with_key]:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"] in ("The database does not answer", "The database cannot be used")
    assert alive.status_code == 200
    assert ready.status_code == 503
    assert ready.json()["database"] == {"ok": False, "detail": "does not answer"}
    assert "127.0.0.1" not in ready.text


async def test_it_starts_before_its_database_and_goes_to_work_when_that_comes(
    settings: Settings, postgres_url: str, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_app, "MIGRATE_AGAIN_SECONDS", 0.05)
    url = urlsplit(postgres_url)._replace(path=f"/{database_name}").geturl()
    async with open_api(settings, url) as api:
        early = await api.post("/orchestration/pipeline/", json=trigger())
        with psycopg.connect(as_superuser(postgres_url), autocommit=True) as connection:
            connection.execute(SQL("create database {} owner alert_pipeline").format(Identifier(database_name)))

        async def taken() -> bool:
            return (await api.post("/orchestration/pipeline/", json=trigger())).status_code == 202

        await eventually(taken)

    assert early.status_code == 503
    assert early.json()["error"] == "The database cannot be used"


async def test_after_connections_broke_callers_are_served_again(api: httpx.AsyncClient, database: Database) -> None:
    assert (await api.post("/orchestration/pipeline/", json=trigger())).status_code == 202
    await database.close()  # this test's own connections are not what is tested
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        others = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        await until(lambda: not connection.execute(others).fetchall(), "the connections to break")

    # A connection that was used a moment ago is not asked whether it still works: that is a 503, and no loss.
    answers: list[httpx.Response] = []

    async def taken() -> bool:
        answers.append(await api.post("/orchestration/pipeline/", json=trigger(alert("Next"))))
        return answers[-1].status_code == 202

    await eventually(taken)
    assert all("retry-after" in answer.headers for answer in answers[:-1])
    assert len(await all_runs(database)) == 2


def test_what_the_driver_says_of_a_url_that_it_misreads_has_no_password() -> None:
    for said in (
        "failed to resolve host 'DBPLANTss@db.internal': [Errno -2] Name or service not known",
        'unexpected spaces found in "DBPLANT pw77", use percent-encoded spaces (%20) instead',
        'invalid integer value "DBPLANT" for connection option "port"',
        'invalid percent-encoded token: "DBPLANT%zz',
    ):
        assert "DBPLANT" not in reason_of(psycopg.OperationalError(said)), said
    plain = 'connection to server at "127.0.0.1", port 1 failed: Connection refused'
    assert reason_of(psycopg.OperationalError(plain)) == plain
