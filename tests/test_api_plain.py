"""Webhooks of senders that write no JSON: text, forms, and the parameters of the address."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.settings import Settings
from orchestration.store.database import Database
from service.api.decoding import BodyHeaders
from service.api.plain import read_multipart, read_plain
from tests.api_helpers import open_api
from tests.notify_helpers import rows
from tests.payloads import body

TEXT, FORM = {"content-type": "text/plain; charset=utf-8"}, {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


@pytest.mark.parametrize(
    ("parameters", "headers", "content", "expected"),
    [
        ("", TEXT, "Disk full on db-1\n/var has 12 MB left", {"description": "/var has 12 MB left"}),
        ("", FORM, "Disk full on db-1", {}),
        ("", {}, "Disk full on db-1\r\n", {}),
        ("?severity=critical&host=db-1", TEXT, "Disk full on db-1", {"severity": "critical"}),
        ("", FORM, "name=Disk+full+on+db-1&severity=critical&status=firing", {"severity": "critical"}),
        ("", FORM, "subject=Disk+full+on+db-1&state=OK", {"status": "resolved"}),
        ("?name=Disk+full+on+db-1&severity=info&environment=lab", {}, "", {"severity": "info"}),
        ("?severity=info", FORM, "title=Disk+full+on+db-1&severity=critical", {"severity": "critical"}),
        ("", TEXT, "Größe: Disk full on db-1".encode("latin-1"), {"name": "Größe: Disk full on db-1"}),
    ],
)
async def test_a_sender_without_json_is_heard(
    api: httpx.AsyncClient, database: Database, parameters: str, headers: dict[str, str], content: Any, expected: Any
) -> None:
    answer = await api.post(f"/alerts/webhook/{parameters}", content=content, headers=headers)

    assert answer.status_code == 202, answer.text
    (run,) = await rows(database, "select source, environment, payload->'alerts'->0 as alert from pipeline_run")
    assert (run["source"], run["environment"]) == ("generic", "lab" if "lab" in parameters else "production")
    alert = run["alert"]
    assert {name: alert[name] for name in expected} == expected
    assert alert["name"].endswith("Disk full on db-1")


@pytest.mark.parametrize("parameters", ["", "?severity=critical"])
async def test_an_empty_request_that_names_no_alert_is_refused(
    api: httpx.AsyncClient, database: Database, parameters: str
) -> None:
    assert (await api.post(f"/alerts/webhook/{parameters}")).status_code == 400
    assert await rows(database, "select 1 from pipeline_run") == []


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (FORM, "a=b&c=d"),
        (TEXT, '{"name": "x"'),
        ({}, "<alert>x</alert>"),
        ({"content-type": "multipart/form-data; boundary=x"}, "--x--"),
        ({}, "[]"),
    ],
)
async def test_what_names_no_alert_is_kept_and_told_as_not_understood(
    api: httpx.AsyncClient, headers: dict[str, str], content: str
) -> None:
    answer = await api.post("/alerts/webhook/", content=content, headers=headers)

    assert (answer.status_code, answer.json()["message"][:14]) == (202, "Not understood"), answer.text


FILE = ("alert.json", '{"name": "Disk full on db-1", "severity": "critical"}', "application/json")


@pytest.mark.parametrize(
    ("parts", "severity"),
    [
        ({"payload": (None, '{"name": "Disk full on db-1", "severity": "critical"}')}, "critical"),
        ({"payload": (None, FILE[1]), "name": (None, "another"), "other": (None, "{}")}, "critical"),
        ({"name": (None, "Disk full on db-1"), "severity": (None, "info"), "shot": ("a.png", b"\x89PNG\x00")}, "info"),
        ({"alert": FILE, "shot": ("a.png", b"\x89PNG\x00" * 60_000, "image/png")}, "critical"),
        ({"token": (None, "x"), "alert": FILE}, "critical"),
    ],
)
async def test_a_form_with_parts_is_heard(
    api: httpx.AsyncClient, database: Database, parts: Any, severity: str
) -> None:
    answer = await api.post("/alerts/webhook/?host=db-1", files=parts)

    assert answer.status_code == 202, answer.text
    (run,) = await rows(database, "select payload->'alerts'->0 as alert from pipeline_run")
    assert (run["alert"]["name"], run["alert"]["severity"]) == ("Disk full on db-1", severity)


FORM_WITH_PARTS = "multipart/form-data; boundary=x"


def part(name: bytes, value: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value


async def test_the_form_of_uptime_kuma_is_read_as_its_json(api: httpx.AsyncClient, database: Database) -> None:
    told = json.dumps(body("uptime-kuma/firing"))

    assert (await api.post("/alerts/webhook/", files={"data": (None, told)})).status_code == 202
    (run,) = await rows(database, "select source from pipeline_run")
    assert run["source"] == "uptime-kuma"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("multipart/form-data", b"--x\r\n"),
        (f"{FORM_WITH_PARTS}; charset=undefined", part(b"a", b"\xff\r\n--x--")),
        (FORM_WITH_PARTS, part(b"name", b"cut")),
        (FORM_WITH_PARTS, b"--x\r\n\r\n\r\n--x--"),
        (FORM_WITH_PARTS, part(b"name", b"x\r\n") * 60 + b"--x--"),
    ],
)
async def test_a_broken_form_is_kept(api: httpx.AsyncClient, kind: str, content: bytes) -> None:
    answer = await api.post("/alerts/webhook/", content=content, headers={"content-type": kind})

    assert (answer.status_code, answer.json()["message"][:14]) == (202, "Not understood"), answer.text


@given(raw=st.binary(max_size=200), whole=st.booleans())
async def test_whatever_a_form_has_it_raises_nothing(raw: bytes, whole: bool) -> None:
    body = part(b"a", raw) + b"\r\n--x--\r\n" if whole else raw

    assert await read_multipart(body, BodyHeaders(content_type=FORM_WITH_PARTS), {}, 10_000) != {}


async def test_a_program_that_triggers_pipelines_still_has_to_send_json(api: httpx.AsyncClient) -> None:
    assert (await api.post("/orchestration/pipeline/", content="Disk full", headers=TEXT)).status_code == 400


@given(raw=st.binary(max_size=300), kind=st.sampled_from(("", "text/plain", FORM["content-type"], "a/b; charset=x")))
def test_whatever_comes_is_an_alert_with_a_name_or_none(raw: bytes, kind: str) -> None:
    found = read_plain(raw, BodyHeaders(content_type=kind), {}, 10_000)

    assert found is None or any(value.strip() for value in found.values())
