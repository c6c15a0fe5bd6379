"""`why`: one answer, and its evidence, for each way in which somebody is notified or nobody is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from orchestration.store.why_facts import Why
from service.cli.why import _show
from tasks.analyze.stage import ANALYZE
from tests.admin_helpers import Browser, words_of
from tests.admin_helpers import make_key as make_admin_key
from tests.api_helpers import eventually, open_api, run_to_end
from tests.auth_helpers import FAR, PUBLIC, bearer, make_key
from tests.cli_helpers import json_of, side_by_side
from tests.conftest import Command, MemoryChannel, MemoryChannels
from tests.engine_helpers import with_kind
from tests.life_helpers import execute_timer, let_pass
from tests.notify_helpers import (
    FailingChannel,
    NoChannels,
    WaitingChannel,
    busy,
    execute_follow_up,
    execute_redelivery,
    refused,
    unanswered,
)

pytest_plugins = ["tests.cli_helpers"]

NIGHT = timedelta(minutes=10)


@pytest.fixture
def paged(services: Services) -> Services:
    """A worker's services with one channel, slack."""
    return replace(services, channels=MemoryChannels({"slack": MemoryChannel(driver="slack")}))


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


def disk_full(status: str = "firing", **more: object) -> dict[str, object]:
    return {"alertname": "DiskFull", "severity": "critical", "instance": "db-1", "status": status, **more}


async def send(api: httpx.AsyncClient, services: Services | None, **more: object) -> str:
    """A push over HTTP, executed by these services; the id of its run."""
    answer = await api.post("/alerts/webhook/", json=disk_full(**more))
    assert answer.status_code == 202, answer.text
    if services is not None and "duplicate" not in answer.json()["message"]:
        await run_to_end(services, answer.json()["run_id"])
    return answer.json()["run_id"]


async def ask(api: httpx.AsyncClient, what: str = "DiskFull", **more: str) -> Why:
    """The answer over HTTP; the command's screen of it goes to the output."""
    said = await api.get("/why/", params={"what": what, **more})
    assert said.status_code == 200, said.text
    found = Why.model_validate(said.json())
    _show(found, all_lines=False)
    return found


async def is_known(api: httpx.AsyncClient) -> bool:
    """Whether the refused push has been written: that happens in the background."""
    return bool((await api.get("/why/", params={"what": "DiskFull"})).json()["timeline"])


def timeline(found: Why) -> str:
    return "\n".join(f"{event.mark} {event.text}" for event in found.timeline)


async def test_paged(api: httpx.AsyncClient, paged: Services) -> None:
    run_id = await send(api, paged)
    found = await ask(api)

    assert found.answer.startswith("slack was notified of DiskFull on db-1 at ")
    assert "a new incident (opened)." in found.answer
    assert found.run_id == run_id
    assert "· push from generic arrived: DiskFull on db-1, critical, firing" in timeline(found)
    assert "· decided to notify: a new incident (opened)" in timeline(found)
    assert "✓ message to slack sent" in timeline(found)
    assert [event.text for event in found.upcoming] == ["reminder, if it still fires and nobody has acknowledged it"]


@pytest.mark.parametrize(
    "what",
    [
        "diskf",
        "DiskFull on db-1",
        "#1",
        "1",
        'instance="db-1"',
        '{instance=~"db-.*", alertname="DiskFull"}',
        'instance!="db-2"',
    ],
)
async def test_a_question_names_a_run_an_incident_an_alert_or_labels(
    api: httpx.AsyncClient, paged: Services, what: str
) -> None:
    run_id = await send(api, paged)
    for asked in (what, run_id, run_id[:6]):
        found = await ask(api, asked)
        assert found.incident is not None, asked
        assert found.run_id == run_id


