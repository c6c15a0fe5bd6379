"""How senders write their bodies: in any charset, named or not, twice as JSON, or as a form. None costs a page."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
from sqlalchemy import select

from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.models import PipelineRunRow
from service.api.decoding import BodyHeaders, readable
from tests.api_helpers import open_api

PATH = "/alerts/webhook/"
TEXT = '{"name": "Festplatte voll", "severity": "critical", "host": "FÜLLSTAND-1", "message": "Gerät ist zu voll"}'


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


async def alert_of(database: Database, answer: httpx.Response) -> dict[str, Any]:
    """The alert that was stored for an answer."""
    assert answer.status_code == 202, answer.text
    query = select(PipelineRunRow.payload).where(PipelineRunRow.run_id == answer.json()["run_id"])
    async with database.transaction() as tx:
        (alert,) = (await tx.execute(query)).scalar_one()["alerts"]
    return alert


def typed(content_type: str, **more: str) -> dict[str, str]:
    return {"Content-Type": content_type, **more}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (r'{"name": "\u00d6l", "x": "\ud83d\udee2"}', '{"name": "Öl", "x": "🛢"}'),
        (r'{"a": "\u0022 \u005c \u0000 \n \\u00d6 \ud83d"}', r'{"a": "\u0022 \u005c \u0000 \n \\u00d6 ' "\ufffd" '"}'),
        *((r'{"name": "\u00d6\u00d6'[:-cut], r'{"name": "Ö' + r"\u00d6"[:-cut]) for cut in range(1, 6)),
        (r'{"name": "\uzzzz \u', r'{"name": "\uzzzz \u'),
    ],
)
def test_a_refused_body_is_shown_with_its_letters_wherever_it_was_cut(body: str, shown: str) -> None:
    assert readable(body.encode(), BodyHeaders(), 1000) == shown


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_a_number_that_json_does_not_have_costs_no_page(
    api: httpx.AsyncClient, database: Database, number: str
) -> None:
    # Python's json writes them so.
    answer = await api.post(PATH, content=f'{{"name": "Temperature", "host": "rack-1", "reading": {number}}}')
    alert = await alert_of(database, answer)
    assert (alert["name"], alert["raw_payload"]["reading"]) == ("Temperature", number)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", TEXT.encode()),
        ("application/json; charset=utf-8", TEXT.encode()),
        ("application/json; charset=us-ascii", TEXT.encode()),
        ("application/json", codecs.BOM_UTF8 + TEXT.encode()),
        ("application/json", TEXT.encode("latin-1")),
        ("application/json; charset=utf-8", TEXT.encode("latin-1")),
        ("", TEXT.encode("latin-1")),
        ("application/json; charset=iso-8859-1", TEXT.encode("latin-1")),
        ("application/json; Charset=ISO-8859-1", TEXT.encode("latin-1")),
        ('application/json; charset="windows-1252"', TEXT.encode("cp1252")),
        ("application/json;charset='ISO_8859-15'", TEXT.encode("iso-8859-15")),
        ("application/json; charset=ibm850", TEXT.encode("cp850")),
        ("application/json; charset=utf-16", TEXT.encode("utf-16")),
        ("application/json; charset=utf-16", TEXT.encode("utf-16-be")),
        ("application/json; charset=UTF-16LE", TEXT.encode("utf-16-le")),
        ("application/json; charset=utf-32", TEXT.encode("utf-32")),
        ("application/json", TEXT.encode("utf-16")),
        ("application/json", codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")),
        ("application/json; charset=utf-8", TEXT.encode("utf-16")),
        ("application/json", TEXT.encode("utf-16-le")),
        ("application/json", TEXT.encode("utf-16-be")),
        ("application/json", TEXT.encode("utf-32-le")),
        ("application/json", TEXT.encode("utf-32-be")),
        # What is named is not known, or not true.
        ("application/json; charset=utf-16", TEXT.encode()),
        ("application/json; charset=klingon", TEXT.encode("latin-1")),
        ("application/json; charset=base64", TEXT.encode()),
        ("application/json; charset=unicode_escape", TEXT.encode()),
        ("application/json; charset=", TEXT.encode()),
        # Zero bytes and line breaks around it.
        ("application/json", TEXT.encode() + b"\x00"),
        ("application/json", TEXT.encode("utf-16-le") + b"\r\x00\n\x00"),
    ],
)
async def test_the_words_of_an_alert_survive_their_charset(
    api: httpx.AsyncClient, database: Database, content_type: str, body: bytes
) -> None:
    alert = await alert_of(database, await api.post(PATH, content=body, headers=typed(content_type)))

    assert alert["labels"]["host"] == "FÜLLSTAND-1"
    assert alert["description"] == "Gerät ist zu voll"


@pytest.mark.parametrize(
    ("charset", "host"),
    [("gb18030", "数据库-1"), ("shift_jis", "サーバー-1"), ("iso-2022-jp", "サーバー-1"), ("koi8-r", "узел-1")],
)
async def test_a_charset_that_is_named_is_believed(
    api: httpx.AsyncClient, database: Database, charset: str, host: str
) -> None:
    body = json.dumps({"name": "DiskFull", "host": host}, ensure_ascii=False).encode(charset)
    answer = await api.post(PATH, content=body, headers=typed(f"application/json; charset={charset}"))

    assert (await alert_of(database, answer))["labels"]["host"] == host


async def test_a_compressed_body_has_a_charset_too(api: httpx.AsyncClient, database: Database) -> None:
    for charset, body in (("iso-8859-1", TEXT.encode("latin-1")), ("utf-16", TEXT.encode("utf-16"))):
        headers = typed(f"application/json; charset={charset}", **{"Content-Encoding": "gzip"})
        alert = await alert_of(database, await api.post(PATH, content=gzip.compress(body), headers=headers))
        assert alert["labels"]["host"] == "FÜLLSTAND-1"


async def test_a_character_that_was_cut_costs_no_page(api: httpx.AsyncClient, database: Database) -> None:
    whole = '{"name": "Größe überschritten", "message": "Gerät €'.encode()
    alert = await alert_of(database, await api.post(PATH, content=whole[:-1] + b'"}'))

    assert alert["name"] == "Größe überschritten"
    assert alert["description"] == "Gerät �"


async def test_bytes_of_no_charset_cost_no_page(api: httpx.AsyncClient, database: Database) -> None:
    body = b'{"name": "DiskFull", "message": "\x81\x8d\xff\xfe of \xf0\x9f", "host": "db-1"}'
    alert = await alert_of(database, await api.post(PATH, content=body))

    assert (alert["name"], alert["labels"]["host"]) == ("DiskFull", "db-1")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"half \ud83d of it", "half � of it"),
        (r"other half \ude00", "other half �"),
        (r"both \ud83d\ude00", "both 😀"),
        (r"backslash \\ud83d", r"backslash \ud83d"),
        (r"zero \u0000 byte", "zero � byte"),
        ("line\nbreak", "line\nbreak"),
    ],
)
async def test_half_an_emoji_costs_no_page(api: httpx.AsyncClient, database: Database, written: str, read: str) -> None:
    body = f'{{"name": "DiskFull", "message": "{written}"}}'.encode()

    assert (await alert_of(database, await api.post(PATH, content=body)))["description"] == read
    wrapped = await api.post("/orchestration/pipeline/", content=b'{"payload": ' + body + b', "environment": "test"}')
    assert (await alert_of(database, wrapped))["description"] == read


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", TEXT.encode()),  # curl -d
        ("application/x-www-form-urlencoded", f"payload={quote_plus(TEXT)}".encode()),
        ("application/x-www-form-urlencoded; charset=utf-8", f"token=x&payload={quote(TEXT)}&text=a".encode()),
        ("", f"payload={quote_plus(TEXT)}".encode()),
        ("application/x-www-form-urlencoded", f"{quote_plus(TEXT)}=".encode()),
        (
            "application/x-www-form-urlencoded; charset=iso-8859-1",
            b"payload=" + quote_plus(TEXT, encoding="l1").encode(),
        ),
        ("application/json", json.dumps(TEXT).encode()),
        ("application/json", json.dumps(TEXT, ensure_ascii=False).encode("latin-1")),
    ],
)
async def test_the_json_is_found_in_a_form_and_in_a_string(
    api: httpx.AsyncClient, database: Database, content_type: str, body: bytes
) -> None:
    alert = await alert_of(database, await api.post(PATH, content=body, headers=typed(content_type)))

    assert alert["labels"]["host"] == "FÜLLSTAND-1"


@pytest.mark.parametrize(
    "body",
    [
        b"payload=%7B",
        b'{"name": "x",}',
        b"\xff\xfe\x00",
        b"%7B%7D=&payload=%7B%7D",
        b"\x00\x00",
    ],
)
async def test_what_is_no_json_in_any_charset_is_refused_or_kept(api: httpx.AsyncClient, body: bytes) -> None:
    for content_type in ("application/json", "application/json; charset=utf-16", "application/x-www-form-urlencoded"):
        answer = await api.post("/orchestration/pipeline/", content=body, headers=typed(content_type))
        assert (answer.status_code, answer.json()["error"][:20]) == (400, "The body is not JSON"), answer.text
        answer = await api.post(PATH, content=body, headers=typed(content_type))
        assert answer.status_code == 202, answer.text
        assert "kept as refused-" in answer.json()["message"]


def test_the_beginning_of_any_body_can_be_shown() -> None:
    packed = gzip.compress(TEXT.encode("utf-16") * 1000)

    assert readable(TEXT.encode("latin-1"), BodyHeaders(), 2048) == TEXT
    assert readable(packed, BodyHeaders(content_encoding="gzip"), 2048).startswith(TEXT[:100])
    assert readable(packed[:120], BodyHeaders(content_encoding="GZIP"), 2048).startswith("{")
    assert readable(b"no gzip", BodyHeaders(content_encoding="gzip"), 2048) == ""
    assert readable(TEXT.encode()[:50], BodyHeaders(), 20) == TEXT[:20]
