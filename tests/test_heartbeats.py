"""Heartbeats: what says regularly that it lives, through the door, the queue, the stages and a channel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from orchestration.alert import IncidentStatus
from orchestration.engine.run import Services
from orchestration.errors import HeartbeatNotFound, Unavailable
from orchestration.heartbeat import BeatRequest, parse_beat
from orchestration.states import RunReason, RunStatus
from orchestration.store import heartbeats
from orchestration.store.claims import claim_runs
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.why import read_why
from service.api.presence import Presence
from service.cli import heartbeats as cli
from service.doctor.database import database_findings
from service.worker.incidents import start_timers
from tests.api_helpers import open_api, run_of, run_to_end
from tests.conftest import MemoryChannel
from tests.life_helpers import story_of, upcoming
from tests.notify_helpers import rows

MINUTE = timedelta(minutes=1)
FIVE = "/heartbeats/backup/?every=5m&grace=1m"


@pytest.fixture
async def api(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """The door, open since long ago."""
    async with open_api(services.settings, services.database.url) as client:
        await until_open(services.database)
        await pass_time(services.database, timedelta(days=1))
        yield client


async def until_open(database: Database) -> None:
    """The door has noted that it is open."""
    async with asyncio.timeout(20):
        while not await rows(database, "select 1 from door"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def pass_time(database: Database, passed: timedelta, *, door: bool = True) -> None:
    """Let time pass. The door stays open meanwhile, unless it is said to be closed."""
    async with database.transaction() as tx:
        await tx.execute(text("update heartbeat set last_beat_at = last_beat_at - :passed"), {"passed": passed})
        await tx.execute(
            text("update pipeline_run set due_at = due_at - :passed, created_at = created_at - :passed"),
            {"passed": passed},
        )
        await tx.execute(text("update door set open_since = open_since - :passed"), {"passed": passed})
        seen = "clock_timestamp()" if door else "seen_at - :passed"
        await tx.execute(text(f"update door set seen_at = {seen}"), {} if door else {"passed": passed})


async def claimed(database: Database) -> list[str]:
    """The runs that a worker claims now; they are released again."""
    async with database.transaction() as tx:
        found = await claim_runs(tx, process="a/1/b", limit=50, lease_seconds=30, deadline_seconds=30)
        ids = [claim.run_id for claim in found]
        await tx.execute(text("update pipeline_run set lease_owner = null, lease_expires_at = null"))
    return ids


async def work(services: Services) -> list[RunRecord]:
    """Everything that is due, to its end, as a worker does."""
    done = list[RunRecord]()
    while due := await claimed(services.database):
        for run_id in due:
            await run_to_end(services, run_id)
            done.append(await run_of(services.database, run_id))
    return done


async def waiting(database: Database) -> list[RunRecord]:
    return [run for run in await upcoming(database) if run.reason is RunReason.HEARTBEAT]


async def beat(database: Database, query: str = "5m", name: str = "backup") -> heartbeats.Beaten:
    done, _ = await heartbeats.beat(database, parse_beat(name, every=query, environment="production"), most=10)
    return done


async def test_a_heartbeat_that_stays_out_pages_once_and_its_return_ends_it(
    services: Services, api: httpx.AsyncClient, channel: MemoryChannel
) -> None:
    first = await api.get(FIVE)
    assert (first.status_code, first.json()["status"], first.json()["name"]) == (200, "created", "backup")
    (run,) = await waiting(services.database)
    assert run.title == "Heartbeat backup"

    await pass_time(services.database, 5 * MINUTE)
    assert (await api.post(FIVE, content=b"done")).json()["status"] == "ok"
    await pass_time(services.database, 5 * MINUTE)
    assert await work(services) == []
    assert [one.run_id for one in await waiting(services.database)] == [run.run_id]

    await pass_time(services.database, 2 * MINUTE)
    (missing,) = await work(services)
    assert (missing.run_id, missing.status, missing.reason) == (run.run_id, RunStatus.NOTIFIED, RunReason.HEARTBEAT)
    assert missing.incident_id is not None
    story = await story_of(services.database, missing.incident_id)
    assert (story.incident.title, story.incident.severity) == ("Heartbeat backup is missing", "critical")
    assert story.incident.description.startswith("No beat since 20")
    assert "every 5 min, with 1 min of grace" in story.incident.description
    (message,) = channel.messages
    assert message.title == "[CRITICAL] HeartbeatMissing on backup (production)"
    assert await waiting(services.database) == []
    assert (await api.get("/heartbeats/")).json()["heartbeats"][0]["missing_since"] is not None

    returned = await api.head(FIVE)
    assert returned.status_code == 200
    (ended,) = await work(services)
    assert (ended.status, ended.reason, ended.incident_id) == (RunStatus.NOTIFIED, RunReason.PUSH, missing.incident_id)
    assert (await story_of(services.database, missing.incident_id)).incident.status is IncidentStatus.RESOLVED
    assert len(channel.messages) == 2
    assert len(await waiting(services.database)) == 1

    await pass_time(services.database, 7 * MINUTE)
    (again,) = await work(services)
    assert (again.status, again.incident_id) == (RunStatus.NOTIFIED, missing.incident_id)
    assert len(channel.messages) == 3


async def test_why_explains_what_was_expected(services: Services, api: httpx.AsyncClient) -> None:
    await api.get(FIVE)
    await pass_time(services.database, 10 * MINUTE)
    await work(services)
    async with services.database.transaction() as tx:
        by_label = await read_why(tx, 'heartbeat="backup"')
        by_title = await read_why(tx, "Heartbeat backup")
    assert by_label.answer == by_title.answer
    assert "memory was notified of Heartbeat backup is missing" in by_label.answer
    assert any("No beat since" in event.text and "at the latest at" in event.text for event in by_label.timeline)


async def test_beats_between_the_claim_and_the_look_are_heard(
    services: Services, channel: MemoryChannel, api: httpx.AsyncClient
) -> None:
    await api.get(FIVE)
    await pass_time(services.database, 7 * MINUTE)
    (run_id,) = await claimed(services.database)
    # A worker has claimed it, and now the sender comes, twice at once.
    await asyncio.gather(api.get(FIVE), api.get(FIVE))
    await run_to_end(services, run_id)
    looked = await run_of(services.database, run_id)
    assert (looked.status, looked.skip_reason) == (RunStatus.SKIPPED, "beats")
    (again,) = await waiting(services.database)
    assert again.run_id != run_id
    assert channel.messages == []
    assert [run.status for run in await work(services)] == []


async def test_many_beats_at_once_are_one_heartbeat_with_one_run(services: Services, api: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(api.get(FIVE) for _ in range(12)))
    assert sorted(answer.json()["status"] for answer in answers) == ["created", *["ok"] * 11]
    assert len(await waiting(services.database)) == 1
    await pass_time(services.database, 7 * MINUTE)
    await work(services)
    answers = await asyncio.gather(*(api.get(FIVE) for _ in range(12)))
    assert sorted(answer.json()["status"] for answer in answers) == [*["ok"] * 11, "returned"]
    assert len(await waiting(services.database)) == 1
    assert [run.reason for run in await work(services)] == [RunReason.PUSH]


async def test_after_an_outage_of_the_door_every_sender_gets_its_full_time(
    services: Services, channel: MemoryChannel
) -> None:
    presence = Presence(services.database)
    assert await presence.note()
    await pass_time(services.database, 60 * MINUTE)
    for name in ("one", "two"):
        await beat(services.database, name=name)
    # Everything is down for an hour. The worker is back first.
    await pass_time(services.database, 60 * MINUTE, door=False)
    looked = await work(services)
    assert {run.skip_reason for run in looked} == {"door_closed"}
    assert await waiting(services.database) == []

    assert await Presence(services.database).note()
    assert len(await waiting(services.database)) == 2
    await pass_time(services.database, 5 * MINUTE)
    assert await beat(services.database, name="one") is heartbeats.Beaten.KEPT
    await pass_time(services.database, 2 * MINUTE)
    (missing,) = await work(services)
    assert missing.status is RunStatus.NOTIFIED
    assert "because no beats could be accepted before" in channel.messages[0].text
    assert [run.incident_key for run in await waiting(services.database)] == ["heartbeat:one"]


async def test_a_worker_that_was_away_says_what_was_missed_while_the_door_was_open(services: Services) -> None:
    presence = Presence(services.database)
    await presence.note()
    await beat(services.database)
    await pass_time(services.database, 60 * MINUTE)
    assert not await presence.note()
    (missing,) = await work(services)
    assert missing.status is RunStatus.NOTIFIED


async def test_a_beat_that_could_not_be_noted_is_not_the_absence_of_its_sender(services: Services) -> None:
    presence = Presence(services.database)
    await presence.note()
    await beat(services.database)
    await pass_time(services.database, 7 * MINUTE)
    presence.lose()
    assert await presence.note()
    assert await work(services) == []
    assert len(await waiting(services.database)) == 1


async def test_a_restart_at_the_moment_at_which_it_is_due_pages_nobody(services: Services) -> None:
    await Presence(services.database).note()
    await pass_time(services.database, 60 * MINUTE)
    await beat(services.database)
    await pass_time(services.database, 6 * MINUTE + timedelta(seconds=6))
    # The door was last seen two seconds before it was due: it may be down since then.
    async with services.database.transaction() as tx:
        await tx.execute(text("update door set seen_at = (select last_beat_at + interval '358 s' from heartbeat)"))
    (looked,) = await work(services)
    assert looked.skip_reason == "beats"
    assert len(await waiting(services.database)) == 1


async def test_a_heartbeat_without_a_run_gets_one(services: Services) -> None:
    await Presence(services.database).note()
    await beat(services.database)
    async with services.database.transaction() as tx:
        await tx.execute(text("delete from pipeline_run"))
        await heartbeats.resume_waiting(tx)
    assert len(await waiting(services.database)) == 1
    async with services.database.transaction() as tx:
        await tx.execute(text("delete from pipeline_run"))
    await beat(services.database)
    assert len(await waiting(services.database)) == 1


async def test_a_missing_heartbeat_is_removed_and_its_incident_ends(
    services: Services, api: httpx.AsyncClient, channel: MemoryChannel
) -> None:
    await api.get(FIVE)
    await pass_time(services.database, 7 * MINUTE)
    await work(services)
    removed = await api.delete("/heartbeats/backup/")
    assert removed.status_code == 200
    await work(services)
    assert "It is not expected any more" in channel.messages[-1].text
    assert await waiting(services.database) == []
    assert (await api.get("/heartbeats/")).json() == {"count": 0, "heartbeats": []}
    assert (await api.delete("/heartbeats/backup/")).status_code == 404
    # A heartbeat that is not missing goes without a word.
    await api.get(FIVE)
    await api.delete("/heartbeats/backup/")
    assert await waiting(services.database) == []
    assert len(channel.messages) == 2


async def test_its_incident_does_not_expire_and_is_spoken_of_again(services: Services, api: httpx.AsyncClient) -> None:
    await api.get(FIVE)
    await pass_time(services.database, 7 * MINUTE)
    (missing,) = await work(services)
    (timer,) = await upcoming(services.database, missing.incident_id)
    assert timer.reason is RunReason.REMINDER
    await start_timers(services)


async def test_the_parameters_of_a_later_beat_count_and_what_it_leaves_out_stays(
    services: Services, api: httpx.AsyncClient
) -> None:
    await api.get("/heartbeats/job/?every=1h&severity=warning&environment=staging")
    await api.get("/heartbeats/job/?environment=staging")
    (one,) = (await api.get("/heartbeats/")).json()["heartbeats"]
    assert (one["every_seconds"], one["grace_seconds"], one["severity"]) == (3600, 720, "warning")
    await api.get("/heartbeats/job/?every=2h&environment=staging")
    (one,) = (await api.get("/heartbeats/")).json()["heartbeats"]
    assert (one["every_seconds"], one["grace_seconds"], one["severity"]) == (7200, 1440, "critical")
    # Another environment is another heartbeat: staging does not keep production alive.
    assert (await api.get("/heartbeats/job/")).status_code == 422
    assert (await api.get("/heartbeats/job/?every=2h")).json()["status"] == "created"


RESOLVED = {"receiver": "alive", "status": "resolved", "groupKey": "{}", "alerts": [{"status": "resolved"}]}


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ({**RESOLVED, "status": "firing"}, True),
        (RESOLVED, False),
        ({"status": "resolved"}, True),
        (["resolved"], True),
    ],
)
async def test_a_watchdog_that_alertmanager_calls_resolved_is_no_beat(
    services: Services, api: httpx.AsyncClient, body: Any, counts: bool
) -> None:
    answer = await api.post(FIVE, json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, "created" if counts else "ignored")
    assert len(await rows(services.database, "select 1 from heartbeat")) == counts


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/heartbeats/backup/", "its first beat says how often it comes"),
        ("/heartbeats/backup/?every=", "every=''"),
        ("/heartbeats/backup/?every=soon", "every='soon'"),
        ("/heartbeats/backup/?every=9s", "expected 10s to 366d"),
        ("/heartbeats/backup/?every=999999999d", "expected 10s to 366d"),
        ("/heartbeats/backup/?every=-5m", "every='-5m'"),
        ("/heartbeats/backup/?every=%D9%A5m", "every="),
        ("/heartbeats/backup/?every=5m&grace=999999999d", "expected at most 366d"),
        ("/heartbeats/backup/?every=5m&severity=deadly", "expected critical, warning or info"),
        ("/heartbeats/backup/?every=5m&environment=", "environment=''"),
        ("/heartbeats/backup/?every=5m&environment=a%00b", "environment="),
        ("/heartbeats/a%20b/?every=5m", "is not 1 to 64 letters"),
        ("/heartbeats/a%00b/?every=5m", "is not 1 to 64 letters"),
        ("/heartbeats/%2e%2e/?every=5m", "is not 1 to 64 letters"),
        (f"/heartbeats/{'x' * 65}/?every=5m", "is not 1 to 64 letters"),
        ("/heartbeats/xoxb-123456789012-123456789012-abcdefghijklmnopqrstuvwx/?every=5m", "looks like a secret"),
        (f"/heartbeats/backup/?every={'5' * 100}m", "every"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(
    services: Services, api: httpx.AsyncClient, address: str, says: str
) -> None:
    for method in ("GET", "POST"):
        answer = await api.request(method, address)
        assert answer.status_code == 422, answer.text
        assert says in answer.json()["error"]
    assert await rows(services.database, "select 1 from heartbeat") == []


async def test_odd_bodies_are_beats_and_do_no_harm(services: Services, api: httpx.AsyncClient) -> None:
    bodies = (b"", b"\x00resolved", b'{"status": "resolved"', b"[" * 100_000 + b"resolved", b"payload=resolved")
    for body in bodies:
        assert (await api.post(FIVE, content=body)).status_code == 200
    large = b"x" * (services.settings.max_payload_bytes + 1)
    assert (await api.post(FIVE, content=large)).json()["status"] == "ok"
    broken = await api.post(FIVE, content=b"resolved", headers={"Content-Encoding": "gzip"})
    assert broken.json()["status"] == "ok"
    page = await api.get(FIVE, headers={"Sec-Fetch-Site": "cross-site"})
    assert page.status_code == 403


async def test_there_is_a_limit_to_how_many(services: Services) -> None:
    async def first(number: int) -> str:
        wanted = BeatRequest(name=f"n{number}", every_seconds=60, grace_seconds=30, severity=None)
        wanted = parse_beat(wanted.name, every="1m", environment="production")
        try:
            return (await heartbeats.beat(services.database, wanted, most=3))[0].value
        except Exception as error:  # noqa: BLE001 - the test looks at what it says
            return str(error)

    said = await asyncio.gather(*(first(number) for number in range(5)))
    assert (
        sorted(said)[:2]
        == [
            "There are 3 heartbeats already, as many as HEARTBEATS_MAX allows: remove those that "
            "nobody needs with alert-pipeline heartbeats remove"
        ]
        * 2
    )
    assert sorted(said)[2:] == ["created"] * 3


async def test_the_door_says_so_when_the_database_is_away() -> None:
    presence = Presence(Database("postgresql://nobody@127.0.0.1:1/none"))
    with pytest.raises(Unavailable):
        await presence.note()


async def test_waiting_heartbeats_are_no_work_that_is_late(services: Services, api: httpx.AsyncClient) -> None:
    await api.get(FIVE)
    async with services.database.transaction() as tx:
        listed = (await list_page(tx, RunFilter(), limit=10)).runs
        everything = (await list_page(tx, RunFilter(upcoming=True), limit=10)).runs
    assert listed == []
    assert [run.reason for run in everything] == [RunReason.HEARTBEAT]


async def test_the_commands_list_show_and_remove(
    services: Services, api: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", services.database.url)
    monkeypatch.setenv("ALERT_PIPELINE_HOME", str(services.settings.home))

    async def said(call: Callable[[], int]) -> str:
        assert await asyncio.to_thread(call) == 0
        return capsys.readouterr().out

    assert "No heartbeats" in await said(cli.show_list)
    await api.get(FIVE)
    await api.get("/heartbeats/job/?every=1d")
    await pass_time(services.database, 7 * MINUTE)
    await work(services)

    lines = (await said(cli.show_list)).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["backup", "production", "missing"],
        ["job", "production", "beating"],
    ]
    (only,) = json.loads(await said(partial(cli.show_list, missing=True, json=True)))
    assert (only["name"], only["state"], only["every_seconds"]) == ("backup", "missing", 300)
    shown = await said(partial(cli.show, "backup"))
    assert shown.startswith("backup: missing")
    assert "every 5 min, with 1 min of grace" in shown
    assert "alert-pipeline why 'heartbeat=\"backup\"'" in shown
    assert await said(partial(cli.remove, "backup")) == (
        "Heartbeat backup (production) is not expected any more, and its alert ends\n"
    )
    with pytest.raises(HeartbeatNotFound, match="There is no heartbeat 'backup'"):
        await asyncio.to_thread(cli.show, "backup")


async def test_doctor_says_which_are_missing_and_when_nobody_hears_them(services: Services) -> None:
    async def finding() -> str:
        found = await database_findings(services.settings, services.database.url, embedded=False)
        (one,) = [finding for finding in found if finding.check == "heartbeats"]
        return f"{one.level}: {one.detail}"

    assert await finding() == "ok: none is expected"
    await beat(services.database)
    assert await finding() == "broken: 1 are expected, and no API has accepted beats"
    await Presence(services.database).note()
    assert await finding() == "ok: 1 expected, 0 missing"
    await pass_time(services.database, 10 * MINUTE)
    await work(services)
    assert await finding() == "warning: 1 expected, 1 missing: backup"
