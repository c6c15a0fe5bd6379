"""The yardstick for the rate through Prefect: a flow of four tasks that do nothing, in one warm process.

Called as any function, and on a deployment in the work pool, opened in Pending as the worker opens its runs: each
state of such a run costs the server more, since it tells of the deployment, the queue and the pool as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import PrefectClient
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from service.mirror.deployments import register


@task(cache_policy=NO_CACHE, persist_result=False)
async def nothing() -> None:
    """Do nothing."""


@flow(name="empty", persist_result=False)
async def empty(run_id: str | None = None) -> None:
    """Four tasks."""
    del run_id
    for _ in range(4):
        await nothing()


def rate(api_url: str, count: int, *, deployed: bool, at_once: int = 8) -> float:
    """Flow runs a second."""
    for name in ("prefect", "prefect.engine", "prefect.flow_runs", "prefect.task_runs"):
        # Its lines go to the server, as those of our runs do; the terminal's are no part of the yardstick.
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if "Console" not in type(handler).__name__]
    return asyncio.run(_rate(api_url, count, at_once, deployed))


async def _rate(api_url: str, count: int, at_once: int, deployed: bool) -> float:
    slots = asyncio.Semaphore(at_once)
    with temporary_settings({PREFECT_API_URL: api_url}):
        async with AsyncClientContext.get_or_create() as context:
            with SyncClientContext.get_or_create():
                one = await _on_deployment(context.client) if deployed else empty

                async def in_turn() -> None:
                    async with slots:
                        await one()

                await in_turn()
                began = time.perf_counter()
                await asyncio.gather(*(in_turn() for _ in range(count)))
                return count / (time.perf_counter() - began)


async def _on_deployment(client: PrefectClient) -> Callable[[], Awaitable[Any]]:
    await register(client)
    deployment = await client.read_deployment_by_name("alert-pipeline/default")

    async def one() -> None:
        key = uuid4().hex
        opened = await client.create_flow_run_from_deployment(
            deployment.id, parameters={"run_id": key}, state=Pending(), idempotency_key=key
        )
        bare = opened.model_copy(update={"deployment_id": None})
        running = run_flow(empty, flow_run=bare, parameters={"run_id": key}, return_type="state")
        await cast("Awaitable[Any]", running)

    return one
