"""Webhooks: the bodies of the vendors, unchanged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from tasks.ingest.sources import SOURCES, Push
from tests.api_helpers import all_runs, open_api, run_of, run_to_end
from tests.conftest import MemoryChannel
from tests.payloads import NAMES, body


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


@pytest.mark.parametrize("name", NAMES)
async def test_a_body_is_taken_with_and_without_its_source_in_the_address(
    api: httpx.AsyncClient, database: Database, name: str
) -> None:
    source = name.split("_")[0]
    named = await api.post(f"/alerts/webhook/{source}/", json=body(name))
    recognised = await api.post("/alerts/webhook/", json=body(name))

    assert named.status_code == recognised.status_code == 202, named.text
    assert {(await run_of(database, said.json()["run_id"])).source for said in (named, recognised)} == {source}
    assert "duplicate" in recognised.json()["message"]


@pytest.mark.parametrize("name", SOURCES)
async def test_every_source_has_an_address(api: httpx.AsyncClient, name: str) -> None:
    assert (await api.post(f"/alerts/webhook/{name}/", json=SOURCES[name].sample("x"))).status_code == 202
    assert (await api.get(f"/alerts/webhook/{name}/")).json() == {"status": "ok", "sources": [name]}


async def test_the_address_says_where_it_happened(api: httpx.AsyncClient, database: Database) -> None:
    said = await api.post("/alerts/webhook/grafana/?environment=staging", json=body("grafana_unified"))

    assert (await run_of(database, said.json()["run_id"])).environment == "staging"


async def test_health_needs_no_body(api: httpx.AsyncClient) -> None:
    assert (await api.get("/alerts/webhook/")).json() == {"status": "ok", "sources": list(SOURCES)}


@pytest.mark.parametrize(
    ("path", "content", "status", "says"),
    [
        ("/alerts/webhook/semaphore/", "{}", 422, "no source 'semaphore'"),
        ("/alerts/webhook/grafana/", "", 400, "empty"),
        ("/alerts/webhook/?environment=", '{"name": "x"}', 422, "environment"),
        ("/alerts/webhook/?environment=%00", '{"name": "x"}', 422, "environment"),
    ],
)
async def test_what_is_no_push_is_refused(
    api: httpx.AsyncClient, database: Database, path: str, content: str, status: int, says: str
) -> None:
    answer = await api.post(path, content=content)

    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]
    assert await all_runs(database) == []


async def test_an_unknown_source_has_no_health(api: httpx.AsyncClient) -> None:
    answer = await api.get("/alerts/webhook/semaphore/")

    assert answer.status_code == 422
    assert "the sources are" in answer.json()["error"]


async def test_what_alertmanager_sends_pages_once_and_gives_the_all_clear(
    api: httpx.AsyncClient, services: Services, channel: MemoryChannel
) -> None:
    firing = SOURCES["alertmanager"].sample("x")
    resolved = json.loads(json.dumps(firing).replace('"status": "firing"', '"status": "resolved"'))
    for push in (firing, firing, resolved, resolved):
        said = (await api.post("/alerts/webhook/alertmanager/", json=push)).json()
        run = await run_of(services.database, said["run_id"])
        if not run.status.final:
            await run_to_end(services, run.run_id)

    assert [message.status for message in channel.messages] == ["firing", "resolved"]


async def test_an_event_that_is_left_out_on_purpose_is_recorded_and_says_so(
    api: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Push(source="pagerduty", ignored="incident.annotated")
    monkeypatch.setattr("tasks.ingest.inbox.parse_push", lambda payload, **_: noted)
    said = await api.post("/alerts/webhook/pagerduty/", json={"event": {"event_type": "incident.annotated"}})
    run = await run_of(database, said.json()["run_id"])

    assert said.status_code == 202
    assert said.json()["message"] == ("Recorded, and nobody is notified. Its source ignores it: incident.annotated")
    assert said.json()["note"] == "Nobody is notified"
    assert (run.status, run.skip_reason, run.source) == (RunStatus.SKIPPED, "ignored", "pagerduty")
