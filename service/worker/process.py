"""The worker with all its parts, put together for one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_WORKER_QUERY_SECONDS,
    temporary_settings,
)
from prefect_warm_worker.internals import keep_own_sigterm_handler

from blocks.channels.http import keep_connections
from blocks.channels.resolver import ChannelCache, configured_drivers
from blocks.prefect_api import address_settings
from flows.services import make_services, use_services
from orchestration.encryption import load_key
from orchestration.errors import Unavailable
from orchestration.settings import Settings
from orchestration.store.database import Database, open_database
from orchestration.store.encrypted_cache import EncryptedCache
from service.mirror.flow_runs import FlowRunMirror
from service.mirror.stories import StoryWriter
from service.prefect_patches import limit_answers, limit_end_of_services
from service.worker.breaker import Breaker
from service.worker.executor import RunExecutor
from service.worker.metrics import serve_metrics, worker_gauges, worker_metrics
from service.worker.reach import Reach
from service.worker.watch import Watch
from service.worker.worker import Worker


@asynccontextmanager
async def open_worker(
    settings: Settings,
    *,
    database_url: str,
    prefect_api_url: str | None,
    concurrency: int | None = None,
    prepare: Callable[[PrefectClient, Database], Coroutine[Any, Any, None]] | None = None,
) -> AsyncGenerator[Worker]:
    """A worker to `start()`. When the body ends, its runs get the grace time to end.

    Within the body Prefect's settings, Prefect's clients and the services are those of the worker. `prefect_api_url`
    None leaves Prefect's own setting. `prepare` runs in the background.

    Raises:
        BadSetting: the key of the encrypted cache cannot be used.
        Unavailable: the database does not answer.
    """
    slots = concurrency or settings.worker_concurrency
    keep_own_sigterm_handler()
    limit_end_of_services()
    limit_answers()
    async with AsyncExitStack() as opening:
        database = await opening.enter_async_context(open_database(database_url, pool_size=slots + 4, relaxed=True))
        client = await enter_prefect(opening, settings, prefect_api_url)
        channels = ChannelCache(EncryptedCache(database), load_key(settings), drivers=configured_drivers(settings))
        with suppress(Unavailable):
            await channels.restore()
        metrics = worker_metrics(settings)
        services = make_services(settings, database, blocks=channels, counted=[metrics] if metrics else [])
        opening.enter_context(use_services(services))
        await opening.enter_async_context(keep_connections())
        breaker, mirror, stories = Breaker(), FlowRunMirror(client), StoryWriter(client, database)
        executor = RunExecutor(services, mirror, stories, breaker, settings.home.expanduser() / "results")
        patience = settings.prefect_patience_seconds
        watch = Watch(client, mirror, breaker, channels, database, lambda: worker.wake(), patience)
        worker = Worker(services, executor, watch, breaker, concurrency=slots)
        await opening.enter_async_context(serve_metrics(settings, metrics, worker_gauges(worker, breaker)))
        # Once before the first claim, so that the first alert does not pay for detecting an outage or a pause.
        await watch.look()
        reach = Reach(services.channels, EncryptedCache(database))
        await reach.look()
        duties: list[Coroutine[Any, Any, None]] = [reach.run(), stories.run(lambda: not worker.working)]
        if prepare is not None:
            duties.append(prepare(client, database))
        try:
            with _in_background(duties):
                yield worker
        finally:
            await worker.end(settings.worker_grace_seconds)


@contextmanager
def _in_background(duties: Sequence[Coroutine[Any, Any, None]]) -> Generator[None]:
    """Execute these beside the body, and cancel them at its end."""
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def enter_prefect(opening: AsyncExitStack, settings: Settings, api_url: str | None) -> PrefectClient:
    """Use Prefect's settings and clients for a process that executes runs, until the stack ends. Returns the client.

    `api_url` None leaves Prefect's own address.
    """
    opening.enter_context(temporary_settings(prefect_settings(settings, api_url)))
    # One client for the process: otherwise each run builds two and loads the certificates twice.
    client = (await opening.enter_async_context(AsyncClientContext.get_or_create())).client
    opening.enter_context(SyncClientContext.get_or_create())
    return client


def prefect_settings(settings: Settings, api_url: str | None) -> dict[Any, Any]:
    """Prefect's settings for a process that executes runs. `api_url` None leaves Prefect's own address."""
    address = address_settings(settings, api_url or settings.prefect_api_url)
    # The breaker decides what happens when Prefect fails; its client would try for a minute. Nor are settings
    # changed for single calls: making them anew takes 80 ms.
    own: dict[Any, Any] = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}
    if "PREFECT_WORKER_QUERY_SECONDS" not in os.environ:
        own[PREFECT_WORKER_QUERY_SECONDS] = 2.0
    if "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" not in os.environ:
        # Leases say who lives. Prefect's heartbeats are a thread and at least one event for each run.
        own[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    return {**own, **{name: value for name, value in address.items() if value is not None}}
