"""Nothing unreadable is lost: what no source reads is kept, told once, and read later."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestration.alert import NOT_UNDERSTOOD, OWN_SOURCE
from orchestration.analysis import AnalysisInput
from orchestration.settings import Settings
from orchestration.store import unread
from orchestration.store.database import Database
from orchestration.store.unread import list_unread, mark_read
from service.cli import main
from tasks.analyze.local import LocalAnalysis
from tasks.ingest.sources import parse_push
from tasks.ingest.unread import unread_push
from tests.api_helpers import all_runs, open_api, run_of
from tests.payloads import NAMES, SAMPLES, body

UNKNOWN: dict[str, Any] = {"station": "north", "lamp": {"id": "L1", "state": "dark", "level": "red"}}


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


async def kept(database: Database) -> list[Any]:
    async with database.transaction() as tx:
        return await list_unread(tx, include_read=True)


async def command(*words: str, code: int = 0) -> None:
    """Run `alert-pipeline …` in this process."""
    assert await asyncio.to_thread(main.app, list(words), standalone_mode=False) == code


@pytest.mark.parametrize("path", ["/alerts/webhook/", "/alerts/webhook/grafana/", "/alerts/webhook/generic/"])
async def test_what_no_source_reads_is_kept_and_told_once(
    api: httpx.AsyncClient, database: Database, path: str
) -> None:
    said = await api.post(f"{path}?environment=staging", json=UNKNOWN)
    assert said.status_code == 202, said.text
    again = await api.post(f"{path}?environment=staging", json=UNKNOWN | {"station": "south"})

    first, second = await kept(database)
    assert (json.loads(first.body), first.environment, first.path) == (UNKNOWN, "staging", path)
    assert json.loads(second.body)["station"] == "south"
    assert first.name in said.json()["message"]
    run = await run_of(database, said.json()["run_id"])
    assert run.source == OWN_SOURCE
    assert run.alert_fingerprint is not None
    assert run.alert_fingerprint.startswith(f"{NOT_UNDERSTOOD}/")
    assert "that is not understood" in run.title
    assert "duplicate" in (await run_of(database, again.json()["run_id"])).model_dump_json()


async def test_what_is_sent_again_under_the_same_key_is_accepted_again(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "north-1"}
    sent = [await api.post("/alerts/webhook/", json=UNKNOWN, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in sent] == [202, 202], sent[1].text


async def test_at_the_api_of_programs_it_stays_a_refusal(api: httpx.AsyncClient, database: Database) -> None:
    refused = await api.post("/orchestration/pipeline/", json={"payload": UNKNOWN})
    assert refused.status_code == 422
    assert await kept(database) == []


@pytest.mark.parametrize(
    ("content", "is_json"),
    [
        (b"[]", True),
        (b"5", True),
        (b'"Disk full"', True),
        (b"null", True),
        (b"{}", True),
        (b'[{"name": "Disk full"}]', True),
        (b"***\n", False),
        (b'{"name": "cut', False),
        (b"\xff\xfe\x00", False),
        (b"<alert><name>Disk</name></alert>", False),
    ],
)
async def test_a_body_that_is_no_object_is_kept_too(
    api: httpx.AsyncClient, database: Database, content: bytes, is_json: bool
) -> None:
    said = await api.post("/alerts/webhook/", content=content)
    assert said.status_code == 202, said.text
    (push,) = await kept(database)
    assert push.is_json is is_json
    if is_json:
        assert json.loads(push.body) == json.loads(content)


async def test_nothing_is_kept_of_an_empty_body_or_without_a_good_key(
    api: httpx.AsyncClient, database: Database
) -> None:
    assert (await api.post("/alerts/webhook/", content=b"  ")).status_code == 400
    unknown = await api.post("/alerts/webhook/", json=UNKNOWN, headers={"Authorization": "Bearer apk_x"})
    assert unknown.status_code == 401
    assert (await api.post("/alerts/webhook/semaphore/", json=UNKNOWN)).status_code == 422
    assert await kept(database) == []


async def test_secrets_are_not_kept(api: httpx.AsyncClient, database: Database) -> None:
    await api.post("/alerts/webhook/", json={"lamp": {"password": "hunter2hunter2"}, "note": "password=hunter2hunter2"})
    (push,) = await kept(database)
    assert "hunter2" not in push.body
    assert set(json.loads(push.body)) == {"lamp", "note"}


def any_json(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON, mostly objects."""
    words = ["name", "lamp", "state", "id", "alerts", "title", "status", "x", "é", "", "payload", "severity", "message"]
    kind = rng.random()
    if depth > 3 or kind < 0.35:
        return rng.choice([None, True, False, 0, -1.5, 10**30, "", "dark", "ok", "\u0000", "2026-01-01", rng.random()])
    if kind < 0.5:
        return [any_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(words): any_json(rng, depth + 1) for _ in range(rng.randrange(6))}


