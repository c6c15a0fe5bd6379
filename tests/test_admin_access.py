"""Who can open the admin, and what all others see."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import NewKey, Scope
from service.admin import PATH, sign_in
from service.admin.sign_in import SESSION_COOKIE
from service.api import keyring
from tests.admin_helpers import Browser, browser, fail, field, make_key, push, words_of
from tests.api_helpers import open_api, run_of
from tests.conftest import MemoryChannel

PAGES = (
    "/", "/runs/", "/runs/?status=failed", "/runs/abc/", "/runs/abc/resume/", "/incidents/", "/incidents/1/",
    "/alerts/", "/alerts/1/", "/attempts/", "/attempts/1/", "/definitions/", "/definitions/1/", "/workers/", "/keys/",
    "/no-such-page/",
)  # fmt: skip


@pytest.fixture
async def here(settings: Settings, database: Database) -> AsyncIterator[Browser]:
    async with browser(settings, database) as one:
        yield one


@pytest.fixture
async def key(settings: Settings, database: Database) -> NewKey:
    return await make_key(settings, database)


async def test_without_signing_in_every_address_leads_to_the_sign_in_page_alone(here: Browser) -> None:
    (run_id,) = await push(here.client)
    for path in (*PAGES, f"/runs/{run_id}/"):
        answer = await here.get(path)
        assert (answer.status_code, answer.content) == (303, b""), path
        assert answer.headers["location"].startswith(f"{PATH}/login/"), path
    for path in ("/", "/logout/", "/runs/", f"/runs/{run_id}/resume/", "/keys/"):
        answer = await here.post(path, csrf="0")
        assert (answer.status_code, answer.content, answer.headers["location"]) == (303, b"", f"{PATH}/login/"), path
    page = (await here.get("/login/")).text
    assert words_of(page) == (
        "alert-pipeline API key with the scope admin Sign in No key yet? "
        "Whoever can run commands where alert-pipeline runs makes one: alert-pipeline keys create my-name --scope admin"
    )
    assert "<nav>" not in page
    assert (await run_of_status(here, run_id)) == "pending"


async def run_of_status(here: Browser, run_id: str) -> str:
    return (await here.client.get(f"/orchestration/pipeline/{run_id}/")).json()["status"]


async def test_signing_in_leads_to_the_page_that_was_asked_for(here: Browser, key: NewKey) -> None:
    refused = await here.get("/runs/?status=failed&stage=notify")
    page = await here.client.get(refused.headers["location"])
    answer = await here.post("/login/", csrf=field(page.text), key=f" {key.token} ", next=field(page.text, "next"))
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PATH}/runs/?status=failed&stage=notify")
    assert (await here.client.get(answer.headers["location"])).status_code == 200
    assert (await here.get("/login/")).headers["location"] == f"{PATH}/"
    assert (await here.client.get("/admin/")).headers["location"] == f"{PATH}/"


async def test_signing_in_leads_nowhere_else(here: Browser, key: NewKey) -> None:
    for to in ("//evil.example", "https://evil.example", "/../x", "/\\evil.example", "/login/", "x"):
        assert (await here.sign_in(key.token, next=to)).headers["location"] == f"{PATH}/", to
        here.client.cookies.clear()


async def test_wrong_keys_are_told_apart_from_keys_for_other_things(
    here: Browser, settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    reader = await make_key(settings, database, Scope.READ, Scope.RESUME, name="dashboard")
    unknown = await here.sign_in("apk_" + "x" * 43)
    assert (unknown.status_code, "unknown or revoked" in unknown.text) == (401, True)
    assert (await here.sign_in("")).status_code == 401
    other = await here.sign_in(reader.token)
    assert (other.status_code, "not for the admin" in other.text) == (403, True)
    for refused in (unknown, other):
        assert "set-cookie" not in refused.headers or SESSION_COOKIE not in refused.headers["set-cookie"]
    assert (await here.get("/")).status_code == 303
    assert "Refused a sign-in to the admin site from 127.0.0.1: the key 'dashboard' has no scope admin" in caplog.text
    assert reader.token not in caplog.text
    assert reader.token not in other.text


async def test_an_address_that_tries_many_keys_has_to_wait_and_keeps_nobody_with_a_key_out(
    here: Browser, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "TRIES_PER_SECOND", 0.001)
    for _ in range(int(sign_in.TRIES_AT_ONCE)):
        assert (await here.sign_in("apk_wrong")).status_code == 401
    answer = await here.sign_in("apk_wrong")
    assert (answer.status_code, "Too many attempts" in answer.text) == (429, True)
    assert int(answer.headers["retry-after"]) > 2
    assert (await here.sign_in(key.token)).status_code == 303


async def test_the_cookie_is_for_our_pages_alone(here: Browser, key: NewKey) -> None:
    cookie = (await here.sign_in(key.token)).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert f"Path={PATH};" in cookie
    assert "SameSite=lax" in cookie
    assert "Max-Age=43200" in cookie
    assert "Secure" not in cookie
    assert key.token not in cookie


@pytest.mark.parametrize("way", ["https itself", "a proxy with https"])
async def test_over_https_the_cookie_goes_over_https_only(
    settings: Settings, database: Database, key: NewKey, way: str
) -> None:
    public = "https://alerts.example.com" if way == "a proxy with https" else None
    base = "http://127.0.0.1:8000" if public else "https://127.0.0.1:8000"
    https = settings.model_copy(update={"api_public_url": public})
    async with open_api(https, database.url, base_url=base) as client:
        page = await client.get(f"{PATH}/login/")
        assert "Secure" in page.headers["set-cookie"]
        nonce = page.headers["set-cookie"].partition(";")[0]
        data = {"csrf": field(page.text), "key": key.token}
        answer = await client.post(f"{PATH}/login/", data=data, headers={"Cookie": nonce})
        assert (answer.status_code, "Secure" in answer.headers["set-cookie"]) == (303, True)


async def test_another_process_of_the_installation_knows_the_session(
    here: Browser, settings: Settings, database: Database, key: NewKey
) -> None:
    await here.sign_in(key.token)
    session = {"Cookie": f"{SESSION_COOKIE}={here.client.cookies[SESSION_COOKIE]}"}
    async with open_api(settings, database.url) as other:
        assert (await other.get(f"{PATH}/", headers=session)).status_code == 200
    elsewhere = settings.model_copy(update={"secret_key": SecretStr("another installation's")})
    async with open_api(elsewhere, database.url) as stranger:
        assert (await stranger.get(f"{PATH}/", headers=session)).status_code == 303


async def test_a_made_up_cookie_is_no_session(here: Browser) -> None:
    for cookie in (b"x", b"gAAAAA" + b"x" * 100, "é".encode(), b"x" * 5000):
        answer = await here.client.get(f"{PATH}/", headers={b"Cookie": SESSION_COOKIE.encode() + b"=" + cookie})
        assert answer.status_code == 303, cookie


async def test_an_old_session_is_over(settings: Settings, database: Database, key: NewKey) -> None:
    short = settings.model_copy(update={"admin_session_hours": 1e-9})
    async with browser(short, database) as one:
        await one.sign_in(key.token)
        cookie = one.client.cookies.get(SESSION_COOKIE)
        assert cookie is None or (await one.get("/")).status_code == 303


async def test_a_revoked_key_ends_its_sessions(
    here: Browser, database: Database, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "FRESH_SECONDS", 0.0)
    await here.sign_in(key.token)
    assert (await here.get("/")).status_code == 200
    async with database.transaction() as tx:
        await keys.revoke_key(tx, key.name)
    assert (await here.get("/")).status_code == 303
    assert (await here.sign_in(key.token)).status_code == 401


async def test_signing_out_ends_the_session_also_for_a_copied_cookie(here: Browser, key: NewKey) -> None:
    await here.sign_in(key.token)
    copied = here.client.cookies[SESSION_COOKIE]
    answer = await here.post("/logout/", csrf=await here.csrf())
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PATH}/login/")
    assert SESSION_COOKIE not in here.client.cookies
    assert (await here.client.get(f"{PATH}/", headers={"Cookie": f"{SESSION_COOKIE}={copied}"})).status_code == 303


async def test_forms_that_we_did_not_show_change_nothing(
    here: Browser, key: NewKey, database: Database, services: Services, channel: MemoryChannel
) -> None:
    (run_id,) = await push(here.client)
    await fail(services, channel, run_id)
    refused = await here.client.post(f"{PATH}/login/", data={"key": key.token})
    assert (refused.status_code, "out of date" in refused.text) == (403, True)
    await here.sign_in(key.token)
    csrf = await here.csrf()
    resume = f"{PATH}/runs/{run_id}/resume/"
    forged = [
        await here.client.post(resume),
        await here.client.post(resume, data={"csrf": ""}),
        await here.client.post(resume, data={"csrf": csrf[::-1]}),
        await here.client.post(resume, data={"csrf": "ü"}),
        await here.client.post(resume, data={"csrf": csrf}, headers={"Sec-Fetch-Site": "cross-site"}),
        await here.client.post(f"{PATH}/logout/", data={"csrf": "0" * 64}),
    ]
    assert [answer.status_code for answer in forged] == [403] * 6
    assert (await here.client.post(resume, content=b"x" * 10_000)).status_code == 413
    assert (await here.client.post(resume, content=b"\xff\xfe")).status_code in (400, 403)
    assert (await run_of(database, run_id)).status == "failed"
    assert (await here.get("/")).status_code == 200


async def test_every_answer_tells_the_browser_to_be_careful(here: Browser, key: NewKey) -> None:
    before = [await here.get(path) for path in ("/login/", "/runs/", "/statics/admin.css")]
    await here.sign_in(key.token)
    after = [await here.get(path) for path in PAGES]
    for answer in (*before, *after):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe-inline" not in policy
        assert "http" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        stored = answer.headers["cache-control"]
        assert stored == ("private, max-age=86400" if answer is before[2] else "no-store")
        assert not re.search(r"""<script|<style|\son\w+=|\sstyle=|(?:src|href)="(?:https?:)?//""", answer.text)


