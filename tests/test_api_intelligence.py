"""`/intelligence/` and `/notify/`: who analyzes, an analysis anew, and messages of one's own, by runs of the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from blocks.channels import CHANNELS
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import CHANNEL_NAMES, MODELS, EncryptedCache
from service.api.notify import DRIVERS
from tests.api_helpers import all_runs, answer_after_run, open_api, run_to_end
from tests.conftest import MemoryChannel, MemoryChannels
from tests.model_helpers import GOOD, page, with_model
from tests.model_server import model_server, said
from tests.notify_helpers import rows, tell


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


# Intelligence


async def test_an_incident_is_analyzed_anew_and_nobody_is_notified(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    with model_server(default=said(GOOD)) as model:
        services = with_model(services, model)
        run = await page(services)
        asked = api.post("/intelligence/recommendations/", json={"incident_id": run.incident_id})
        answer = await answer_after_run(asked, services)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["incident_id"], found["provider"], found["fallback_used"]) == (run.incident_id, "model", False)
    assert [one["says"] for one in found["claims"]] == ["/var/lib is 98 % full", "Disk fills on db-77"]
    assert {cited for one in found["claims"] for cited in one["cites"]} <= {one["id"] for one in found["evidence"]}
    assert found["recommendations"][0]["title"] == "Free space on db-77"
    assert len(channel.messages) == 1

    health = (await api.get("/intelligence/health/")).json()
    [one] = health["models"]
    assert (health["status"], one["name"], one["status"], one["error"]) == ("ok", "default", "ok", None)
    assert one["tokens_last_hour"] > 0


async def test_without_an_incident_the_host_is_analyzed_by_the_rules(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    answer = await answer_after_run(api.post("/intelligence/recommendations/", json={"provider": "local"}), services)
    assert (answer.status_code, answer.json()["provider"], answer.json()["incident_id"]) == (200, "local", None)
    assert channel.messages == []


async def test_a_model_that_fails_shows_in_the_answer_and_in_the_health(
    api: httpx.AsyncClient, services: Services, database: Database
) -> None:
    await EncryptedCache(database).write(MODELS, b'[{"name": "default", "api": "openai", "model": "small-model"}]')
    with model_server(default=500) as model:
        services = with_model(services, model)
        run = await page(services)
        asked = api.post("/intelligence/recommendations/", json={"incident_id": run.incident_id})
        answer = await answer_after_run(asked, services)
    assert (answer.status_code, answer.json()["fallback_used"]) == (200, True)
    assert "answered 500" in answer.json()["errors"][0]
    health = (await api.get("/intelligence/health/")).json()
    assert (health["status"], health["provider"], health["models"][0]["status"]) == ("degraded", "model", "failing")


async def test_the_providers_are_the_rules_and_the_models_of_blocks(api: httpx.AsyncClient, database: Database) -> None:
    assert (await api.get("/intelligence/providers/")).json() == {
        "count": 1,
        "default": "local",
        "providers": [{"name": "local", "default": True, "enabled": True, "api": "", "model": ""}],
    }
    await EncryptedCache(database).write(
        MODELS, b'[{"name": "default", "api": "ollama", "model": "llama"}, {"name": "careful", "enabled": false}]'
    )
    found = (await api.get("/intelligence/providers/")).json()
    assert [(one["name"], one["default"], one["enabled"]) for one in found["providers"]] == [
        ("local", False, True),
        ("model", True, True),
        ("model/default", False, True),
        ("model/careful", False, False),
    ]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"not json", 400, "JSON"),
        (b"[]", 422, "object"),
        (b"null", 422, "object"),
        (b'{"incident_id": "4711"}', 422, "4711"),
        (b'{"incident_id": "x"}', 422, "x"),
        (b'{"incident_id": 7.5}', 422, "incident_id"),
        (b'{"provider": "http://evil.example"}', 422, "provider"),
        (b'{"provider": "oracle"}', 422, "there are: local, model, model/NAME"),
        (b'{"provider": "model"}', 422, "provider: no model is set up that 'model' could name; there are: model/off"),
        (b'{"provider": "model/nope"}', 422, "provider: no model is set up that 'model/nope' could name"),
        (b'{"provider": "model/off"}', 422, "'off' is switched off"),
        (b'{"checker_names": ["cpu"]}', 422, "checker_names: there is no such field"),
    ],
)
async def test_a_wrong_question_is_refused_in_clear_words(
    api: httpx.AsyncClient, database: Database, body: bytes, status: int, words: str
) -> None:
    await EncryptedCache(database).write(MODELS, b'[{"name": "off", "enabled": false}]')
    answer = await api.post("/intelligence/recommendations/", content=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert await all_runs(database) == []


@pytest.mark.parametrize("path", ["/orchestration/pipeline/", "/orchestration/pipeline/sync/"])
async def test_a_trigger_cannot_name_a_model_that_is_not_set_up(
    api: httpx.AsyncClient, database: Database, path: str
) -> None:
    await EncryptedCache(database).write(MODELS, b'[{"name": "careful"}]')
    asked = {"payload": {"alertname": "DiskFull"}, "provider": "model/nope"}
    answer = await api.post(path, json=asked)
    assert (answer.status_code, "there are: model/careful" in answer.json()["error"]) == (422, True), answer.text
    assert await all_runs(database) == []
    assert (await api.post("/orchestration/pipeline/", json=asked | {"provider": "model/careful"})).status_code == 202


# Messages


async def test_a_message_goes_out_by_a_run_with_retries_and_on_record(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    answer = await api.post(
        "/notify/send/",
        json={"title": "Maintenance at 22:00", "message": "db-77 restarts.\nIt takes 5 min.", "severity": "warning"},
        headers={"Idempotency-Key": "m1"},
    )
    assert answer.status_code == 202
    again = await api.post(
        "/notify/send/",
        json={"title": "Maintenance at 22:00", "message": "db-77 restarts.\nIt takes 5 min.", "severity": "warning"},
        headers={"Idempotency-Key": "m1"},
    )
    assert again.json()["run_id"] == answer.json()["run_id"]
    run = await run_to_end(services, answer.json()["run_id"])
    [message] = channel.messages
    assert (message.title, message.severity) == ("[WARNING] Maintenance at 22:00", "warning")
    assert "db-77 restarts.\n" in message.text
    assert "It takes 5 min." in message.text
    [delivery] = await rows(services.database, "select * from delivery")
    assert (delivery["status"], run.status) == ("sent", "notified")


async def test_a_batch_is_a_run_for_each_message(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    other = MemoryChannel()
    services = replace(services, channels=MemoryChannels({"memory": channel}, {"ops": other}))
    batch = {"notifications": [{"title": "One"}, {"title": "Two", "channel": "ops", "severity": "critical"}]}
    for _ in range(2):  # the second is the same request again
        answer = await api.post("/notify/batch/", json=batch, headers={"Idempotency-Key": "b1"})
        assert (answer.status_code, answer.json()["count"]) == (202, 2)
    for one in answer.json()["notifications"]:
        await run_to_end(services, one["run_id"])
    assert [one.title for one in (*channel.messages, *other.messages)] == ["[INFO] One", "[CRITICAL] Two"]
    assert len(await all_runs(services.database)) == 2


async def test_text_of_a_message_is_cleaned_as_every_text_from_outside(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    body = {"title": "{{ 7*7 }} <b>x</b>\u0000", "message": "password=hunter2-Secret9 {% include '/etc/passwd' %}"}
    answer = await api.post("/notify/send/", json=body)
    await run_to_end(services, answer.json()["run_id"])
    [message] = channel.messages
    assert "hunter2" not in message.text + message.html + message.markdown
    assert "{{ 7*7 }}" in message.text
    assert "<b>x</b>" not in message.html


MESSAGES: list[tuple[Any, int, str]] = [
    ({}, 422, "title"),
    ({"title": "  "}, 422, "title"),
    ({"title": "x" * 301}, 422, "title"),
    ({"title": "x", "message": "y" * 10_001}, 422, "message"),
    ({"title": "x", "severity": "fatal"}, 422, "severity"),
    ({"title": "x", "channel": "lost"}, 422, "there is no channel or driver 'lost'"),
    ({"title": "x", "channel": ["a"]}, 422, "channel"),
    ({"title": "x", "channel": "lost"}, 422, "channel: there is no channel"),
    ({"title": "x", "driver": "nope"}, 422, "driver: there is no channel or driver 'nope'"),
    ({"title": "x", "driver": "slack", "channel": "ops"}, 422, "a channel or a driver, and not both"),
    ({"title": "x", "chanel": "ops", "serverity": "critical"}, 422, "chanel: there is no such field"),
    ({"title": "x", "serverity": "critical", "url": "https://x"}, 422, "url: there is no such field"),
    ({"title": "x", "config": {}}, 422, "config: there is no such field"),
    ({"title": "\u0000 \u200b\n"}, 422, "title: expected a title with at least one sign"),
    ([], 422, "object"),
]


@pytest.mark.parametrize(("body", "status", "words"), MESSAGES, ids=str)
async def test_a_wrong_message_is_refused_and_so_is_a_batch_with_one(
    api: httpx.AsyncClient, database: Database, body: Any, status: int, words: str
) -> None:
    await EncryptedCache(database).write(CHANNEL_NAMES, b'["ops", "slack"]')
    answer = await api.post("/notify/send/", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    batch = await api.post("/notify/batch/", json={"notifications": [{"title": "right"}, body]})
    assert batch.status_code == status
    assert body == [] or "notifications.1" in batch.json()["error"]
    assert await all_runs(database) == []


async def test_a_lone_surrogate_is_no_title(api: httpx.AsyncClient, database: Database) -> None:
    for title in (b"\\ud800", b"\\u0000", b"\\ufffd"):
        answer = await api.post("/notify/send/", content=b'{"title": "%s"}' % title)
        assert (answer.status_code, answer.json()["error"][:6]) == (422, "title:"), answer.text
    assert await all_runs(database) == []


async def test_a_batch_has_a_size(api: httpx.AsyncClient) -> None:
    for count in (0, 101):
        answer = await api.post("/notify/batch/", json={"notifications": [{"title": "x"}] * count})
        assert (answer.status_code, "notifications" in answer.json()["error"]) == (422, True)


async def test_the_drivers_and_the_channels_are_listed(
    api: httpx.AsyncClient, services: Services, database: Database
) -> None:
    await tell(services)
    await EncryptedCache(database).write(CHANNEL_NAMES, b'["memory", "ops"]')
    found = (await api.get("/notify/drivers/")).json()
    assert found["drivers"] == list(CHANNELS) == list(DRIVERS)
    assert [(one["name"], one["status"]) for one in found["channels"]] == [("memory", "works"), ("ops", "unused")]