async def test_of_500_random_bodies_none_is_lost(api: httpx.AsyncClient, database: Database) -> None:
    rng = random.Random(13)
    pool = [*NAMES, *SAMPLES]
    bodies = [any_json(rng) for _ in range(250)]
    for _ in range(250):
        whole = body(rng.choice(pool))
        whole[rng.choice(sorted(whole))] = any_json(rng)
        bodies.append(whole)
    rng.shuffle(bodies)

    outcomes: Counter[str] = Counter()
    for sent in bodies:
        said = await api.post("/alerts/webhook/", content=json.dumps(sent))
        assert said.status_code == 202, (said.status_code, said.text, sent)
        message = said.json()["message"]
        outcome = "kept" if "Not understood" in message else "ignored" if "nobody is notified" in message else "alert"
        outcomes[outcome] += 1
    pushes = await kept(database)
    shapes = {push.shape for push in pushes}
    assert outcomes["kept"] == len(pushes)
    assert sum(outcomes.values()) == 500
    assert outcomes["kept"] >= 100
    assert outcomes["alert"] >= 100
    told = {
        run.alert_fingerprint for run in await all_runs(database) if NOT_UNDERSTOOD in (run.alert_fingerprint or "")
    }
    assert len(told) == len(shapes)


LAMP = """\
name: lamp-watch
when: {has: [lamp.id, lamp.state]}
alert:
  name: "join(' ', ['Lamp', lamp.id])"
  status: lamp.state
  fingerprint: lamp.id
  labels: {host: station}
words: {firing: [dark], resolved: [lit]}
"""