async def test_when_the_database_is_away_the_pages_say_so_and_no_more(
    settings: Settings, database: Database, key: NewKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with open_api(settings, "postgresql://nobody@127.0.0.1:9/none") as client:
        page = await client.get(f"{PATH}/login/")
        assert page.status_code == 200
        answer = await client.post(f"{PATH}/login/", data={"csrf": field(page.text), "key": key.token})
        assert (answer.status_code, "The database does not answer" in answer.text) == (503, True)
        assert "127.0.0.1:9" not in answer.text


async def test_without_its_secret_key_the_admin_stays_closed_and_the_door_open(
    settings: Settings, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret.key").write_text("for everybody to read")
    (tmp_path / "secret.key").chmod(0o644)
    async with open_api(settings.model_copy(update={"home": tmp_path}), database.url) as client:
        answer = await client.get(f"{PATH}/")
        assert (answer.status_code, str(tmp_path) in answer.text) == (503, False)
        assert f"Others can read {tmp_path}/secret.key" in caplog.text
        assert len(await push(client)) == 1


async def test_the_admin_writes_nothing_but_resumes_and_acts_of_people(here: Browser, key: NewKey) -> None:
    await here.sign_in(key.token)
    for address in ("runs", "incidents", "alerts", "attempts", "definitions", "workers", "keys"):
        for path in ("create", "edit/1", "delete", "export/csv", "import", "ajax/lookup", "1"):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                answer = await here.client.request(method, f"{PATH}/{address}/{path}")
                assert answer.status_code in (404, 405), (method, address, path)
            read: httpx.Response = await here.get(f"/{address}/{path}/")
            assert read.status_code == 404, (address, path)


async def test_behind_a_proxy_one_stranger_stops_only_himself(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "TRIES_PER_SECOND", 0.001)
    behind = settings.model_copy(update={"api_public_url": "http://alerts.example.com"})
    async with browser(behind, database) as there:
        for address, tries, last in (("192.0.2.7", 11, 429), ("192.0.2.8", 1, 401), ("2001:db8::1", 10, 401)):
            there.client.headers["X-Forwarded-For"] = f"198.51.100.1, {address}"
            answers = [await there.sign_in("apk_wrong") for _ in range(tries)]
            assert answers[-1].status_code == last, address
        there.client.headers["X-Forwarded-For"] = "2001:db8::2"
        assert (await there.sign_in("apk_wrong")).status_code == 429


async def test_a_number_of_thousands_of_digits_is_no_row(here: Browser, key: NewKey) -> None:
    await here.sign_in(key.token)
    for page in ("alerts", "incidents", "runs"):
        assert (await here.get(f"/{page}/{'9' * 5000}/")).status_code == 404, page
