"""Helpers for the tests of the HTTP API: the application without a network, and with one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from orchestration.engine.execution import DIRECT, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.local_key import load_local_key
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from orchestration.store.runs import RunFilter, list_page
from service.admin import mount
from service.api import create_app
from service.api.server import ApiServer, listen

LOCAL = ("127.0.0.1", 50_000)


def local_key(settings: Settings) -> dict[str, str]:
    """The header with the local key, as the commands of the README send it."""
    return {"Authorization": f"Bearer {load_local_key(settings)}"}


@asynccontextmanager
async def open_api(
    settings: Settings,
    url: str,
    *,
    host: str = "127.0.0.1",
    client: tuple[str, int] = LOCAL,
    base_url: str = "http://127.0.0.1:8000",
) -> AsyncGenerator[httpx.AsyncClient]:
    """The application for a client at the address `client`; the application believes that it listens at `host`.

    On this machine the client has the local key, unless a request brings another `Authorization`.
    """
    app = create_app(settings, url, host=host, extensions=[mount.install])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=client)
    headers = local_key(settings) if client == LOCAL else {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers) as api,
    ):
        yield api


@asynccontextmanager
async def serve_api(settings: Settings, url: str, *, port: int = 0) -> AsyncGenerator[tuple[str, int]]:
    """The application behind a real server, by default on a free port. Yields its address."""
    with listen("127.0.0.1", port) as listening:
        app = create_app(settings, url, extensions=[mount.install])
        server = ApiServer(app, settings)
        serving = asyncio.create_task(server._serve([listening]))
        await until(lambda: server.started, "the server to start")
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            await serving


async def until(condition: Callable[[], object], what: str, seconds: float = 40) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.01)


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 40) -> None:
    """Wait for an asynchronous condition."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def run_of(database: Database, run_id: str) -> RunRecord:
    """The stored run."""
    async with database.transaction() as tx:
        return await runs.get_run(tx, run_id)


async def all_runs(database: Database) -> list[RunRecord]:
    """The stored runs that somebody asked for, newest first."""
    async with database.transaction() as tx:
        found = (await list_page(tx, RunFilter(), limit=10_000)).runs
    return [run for run in found if run.reason is RunReason.PUSH]


async def run_to_end(services: Services, run_id: str) -> RunRecord:
    """Execute a run to its end, as a worker does."""
    async with lease_run(services, run_id, engine=DIRECT) as run:
        await Execution(run).execute_directly()
    return run.record


def alert(name: str = "HighCPU", **more: Any) -> dict[str, Any]:
    """A flat alert."""
    return {"alertname": name, "severity": "critical", "instance": "web-1"} | more


def trigger(*alerts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The body of POST /orchestration/pipeline/."""
    payload = alerts[0] if len(alerts) == 1 else {"alerts": list(alerts or [alert()])}
    return {"payload": payload} | more


async def answer_after_run(asking: Awaitable[httpx.Response], services: Services) -> httpx.Response:
    """The answer to a request that waits for its run, which is executed as a worker would."""
    task = asyncio.ensure_future(asking)
    before = {run.run_id for run in await all_runs(services.database)}

    async def stored() -> object:
        return task.done() or {run.run_id for run in await all_runs(services.database)} - before

    await eventually(stored)
    for run in await all_runs(services.database):
        if not run.status.final:
            await run_to_end(services, run.run_id)
    return await task
