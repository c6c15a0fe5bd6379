"""Pushes that the API refuses are kept: who sent them, what they said, and why they were refused."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from orchestration.store.refused import (
    KEPT_CHARACTERS,
    MAX_BODIES_PER_MINUTE,
    MAX_ROWS_PER_MINUTE,
    MAX_WAITING,
    Refusal,
    RefusalLog,
    RefusedPush,
    list_refused,
)
from orchestration.store.retention import delete_batch
from tests.api_helpers import alert, eventually, open_api, serve_api
from tests.auth_helpers import FAR, PUBLIC, bearer, make_key, signed

PATH = "/alerts/webhook/"
SYNC = "/orchestration/pipeline/sync/"
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(
        settings, database.url, host=PUBLIC, client=FAR, base_url="http://alerts.example.com"
    ) as client:
        yield client


async def refused(database: Database, *words: str) -> list[RefusedPush]:
    """What is kept, newest first."""
    now = datetime.now(UTC)
    async with database.transaction() as tx:
        return await list_refused(tx, since=now - timedelta(days=1), until=now + timedelta(days=1), words=words)


async def kept(database: Database, count: int = 1) -> list[RefusedPush]:
    """The refused pushes, once there are so many rows."""
    await eventually(lambda: _has(database, count))
    return await refused(database)


async def _has(database: Database, count: int) -> bool:
    return len(await refused(database)) >= count


async def test_a_revoked_key_is_no_silent_loss(api: httpx.AsyncClient, database: Database) -> None:
    headers = {"Authorization": "Bearer apk_zm4LorPKxxxxxxxxxxxxxxxxxxxxxxxx", "User-Agent": "Alertmanager/0.28"}
    answer = await api.post(PATH, json=alert("DiskFull", password="hunter22"), headers=headers)
    assert answer.status_code == 401
    (push,) = await kept(database)

    assert (push.status, push.sender, push.address, push.path) == (401, "", FAR[0], PATH)
    assert push.reason == "The API key is unknown or revoked"
    assert "DiskFull" in push.body
    assert "hunter22" not in push.body
    assert push.details["key"] == "apk_zm4LorPK…"
    assert push.details["user_agent"] == "Alertmanager/0.28"
    assert push.size_bytes == len(answer.request.content)


@pytest.mark.parametrize("name", ["Ölstand niedrig", 'Disk "C:\\" full', "Füllstand 🛢 \\u00d6", "a/b\ttab"])
@pytest.mark.parametrize("written", ["json", "ascii", "form"])
async def test_a_refused_push_is_found_by_its_name_however_its_sender_wrote_it(
    api: httpx.AsyncClient, database: Database, name: str, written: str
) -> None:
    body = json.dumps({"name": name}, ensure_ascii=written != "json")
    form = {"payload": body} if written == "form" else None
    await api.post(PATH, content=None if form else body, data=form, headers={"X-API-Key": "apk_none"})
    await kept(database)
    for words in (name, name.swapcase().replace("\\U00D6", "\\u00d6")):
        assert len(await refused(database, words)) == 1, words
    assert await refused(database, "another") == []


async def test_every_refusal_of_a_push_is_kept(api: httpx.AsyncClient, settings: Settings, database: Database) -> None:
    key = await make_key(settings, database, Scope.TRIGGER, name="grafana")
    reader = await make_key(settings, database, Scope.READ, name="reader")
    both = bearer(key)
    sent = {
        400: api.post("/orchestration/pipeline/", content=b"{nothing", headers=both),
        403: api.post(PATH, json=alert("Forbidden"), headers=bearer(reader)),
        404: api.post("/alerts/webhooks/grafana", json=alert("Lost"), headers=both),
        405: api.put(PATH, json=alert(), headers=both),
        409: api.post("/orchestration/definitions/none/execute/", json={"payload": alert("X")}, headers=both),
        413: api.post(SYNC, content=b'{"name": "TooLarge"' + b" " * settings.max_payload_bytes, headers=both),
        415: api.post("/orchestration/pipeline/", content=b"x", headers={**both, "Content-Encoding": "br"}),
        422: api.post("/alerts/webhook/semaphore/", json=alert("Unknown"), headers=both),
        4221: api.post(
            "/orchestration/pipeline/",
            content=gzip.compress(b'{"payload": {"a": "Odd"}}'),
            headers={**both, "Content-Encoding": "gzip"},
        ),
    }
    answers = [await one for one in sent.values()]
    assert [answer.status_code for answer in answers] == [400, 403, 404, 405, 404, 413, 415, 422, 422]
    found = {(push.status, push.path): push for push in await kept(database, 8)}

    assert len(found) == 8, found
    assert {push.sender for (status, _), push in found.items() if status not in (403, 404)} == {"grafana"}
    assert found[403, PATH].sender == "reader"
    assert "Forbidden" in found[403, PATH].body
    assert "Lost" in found[404, "/alerts/webhooks/grafana/"].body
    assert "TooLarge" in found[413, SYNC].body
    assert len(found[413, SYNC].body) <= KEPT_CHARACTERS
    assert found[413, SYNC].size_bytes == settings.max_payload_bytes + 19
    assert "Odd" in found[422, "/orchestration/pipeline/"].body
    assert "no source 'semaphore'" in found[422, "/alerts/webhook/semaphore/"].reason


async def test_a_wrong_signature_names_who_signs(
    api: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    key = await make_key(settings, database, Scope.TRIGGER, name="zabbix")
    body = json.dumps(alert("Signed")).encode()
    assert (await api.post(PATH, content=body, headers=signed(key, body + b" "))).status_code == 401
    (push,) = await kept(database)

    assert (push.details["key"], "Signed" in push.body) == ("zabbix", True)


async def test_what_is_no_push_is_not_kept(api: httpx.AsyncClient, settings: Settings, database: Database) -> None:
    headers = bearer(await make_key(settings, database, Scope.ADMIN))
    await api.get("/orchestration/pipeline/none/", headers=headers)
    await api.post("/orchestration/pipeline/none/resume/", headers=headers)
    await api.post("/wp-login.php", headers=headers)
    await api.post(PATH, json=alert(), headers=headers)
    await api.post(PATH, content=b"", headers=headers)
    (push,) = await kept(database)

    assert (push.status, push.size_bytes, push.body) == (400, 0, "")


async def test_equal_refusals_of_a_minute_are_one_row(database: Database) -> None:
    log, now = RefusalLog(database), datetime(2026, 11, 26, 3, 12, 10, tzinfo=UTC)
    for second in range(40):
        log.note(
            Refusal(status=401, reason="no key", path=PATH, body=f"push {second % 2}"), now + timedelta(seconds=second)
        )
        if second % 10 == 5:
            await log.write()
    await log.write()
    log.note(Refusal(status=401, reason="no key", path=PATH), now + timedelta(minutes=1))
    await log.write()
    async with database.transaction() as tx:
        found = await list_refused(tx, since=now, until=now + timedelta(hours=1))

    assert [(push.count, push.body) for push in found] == [(1, ""), (20, "push 1"), (20, "push 0")]


async def test_each_alert_of_a_revoked_key_is_found_by_its_name_but_for_a_flood(database: Database) -> None:
    log, now = RefusalLog(database), datetime(2026, 11, 26, 3, 12, 10, tzinfo=UTC)
    for number in range(100):
        log.note(Refusal(status=401, reason="no key", path=PATH, body=f'{{"alertname": "Alert{number}"}}'), now)
    log.note(Refusal(status=401, reason="no key", path=PATH, address="192.0.2.9", body="another sender"), now)
    await log.write()
    async with database.transaction() as tx:
        found = await list_refused(tx, since=now, until=now, limit=1000)
        named = await list_refused(tx, since=now, until=now, words=["Alert7"])
        late = await list_refused(tx, since=now, until=now, words=["Alert99"])

    assert len(found) == MAX_BODIES_PER_MINUTE + 2
    assert sum(push.count for push in found) == 101
    assert [push.body for push in named if push.body] == ['{"alertname": "Alert7"}']
    assert [(push.body, push.count) for push in late] == [("", 100 - MAX_BODIES_PER_MINUTE)]
    assert found[0].body == "another sender"


async def test_a_flood_of_refusals_fills_no_disk(database: Database) -> None:
    log, now = RefusalLog(database), datetime.now(UTC).replace(second=0)
    for number in range(5000):
        log.note(Refusal(status=422, reason=f"wrong {number}", path=PATH, body="x" * 6000), now)
    await log.write()
    found = await refused(database)
    async with database.transaction() as tx:
        further = await list_refused(tx, since=now, until=now, limit=1000)

    assert len(found) == 50
    assert len(further) == MAX_ROWS_PER_MINUTE + 1
    assert sum(push.count for push in further) == 5000
    assert max(push.count for push in further) == 5000 - MAX_ROWS_PER_MINUTE


async def test_refusals_wait_for_a_database_that_is_away_and_are_bounded(database: Database) -> None:
    away = Database(NOWHERE)
    log, now = RefusalLog(away), datetime.now(UTC)
    for minute in range(100):
        for number in range(30):
            log.note(Refusal(status=422, reason=f"wrong {number}", path=PATH), now + timedelta(minutes=minute))
    await log.write()
    log._database = database
    await log.write()
    async with database.transaction() as tx:
        found = await list_refused(tx, since=now, until=now + timedelta(days=1), limit=10_000)
    await away.close()

    assert len(found) == MAX_WAITING


async def test_old_refusals_are_deleted(database: Database) -> None:
    log = RefusalLog(database)
    log.note(Refusal(status=401, reason="no key", path=PATH), datetime.now(UTC) - timedelta(days=3))
    log.note(Refusal(status=401, reason="no key", path=PATH))
    await log.write()
    async with database.transaction() as tx:
        assert (await delete_batch(tx, "refused_push", days=2))[0] == 1


async def test_words_are_found_in_any_case_and_what_said_nothing_fits(database: Database) -> None:
    log = RefusalLog(database)
    for body in ('{"alertname": "DiskFull", "instance": "db-1"}', '{"alertname": "DiskFull", "instance": "db-2"}', ""):
        log.note(Refusal(status=401, reason=body[-6:], path=PATH, body=body))
    await log.write()

    assert len(await refused(database, "diskfull")) == 3
    assert [push.body[-7:] for push in await refused(database, "diskfull", "DB-1")] == ["", '"db-1"}']


async def test_a_sender_that_never_sends_its_body_is_answered_all_the_same(
    settings: Settings, database: Database
) -> None:
    on = settings.model_copy(update={"api_auth": "on"})
    async with serve_api(on, database.url) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b'POST /alerts/webhook/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"name": "Half')
        assert b"401" in await asyncio.wait_for(reader.readline(), 20)
        writer.close()
        (push,) = await kept(database)

    assert (push.size_bytes, push.body) == (100_000, '{"name": "Half')


async def test_the_last_refusal_before_the_end_is_kept(settings: Settings, database: Database) -> None:
    async with open_api(settings, database.url) as api:
        assert (await api.post("/orchestration/pipeline/", content=b"{")).status_code == 400

    assert [push.status for push in await refused(database)] == [400]