@pytest.mark.parametrize("what", ['instance="db-2"', 'instance=~"web.*"', "NightlyBackup"])
async def test_what_never_came_is_said(api: httpx.AsyncClient, paged: Services, what: str) -> None:
    await send(api, paged)
    found = await ask(api, what)

    assert found.answer.startswith(f"Nobody was notified of {what}: no push about it is on record, neither accepted")
    assert (found.incident, found.timeline) == (None, [])


async def test_duplicate(api: httpx.AsyncClient, paged: Services) -> None:
    first = await send(api, paged)
    second = await send(api, paged)
    found = await ask(api)

    assert found.run_id == second
    assert found.answer.startswith("Nobody was notified again of DiskFull on db-1 at ")
    assert "the same was said shortly before (duplicate). slack was notified at" in found.answer
    assert f"(duplicate), as run {first[:12]}" in timeline(found)


async def test_repeat(api: httpx.AsyncClient, paged: Services, database: Database) -> None:
    await send(api, paged)
    await let_pass(database, NIGHT)
    await send(api, paged, value=7)
    found = await ask(api)

    assert "a repeat: nothing has changed (repeat). slack was notified" in found.answer


async def test_stale(api: httpx.AsyncClient, paged: Services) -> None:
    now = datetime.now(UTC)
    begun, before = (now - timedelta(hours=1)).isoformat(), (now - timedelta(hours=3)).isoformat()
    await send(api, paged, startsAt=begun)
    await send(api, paged, status="resolved", startsAt=before, endsAt=(now - timedelta(hours=2)).isoformat())
    found = await ask(api)

    assert "(stale)" in found.answer
    assert "Nobody was notified of" in found.answer


async def test_ignored(api: httpx.AsyncClient) -> None:
    note = {
        "event": {"id": "1", "event_type": "incident.annotated", "resource_type": "incident", "data": {"content": "x"}}
    }
    run_id = (await api.post("/alerts/webhook/pagerduty/", json=note)).json()["run_id"]
    found = await ask(api, run_id)

    assert "incident.annotated was ignored, because the event says nothing about the state of an alert" in found.answer


@pytest.mark.parametrize("status", [401, 413, 422])
async def test_refused(settings: Settings, database: Database, status: int) -> None:
    small = settings.model_copy(update={"max_payload_bytes": 4096})
    reader = bearer(await make_key(settings, database, Scope.READ, name="me"))
    key = bearer(await make_key(settings, database, Scope.TRIGGER, name="grafana"))
    async with open_api(small, database.url, host=PUBLIC, client=FAR, base_url="http://alerts.example.com") as api:
        sent = {
            401: {"headers": {"Authorization": "Bearer apk_zm4LorPKxxxxxxxx"}, "json": disk_full()},
            413: {"headers": key, "json": disk_full(text="x" * 5000)},
            422: {"headers": key, "json": {"payload": {"alerts": [], "commonLabels": {"alertname": "DiskFull"}}}},
        }[status]
        # A webhook that is too large, or not understood, is not refused: test_push_ceilings.py, test_unread.py.
        path = {401: "/alerts/webhook/", 413: "/orchestration/pipeline/sync/", 422: "/orchestration/pipeline/"}[status]
        answer = await api.post(path, **sent)
        assert answer.status_code == status
        api.headers.update(reader)
        await eventually(lambda: is_known(api))
        found = await ask(api)
        named = await ask(api, found.timeline[0].text.rpartition("(")[2].rstrip(")"))

    assert found.answer.startswith("Nobody was notified of DiskFull at ")
    assert f"the push was refused with {status} (" in found.answer
    assert ("the key 'grafana'" if status != 401 else "a sender without a valid key at 192.0.2.7") in found.answer
    assert f"refused with {status}" in named.answer


async def test_coalesced(api: httpx.AsyncClient, paged: Services) -> None:
    first = await send(api, None)
    second = await send(api, None, status="resolved")
    await run_to_end(paged, second)
    await run_to_end(paged, first)
    found = await ask(api, first)

    assert "No message of its own was needed for DiskFull on db-1" in found.answer
    assert "(coalesced)" in found.answer


