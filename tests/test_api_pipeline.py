"""Pipelines over HTTP: start, wait, watch, resume; refusals in clear words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from blocks.channels import SlackChannel
from blocks.channels.resolver import ChannelCache, configured_drivers
from blocks.prefect_api import SavedBlock
from orchestration.encryption import load_key
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store import claims, runs
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import EncryptedCache
from tests.api_helpers import alert, all_runs, eventually, open_api, run_of, run_to_end, trigger
from tests.conftest import MemoryChannel
from tests.definition_helpers import look, put
from tests.payloads import body
from tests.store_helpers import lease

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


async def queue(api: httpx.AsyncClient, *alerts: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await api.post("/orchestration/pipeline/", json=trigger(*alerts, **more))
    assert answer.status_code == 202, answer.text
    return answer.json()


# Start and go on


async def test_the_example_of_the_spec(api: httpx.AsyncClient, database: Database, services: Services) -> None:
    asked = {
        "payload": {"alertname": "HighCPU", "severity": "critical"},
        "source": "grafana",
        "environment": "production",
    }
    answer = await api.post("/orchestration/pipeline/", json=asked)

    said = answer.json()
    assert answer.status_code == 202
    assert said["status"] == "queued"
    assert said["message"] == "Pipeline queued for execution"
    assert said["task_id"] == said["run_id"] == said["run_ids"][0]
    assert answer.headers["x-trace-id"] == said["trace_id"]
    run = await run_of(database, said["task_id"])
    assert (run.status, run.source, run.environment) == (RunStatus.PENDING, "grafana", "production")
    # The id that the answer names is the one that runs.
    assert (await run_to_end(services, said["task_id"])).status is RunStatus.NOTIFIED


async def test_a_push_over_several_incidents_is_as_many_runs_under_one_trace(
    api: httpx.AsyncClient, database: Database
) -> None:
    said = await queue(api, *(alert(instance=f"web-{n}") for n in range(12)))

    assert len(set(said["run_ids"])) == 12
    assert {run.trace_id for run in await all_runs(database)} == {said["trace_id"]}
    assert "12 incidents" in said["message"]


async def test_what_was_asked_for_is_kept_with_the_run(api: httpx.AsyncClient, database: Database) -> None:
    said = await queue(
        api,
        environment="staging",
        trace_id="my-trace",
        checker_names=["cpu", "disk"],
        checker_configs={"cpu": {"warn": 50, "per_cpu": True}},
        labels={"team": "db"},
        provider="local",
        notify_driver="email",
        notify_channel="oncall-slack",
    )

    run = await run_of(database, said["run_id"])
    assert (run.trace_id, run.environment) == ("my-trace", "staging")
    assert run.options.model_dump(exclude_defaults=True) == {
        "checker_names": ["cpu", "disk"],
        "checker_configs": {"cpu": {"warn": 50, "per_cpu": True}},
        "labels": {"team": "db"},
        "provider": "local",
        "notify_driver": "oncall-slack",
    }


async def test_the_driver_says_which_parser_reads_the_payload(api: httpx.AsyncClient, database: Database) -> None:
    said = await queue(api, body("grafana_unified"), source="webhook", driver="generic")

    assert (await run_of(database, said["run_id"])).source == "generic"


@pytest.mark.parametrize(
    ("in_body", "headers", "expected"),
    [
        ("from-body", {"X-Trace-Id": "from-header", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, "from-body"),
        (None, {"X-Trace-Id": "from-header", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, "from-header"),
        (None, {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        (None, {"traceparent": f"cc-{TRACE}-00f067aa0ba902b7-01-what-will-be"}, TRACE),
        (None, {"X-Trace-Id": "two words", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        (None, {"X-Trace-Id": "x" * 129}, None),
        (None, {"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"}, None),
        (None, {"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        (None, {"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01"}, None),
        (None, {"traceparent": "nonsense"}, None),
        (None, {}, None),
    ],
)
async def test_where_the_trace_comes_from(
    api: httpx.AsyncClient, in_body: str | None, headers: dict[str, str], expected: str | None
) -> None:
    answer = await api.post("/orchestration/pipeline/", json=trigger(trace_id=in_body), headers=headers)

    made = answer.json()["trace_id"]
    assert made == expected if expected else (len(made) == 32 and made != TRACE)


async def test_the_same_push_under_one_key_is_the_same_runs(api: httpx.AsyncClient, database: Database) -> None:
    headers = {"Idempotency-Key": "push-1"}
    first = await api.post("/orchestration/pipeline/", json=trigger(), headers=headers)
    again = await api.post("/orchestration/pipeline/", json=trigger(), headers=headers | {"X-Trace-Id": "other"})
    other = await api.post("/orchestration/pipeline/", json=trigger(alert("Other")), headers=headers)

    assert first.status_code == again.status_code == 202
    assert (again.json()["run_ids"], again.json()["trace_id"]) == (first.json()["run_ids"], first.json()["trace_id"])
    assert other.status_code == 409
    assert "'push-1' was used for another push" in other.json()["error"]
    assert len(await all_runs(database)) == 1


async def test_the_answer_says_whether_somebody_is_going_to_be_notified(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "push-1"}
    first = (await api.post("/orchestration/pipeline/", json=trigger(), headers=headers)).json()
    same = (await api.post("/orchestration/pipeline/", json=trigger(), headers=headers)).json()
    duplicate = await queue(api)

    assert first["message"] == "Pipeline queued for execution"
    assert "is decided when it is processed" in first["note"]
    assert (await api.get(first["status_url"])).json()["run_id"] == first["run_id"]
    assert "no second run" in same["note"]
    assert duplicate["note"] == "Nobody is notified again"


async def test_a_duplicate_is_taken_and_says_so(api: httpx.AsyncClient, database: Database) -> None:
    first = await queue(api)
    again = await queue(api)

    assert "duplicate" in again["message"]
    shown = (await api.get(f"/orchestration/pipeline/{again['run_id']}/")).json()
    assert (shown["status"], shown["skip_reason"], shown["duplicate_of"]) == ("skipped", "duplicate", first["run_id"])


# Wait


async def test_a_synchronous_call_waits_for_the_end(api: httpx.AsyncClient, services: Services) -> None:
    call = asyncio.create_task(api.post("/orchestration/pipeline/sync/", json=trigger()))
    await eventually(lambda: all_runs(services.database))
    (run,) = await all_runs(services.database)
    assert not call.done()
    await run_to_end(services, run.run_id)

    answer = await call
    result = answer.json()
    assert answer.status_code == 200
    assert (result["run_id"], result["status"]) == (run.run_id, "COMPLETED")
    assert result["stages_completed"] == ["ingest", "check", "analyze", "notify"]
    assert result["notify"]["deliveries"][0]["status"] == "sent"
    assert answer.headers["x-run-ids"] == run.run_id


async def test_of_several_incidents_the_one_that_failed_is_shown(
    api: httpx.AsyncClient, services: Services, database: Database
) -> None:
    alerts = [alert(instance="web-1"), alert(instance="web-2")]
    call = asyncio.create_task(api.post("/orchestration/pipeline/sync/", json=trigger(*alerts)))
    await eventually(lambda: all_runs(database))
    second, first = (run.run_id for run in await all_runs(database))
    await run_to_end(services, first)
    async with database.transaction() as tx:
        await runs.finish(tx, second, RunStatus.FAILED)

    answer = await call
    assert answer.status_code == 502
    assert (answer.json()["run_id"], answer.json()["status"]) == (second, "FAILED")
    assert answer.headers["x-run-ids"].split(",") == [first, second]


async def test_a_call_that_waits_too_long_is_told_the_run(settings: Settings, database: Database) -> None:
    impatient = settings.model_copy(update={"api_sync_timeout_seconds": 0.05})
    async with open_api(impatient, database.url) as api:
        answer = await api.post("/orchestration/pipeline/sync/", json=trigger())

    (run,) = await all_runs(database)
    assert answer.status_code == 504
    assert answer.json()["run_id"] == run.run_id
    assert "is stored, and goes on" in answer.json()["error"]


async def test_a_duplicate_is_over_at_once(api: httpx.AsyncClient) -> None:
    await queue(api)
    answer = await api.post("/orchestration/pipeline/sync/", json=trigger())

    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["skip_reason"]) == ("SKIPPED", "duplicate")


async def test_many_wait_on_one_connection(api: httpx.AsyncClient, services: Services, database: Database) -> None:
    calls = [
        asyncio.create_task(api.post("/orchestration/pipeline/sync/", json=trigger(alert(instance=str(n)))))
        for n in range(10)
    ]

    async def all_there() -> bool:
        return len(await all_runs(database)) == 10

    async def one_listens() -> bool:
        async with database.transaction() as tx:
            listening = await tx.exec_driver_sql(
                "select count(*) from pg_stat_activity "
                "where datname = current_database() and application_name = 'alert-pipeline listen'"
            )
            return listening.scalar_one() == 1

    await eventually(all_there)
    await eventually(one_listens)  # the runs may be there before the one that listens for their ends
    for run in await all_runs(database):
        async with database.transaction() as tx:
            await runs.finish(tx, run.run_id, RunStatus.NOTIFIED)

    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}


# Watch


async def test_the_status_of_a_run(api: httpx.AsyncClient, services: Services) -> None:
    said = await queue(api)
    await run_to_end(services, said["run_id"])

    shown = (await api.get(f"/orchestration/pipeline/{said['run_id']}/")).json()
    assert shown["trace_id"] == said["trace_id"]
    assert (shown["status"], shown["current_stage"], shown["total_attempts"]) == ("notified", "notify", 4)
    assert (shown["incident_id"], shown["source"], shown["last_error"]) == ("1", "generic", None)
    assert shown["intelligence_fallback_used"] is False
    assert shown["created_at"] <= shown["started_at"] <= shown["completed_at"]
    assert shown["total_duration_ms"] > 0
    assert [(e["stage"], e["status"], e["attempt"]) for e in shown["stage_executions"]] == [
        ("ingest", "succeeded", 1),
        ("check", "succeeded", 1),
        ("analyze", "succeeded", 1),
        ("notify", "succeeded", 1),
    ]
    assert shown["stage_executions"][0].keys() == {
        *("node_id", "stage", "status", "attempt", "started_at", "completed_at", "duration_ms"),
        *("error_type", "error_message"),
    }


async def test_the_status_of_a_failed_run_says_why(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    from orchestration.errors import DeliveryFailed

    channel.failures = [DeliveryFailed("no such channel", retryable=False)]
    said = await queue(api)
    await run_to_end(services, said["run_id"])

    shown = (await api.get(f"/orchestration/pipeline/{said['run_id']}")).json()
    assert shown["status"] == "failed"
    assert "no such channel" in shown["last_error"]["message"]
    assert shown["last_error"]["retryable"] is False
    assert "no such channel" in shown["stage_executions"][-1]["error_message"]


async def test_the_list_filters(api: httpx.AsyncClient, services: Services) -> None:
    done = await queue(api, environment="staging")
    waiting = await queue(api, body("alertmanager_group"))
    await run_to_end(services, done["run_id"])

    async def listed(**query: object) -> list[str]:
        said = (await api.get("/orchestration/pipelines/", params=query)).json()
        assert said["count"] == len(said["runs"])
        return [run["run_id"] for run in said["runs"]]

    assert await listed() == [waiting["run_id"], done["run_id"]]
    assert await listed(limit=1) == [waiting["run_id"]]
    for status in ("notified", "NOTIFIED", "Completed"):
        assert await listed(status=status) == [done["run_id"]]
    assert await listed(status="failed") == []
    assert await listed(source="alertmanager") == [waiting["run_id"]]
    assert await listed(environment="staging") == [done["run_id"]]
    assert await listed(stage="notify") == [done["run_id"]]
    assert await listed(trace_id=waiting["trace_id"]) == [waiting["run_id"]]


async def test_pages_stay_put_while_runs_come(api: httpx.AsyncClient) -> None:
    said = await queue(api, *(alert(instance=str(n)) for n in range(7)))
    seen: list[str] = []
    query: dict[str, object] = {"limit": 3}
    for _ in range(3):
        page = (await api.get("/orchestration/pipelines/", params=query)).json()
        seen += [run["run_id"] for run in page["runs"]]
        await queue(api, alert(instance=f"new-{len(seen)}"))
        query["cursor"] = page["next_cursor"]

    assert page["next_cursor"] is None
    assert seen == said["run_ids"][::-1]


# Resume


async def test_a_failed_run_is_resumed_with_an_empty_body(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    from orchestration.errors import DeliveryFailed

    channel.failures = [DeliveryFailed("away", retryable=False)]
    said = await queue(api)
    await run_to_end(services, said["run_id"])
    answer = await api.post(f"/orchestration/pipeline/{said['run_id']}/resume/")

    assert answer.status_code == 202
    assert answer.json()["run_id"] == said["run_id"]
    assert answer.json()["trace_id"] == said["trace_id"]
    assert (await run_of(services.database, said["run_id"])).status is RunStatus.RETRYING
    assert (await run_to_end(services, said["run_id"])).status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1


@pytest.mark.parametrize("status", [RunStatus.PENDING, RunStatus.NOTIFIED, RunStatus.SKIPPED])
async def test_only_failed_and_retrying_runs_are_resumed(
    api: httpx.AsyncClient, database: Database, status: RunStatus
) -> None:
    said = await queue(api)
    async with database.transaction() as tx:
        await runs.change(tx, said["run_id"], status=None if status is RunStatus.PENDING else status)
    answer = await api.post(f"/orchestration/pipeline/{said['run_id']}/resume/", json={})

    assert answer.status_code == 409
    assert f"is {status.value}" in answer.json()["error"]


async def test_a_retrying_run_is_resumed_once_nobody_is_at_it(api: httpx.AsyncClient, database: Database) -> None:
    said = await queue(api)
    async with database.transaction() as tx:
        await lease(tx, said["run_id"], "h/1/2/3")
        await runs.change(tx, said["run_id"], status=RunStatus.RETRYING)
    busy = await api.post(f"/orchestration/pipeline/{said['run_id']}/resume/")
    async with database.transaction() as tx:
        await claims.release(tx, said["run_id"], owner="h/1/2/3")
    free = await api.post(f"/orchestration/pipeline/{said['run_id']}/resume/")

    assert (busy.status_code, free.status_code) == (409, 202)
    assert "being worked on by h/1/2/3" in busy.json()["error"]


# Refusals


async def know_channels(database: Database, settings: Settings) -> None:
    """What a worker does when it has read the channel blocks from Prefect."""

    async def blocks() -> list[SavedBlock]:
        return [
            SavedBlock(name="oncall", slug=SlackChannel.get_block_type_slug(), data={}),
            SavedBlock(name="ops-bot", slug="slack-credentials", data={}),
        ]

    drivers = configured_drivers(settings)
    await ChannelCache(EncryptedCache(database), load_key(settings), source=blocks, drivers=drivers).refresh()


async def test_a_channel_that_no_worker_knows_is_refused(
    api: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    unknown = {"notify_channel": "nosuch"}
    assert (await api.post("/orchestration/pipeline/", json=trigger(**unknown))).status_code == 202
    await put(database, look(), "look")
    await know_channels(database, settings)

    calls = {
        "pipeline/": trigger(**unknown),
        "pipeline/sync/": trigger(**unknown),
        "definitions/look/execute/": unknown,
    }
    for path, asked in calls.items():
        answer = await api.post(f"/orchestration/{path}", json=asked)
        assert answer.status_code == 422, path
        assert (
            "there is no channel or driver 'nosuch'; there are: oncall, ops-bot, console, slack."
            in answer.json()["error"]
        )
    # The generic and email drivers are not set up; slack is, by its block.
    for name in ("generic", "email"):
        answer = await api.post("/orchestration/pipeline/", json=trigger(notify_driver=name))
        assert answer.status_code == 422, name
    for name in ("oncall", "ops-bot/#oncall", "console", "slack", "Slack"):
        answer = await api.post("/orchestration/pipeline/", json=trigger(alert(name), notify_driver=name))
        assert answer.status_code == 202, answer.text
    assert len(await all_runs(database)) == 6


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("", 400, "empty"),
        ("{", 400, "not JSON"),
        ('{"payload": NaN}', 422, "payload: input should be a valid dictionary"),
        (b"\xff\xfe{}", 400, "not JSON"),
        ("[" * 5000, 400, "not JSON"),
        ("null", 422, "null"),
        ("[]", 422, "a list"),
        ("7", 422, "a number"),
        ('"x"', 422, "a string"),
        ("{}", 422, "payload: field required"),
        ('{"payload": null}', 422, "payload"),
        ('{"payload": []}', 422, "payload"),
        ('{"payload": {}}', 422, "empty object"),
        ('{"payload": {"a": 1}}', 422, "no source recognizes"),
        ('{"payload": {"name": "x"}, "source": "nobody"}', 422, "the sources are alertmanager, grafana, pagerduty, "),
        ('{"payload": {"name": "x"}, "driver": "nobody"}', 422, "no source 'nobody'"),
        ('{"payload": {"name": "x"}, "source": 7}', 422, "source"),
        ('{"payload": {"name": "x"}, "trace_id": "a\\nb"}', 422, "trace id"),
        ('{"payload": {"name": "x"}, "trace_id": 7}', 422, "trace_id"),
        ('{"payload": {"name": "x"}, "environment": ""}', 422, "environment"),
        ('{"payload": {"name": "x"}, "environment": "\\u0000"}', 422, "environment"),
        ('{"payload": {"name": "x"}, "checker_names": ["gpu"]}', 422, "unknown checker 'gpu'"),
        ('{"payload": {"name": "x"}, "checker_names": "cpu"}', 422, "checker_names"),
        ('{"payload": {"name": "x"}, "checker_configs": {"cpu": {"warn": 900}}}', 422, "cpu"),
        ('{"payload": {"name": "x"}, "checker_configs": {"dns": {"port": 5353}}}', 422, "dns.port"),
        (
            '{"payload": {"name": "x"}, "checker_configs": {"network": {"hosts": ["169.254.169.254:80"]}}}',
            422,
            "network.hosts cannot be set over HTTP",
        ),
        (
            '{"payload": {"name": "x"}, "checker_configs": {"disk": {"paths": ["/root"]}}}',
            422,
            "disk.paths cannot be set",
        ),
        ('{"payload": {"name": "x"}, "provider": "http://evil.example"}', 422, "provider"),
        ('{"payload": {"name": "x"}, "notify_driver": "http://evil.example"}', 422, "notify_driver"),
        ('{"payload": {"name": "x"}, "notify_channel": "{{ 7 * 7 }}"}', 422, "notify_channel"),
        ('{"payload": {"name": "x"}, "labels": {"a": 1}}', 422, "labels"),
    ],
)
async def test_a_body_that_cannot_be_used_is_refused_in_clear_words(
    api: httpx.AsyncClient, database: Database, asked: str | bytes, status: int, says: str
) -> None:
    for path in ("/orchestration/pipeline/", "/orchestration/pipeline/sync/"):
        answer = await api.post(path, content=asked, headers={"Content-Type": "application/json"})

        assert answer.status_code == status, answer.text
        assert answer.json().keys() == {"error"}
        assert says in answer.json()["error"]
    assert await all_runs(database) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/orchestration/pipelines/?limit=abc", 422),
        ("GET", "/orchestration/pipelines/?limit=0", 422),
        ("GET", "/orchestration/pipelines/?limit=100000", 422),
        ("GET", "/orchestration/pipelines/?status=broken", 422),
        ("GET", "/orchestration/pipelines/?stage=broken", 422),
        ("GET", "/orchestration/pipelines/?cursor=broken", 422),
        ("GET", "/orchestration/pipelines/?cursor=MjAyNi0xMS0yM1QyMzoyMDowNy8x", 422),
        ("GET", "/orchestration/pipelines/?source=%00", 422),
        ("GET", "/orchestration/pipeline/none/", 404),
        ("GET", "/orchestration/pipeline/%00/", 404),
        ("GET", "/orchestration/pipeline/%ff%ed/", 404),
        ("GET", f"/orchestration/pipeline/{'x' * 200}/", 422),
        ("POST", "/orchestration/pipeline/none/resume/", 404),
        ("GET", "/orchestration/pipeline/", 405),
        ("DELETE", "/orchestration/pipelines/", 405),
        ("GET", "/orchestration/", 404),
        ("GET", "/nothing/here", 404),
    ],
)
async def test_a_call_that_cannot_be_answered_is_refused_in_clear_words(
    api: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await api.request(method, path)

    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert len(answer.json()["error"]) > 10


async def test_every_address_answers_without_its_last_slash(api: httpx.AsyncClient) -> None:
    said = await api.post("/orchestration/pipeline", json=trigger())
    assert said.status_code == 202
    run_id = said.json()["run_id"]
    assert (await api.post("/alerts/webhook", json=alert("Other"))).status_code == 202
    assert (await api.post("/alerts/webhook/generic", json=alert("Third"))).status_code == 202
    for path in (f"/orchestration/pipeline/{run_id}", "/orchestration/pipelines", "/health", "/alerts/webhook"):
        assert (await api.get(path)).status_code == 200
    assert (await api.post(f"/orchestration/pipeline/{run_id}/resume")).status_code == 409


async def test_too_many_calls_are_told_to_wait(settings: Settings, database: Database) -> None:
    slow = settings.model_copy(update={"api_rate_limit_per_second": 1.0})
    async with open_api(slow, database.url) as api:
        answers = [await api.get("/orchestration/pipelines/") for _ in range(10)]
        alive = await api.get("/health/")

    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 200
    assert refused
    assert "API_RATE_LIMIT_PER_SECOND=1" in refused[0].json()["error"]
    assert int(refused[0].headers["retry-after"]) >= 1
    assert alive.status_code == 200
