"""The API and the admin under a path of a proxy: every link, redirect and cookie stays there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestration.errors import BadSetting
from orchestration.settings import Settings, load_settings
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from service.admin import PATH
from service.api.server import listen
from tests.admin_helpers import field, make_key
from tests.api_helpers import alert, open_api, serve_api, until
from tests.auth_helpers import bearer

PREFIX = "/pipeline"
FORWARDED = {"X-Forwarded-Prefix": PREFIX, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "alerts.example.com"}


@asynccontextmanager
async def proxy(upstream: tuple[str, int], *, removes: bool, names: bool) -> AsyncIterator[str]:
    """A reverse proxy that serves the upstream under the prefix, and nothing else.

    Args:
        upstream: where the API listens.
        removes: whether the proxy removes the prefix from the address.
        names: whether the proxy sends `X-Forwarded-Prefix`.
    """
    async with httpx.AsyncClient(base_url=f"http://{upstream[0]}:{upstream[1]}") as client:

        async def forward(request: Request) -> Response:
            path = request.url.path
            if not path.startswith(f"{PREFIX}/"):
                return Response("outside of the prefix", 421)
            headers = dict(request.headers) | {"x-forwarded-for": "192.0.2.7"}
            headers |= {"x-forwarded-prefix": PREFIX} if names else {}
            answer = await client.request(
                request.method,
                (path.removeprefix(PREFIX) if removes else path)
                + (f"?{request.url.query}" if request.url.query else ""),
                headers=headers,
                content=await request.body(),
            )
            response = Response(answer.content, answer.status_code)
            response.raw_headers = [
                (name, value) for name, value in answer.headers.raw if name.lower() != b"content-encoding"
            ]
            return response

        app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "HEAD"])])
        with listen("127.0.0.1", 0) as listening:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            serving = asyncio.create_task(server._serve([listening]))
            await until(lambda: server.started, "the proxy to start")
            yield "http://{}:{}".format(*listening.getsockname())
            server.should_exit = True
            await serving


@pytest.fixture(
    params=["it removes and names the prefix", "it removes the prefix", "it only passes on", "it only names"]
)
async def outside(
    request: pytest.FixtureRequest, settings: Settings, database: Database
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser outside of the proxy."""
    removes, names = "removes" in request.param, "names" in request.param
    public = None if names else f"http://alerts.example.com{PREFIX}/"
    behind = settings.model_copy(update={"api_public_url": public})
    async with (
        serve_api(behind, database.url) as upstream,
        proxy(upstream, removes=removes, names=names) as address,
        httpx.AsyncClient(base_url=address, follow_redirects=True) as client,
    ):
        yield client