async def test_a_run_for_the_beginning_that_has_told_the_end(api: httpx.AsyncClient, services: Services) -> None:
    slow = WaitingChannel(driver="slack")
    waiting = replace(services, channels=MemoryChannels({"slack": slow}))
    run_id = await send(api, None)
    run = asyncio.create_task(run_to_end(waiting, run_id))
    await slow.asked.wait()
    assert (await api.post("/incidents/1/resolve/", json={"by": "ada"})).status_code == 200
    slow.let_go.set()
    await run
    found = await ask(api, run_id)

    assert [message.title.split("]")[0] for message in slow.messages] == ["[CRITICAL", "[RESOLVED"]
    assert "Resolved by: ada" in slow.messages[-1].text
    assert found.answer.startswith("slack was notified of DiskFull on db-1 at ")
    assert "a new incident (opened). The last message says that it is over." in found.answer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (busy(), "not sent, a newer message overtook it"),
        (unanswered(), "perhaps arrived, and is not sent again: a newer"),
    ],
)
async def test_superseded(api: httpx.AsyncClient, services: Services, error: DeliveryFailed, said: str) -> None:
    slow = FailingChannel(driver="slack", error=error)
    broken = replace(services, channels=MemoryChannels({"slack": slow}))
    await send(api, broken)
    slow.error = None
    await send(api, broken, status="resolved")
    found = await ask(api)

    assert f"message to slack {said}" in timeline(found)
    assert "(superseded)" in timeline(found)
    assert "every alert of the incident is resolved (resolved)" in found.answer


async def test_acknowledged(api: httpx.AsyncClient, paged: Services) -> None:
    await send(api, paged)
    assert (await api.post("/incidents/1/acknowledge/", json={"by": "ada"})).status_code == 200
    found = await ask(api)

    assert "It is acknowledged by ada since " in found.answer
    assert "incident 1 acknowledged by ada (http)" in timeline(found)
    assert [event.text for event in found.upcoming] == ["the acknowledgement ends: a reminder, if it still fires"]


async def test_what_only_shows_the_acknowledgement_notifies_nobody(api: httpx.AsyncClient, paged: Services) -> None:
    editing = MemoryChannel(driver="slack", shows_state=True)
    paged = replace(paged, channels=MemoryChannels({"slack": editing}))
    await send(api, paged)
    before = (await ask(api)).answer
    assert (await api.post("/incidents/1/acknowledge/", json={"by": "ada"})).status_code == 200
    run = await execute_follow_up(paged, RunReason.STATE)
    assert "were brought up to date" in (await ask(api, run.run_id)).answer
    found = await ask(api)
    assert found.answer.startswith(before)
    assert [event.text for event in found.timeline if "to slack" in event.text] == [
        "message to slack sent", "message to slack brought up to date",
    ]  # fmt: skip


async def test_snoozed(api: httpx.AsyncClient, paged: Services) -> None:
    await send(api, paged)
    until = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    said = await api.post("/incidents/1/snooze/", json={"by": "ada", "until": until})
    assert said.status_code == 200, said.text
    found = await ask(api)

    assert "It is snoozed until " in found.answer
    assert "incident 1 snoozed by ada (http)" in timeline(found)
    assert [event.text for event in found.upcoming] == ["the snooze ends: a reminder, if it still fires"]


async def test_no_channel(api: httpx.AsyncClient, services: Services) -> None:
    await send(api, replace(services, channels=NoChannels()))
    found = await ask(api)

    assert found.answer.startswith("Nobody was notified of DiskFull on db-1 at ")
    assert "no channel is set up (no_channel). Set one up: docs/channels.md." in found.answer


