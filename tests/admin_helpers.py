"""Helpers for the tests of the admin: API keys, a browser, pushes, and failed runs."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from orchestration.encryption import load_cipher
from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.settings import Settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import NewKey, Scope
from orchestration.store.records import RunRecord
from service.admin import PATH
from tests.api_helpers import alert, open_api, run_to_end, trigger
from tests.conftest import MemoryChannel


async def make_key(settings: Settings, database: Database, *scopes: Scope, name: str = "oncall") -> NewKey:
    """Create an API key. Without scopes, it has the scope admin."""
    async with database.transaction() as tx:
        return await keys.create_key(tx, name, scopes or (Scope.ADMIN,), load_cipher(settings))


def field(page: str, name: str = "csrf") -> str:
    """The value of a form's hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"no field {name} in {page[:2000]}"
    return html.unescape(found[1])


def words_of(page: str) -> str:
    """The text of the main part of a page, as a person reads it."""
    text = re.sub(r"<[^>]*>", " ", page.partition("<main>")[2])
    return " ".join(html.unescape(text).split())


class Browser:
    """A browser that opens pages of the admin. `client` calls the API of the same application."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str = "/") -> httpx.Response:
        """A page of the admin."""
        return await self.client.get(PATH + path)

    async def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form with exactly these fields."""
        return await self.client.post(PATH + path, data=fields)

    async def sign_in(self, token: str, **more: str) -> httpx.Response:
        """Open the sign-in form, fill it in and send it."""
        page = await self.get("/login/")
        return await self.post("/login/", csrf=field(page.text), key=token, **more)

    async def csrf(self) -> str:
        """The CSRF token of the session."""
        return field((await self.get("/keys/")).text)


@asynccontextmanager
async def browser(settings: Settings, database: Database) -> AsyncGenerator[Browser]:
    """A browser in which nobody is signed in."""
    async with open_api(settings, database.url) as client:
        yield Browser(client)


async def push(client: httpx.AsyncClient, *alerts: dict[str, object], **more: object) -> list[str]:
    """Push alerts and return the ids of their runs."""
    answer = await client.post("/orchestration/pipeline/", json=trigger(*(alerts or (alert(),)), **more))
    assert answer.status_code == 202, answer.text
    return answer.json()["run_ids"]


async def fail(services: Services, channel: MemoryChannel, run_id: str) -> RunRecord:
    """Execute a run while its channel refuses all messages."""
    channel.failures = [DeliveryFailed("hooks.example.com answered 503", retryable=True) for _ in range(4)]
    record = await run_to_end(services, run_id)
    assert record.status == "failed"
    return record