async def test_a_person_signs_in_and_walks_through_the_admin_under_the_prefix(
    outside: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    key = await make_key(settings, database, Scope.ADMIN)
    said = await outside.post(f"{PREFIX}/alerts/webhook/", json=alert(), headers=bearer(key))
    run = await outside.get(said.json()["status_url"], headers=bearer(key))
    assert (said.status_code, run.status_code) == (202, 200), run.text
    assert said.json()["status_url"] == f"{PREFIX}/orchestration/pipeline/{said.json()['run_id']}/"

    form = await outside.get(f"{PREFIX}/admin/")
    assert form.url.path == f"{PREFIX}{PATH}/login/"
    home = await outside.post(form.url.path, data={"csrf": field(form.text), "key": key.token})
    assert (home.status_code, home.url.path) == (200, f"{PREFIX}{PATH}/"), home.text
    assert all(cookie.path == f"{PREFIX}{PATH}" for cookie in outside.cookies.jar)

    seen, waiting = set[str](), {home.url.path}
    while waiting:
        seen.add(address := waiting.pop())
        page = await outside.get(address)
        assert page.status_code == 200, address
        links = re.findall(r'(?:href|src|action)="([^"?#]*)', page.text)
        assert not [link for link in links if link.startswith("/") and not link.startswith(f"{PREFIX}/")], address
        waiting |= {link for link in links if link.startswith("/") and "logout" not in link} - seen
    assert f"{PREFIX}{PATH}/runs/{said.json()['run_id']}/" in seen
    assert f"{PREFIX}{PATH}/statics/admin.css" in seen
    out = await outside.post(f"{PREFIX}{PATH}/logout/", data={"csrf": field(home.text)})
    assert out.url.path == f"{PREFIX}{PATH}/login/"


async def test_the_documentation_and_the_document_are_under_the_prefix(
    outside: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    outside.headers.update(bearer(await make_key(settings, database, Scope.READ)))
    page = await outside.get(f"{PREFIX}/", headers={"Accept": "text/html"})
    addresses = re.findall(r'(?:src|href|url)[=:] ?["\']([^"\']+)', page.text)
    document = (await outside.get(f"{PREFIX}/openapi.json")).json()
    entries = (await outside.get(f"{PREFIX}/")).json()

    assert page.url.path == f"{PREFIX}/docs/"
    assert len(addresses) >= 4
    assert [(await outside.get(address)).status_code for address in addresses] == [200] * len(addresses)
    assert document["servers"] == [{"url": PREFIX}]
    assert entries["health"] == f"{PREFIX}/health/"
    assert (await outside.head(f"{PREFIX}/health")).status_code == 200
    assert f"{PREFIX}/openapi.json" in (await outside.get(f"{PREFIX}/nowhere/")).text


async def test_the_case_of_the_field(settings: Settings, database: Database) -> None:
    async with open_api(settings, database.url) as api:
        admin = await api.get("/admin/orchestration/", headers=FORWARDED)
        docs = await api.get("/docs", headers=FORWARDED)
        form = await api.get(f"{PATH}/login/", headers=FORWARDED)

    assert admin.headers["location"] == f"{PREFIX}{PATH}/login/"
    assert f"'{PREFIX}/openapi.json'" in docs.text
    assert f"Path={PREFIX}{PATH};" in form.headers["set-cookie"]
    assert "Secure" in form.headers["set-cookie"]


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "https://evil.example", "/../x", "/a b", '/a"b', "/", "x", "/a//b", "/" + "a/" * 40]
)
async def test_a_prefix_that_no_proxy_sends_is_ignored(settings: Settings, database: Database, prefix: str) -> None:
    async with open_api(settings, database.url) as api:
        answer = await api.get("/", headers={"Accept": "text/html", "X-Forwarded-Prefix": prefix})

    assert answer.headers["location"] == "/docs/"


@pytest.mark.parametrize("prefix", ["/alerts", "/a/b.c/d-e_f~g", "/docs", "/pipeline/"])
async def test_a_prefix_may_be_like_one_of_our_own_addresses(
    settings: Settings, database: Database, prefix: str
) -> None:
    named = {"X-Forwarded-Prefix": prefix}
    async with open_api(settings, database.url) as api:
        for address in ("/alerts/webhook/", "/docs/", "/health/", "/openapi.json"):
            for sent in (address, prefix.rstrip("/") + address):
                assert (await api.get(sent, headers=named)).status_code == 200, sent


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("https://example.com/pipeline", True),
        ("https://example.com/a/b-c/", True),
        ("https://example.com/", True),
        ("https://example.com/../x", False),
        ("https://example.com//x", False),
        ("https://example.com/x?y", False),
        ("https://example.com/x y", False),
        ("https://user@example.com/x", False),
    ],
)
def test_the_public_url_may_have_a_plain_path(monkeypatch: pytest.MonkeyPatch, url: str, is_good: bool) -> None:
    monkeypatch.setenv("API_PUBLIC_URL", url)
    if is_good:
        assert load_settings().api_public_url == url
        return
    with pytest.raises(BadSetting, match="API_PUBLIC_URL"):
        load_settings()
