"""`/docs/` works without internet, and `/` says where to go."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from orchestration.settings import Settings
from tests.api_helpers import open_api

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
