"""`alert-pipeline doctor`: what is broken, and how to fix it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.client.schemas.actions import WorkPoolUpdate
from pydantic import SecretStr

from orchestration.errors import Unavailable
from orchestration.settings import Settings
from orchestration.store import workers
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import CHANNEL_NAMES, EncryptedCache
from service.cli.doctor import examine
from service.doctor import Finding, Level, ok, run_check
from service.doctor import database as database_part
from service.doctor import prefect as prefect_part
from service.doctor.channels import channel_findings
from service.doctor.database import database_findings
from service.doctor.host import host_findings
from service.doctor.prefect import prefect_findings
from service.mirror.deployments import POOL_NAME, register, wanted_deployments
from service.stack import StackAddresses
from tests.cli_helpers import json_of
from tests.conftest import Command
from tests.oncall_helpers import store_policy
from tests.receivers import Answer, http_receiver
from tests.stack_fixtures import settings_for
from tests.store_helpers import add_runs, new_run
from tests.worker_helpers import prefect_at

pytest_plugins = ["tests.cli_helpers"]


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


async def beat(database: Database, *, prefect_ok: bool = True) -> None:
    async with database.transaction() as tx:
        await workers.beat(tx, name="w/1/1", host="w", pid=1, prefect_ok=prefect_ok, running=2)


async def test_a_healthy_installation(
    database: Database, stack: StackAddresses, settings: Settings, command: Command
) -> None:
    async with prefect_at(stack) as client:
        await register(client)
    await beat(database)
    async with database.transaction() as tx:  # the heartbeat stays fresh, however long the command takes to start
        await tx.exec_driver_sql("update worker set heartbeat_at = now() + interval '1 minute'")
    with http_receiver() as hook:
        result = command("alert-pipeline", "doctor", "--json", env={"NOTIFY_WEBHOOK_URL": f"{hook.url}/alerts"})
        assert [request.method for request in hook.requests] == ["HEAD"]

    assert result.returncode == 0, result.stdout + result.stderr
    shown = json_of(result)
    findings = {finding["check"]: finding for finding in shown["findings"]}
    assert shown["ok"]
    assert list(findings)[:16] == [
        *("settings", "data folder", "temporary folder"),
        *("database", "migrations", "clock", "workers", "inbox", "runs", "heartbeats", "policy", "oncall"),
        *("prefect", "work pool", "deployments", "channels"),
    ]
    served = (
        "database",
        "migrations",
        "workers",
        "inbox",
        "runs",
        "heartbeats",
        "policy",
        "oncall",
        "prefect",
        "work pool",
    )
    for check in ("settings", *served):
        assert findings[check]["level"] == "ok", findings[check]
    assert findings["workers"]["detail"] == "w/1 with 2 runs"
    assert findings["database"]["detail"].endswith(f"; DATABASE_URL='{stack.database_url}'")
    assert findings["deployments"]["detail"].startswith("alert-pipeline/default, upkeep/default")
    assert findings["prefect"]["detail"].endswith("on PostgreSQL, embedded")
    assert findings["channels"]["detail"] == "by default generic (generic to 127.0.0.1)"
    assert findings["channel generic"]["detail"] == "127.0.0.1 answers"


def test_a_stopped_stack_is_reported_and_not_started(command: Command, tmp_path: Path) -> None:
    result = command("alert-pipeline", "doctor", env={"ALERT_PIPELINE_HOME": str(tmp_path / "home")})

    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert "! database          the embedded PostgreSQL does not run" in lines
    assert "- migrations        not checked: no database runs" in lines
    assert "! prefect           the embedded server does not run" in lines
    assert any("→ Start it with `alert-pipeline up`" in line for line in lines)
    assert lines[-1].startswith("0 broken, ")
    assert not (tmp_path / "home").exists()


def test_a_wrong_setting_ends_the_checks(command: Command) -> None:
    result = command("alert-pipeline", "doctor", env={"WORKER_CONCURRENCY": "many"})

    assert result.returncode == 1
    first, fix, last = result.stdout.splitlines()
    assert first.startswith("✗ settings  WORKER_CONCURRENCY='many': ")
    assert "docs/settings.md" in fix
    assert last == "1 broken, 0 warnings"


async def test_servers_that_do_not_answer(settings: Settings) -> None:
    away = settings.model_copy(
        update={
            "database_url": SecretStr("postgresql://me:hunter2@127.0.0.1:1/alerts"),
            "prefect_api_url": "http://me:hunter2@127.0.0.1:1/api",
        }
    )
    findings = by_name(await examine(away))

    for check, about in (("database", "DATABASE_URL"), ("prefect", "PREFECT_API_URL")):
        assert findings[check].level is Level.BROKEN
        assert about in str(findings[check].fix) or "PREFECT_API_URL" in str(findings[check].fix)
    later = ("migrations", "clock", "workers", "inbox", "runs", "heartbeats", "policy", "oncall")
    for check in (*later, "work pool", "deployments"):
        assert findings[check].level is Level.SKIPPED
    assert findings["prefect"].detail.startswith("http://127.0.0.1:1/api (PREFECT_API_URL) does not answer")
    # `alert-pipeline up` may be running: to run it is no advice.
    assert str(findings["prefect"].fix).startswith("Start that server, or unset PREFECT_API_URL")
    assert findings["channels"].level is Level.BROKEN
    assert findings["channels"].fix == "Repair Prefect: see `prefect` above"
    assert "hunter2" not in str(findings)


async def test_channels_of_the_environment_are_checked_while_prefect_is_away(settings: Settings) -> None:
    with http_receiver() as hook:
        away = settings.model_copy(update={"webhook_url": SecretStr(hook.url)})
        defaults, generic = await channel_findings(away, "http://127.0.0.1:1/api")

    assert (defaults.level, generic.level) == (Level.OK, Level.OK)
    assert defaults.detail.endswith("; blocks that are saved in Prefect are not known while it does not answer")
    assert generic.detail == "127.0.0.1 answers"


async def test_a_running_stack_is_not_to_be_started(settings: Settings) -> None:
    (database, *_) = await database_findings(settings, "postgresql://127.0.0.1:1/alerts", embedded=True)
    (server, *_) = await prefect_findings(settings, "http://127.0.0.1:1/api", embedded=True)

    for finding in (database, server):
        assert finding.level is Level.BROKEN
        assert str(finding.fix).startswith("The stack restarts it by itself")


async def test_a_stack_that_runs_without_prefect(settings: Settings) -> None:
    first, *others = await prefect_findings(settings, None, embedded=True, stack_runs=True)

    assert (first.level, first.detail) == (Level.WARNING, "the embedded stack runs without Prefect's server")
    assert str(first.fix).startswith("If `alert-pipeline up` was started with PREFECT_API_URL, set the same here")
    assert {finding.level for finding in others} == {Level.SKIPPED}


async def test_runs_without_progress(database: Database, settings: Settings) -> None:
    async def found() -> dict[str, tuple[Level, str]]:
        findings = await database_findings(settings, database.url, embedded=True)
        return {finding.check: (finding.level, finding.detail) for finding in findings}

    assert (await found())["workers"][0] is Level.BROKEN
    await beat(database, prefect_ok=False)
    async with database.transaction() as tx:
        await add_runs(tx, new_run(run_id="r1"), new_run(run_id="r2"))
        await tx.exec_driver_sql("update pipeline_run set status = 'failed' where run_id = 'r2'")
    now = await found()
    assert now["workers"] == (Level.WARNING, "w/1 with 2 runs; 1 without Prefect")
    assert now["inbox"][0] is Level.OK
    assert now["runs"] == (Level.WARNING, "1 failed within a day")

    async with database.transaction() as tx:
        hour_ago = "created_at = now() - interval '1 hour', updated_at = now() - interval '1 hour'"
        await tx.exec_driver_sql(f"update pipeline_run set {hour_ago} where run_id = 'r1'")
    then = await found()
    assert then["inbox"][0] is Level.BROKEN
    assert then["inbox"][1].startswith("1 waiting, the oldest for 36")
    assert then["runs"] == (Level.BROKEN, "1 unfinished and without progress for 15 minutes; 1 failed within a day")


@pytest.mark.parametrize(
    ("known", "level", "says"),
    [("0000", Level.BROKEN, "which this version, 0000, does not know"), ("9999", Level.WARNING, "works with 9999")],
)
async def test_a_schema_of_another_version(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, known: str, level: Level, says: str
) -> None:
    monkeypatch.setattr(database_part, "head_revision", lambda: known)
    findings = by_name(await database_findings(settings, database.url, embedded=True))

    assert findings["migrations"].level is level
    assert says in findings["migrations"].detail
    assert findings["clock"].level is not Level.SKIPPED
    assert findings["workers"].level is Level.SKIPPED


async def test_a_route_to_a_channel_that_does_not_exist(database: Database, settings: Settings) -> None:
    await EncryptedCache(database).write(CHANNEL_NAMES, b'["mail"]')
    await store_policy(database, {"routes": [{"channels": ["mail", "chat"]}]})
    finding = by_name(await database_findings(settings, database.url, embedded=True))["policy"]

    assert finding.level is Level.WARNING
    assert "version 1: field 'routes[0].channels': there is no channel 'chat'" in finding.detail


async def test_clocks_that_disagree(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_part, "CLOCK_BROKEN_SECONDS", -1.0)
    findings = by_name(await database_findings(settings, database.url, embedded=True))

    assert findings["clock"].level is Level.BROKEN
    assert "NTP" in str(findings["clock"].fix)


async def test_problems_in_prefect(settings: Settings, stack: StackAddresses, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found() -> dict[str, Finding]:
        return by_name(await prefect_findings(settings, stack.prefect_api_url, embedded=True))

    async with prefect_at(stack) as client:
        await register(client)
        await client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=True))
        try:
            paused = (await found())["work pool"]
        finally:
            await client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=False))
    assert (paused.level, paused.fix) == (Level.WARNING, "prefect work-pool resume alerts")

    monkeypatch.setattr(prefect_part, "POOL_NAME", "no-such-pool")
    more = [*wanted_deployments(), wanted_deployments()[0].model_copy(update={"name": "no-such-deployment"})]
    monkeypatch.setattr(prefect_part, "wanted_deployments", lambda: more)
    findings = await found()
    assert findings["work pool"].detail == "there is no work pool no-such-pool"
    assert findings["deployments"].detail == "not registered: alert-pipeline/no-such-deployment"
    assert findings["deployments"].level is Level.BROKEN


@pytest.mark.parametrize(
    ("database", "level", "says"),
    [
        ({"connection_url": None}, Level.WARNING, ", on SQLite"),
        ({"driver": "sqlite+aiosqlite"}, Level.WARNING, ", on SQLite"),
        ({"driver": "postgresql+asyncpg", "host": "db"}, Level.OK, ", on PostgreSQL"),
        ({"connection_url": "**********"}, Level.OK, ", on a database of its own"),
    ],
)
async def test_which_database_prefect_is_on(
    settings: Settings, database: dict[str, str | None], level: Level, says: str
) -> None:
    answers = [Answer.json(answer) for answer in (True, prefect.__version__, {"server": {"database": database}})]
    with http_receiver(*answers, default=Answer.json({"detail": "Not Found"}, status=404)) as server:
        findings = by_name(await prefect_findings(settings, f"{server.url}/api", embedded=False))

    assert findings["prefect"].level is level
    assert findings["prefect"].detail.endswith(f"version {prefect.__version__}{says}")
    assert findings["deployments"].detail.startswith("not registered: alert-pipeline/default, upkeep/default")


async def test_an_unknown_setting_and_a_key_that_others_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path)
    monkeypatch.setenv("ORCHESTRATION_MAX_RETRY", "5")
    slip = by_name(await host_findings(settings))["settings"]
    assert (slip.level, slip.detail) == (Level.WARNING, "no setting is called ORCHESTRATION_MAX_RETRY")

    (tmp_path / "secret.key").write_text("x")
    (tmp_path / "secret.key").chmod(0o644)
    exposed = by_name(await host_findings(settings))["settings"]
    assert (exposed.level, exposed.fix) == (Level.BROKEN, f"chmod 600 {tmp_path / 'secret.key'}")


@pytest.mark.parametrize(
    ("free_gib", "level"), [(0.1, Level.BROKEN), (5, Level.WARNING), (15, Level.OK), (90, Level.OK)]
)
async def test_free_space_of_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, level: Level
) -> None:
    class Usage:
        total, free = 100 * 1024**3, int(free_gib * 1024**3)

    monkeypatch.setattr("service.doctor.host.shutil.disk_usage", lambda _: Usage)
    assert by_name(await host_findings(settings_for(tmp_path / "a" / "b")))["data folder"].level is level


async def test_a_check_that_fails_or_hangs_is_a_finding() -> None:
    async def breaks() -> Finding:
        raise RuntimeError("token=hunter2hunter2")

    async def refuses() -> Finding:
        raise Unavailable("It does not answer")

    async def hangs() -> Finding:
        await asyncio.Event().wait()
        return ok("x", "never")

    async def of(work: Any) -> Finding:
        return await run_check("x", work, fix="Repair it", timeout_seconds=0.05)

    broke, refused, hung = await asyncio.gather(of(breaks), of(refuses), of(hangs))
    assert {finding.level for finding in (broke, refused, hung)} == {Level.BROKEN}
    assert (refused.detail, refused.fix) == ("It does not answer", "Repair it")
    assert hung.detail == "no answer within 0.05 s"
    assert broke.detail.startswith("an unexpected error (RuntimeError")
    assert "hunter2" not in broke.detail
