"""What costs the reader of an answer memory or time: Prefect's clients stop reading, and other work goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import get_client
from prefect.client.base import PrefectHttpxAsyncClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from blocks.prefect_api import PrefectUnavailable, prefect_errors, read_saved_blocks
from service import prefect_patches
from tests.nonsense import LARGE, Proxy, answer, proxy

MOST_SECONDS = 5.0
"""How long an answer may be read. Tests wait for no slow one: their limit of time is a tenth of this."""

MOST_BLOCKED_SECONDS = 0.5
"""How long nothing else may be executed while an answer is read."""


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.answer_limit.ANSWER_LIMIT_SECONDS", MOST_SECONDS / 10)
    prefect_patches.limit_answers()


@contextlib.contextmanager
def asking(address: Proxy) -> Iterator[None]:
    # With a CSRF token each answer would be taken for one.
    own = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}
    with temporary_settings({PREFECT_API_URL: address.url, **own}):
        yield


class Ticks:
    """The longest time between two turns of the event loop."""

    longest_seconds = 0.0

    async def count(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            self.longest_seconds = max(self.longest_seconds, time.perf_counter() - began)


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[Ticks]:
    ticks = Ticks()
    task = asyncio.create_task(ticks.count())
    try:
        yield ticks
    finally:
        task.cancel()


@pytest.mark.parametrize("name", LARGE)
async def test_a_costly_answer_is_not_read_to_its_end(name: str) -> None:
    async with proxy() as address:
        address.answer_with(LARGE[name])
        with asking(address):
            async with get_client() as client, ticking() as ticks:
                began = time.perf_counter()
                with pytest.raises(PrefectUnavailable), prefect_errors():
                    await client.read_flow_runs()
                took = time.perf_counter() - began
        assert took < MOST_SECONDS
        assert ticks.longest_seconds < MOST_BLOCKED_SECONDS
        assert address.written_bytes < 16 * 2**20


@pytest.mark.parametrize("name", ["huge", "huge, compressed", "continues for ever", "endless, slow"])
async def test_the_clients_of_threads_have_the_same_limits(name: str) -> None:
    async with proxy() as address:
        address.answer_with(LARGE[name])
        refused = pytest.raises(PrefectUnavailable)
        with asking(address), get_client(sync_client=True) as client, refused, prefect_errors():
            await asyncio.to_thread(client.read_flow_runs)
        assert address.answered == 1
        assert address.written_bytes < 16 * 2**20


async def test_a_list_with_more_than_was_asked_for_is_not_prefects() -> None:
    async with proxy() as address:
        block = {"name": "x", "block_schema_id": str(uuid4()), "block_type_id": str(uuid4()), "block_type_name": "x"}
        address.answer_with(answer("200 OK", json.dumps([block] * 900).encode()))
        with asking(address), pytest.raises(PrefectUnavailable, match="900 objects"):
            await read_saved_blocks(["x"])


async def test_an_answer_in_the_limits_is_read() -> None:
    flow_runs = [FlowRun(flow_id=uuid4(), name=f"run [{number}], {{}}" * 200) for number in range(200)]
    body = json.dumps([flow_run.model_dump(mode="json") for flow_run in flow_runs]).encode()
    async with proxy() as address:
        address.answer_with(answer("200 OK", body))
        with asking(address):
            async with get_client() as client:
                read = await client.read_flow_runs()
    assert [flow_run.name for flow_run in read] == [flow_run.name for flow_run in flow_runs]


async def test_httpx_without_the_network_that_is_replaced_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = httpx.AsyncHTTPTransport.__init__

    def __init__(transport: Any, *args: Any, **kwargs: Any) -> None:
        original(transport, *args, **kwargs)
        del transport._pool._network_backend

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "__init__", __init__)
    with pytest.raises(AttributeError, match="_network_backend"):
        PrefectHttpxAsyncClient()