async def test_channel_down_then_up(api: httpx.AsyncClient, services: Services) -> None:
    slow = FailingChannel(driver="slack")
    broken = replace(services, channels=MemoryChannels({"slack": slow}))
    await send(api, broken)
    down = await ask(api)
    slow.error = None
    await execute_redelivery(broken)
    up = await ask(api)

    assert "Nobody was notified of DiskFull on db-1 at " in down.answer
    assert "it answered 503" in down.answer
    assert "It is sent again" in down.answer
    assert "The channel slack fails since" in down.answer
    again = "the message that was not accepted is sent again, if no newer one replaced it"
    assert again in [event.text for event in down.upcoming]
    assert up.answer.startswith("slack was notified of DiskFull on db-1 at ")
    assert "(redelivery)" in up.answer


async def test_failed_for_good(api: httpx.AsyncClient, services: Services) -> None:
    gone = FailingChannel(driver="slack", error=refused())
    await send(api, replace(services, channels=MemoryChannels({"slack": gone})))
    found = await ask(api)

    assert "it answered 404" in found.answer
    assert "✗ the run failed at notify, attempt 1: slack: " in timeline(found)


async def test_waiting_for_a_worker(api: httpx.AsyncClient) -> None:
    await send(api, None)
    found = await ask(api, (await api.get("/orchestration/pipelines/")).json()["runs"][0]["run_id"])

    assert "Nobody has been notified of DiskFull on db-1 yet" in found.answer
    assert "waits for a worker, and none is alive. Start one: alert-pipeline worker." in found.answer
    assert [event.text for event in found.upcoming] == ["a worker executes the push as soon as one is alive"]


async def test_fallback_and_the_direct_engine(api: httpx.AsyncClient, paged: Services) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the model is away")

    await send(api, with_kind(paged, ANALYZE, function=fail))
    found = await ask(api)

    assert "The message went out without the analysis, which failed (fallback)." in found.answer
    assert "Prefect was not used (direct engine)." in found.answer
    assert "the model is away" in timeline(found)


async def test_reminder(api: httpx.AsyncClient, paged: Services, database: Database) -> None:
    await send(api, paged)
    await let_pass(database, timedelta(hours=1))
    await execute_timer(paged, "1")
    found = await ask(api)

    assert "a reminder: it still fires, and nobody has acknowledged it (reminder)." in found.answer
    assert "· decided to notify: a reminder: it still fires" in timeline(found)


async def test_expired(api: httpx.AsyncClient, paged: Services, database: Database) -> None:
    await send(api, paged)
    for _ in range(30):
        await let_pass(database, timedelta(hours=1))
        await execute_timer(paged, "1")
        found = await ask(api)
        if found.incident is not None and found.incident.status == "resolved":
            break

    assert "so it counts as over; whether it is, is not known (expired)." in found.answer


async def test_a_moment_is_asked_about(api: httpx.AsyncClient, paged: Services, database: Database) -> None:
    await send(api, paged)
    await let_pass(database, timedelta(hours=2))
    await send(api, paged, value=7)
    at = datetime.now(UTC) - timedelta(hours=1)
    before = datetime.now(UTC) - timedelta(hours=5)

    found = await ask(api, at=at.isoformat())
    assert found.answer.startswith("Nothing about DiskFull on db-1 arrived ")
    assert "slack was notified of DiskFull on db-1" in found.answer
    assert "no push about it is on record before" in (await ask(api, at=before.isoformat())).answer


async def test_the_command_prints_one_screen_or_json(api: httpx.AsyncClient, paged: Services, command: Command) -> None:
    await send(api, paged)
    program = "alert-pipeline"
    screen, as_json, wrong = side_by_side(
        command,
        ([program, "why", "DiskFull", "--at", "23:59"], {}),
        ([program, "why", 'instance="db-1"', "--json"], {}),
        ([program, "why", "DiskFull", "--at", "noon"], {}),
    )

    assert "slack was notified of DiskFull on db-1" in json_of(as_json)["answer"]
    assert screen.stdout.startswith(("Nothing about DiskFull on db-1", "Nobody was notified of DiskFull: no push"))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "at: 'noon' is no moment; expected 03:12" in wrong.stderr


