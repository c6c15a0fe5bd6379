"""Prefect's server: does it answer, on which database, and has it what our runs need."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import httpx
import prefect
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from service.doctor.finding import Finding, Level, broken, look, ok, skipped, warning
from service.mirror.deployments import POOL_NAME, POOL_TYPE, wanted_deployments

PATIENCE_SECONDS = 20.0
"""Its server is one busy process, and slow is not down."""

_LATER = ("work pool", "deployments")
_START = "Start it with `alert-pipeline up`, or name a server in PREFECT_API_URL; meanwhile runs go on without it"
_REGISTER = "Start a worker: it registers what is missing"


async def prefect_findings(api_url: str | None, *, embedded: bool) -> list[Finding]:
    """The server, and what it knows of us. `api_url` None: the embedded server does not run."""
    if api_url is None:
        return [
            warning("prefect", "the embedded server does not run", _START),
            *skipped(_LATER, "no Prefect server runs"),
        ]
    mend = _START if embedded else f"Look at PREFECT_API_URL={_shown(api_url)} and at the server"
    ask = partial(look, mend=mend, patience_seconds=PATIENCE_SECONDS)
    own: dict[Any, Any] = {
        PREFECT_API_URL: api_url,
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    with temporary_settings(own):
        async with get_client() as client:
            first = await ask("prefect", lambda: _server(client, api_url, embedded=embedded))
            if first.level is Level.BROKEN:
                return [first, *skipped(_LATER, "Prefect does not answer")]
            looks = (ask("work pool", lambda: _pool(client)), ask("deployments", lambda: _deployments(client)))
            return [first, *await asyncio.gather(*looks)]


async def _server(client: PrefectClient, api_url: str, *, embedded: bool) -> Finding:
    if (problem := await client.api_healthcheck()) is not None:
        return broken("prefect", f"{_shown(api_url)} does not answer: {type(problem).__name__}", _START)
    theirs = await client.api_version()
    detail = f"{_shown(api_url)} answers, version {theirs}"
    database = "PostgreSQL, embedded" if embedded else await _database(client)
    if database == "SQLite":
        mend = "Give it PostgreSQL (PREFECT_SERVER_DATABASE_CONNECTION_URL): SQLite fails when ten runs go on at once"
        return warning("prefect", f"{detail}, on SQLite", mend)
    if theirs.split(".")[:2] != prefect.__version__.split(".")[:2]:
        mend = "Let both have the same version: the server must not be older than its clients"
        return warning("prefect", f"{detail}, and this installation has {prefect.__version__}", mend)
    return ok("prefect", f"{detail}{f', on {database}' if database else ''}")


async def _database(client: PrefectClient) -> str:
    """The kind of the server's database, as far as it tells: a URL that is set is obfuscated."""
    try:
        settings: dict[str, Any] = (await client.request("GET", "/admin/settings")).json()
    except (httpx.HTTPError, ValueError):  # Prefect Cloud has no such page
        return ""
    database: dict[str, Any] = settings.get("server", {}).get("database", {})
    if database.get("driver") or database.get("host"):
        return "SQLite" if "sqlite" in str(database.get("driver")) else "PostgreSQL"
    return "a database of its own" if database.get("connection_url") else "SQLite"


async def _pool(client: PrefectClient) -> Finding:
    try:
        pool = await client.read_work_pool(POOL_NAME)
    except ObjectNotFound:
        return broken("work pool", f"there is no work pool {POOL_NAME}", _REGISTER)
    if pool.type != POOL_TYPE:
        mend = f"prefect work-pool delete {POOL_NAME}; the next worker that starts makes it anew"
        return broken("work pool", f"{POOL_NAME} has the type {pool.type}, not {POOL_TYPE}", mend)
    if pool.is_paused:
        mend = f"prefect work-pool resume {POOL_NAME}"
        return warning("work pool", f"{POOL_NAME} is paused: only overdue critical alerts are carried out", mend)
    if pool.concurrency_limit == 0:
        mend = f"prefect work-pool clear-concurrency-limit {POOL_NAME}"
        return broken("work pool", f"{POOL_NAME} lets no run go on: its limit is 0", mend)
    limit = f", at most {pool.concurrency_limit} runs at once" if pool.concurrency_limit is not None else ""
    return ok("work pool", f"{POOL_NAME}, type {pool.type}{limit}")


async def _deployments(client: PrefectClient) -> Finding:
    missing, paused, there = list[str](), list[str](), list[str]()
    for wanted in wanted_deployments():
        name = f"{wanted.flow.name}/{wanted.name}"
        try:
            found = await client.read_deployment_by_name(name)
        except ObjectNotFound:
            missing.append(name)
            continue
        there.append(name)
        if found.paused:
            paused.append(name)
    if missing:
        return broken("deployments", f"not registered: {', '.join(missing)}", _REGISTER)
    if paused:
        mend = "; ".join(f"prefect deployment schedule resume {name}" for name in paused)
        return warning("deployments", f"paused: {', '.join(paused)}", f"Resume it in Prefect's UI, or: {mend}")
    return ok("deployments", ", ".join(there))


def _shown(api_url: str) -> str:
    """The URL without what may stand before the host."""
    scheme, _, rest = api_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
