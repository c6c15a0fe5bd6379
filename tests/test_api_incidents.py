"""`/incidents/`: programs and phones list incidents, show them, and act on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from tests.api_helpers import open_api
from tests.auth_helpers import FAR, PUBLIC, bearer, make_key
from tests.life_helpers import next_of, opened, upcoming


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API for a caller on this machine."""
    async with open_api(settings, database.url) as client:
        yield client


async def act(api: httpx.AsyncClient, incident_id: str, action: str, **body: object) -> httpx.Response:
    """Act on an incident; without fields, also without a body."""
    return await api.post(f"/incidents/{incident_id}/{action}/", **({"json": body} if body else {}))


async def test_an_incident_from_its_page_to_its_end(api: httpx.AsyncClient, services: Services) -> None:
    incident_id = await opened(services)
    await opened(services, "DiskFull", severity="warning", instance="db-1")

    listed = (await api.get("/incidents/")).json()
    assert [one["title"] for one in listed["incidents"]] == ["DiskFull on db-1", "HighCPU on web-1"]
    assert listed["count"] == 2
    first = listed["incidents"][1]
    assert (first["status"], first["firing"], first["alerts"], first["source"]) == ("open", 1, 1, "generic")
    assert first["next_reason"] == "reminder"

    done = await act(api, incident_id, "acknowledge", by="ada")
    assert (done.status_code, done.json()["changed"]) == (200, True)
    assert done.json()["incident"]["acknowledged_by"] == "ada"
    again = (await act(api, incident_id, "acknowledge", by="bob")).json()
    assert again["changed"] is False
    assert "is acknowledged already, by ada since" in again["message"]
    assert (await act(api, incident_id, "notes", by="ada", text="a runaway job")).status_code == 200
    assert (await act(api, incident_id, "resolve", by="ada")).json()["incident"]["status"] == "resolved"
    assert (await act(api, incident_id, "close")).json()["incident"]["status"] == "closed"

    shown = (await api.get(f"/incidents/{incident_id}/")).json()
    assert [(one["name"], one["status"]) for one in shown["members"]] == [("HighCPU", "dismissed")]
    assert [(one["channel"], one["is_current"]) for one in shown["channels"]] == [("memory", False)]
    said = [(line["event"], line["by"], line["via"], line["text"]) for line in shown["history"] if line["via"]]
    assert said == [
        ("incident_closed", "somebody with the local key", "http", None),
        ("incident_resolved", "ada", "http", None),
        ("incident_note", "ada", "http", "a runaway job"),
        ("incident_acknowledged", "ada", "http", None),
    ]
    assert (await api.get("/incidents/")).json()["count"] == 1
    assert (await api.get("/incidents/?status=all")).json()["count"] == 2


async def test_a_snooze_by_moment_by_time_and_its_end(api: httpx.AsyncClient, services: Services) -> None:
    incident_id = await opened(services)
    until = datetime.now(UTC) + timedelta(hours=3)
    done = (await act(api, incident_id, "snooze", until=until.isoformat())).json()
    assert datetime.fromisoformat(done["incident"]["snoozed_until"]) == until
    assert await next_of(services.database, incident_id) == "reminder 180"
    await act(api, incident_id, "snooze", for_seconds=600)
    (timer,) = await upcoming(services.database, incident_id)
    shown = (await api.get(f"/incidents/{incident_id}/")).json()
    assert [one["run_id"] for one in shown["upcoming"]] == [timer.run_id]
    assert await next_of(services.database, incident_id) == "reminder 10"
    assert (await act(api, incident_id, "snooze", for_seconds=0)).json()["incident"]["snoozed_until"] is None
    assert (await act(api, incident_id, "unacknowledge")).json()["changed"] is False


@pytest.mark.parametrize(
    ("action", "body", "status", "words"),
    [
        ("snooze", {"by": "ada"}, 422, "expected until or for_seconds, one of them"),
        ("snooze", {"for_seconds": 5, "until": "2030-01-01T00:00:00Z"}, 422, "one of them"),
        ("snooze", {"until": "2020-01-01T00:00:00Z"}, 422, "A snooze ends in the future"),
        ("notes", {"text": ""}, 422, "text: string should have at least 1 character"),
        ("notes", {"text": "x" * 2001}, 422, "at most 2000 characters"),
        ("notes", {}, 422, "text: field required"),
        ("acknowledge", {"by": "a\u0000b"}, 422, "by: expected a name of 1 to 64 printable characters"),
        ("acknowledge", {"by": "x" * 65}, 422, "by: "),
        ("close", {}, 409, "is open: resolve it before you close it"),
    ],
)
async def test_what_is_wrong_is_named(
    api: httpx.AsyncClient, services: Services, action: str, body: dict[str, object], status: int, words: str
) -> None:
    incident_id = await opened(services)
    answer = await api.post(f"/incidents/{incident_id}/{action}/", json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]


async def test_an_incident_that_is_not_there_and_one_that_has_ended(api: httpx.AsyncClient, services: Services) -> None:
    for number in ("4711", "none", "9" * 30, "%00"):
        assert (await api.get(f"/incidents/{number}/")).status_code == 404
        for action in ("acknowledge", "unacknowledge", "resolve", "close"):
            answer = await act(api, number, action)
            assert (answer.status_code, answer.json()["error"][:21]) == (404, "There is no incident ")
    incident_id = await opened(services)
    await act(api, incident_id, "resolve")
    for action in ("acknowledge", "unacknowledge"):
        answer = await act(api, incident_id, action)
        assert answer.status_code == 409
        assert "is resolved since" in answer.json()["error"]
    assert (await act(api, incident_id, "resolve")).json()["changed"] is False


async def test_the_list_is_filtered_and_has_pages(api: httpx.AsyncClient, services: Services) -> None:
    for number in range(5):
        await opened(services, f"Alert{number}", severity="critical" if number % 2 else "warning")
    page = (await api.get("/incidents/?limit=2")).json()
    titles = [one["title"] for one in page["incidents"]]
    while page["next_cursor"]:
        page = (await api.get(f"/incidents/?limit=2&cursor={page['next_cursor']}")).json()
        titles += [one["title"] for one in page["incidents"]]
    assert titles == [f"Alert{number} on web-1" for number in (4, 3, 2, 1, 0)]
    counts = {
        query: (await api.get(f"/incidents/?{query}")).json()["count"]
        for query in ("severity=critical", "environment=staging", "source=generic", "source=grafana", "status=resolved")
    }
    assert list(counts.values()) == [2, 0, 5, 0, 0]
    for wrong in ("status=asleep", "cursor=abc", "severity=bad", "environment=%00"):
        assert (await api.get(f"/incidents/?{wrong}")).status_code == 422


async def test_the_name_in_the_body_is_recorded_next_to_that_of_the_key(
    settings: Settings, database: Database, services: Services
) -> None:
    incident_id = await opened(services)
    key = await make_key(settings, database, Scope.RESPOND, name="pager")
    reader = await make_key(settings, database, Scope.READ, name="reader")
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as api:
        path = f"/incidents/{incident_id}"
        assert (await api.get(f"{path}/", headers=bearer(key))).status_code == 403
        by_key = await api.post(f"{path}/acknowledge/", headers=bearer(key))
        assert by_key.json()["incident"]["acknowledged_by"] == "pager"
        await api.post(f"{path}/resolve/", headers=bearer(key), json={"by": "ada"})
        assert (await api.post(f"{path}/close/", headers=bearer(reader))).status_code == 403
        history = (await api.get(f"{path}/", headers=bearer(reader))).json()["history"]
    assert [line["by"] for line in history if line["via"]] == ["ada", "pager"]