async def test_what_was_kept_is_read_once_a_mapping_is_applied(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    mapping = tmp_path / "lamp.yaml"
    mapping.write_text(LAMP)

    async with open_api(settings, database.url) as api:
        await api.post("/alerts/webhook/?environment=staging", json=UNKNOWN)
        await api.post("/alerts/webhook/", json=UNKNOWN | {"lamp": {"id": "L2", "state": "dark"}})
        await api.post("/alerts/webhook/", content=b"<alert/>")
    first, second, third = await kept(database)

    await command("pushes", "replay", code=1)
    await command("sources", "try", "--push", first.name, code=1)
    await command("sources", "try", "--push", first.name, "--mapping", str(mapping))
    await command("sources", "draft", "--push", second.name)
    await command("sources", "apply", str(mapping))
    await command("pushes", "replay", "--dry-run", code=1)
    assert [push.run_ids for push in await kept(database)] == [[], [], []]
    await command("pushes", "replay", code=1)  # a text is no mapping's
    await command("pushes", "replay", first.name, str(second.id))
    await command("pushes", "list", "--all")
    await command("pushes", "show", third.name)

    first, second, third = await kept(database)
    assert (len(first.run_ids), len(second.run_ids), third.run_ids) == (1, 1, [])
    run = await run_of(database, first.run_ids[0])
    assert (run.source, run.environment, run.title) == ("lamp-watch", "staging", "Lamp L1 on north")
    runs = await all_runs(database)
    assert len([each for each in runs if each.source == "lamp-watch"]) == 2
    # Of both environments: nothing of this shape is left, so its alert ends.
    ends = [each for each in runs if (each.alert_fingerprint or "").endswith(f"/{first.shape}")]
    assert len(ends) == 4


async def test_a_sender_that_is_never_understood_is_refused_after_a_while(
    api: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "MAX_KEPT_A_DAY", 2)
    said = [(await api.post("/alerts/webhook/", json=UNKNOWN)).status_code for _ in range(3)]
    assert said == [202, 202, 422]
    assert len(await kept(database)) == 2


@pytest.mark.parametrize(
    "odd",
    [
        {"lamp": "x" * 40_000},
        {"lamp": [{"id": number} for number in range(5000)]},
        json.loads('{"lamp": ' * 19 + "1" + "}" * 19),
        {"lamp": ["y" * 100] * 5000},
    ],
    ids=["long", "many", "deep", "large"],
)
async def test_what_was_cut_is_not_taken_for_the_whole(
    api: httpx.AsyncClient, database: Database, odd: dict[str, Any]
) -> None:
    said = await api.post("/alerts/webhook/", json=odd)
    assert said.status_code == 202
    (push,) = await kept(database)
    assert push.is_json is (len(push.body) <= unread.KEPT_CHARACTERS and json.loads(push.body) == odd)
    assert len(push.body) <= unread.KEPT_CHARACTERS + 100


async def test_each_shape_of_a_sender_is_an_incident_that_says_who_and_what(
    api: httpx.AsyncClient, database: Database
) -> None:
    for odd in (UNKNOWN, {"kettle": "cold", "no": 7}):
        await api.post("/alerts/webhook/", json=odd)
    second, first = await all_runs(database)
    assert first.incident_key != second.incident_key
    assert "the local key" in second.title
    assert "kettle: cold; no: 7" in second.title

    one, other = await kept(database)
    alert = parse_push(unread_push(other, {"kettle": "cold", "no": 7}), source="generic").alerts[0]
    assert alert.place == "the local key (kettle, no)"
    case = AnalysisInput(alerts=[alert])
    actions = (await LocalAnalysis().analyze(case)).actions
    assert actions[0].endswith(f"alert-pipeline sources draft --push {other.name}")
    assert one.name != other.name


async def test_a_replay_says_what_was_read_before(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    async with open_api(settings, database.url) as api:
        await api.post("/alerts/webhook/", json=UNKNOWN)
    (push,) = await kept(database)
    async with database.transaction() as tx:
        await mark_read(tx, push.id, ["pipeline_run_1"])

    await command("pushes", "replay", push.name)
    assert capsys.readouterr().out == f"= {push.name}: was read before, run pipeline_run_1\n"


async def test_a_replay_reads_all_that_is_kept_and_stops_at_nothing(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setattr(unread, "MOST_LISTED", 2)  # at once
    mapping = tmp_path / "lamp.yaml"
    mapping.write_text(LAMP)
    async with open_api(settings, database.url) as api:
        for number in range(5):
            await api.post("/alerts/webhook/", json=UNKNOWN | {"lamp": {"id": f"L{number}", "state": "dark"}})
    async with database.transaction() as tx:  # its definition was deleted since
        await tx.exec_driver_sql(
            """update refused_push set details = details || '{"definition": "gone"}' where strpos(body, '"L1"') > 0"""
        )

    await command("sources", "apply", str(mapping))
    await command("pushes", "replay", code=1)
    async with database.transaction() as tx:
        (left,) = await list_unread(tx)
    assert (json.loads(left.body)["lamp"]["id"], left.definition) == ("L1", "gone")


async def test_why_says_that_it_is_kept(api: httpx.AsyncClient, database: Database) -> None:
    await api.post("/alerts/webhook/", json=UNKNOWN)
    (push,) = await kept(database)
    found = await api.get("/why/", params={"what": push.name})
    assert "no source could read the push" in found.text
    assert f"kept as {push.name}" in found.text
    assert "said that the local key at" in found.text
    assert "from the local key at" in found.text
    assert "no key" not in found.text


@pytest.mark.parametrize("body", [b'{"a": 1}', b"[1]", b"not JSON"])
async def test_an_address_without_a_source_keeps_nothing(
    api: httpx.AsyncClient, database: Database, body: bytes
) -> None:
    refused = await api.post("/alerts/webhook/semaphore/", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422, refused.text
    assert "there is no source 'semaphore'" in refused.text
    assert await kept(database) == []
