"""The floor under the rate through Prefect: a flow of four empty tasks in one warm process.

It is measured as a plain call, and on a deployment in the work pool with flow runs that begin as Pending, as the
worker's do. Such a run costs Prefect's server more: each event names the deployment, the queue and the pool as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import PrefectClient
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.flow_engine import run_flow
from prefect.settings import temporary_settings
from prefect.states import Pending

from blocks.prefect_api import address_settings
from orchestration.settings import Settings
from service.mirror.deployments import register

MeasuredT = TypeVar("MeasuredT")

CONCURRENCY = 8
"""How many flow runs are executed at once, as many as a worker does by default."""


@task(cache_policy=NO_CACHE, persist_result=False)
async def nothing() -> None:
    """Do nothing."""


@flow(name="empty", persist_result=False)
async def empty(run_id: str | None = None) -> None:
    """Call four empty tasks."""
    del run_id
    for _ in range(4):
        await nothing()


RunEmpty = Callable[[], Awaitable[Any]]


def rate(settings: Settings, api_url: str | None, count: int, *, deployed: bool) -> float:
    """Flow runs per second, `CONCURRENCY` at a time."""

    async def measured(run_empty: RunEmpty) -> float:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def run_in_slot() -> None:
            async with slots:
                await run_empty()

        await run_in_slot()
        began = time.perf_counter()
        await asyncio.gather(*(run_in_slot() for _ in range(count)))
        return count / (time.perf_counter() - began)

    return asyncio.run(_measured(address_settings(settings, api_url), measured, deployed))


def latencies(settings: Settings, api_url: str | None, count: int) -> list[float]:
    """Milliseconds of each of some flow runs on the deployment, one after the other: from asking for it to its end."""

    async def measured(run_empty: RunEmpty) -> list[float]:
        found: list[float] = []
        for _ in range(count + 3):
            began = time.perf_counter()
            await run_empty()
            found.append((time.perf_counter() - began) * 1000)
        return found[3:]

    return asyncio.run(_measured(address_settings(settings, api_url), measured, True))


async def _measured(
    address: dict[Any, Any], measure: Callable[[RunEmpty], Awaitable[MeasuredT]], deployed: bool
) -> MeasuredT:
    for name in ("prefect", "prefect.engine", "prefect.flow_runs", "prefect.task_runs"):
        # Log lines go to the server, as in our runs. Lines on the terminal are not part of the floor.
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if "Console" not in type(handler).__name__]
    with temporary_settings(address):
        async with AsyncClientContext.get_or_create() as context:
            with SyncClientContext.get_or_create():
                return await measure(await _on_deployment(context.client) if deployed else empty)


async def _on_deployment(client: PrefectClient) -> RunEmpty:
    await register(client)
    deployment = await client.read_deployment_by_name("alert-pipeline/default")

    async def run_empty() -> None:
        key = uuid4().hex
        opened = await client.create_flow_run_from_deployment(
            deployment.id, parameters={"run_id": key}, state=Pending(), idempotency_key=key
        )
        flow_run = opened.model_copy(update={"deployment_id": None})
        running = run_flow(empty, flow_run=flow_run, parameters={"run_id": key}, return_type="state")
        await cast("Awaitable[Any]", running)

    return run_empty
