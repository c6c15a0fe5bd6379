"""Definitions over HTTP: list, show, validate, execute, choose one for a push; refusals in clear words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from orchestration.encryption import load_cipher
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store import definitions, keys
from orchestration.store.database import Database
from orchestration.store.definitions import StoredDefinitions
from orchestration.store.keys import Scope
from tests.api_helpers import alert, all_runs, answer_after_run, eventually, open_api, run_of, run_to_end, trigger
from tests.auth_helpers import FAR
from tests.broken_definitions import BROKEN
from tests.cli_helpers import row_counts
from tests.definition_helpers import look, put

HUB: dict[str, Any] = {
    "description": "Takes an alert in and tells the person on call",
    "tags": ["hub"],
    "nodes": [{"id": "ingest", "type": "ingest", "next": "notify"}, {"id": "notify", "type": "notify"}],
}


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


@pytest.fixture
def services(services: Services, database: Database) -> Services:
    return replace(services, definitions=StoredDefinitions(database))


async def test_definitions_are_listed_and_shown(api: httpx.AsyncClient, database: Database) -> None:
    await put(database, HUB, "hub")
    await put(database, {**HUB, "description": "changed"}, "hub")
    await put(database, look(), "off")
    async with database.transaction() as tx:
        await definitions.set_active(tx, "off", active=False)

    listed = (await api.get("/orchestration/definitions/")).json()
    both = (await api.get("/orchestration/definitions/", params={"include_inactive": "true"})).json()
    shown = (await api.get("/orchestration/definitions/hub/")).json()
    old = (await api.get("/orchestration/definitions/hub/", params={"version": 1})).json()

    assert listed["count"] == 1
    (hub,) = listed["definitions"]
    assert {name: hub[name] for name in ("name", "description", "version", "is_active", "tags", "node_count")} == {
        "name": "hub",
        "description": "changed",
        "version": 2,
        "is_active": True,
        "tags": ["hub"],
        "node_count": 2,
    }
    assert hub["created_by"] == "test"
    assert [(one["name"], one["is_active"]) for one in both["definitions"]] == [("hub", True), ("off", False)]
    assert shown == {**hub, "config": {**HUB, "description": "changed"}}
    assert (old["version"], old["is_active"], old["config"]) == (1, False, HUB)


async def test_what_is_broken_is_told_by_node_and_field_and_nothing_is_stored(
    api: httpx.AsyncClient, database: Database
) -> None:
    for broken in BROKEN:
        answer = await api.post("/orchestration/definitions/mine/validate/", json={"config": broken.raw})
        said = answer.json()
        assert answer.status_code == 200, broken.name
        assert (said["name"], said["version"], said["valid"]) == ("mine", None, False), broken.name
        faults = [fault for fault in said["errors"] if broken.says in fault["message"]]
        assert (broken.node, broken.field) in [(fault["node"], fault["field"]) for fault in faults], broken.name
    assert await row_counts(database) == {}


async def test_a_stored_definition_is_looked_at(api: httpx.AsyncClient, database: Database) -> None:
    await put(database, HUB, "hub")
    said = (await api.post("/orchestration/definitions/hub/validate/")).json()
    assert said == {"name": "hub", "version": 1, "valid": True, "errors": []}


async def test_a_definition_is_run_and_waited_for(
    api: httpx.AsyncClient, database: Database, services: Services
) -> None:
    await put(database, look(checker_names=["memory"]))
    asking = asyncio.create_task(api.post("/orchestration/definitions/look/execute/"))
    answer = await answer_after_run(asking, services)

    result = answer.json()
    assert answer.status_code == 200, answer.text
    assert (result["status"], result["definition_name"], result["definition_version"]) == ("COMPLETED", "look", 1)
    assert [(node["id"], node["status"], node["attempts"]) for node in result["nodes"]] == [
        ("checks", "succeeded", 1),
        ("notify", "succeeded", 1),
    ]
    assert result["nodes"][0]["result"]["checks_run"] == 1
    (run,) = await all_runs(database)
    assert (run.source, run.environment, run.definition_name, run.definition_version) == (
        "api",
        "production",
        "look",
        1,
    )


async def test_a_push_may_choose_its_definition(api: httpx.AsyncClient, database: Database, services: Services) -> None:
    await put(database, HUB, "hub")
    answer = await api.post("/orchestration/pipeline/", json=trigger(alert(), definition="hub"))
    assert answer.status_code == 202, answer.text
    run = await run_to_end(services, answer.json()["run_id"])
    assert (run.status.value, run.definition_name, run.definition_version) == ("notified", "hub", 1)

    shown = (await api.get(f"/orchestration/pipeline/{run.run_id}/")).json()
    assert (shown["definition_name"], shown["definition_version"]) == ("hub", 1)
    assert [one["node_id"] for one in shown["stage_executions"]] == ["ingest", "notify"]

    pushed = await api.post("/alerts/webhook/generic/?definition=hub", json=alert("DiskFull"))
    assert (await run_to_end(services, pushed.json()["run_id"])).definition_name == "hub"

    await put(database, look(checker_names=["memory"]))
    asking = asyncio.create_task(api.post("/orchestration/pipeline/sync/", json={"definition": "look"}))
    await eventually(lambda: _count(database, 3))
    newest = (await all_runs(database))[0]
    await run_to_end(services, newest.run_id)
    assert (await asking).json()["stages_completed"] == ["checks", "notify"]


async def _count(database: Database, wanted: int) -> bool:
    return len(await all_runs(database)) == wanted


async def test_a_definition_may_be_run_about_an_incident(
    api: httpx.AsyncClient, database: Database, services: Services
) -> None:
    first = (await api.post("/orchestration/pipeline/", json=trigger(alert()))).json()
    incident = (await run_to_end(services, first["run_id"])).incident_id
    await put(database, look(checker_names=["memory"]))
    unknown = await api.post("/orchestration/definitions/look/execute/", json={"incident_id": "4711"})
    assert unknown.status_code == 422
    assert "4711" in unknown.json()["error"]

    url = "/orchestration/definitions/look/execute/"
    asking = asyncio.create_task(api.post(url, json={"incident_id": incident}))
    await eventually(lambda: _count(database, 2))
    newest = (await all_runs(database))[0]
    await run_to_end(services, newest.run_id)
    assert (await asking).json()["incident_id"] == incident
    assert (await run_of(database, newest.run_id)).incident_id == incident


async def test_what_cannot_be_run_is_refused_and_nothing_is_written(api: httpx.AsyncClient, database: Database) -> None:
    await put(database, HUB, "hub")
    await put(database, look(), "off")
    async with database.transaction() as tx:
        await definitions.set_active(tx, "off", active=False)
    push = {"payload": alert()}
    refused: list[tuple[str, object, int, str]] = [
        ("definitions/nowhere/execute/", push, 404, "There is no definition 'nowhere'; stored are: hub, off"),
        ("definitions/off/execute/", None, 409, "is disabled and runs nothing"),
        ("definitions/hub/execute/", None, 422, "ingests alerts"),
        ("definitions/hub/execute/", {"payload": {}}, 422, "empty object"),
        ("definitions/hub/execute/", {"payload": []}, 422, "payload"),
        ("definitions/hub/execute/", {**push, "incident_id": "1"}, 422, "incident"),
        ("definitions/hub/execute/", {**push, "checker_names": ["gpu"]}, 422, "unknown checker 'gpu'"),
        ("definitions/a%00b/execute/", push, 404, "There is no definition"),
        ("definitions/nowhere/validate/", None, 404, "There is no definition"),
        ("pipeline/", {**push, "definition": "nowhere"}, 404, "There is no definition 'nowhere'"),
        ("pipeline/sync/", {**push, "definition": "off"}, 409, "is disabled and runs nothing"),
        ("pipeline/", {"definition": "hub"}, 422, "ingests alerts"),
        ("pipeline/", {**push, "definition": 7}, 422, "definition"),
        ("pipeline/", {"definition": None}, 422, "payload: field required"),
        ("pipeline/", {**push, "definition": "a\x00b"}, 404, "There is no definition"),
        ("../alerts/webhook/?definition=nowhere", alert(), 404, "There is no definition 'nowhere'"),
        ("../alerts/webhook/generic/?definition=off", alert(), 409, "is disabled and runs nothing"),
    ]
    for path, body, status, says in refused:
        answer = await api.post(f"/orchestration/{path}", **({} if body is None else {"json": body}))
        assert answer.status_code == status, (path, body, answer.text)
        assert says in answer.json()["error"], (path, body)
    assert (await api.get("/orchestration/definitions/nowhere/")).status_code == 404
    assert (await api.get("/orchestration/definitions/hub/", params={"version": 9})).status_code == 404
    assert (await api.get("/orchestration/definitions/", params={"include_inactive": "maybe"})).status_code == 422
    assert await row_counts(database) == {"definition": 2}


async def test_each_key_may_do_what_it_is_for(settings: Settings, database: Database) -> None:
    await put(database, HUB, "hub")
    cipher = load_cipher(settings)
    async with database.transaction() as tx:
        reads = await keys.create_key(tx, "reads", {Scope.READ}, cipher)
        triggers = await keys.create_key(tx, "triggers", {Scope.TRIGGER}, cipher)

    async with open_api(settings, database.url, host="0.0.0.0", client=FAR) as api:

        async def status(method: str, path: str, token: str | None) -> int:
            headers = {} if token is None else {"X-API-Key": token}
            return (await api.request(method, f"/orchestration/definitions/{path}", headers=headers)).status_code

        ways = [("GET", ""), ("GET", "hub/"), ("POST", "hub/validate/"), ("POST", "hub/execute/")]
        assert [await status(*way, None) for way in ways] == [401] * 4
        assert [await status(*way, reads.token) for way in ways] == [200, 200, 200, 403]
        assert [await status(*way, triggers.token) for way in ways] == [403, 403, 403, 422]
