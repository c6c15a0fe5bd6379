"""A push that is more than people can be told, or more than can be read, is one page that says so."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from orchestration.store.records import RunRecord
from orchestration.store.why import read_why
from service.api import decoding
from tests.api_helpers import alert, all_runs, open_api, run_to_end, trigger
from tests.auth_helpers import make_key, signed
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push

LIMIT = 64 * 1024
WEBHOOK = "/alerts/webhook/"


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings.model_copy(update={"max_payload_bytes": LIMIT}), database.url) as client:
        yield client


async def push(services: Services, alerts: list[dict[str, object]]) -> list[RunRecord]:
    ids = await accept_push(services, {"alerts": alerts}, source="generic", environment="production")
    return [await run_to_end(services, run_id) for run_id in ids]


async def test_a_storm_in_one_push_is_told_once_and_all_of_it_is_known(
    services: Services, channel: MemoryChannel
) -> None:
    storm = [alert(f"DiskFull{n % 3}", instance=f"db-{n}", severity="warning") for n in range(700)]
    storm.append(alert("OnlyOne", severity="critical"))
    first, second = await push(services, storm)
    assert (first.title, first.severity) == ("500 alerts at once: DiskFull0, DiskFull1, DiskFull2", "warning")
    assert first.incident_id == second.incident_id
    page, worse = channel.messages
    assert page.title.startswith("[WARNING, storm] DiskFull0")
    assert worse.title.startswith("[CRITICAL, storm] OnlyOne")

    async with services.database.transaction() as tx:
        why = await read_why(tx, "DiskFull1 on db-1")
    assert why.answer.startswith("memory was notified of OnlyOne on web-1 and 700 more")

    await push(services, storm)
    assert len(channel.messages) == 2
    await push(services, [{**one, "status": "resolved"} for one in storm])
    assert [message.status for message in channel.messages] == ["firing", "firing", "resolved"]


async def test_a_storm_swallows_neither_the_end_nor_the_rise_of_what_fired_before(
    services: Services, channel: MemoryChannel
) -> None:
    def storm(status: str, **first: str) -> list[dict[str, object]]:
        many = [alert("DiskFull", instance=f"db-{n}", severity="warning", status=status) for n in range(260)]
        return [{**many[0], **first}, *many[1:]]

    await push(services, storm("firing")[:3])
    assert len(channel.messages) == 3
    risen = await push(services, storm("firing", severity="critical"))
    assert [run.title[:10] for run in risen] == ["DiskFull o"] * 3 + ["257 alerts"]
    assert len(channel.messages) == 5  # the one that got worse, and the storm
    ended = await push(services, storm("resolved"))
    assert [message.status for message in channel.messages[5:]] == ["resolved"] * 4
    assert {run.incident_id for run in ended} == {run.incident_id for run in risen}
    again = await push(services, storm("resolved"))
    assert {run.status for run in again} == {RunStatus.SKIPPED}


async def test_as_many_incidents_as_allowed_are_told_one_by_one(services: Services) -> None:
    many = [alert(instance=f"db-{n}") for n in range(200)]
    assert len(await accept_push(services, {"alerts": many}, source="generic", environment="production")) == 200


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("path", "source"),
    [(WEBHOOK, "generic"), (f"{WEBHOOK}grafana/", "grafana"), ("/orchestration/pipeline/", "generic")],
)
async def test_a_push_that_is_too_large_is_stored_cut_and_paged(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel, path: str, source: str, packed: bool
) -> None:
    content = json.dumps(trigger(*(alert(f"DiskFull{n}", text="x" * 1000) for n in range(100)))).encode()
    headers = {"Content-Encoding": "gzip"} if packed else {}
    answer = await api.post(
        path, content=gzip.compress(content) if packed else content, headers=headers, params={"environment": "test"}
    )
    assert answer.status_code == 202, answer.text
    assert "Cut" in answer.json()["message"]
    run = await run_to_end(services, answer.json()["run_id"])

    assert (run.source, run.environment, run.severity) == (source, "test", "critical")
    (message,) = channel.messages
    assert "is too large to be read: DiskFull0" in message.model_dump_json()
    async with services.database.transaction() as tx:
        assert (
            f"is too large to be read: DiskFull0 (alert-pipeline why {run.run_id[:8]})."
            in (await read_why(tx, "DiskFull7")).answer
        )
    assert f"from {source}" in message.model_dump_json()
    if not packed:
        assert f"{len(content):,} bytes" in message.model_dump_json()


async def test_a_push_of_very_many_values_is_cut_and_cheap(settings: Settings, database: Database) -> None:
    lists = '{"name": "Many", "x": [' + "[]," * 150_000 + "1]}"
    named = json.dumps({"name": "Many", "x": {f"k{n}": n for n in range(110_000)}})
    async with open_api(settings, database.url) as roomy:
        for values in (lists, named):
            answer = await roomy.post(WEBHOOK, content=values)
            assert (answer.status_code, "more than 100,000 values" in answer.text) == (202, True)
        sync = await roomy.post("/orchestration/pipeline/sync/", content=named)
        assert sync.status_code == 413
        # Commas in texts are no values.
        text = json.dumps(trigger(alert(description="," * 300_000)))
        assert "Cut" not in (await roomy.post("/orchestration/pipeline/", content=text)).text
    assert {run.title[:6] for run in await all_runs(database)} >= {"A push"}


async def test_large_bodies_are_parsed_beside_the_event_loop(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    parse = decoding._parse
    monkeypatch.setattr(
        decoding, "_parse", lambda *given: (seen.append(threading.current_thread().name), parse(*given))[1]
    )
    async with open_api(settings, database.url) as api:
        await api.post(WEBHOOK, json=alert(description="x" * 100_000))

    assert seen
    assert "MainThread" not in seen


async def test_what_is_signed_and_too_large_is_refused(
    api: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    key = await make_key(settings, database, Scope.TRIGGER)
    content = b" " * (LIMIT + 1)
    assert (await api.post(WEBHOOK, content=content, headers=signed(key, content))).status_code == 413
    assert (await api.post(WEBHOOK, content=content, headers={"Authorization": "Bearer apk_x"})).status_code == 401
    assert await all_runs(database) == []
