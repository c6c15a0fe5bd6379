"""`/docs/` works without internet, and `/` says where to go."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request

from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from service.api import server
from service.api.rates import caller_address
from tests.api_helpers import open_api
from tests.auth_helpers import FAR, PUBLIC, basic, make_key

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, NOWHERE) as client:
        yield client


@pytest.mark.parametrize("path", ["/docs/", "/docs"])
async def test_the_documentation_loads_nothing_from_elsewhere(api: httpx.AsyncClient, path: str) -> None:
    page = await api.get(path)
    addresses = re.findall(r'(?:src|href|url)[=:] ?["\']([^"\']+)', page.text)

    assert page.status_code == 200
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/"), address
        assert not address.startswith("//")
        loaded = await api.get(address)
        assert loaded.status_code == 200, address
        assert len(loaded.content) > 500


async def test_the_documentation_runs_only_its_own_scripts(api: httpx.AsyncClient) -> None:
    page = await api.get("/docs/")
    policy = page.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert "default-src 'none'" in policy
    assert re.search(r"script-src ([^;]*)", policy)[1] == f"'self' 'sha256-{digest}'"  # type: ignore[index]
    assert "http" not in policy


async def test_the_documentation_knows_its_prefix_behind_a_proxy(settings: Settings) -> None:
    async with open_api(settings, NOWHERE) as api:
        app = api._transport.app  # type: ignore[attr-defined]
        transport = httpx.ASGITransport(app, root_path="/pipeline")
        async with httpx.AsyncClient(transport=transport, base_url="http://alerts.example.com") as behind:
            page = await behind.get("/pipeline/docs/")
            entrance = await behind.get("/pipeline/", headers={"Accept": "text/html"})

    assert "/pipeline/docs/files/swagger-ui-bundle.js" in page.text
    assert "'/pipeline/openapi.json'" in page.text
    assert entrance.headers["location"] == "/pipeline/docs/"


async def test_the_first_address_names_the_others(api: httpx.AsyncClient) -> None:
    answer = await api.get("/")
    browser = await api.get("/", headers={"Accept": "text/html,application/xhtml+xml"})

    assert answer.status_code == 200
    assert answer.json()["documentation"] == "/docs/"
    assert (browser.status_code, browser.headers["location"]) == (307, "/docs/")
    for name in ("documentation", "openapi", "health", "webhooks"):
        assert (await api.get(answer.json()[name])).status_code == 200, name


@pytest.mark.parametrize("way", ["on another address", "behind a proxy"])
async def test_where_others_reach_the_api_its_documentation_needs_a_key(
    settings: Settings, database: Database, way: str
) -> None:
    key = await make_key(settings, database, Scope.READ)
    host, url = (PUBLIC, None) if way == "on another address" else ("127.0.0.1", "https://alerts.example.com")
    chosen = settings.model_copy(update={"api_public_url": url})
    async with open_api(chosen, database.url, host=host, client=FAR) as api:
        for path in ("/docs/", "/docs", "/openapi.json"):
            refused = await api.get(path)
            assert refused.status_code == 401
            assert "Basic" in refused.headers["www-authenticate"]
            assert (await api.get(path, headers=basic("me", key.token))).status_code == 200


async def test_what_is_open_has_a_limit_of_requests_too(settings: Settings) -> None:
    few = settings.model_copy(update={"api_rate_limit_per_second": 5})
    async with open_api(few, NOWHERE, client=FAR) as api:
        for path in ("/docs/", "/", "/openapi.json", "/admin/orchestration/login/"):
            statuses = [(await api.get(path)).status_code for _ in range(40)]
            assert 429 in statuses, path
        assert [(await api.get("/health/")).status_code for _ in range(20)] == [200] * 20


def test_one_line_of_ipv6_is_one_caller(settings: Settings) -> None:
    def seen(address: str, *forwarded: str) -> str:
        headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
        request = Request({"type": "http", "client": (address, 1), "headers": headers})
        return caller_address(request, settings)

    assert seen("2001:db8:1:2::1") == seen("2001:db8:1:2:ffff::9") != seen("2001:db8:1:3::1")
    assert seen("::ffff:192.0.2.7") == seen("192.0.2.7") == "192.0.2.7"
    assert seen("192.0.2.7", "198.51.100.1") == "192.0.2.7"
    settings = settings.model_copy(update={"api_public_url": "https://alerts.example.com"})
    assert seen("192.0.2.7", "10.0.0.1, 198.51.100.1") == "198.51.100.1"
    assert seen("192.0.2.7", "10.0.0.1", "198.51.100.1") == "198.51.100.1", "HAProxy adds a line of its own"
    assert seen("192.0.2.7", "198.51.100.1:4711") == "198.51.100.1"
    assert seen("192.0.2.7", "[2001:db8:1:2::1]:4711") == seen("2001:db8:1:2::9")
    assert seen("192.0.2.7") == "192.0.2.7"


@pytest.mark.parametrize(
    ("auth", "host", "warns"), [("off", PUBLIC, True), ("off", "::1", False), ("auto", PUBLIC, False)]
)
def test_an_api_that_asks_nobody_says_so(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    auth: str,
    host: str,
    warns: bool,
) -> None:
    monkeypatch.setattr(server.ApiServer, "run", lambda *_, **__: None)
    server.serve(settings.model_copy(update={"api_auth": auth}), NOWHERE, host=host, port=0)

    assert ("NO KEYS: API_AUTH=off, and the API listens on 0.0.0.0" in caplog.text) is warns
