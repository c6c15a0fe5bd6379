"""Checks of Prefect's server: whether it answers, its database, and whether work pool and deployments are there."""

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
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from blocks.prefect_api import address_settings
from orchestration.settings import Settings
from service.doctor import Finding, Level, broken, ok, run_check, skipped, warning
from service.mirror.deployments import POOL_NAME, POOL_TYPE, wanted_deployments
from service.prefect_patches import limit_answers

TIMEOUT_SECONDS = 20.0
"""Prefect's server is one busy process: slow does not mean down."""

_LATER = ("work pool", "deployments")
_START = "Start it with `alert-pipeline up`, or set PREFECT_API_URL. Meanwhile the direct engine executes runs"
_RESTARTS = "The stack restarts it by itself. If it does not, see logs/prefect.log in ALERT_PIPELINE_HOME"
_START_OR_UNSET = (
    "Start that server, or unset PREFECT_API_URL and run `alert-pipeline up` again to use the embedded one. "
    "Meanwhile the direct engine executes runs"
)
_NOT_IN_STACK = (
    "If `alert-pipeline up` was started with PREFECT_API_URL, set the same here; otherwise run `alert-pipeline up`"
)
_REGISTER = "Start a worker: it registers what is missing"


async def prefect_findings(
    settings: Settings, api_url: str | None, *, embedded: bool, stack_runs: bool = False
) -> list[Finding]:
    """The checks of the server, then of what is registered there.

    `api_url` None means that the embedded server does not run; `stack_runs` says whether the rest of the embedded
    stack does.
    """
    if api_url is None:
        stopped = (
            warning("prefect", "the embedded stack runs without Prefect's server", _NOT_IN_STACK)
            if stack_runs
            else warning("prefect", "the embedded server does not run", _START)
        )
        return [stopped, *skipped(_LATER, "no Prefect server runs")]
    limit_answers()
    fix = _RESTARTS if embedded else _START_OR_UNSET
    check = partial(run_check, fix=fix, timeout_seconds=TIMEOUT_SECONDS)
    own: dict[Any, Any] = {
        **address_settings(settings, api_url),
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    with temporary_settings(own):
        async with get_client() as client:
            first = await check("prefect", lambda: _server(client, api_url, embedded=embedded, fix=fix))
            if first.level is Level.BROKEN:
                return [first, *skipped(_LATER, "Prefect does not answer")]
            later = (check("work pool", lambda: _pool(client)), check("deployments", lambda: _deployments(client)))
            return [first, *await asyncio.gather(*later)]


async def _server(client: PrefectClient, api_url: str, *, embedded: bool, fix: str) -> Finding:
    if (problem := await client.api_healthcheck()) is not None:
        source = "" if embedded else " (PREFECT_API_URL)"
        return broken("prefect", f"{_shown(api_url)}{source} does not answer: {type(problem).__name__}", fix)
    version = await client.api_version()
    detail = f"{_shown(api_url)} answers, version {version}"
    database = "PostgreSQL, embedded" if embedded else await _database(client)
    if database == "SQLite":
        fix = "Give it PostgreSQL (PREFECT_SERVER_DATABASE_CONNECTION_URL): SQLite fails when ten runs execute at once"
        return warning("prefect", f"{detail}, on SQLite", fix)
    if version.split(".")[:2] != prefect.__version__.split(".")[:2]:
        fix = "Install the same version on both sides: the server must not be older than its clients"
        return warning("prefect", f"{detail}, and this installation has {prefect.__version__}", fix)
    return ok("prefect", f"{detail}{f', on {database}' if database else ''}")


async def _database(client: PrefectClient) -> str:
    """The kind of the server's database; empty if it does not say. The server hides a URL that is set."""
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
        fix = f"prefect work-pool delete {POOL_NAME}; the next worker that starts creates it"
        return broken("work pool", f"{POOL_NAME} has the type {pool.type}, not {POOL_TYPE}", fix)
    if pool.is_paused:
        fix = f"prefect work-pool resume {POOL_NAME}"
        return warning("work pool", f"{POOL_NAME} is paused: only overdue critical alerts are executed", fix)
    if pool.concurrency_limit == 0:
        fix = f"prefect work-pool clear-concurrency-limit {POOL_NAME}"
        return broken("work pool", f"{POOL_NAME} executes no run: its limit is 0", fix)
    limit = f", at most {pool.concurrency_limit} runs at once" if pool.concurrency_limit is not None else ""
    return ok("work pool", f"{POOL_NAME}, type {pool.type}{limit}")


async def _deployments(client: PrefectClient) -> Finding:
    wanted = [f"{deployment.flow.name}/{deployment.name}" for deployment in wanted_deployments()]
    missing, paused = list[str](), list[str]()
    for name in wanted:
        try:
            if (await client.read_deployment_by_name(name)).paused:
                paused.append(name)
        except ObjectNotFound:
            missing.append(name)
    if missing:
        return broken("deployments", f"not registered: {', '.join(missing)}", _REGISTER)
    if paused:
        fix = "; ".join(f"prefect deployment schedule resume {name}" for name in paused)
        return warning("deployments", f"paused: {', '.join(paused)}", f"Resume it in Prefect's UI, or: {fix}")
    return ok("deployments", ", ".join(wanted))


def _shown(api_url: str) -> str:
    """The URL without user name and password."""
    scheme, _, rest = api_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