async def test_the_admin_has_the_same_answer(
    api: httpx.AsyncClient, paged: Services, settings: Settings, database: Database
) -> None:
    await send(api, paged)
    here = Browser(api)
    await here.sign_in((await make_admin_key(settings, database)).token)
    page = await here.get("/why/?what=DiskFull")
    wrong = await here.get("/why/?what=x&at=noon")

    assert "slack was notified of DiskFull on db-1 at" in words_of(page.text)
    assert "message to slack sent" in words_of(page.text)
    assert "What comes next" in words_of(page.text)
    assert (wrong.status_code, "is no moment" in words_of(wrong.text)) == (422, True)
    assert (await here.get("/why/")).status_code == 200


async def test_what_is_not_there_is_said(api: httpx.AsyncClient) -> None:
    incident = await api.get("/why/", params={"what": "999999"})
    refused = await api.get("/why/", params={"what": "refused-999"})
    long = await api.get(f"/incidents/{'9' * 32}/")

    assert (incident.status_code, incident.json()["error"][:28]) == (404, "There is no incident 999999;")
    assert (refused.status_code, refused.json()["error"][:38]) == (422, "There is no refused push refused-999: ")
    assert f"'{'9' * 32}'" in long.json()["error"], "the id as it was asked for"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"what": 'instance=~"("'}, "'(' is no regular expression: parentheses () not balanced"),
        ({"what": 'instance=~"x)|(y"'}, "is no regular expression"),
        ({"what": 'instance=~"a{300}"'}, "is no regular expression: invalid repetition count"),
        ({"what": 'instance=~"[[:no:]]"'}, "is no regular expression: invalid character class"),
        ({"what": 'instance=~"((((a{0,255}){0,255}){0,255}){0,255})"'}, "regular expression is too complex"),
        ({"what": 'instance=~"(?i)x"'}, "has '(?', which matchers do not know"),
        ({"what": 'a=~"(x)\\1"'}, "which matchers do not know"),
        ({"what": "instance="}, "has no value, so it fits all that has no such label"),
        ({"what": 'instance="", team='}, "has no value"),
        ({"what": 'instance="db-1'}, "is no matcher; expected label="),
        ({"what": '{instance="db-1" team="shop"}'}, "is no matcher; expected label="),
        ({"what": "\x00"}, "expected 1 to 256 printable characters"),
        ({"what": "   "}, "expected 1 to 256 printable characters"),
        ({"what": ""}, "at least 1 character"),
        ({"what": "x" * 10_000}, "at most 256 characters"),
        ({}, "what: field required"),
        ({"what": "DiskFull", "at": "noon"}, "at: 'noon' is no moment; expected 03:12"),
        ({"what": "DiskFull", "at": "25:00"}, "is no moment"),
        ({"what": "DiskFull", "at": "0001-01-01T00:00+14:00"}, "is no moment"),
        ({"what": "DiskFull", "at": "9999-12-31T23:59"}, "is too far away"),
        ({"what": "DiskFull", "at": "2999-12-31T23:59"}, "has not come yet: it is "),
    ],
)
async def test_a_question_that_cannot_be_understood_is_refused(
    api: httpx.AsyncClient, asked: dict[str, str], says: str
) -> None:
    answer = await api.get("/why/", params=asked)
    assert (answer.status_code, says in answer.json()["error"]) == (422, True), answer.text


@pytest.mark.parametrize(
    "what", ["%", "_", "Disk_ull", "\\", "';--", "=", "{}", "a==b", 'x=~"\\d+"', "refused-", "9" * 30]
)
async def test_a_question_is_taken_literally_also_before_anything_arrived(api: httpx.AsyncClient, what: str) -> None:
    empty = await ask(api, what)
    await send(api, None)
    found = await ask(api, what)

    for one in (empty, found):
        assert one.answer.startswith(f"Nobody was notified of {what}: no push about it is on record, neither accepted")
        assert (one.timeline, one.upcoming, one.other_incidents) == ([], [], [])
