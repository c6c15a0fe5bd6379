"""The yardstick for the rate through Prefect: a flow of four tasks that do nothing."""

from __future__ import annotations

import asyncio
import time

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import PREFECT_API_URL, temporary_settings


@task(cache_policy=NO_CACHE, persist_result=False)
async def nothing() -> None:
    """Do nothing."""


@flow(name="empty", persist_result=False)
async def empty() -> None:
    """Four tasks."""
    for _ in range(4):
        await nothing()


def rate(api_url: str, count: int, at_once: int = 8) -> float:
    """Flow runs a second."""
    return asyncio.run(_rate(api_url, count, at_once))


async def _rate(api_url: str, count: int, at_once: int) -> float:
    slots = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with slots:
            await empty()

    with temporary_settings({PREFECT_API_URL: api_url}):
        async with AsyncClientContext.get_or_create():
            with SyncClientContext.get_or_create():
                await empty()
                began = time.perf_counter()
                await asyncio.gather(*(one() for _ in range(count)))
                return count / (time.perf_counter() - began)
