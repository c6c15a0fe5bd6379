"""Every endpoint with every scope, read from the OpenAPI document and from docs/http.md."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from orchestration.settings import Settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import NewKey, Scope
from service.api import create_app
from tests.api_helpers import alert, all_runs, open_api
from tests.auth_helpers import FAR, PUBLIC, basic, bearer, endpoints, is_open, make_key, signed

PAGE = (Path(__file__).parent.parent / "docs" / "http.md").read_text()
ENDPOINTS = endpoints(Settings())
GUARDED = [(method, path) for method, path in ENDPOINTS if not is_open(method, path)]


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API as the network sees it."""
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as client:
        yield client


@pytest.fixture
async def every_key(settings: Settings, database: Database) -> dict[Scope, NewKey]:
    """A key for each scope alone."""
    return {scope: await make_key(settings, database, scope, name=scope.value) for scope in Scope}


def scope_of(method: str, path: str) -> Scope:
    """The scope that the page names for an endpoint."""
    found = re.search(rf"^\| `{method} {re.escape(path)}` \| (\w+) \|", PAGE, re.MULTILINE)
    assert found, f"docs/http.md says nothing of {method} {path}"
    return Scope(found[1])


async def test_each_endpoint_is_for_the_scope_that_its_page_names_and_for_no_other(
    api: httpx.AsyncClient, every_key: dict[Scope, NewKey], database: Database
) -> None:
    assert len(GUARDED) >= 7
    for method, path in GUARDED:
        needed = scope_of(method, path)
        for scope, key in every_key.items():
            # Nothing is there that it could do: a call that is let in is refused for what it says.
            answer = await api.request(method, re.sub(r"\{.*?\}", "none", path), headers=bearer(key))
            if scope in (needed, Scope.ADMIN):
                assert answer.status_code not in (401, 403), (method, path, scope)
            else:
                assert answer.status_code == 403, (method, path, scope)
                assert answer.json()["error"] == f"The key {key.name!r} is for {scope}; this needs {needed}"
    assert await all_runs(database) == []


async def test_a_revoked_key_is_refused_everywhere_in_whatever_way_it_comes(
    api: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    key = await make_key(settings, database, Scope.ADMIN)
    async with database.transaction() as tx:
        await keys.revoke_key(tx, key.name)
    for method, path in GUARDED:
        for headers in (bearer(key), basic("x", key.token), {"X-API-Key": key.token}, signed(key, b"")):
            answer = await api.request(method, re.sub(r"\{.*?\}", "none", path), headers=headers)
            assert answer.status_code == 401, (method, path)


async def test_the_log_says_who_was_refused_and_why(
    api: httpx.AsyncClient, every_key: dict[Scope, NewKey], caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps(alert()).encode()
    key, reader = every_key[Scope.TRIGGER], every_key[Scope.READ]
    reasons: dict[str, tuple[int, dict[str, str]]] = {
        "No API key": (401, {}),
        "The API key is unknown or revoked": (401, {"X-API-Key": "apk_" + "x" * 43}),
        "The key 'read' is for read; this needs trigger": (403, bearer(reader)),
        "X-Signature does not fit": (401, signed(key, b"another body")),
        "X-Signature needs X-Key-Id": (401, signed(key, body, X_Key_Id="")),
        "X-Timestamp is 10": (401, signed(key, body, at=time.time() - 1000)),
    }
    for why, (status, headers) in reasons.items():
        caplog.clear()
        answer = await api.post("/alerts/webhook/", content=body, headers=headers)
        assert answer.status_code == status
        assert f"Refused POST /alerts/webhook/ from 192.0.2.7 with {status}: {why}" in caplog.text


def test_the_document_says_which_endpoints_need_a_key(settings: Settings) -> None:
    document = create_app(settings, "postgresql://nowhere/none").openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert bool(operation["security"]) is not is_open(method, path)
            assert not operation["security"] or "401" in operation["responses"]
