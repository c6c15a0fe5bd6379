"""A worker that is bounded to its own runs: what it accepts it executes, in this process, and nothing else.

The command line and the Python API are such a worker. The executor is every worker's, so that a Prefect that breaks off
is answered by the direct engine here too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import copy_context

from blocks.channels.resolver import ChannelCache
from blocks.prefect_api import prefect_errors
from flows.services import make_services
from orchestration.analysis import LOCAL
from orchestration.contracts import PipelineResult
from orchestration.encryption import load_key
from orchestration.engine.lease import lost_owner, new_lease_owner, release_lease
from orchestration.engine.run import Services
from orchestration.errors import BadInput, BadSetting, Unavailable
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store import claims, runs
from orchestration.store.claims import Claim
from orchestration.store.database import open_database
from orchestration.store.encrypted_cache import EncryptedCache
from orchestration.store.runs import find_run
from orchestration.store.story import read_story
from service.mirror.flow_runs import FlowRunMirror
from service.mirror.stories import StoryWriter
from service.prefect_patches import limit_answers, limit_end_of_services, send_what_is_queued
from service.stack import StackAddresses
from service.worker.breaker import Breaker
from service.worker.executor import RunExecutor
from service.worker.process import enter_prefect
from service.worker.watch import WATCH_SECONDS, Watch
from tasks.analyze.stage import ensure_provider, find_model
from tasks.ingest.inbox import PushMetadata, accept

MAX_CONCURRENT_RUNS = 4
"""How many runs of a push are executed at once: Prefect's server is one process, and more would only wait there."""

BLOCKS_TIMEOUT_SECONDS = 15.0
"""How long a Prefect that has just been started may take to list the channel blocks."""

DRAIN_SECONDS = 5.0
"""How long the end of a process waits until Prefect has the last events and log lines."""


class BoundedWorker:
    """Accepts requests and executes their runs. Made by `open_bounded_worker()`."""

    def __init__(self, services: Services, executor: RunExecutor) -> None:
        self._services = services
        self._executor = executor
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_RUNS)
        # What calls in comes from other contexts; runs need the one with Prefect's settings and clients.
        self._context = copy_context()
        self._executing: set[asyncio.Task[PipelineResult]] = set()
        # No other worker of the same stack claims what is accepted here.
        self._owner = new_lease_owner()

    async def accept(self, request: RunRequest) -> list[str]:
        """Store the runs of a request; their ids.

        Raises:
            BadInput: the payload, a name, the definition or the channel is wrong; nothing is written.
            Unavailable: the database or Prefect does not answer; nothing is written.
        """
        # In the context with Prefect's settings: the blocks of channels and definitions are read there.
        accepting = asyncio.create_task(self._accept(request), context=self._context.copy())
        return await accepting

    async def execute_all(self, run_ids: Sequence[str]) -> list[PipelineResult]:
        """Execute accepted runs, several at once; their results in the same order."""
        return await _results(*(self._start(run_id, self._owner) for run_id in run_ids))

    async def resume(self, id_prefix: str) -> PipelineResult:
        """Execute one run from where it stands to its end. It is named by its id or the start of it.

        Raises:
            RunNotFound, RunBusy, BadInput: the run cannot be executed, or several ids start so.
            Unavailable: the database broke off, and the run is not at its end.
        """
        async with self._services.database.transaction() as tx:
            run = await find_run(tx, id_prefix)
        (result,) = await _results(self._start(run.run_id, new_lease_owner()))
        return result

    async def keep_reservations(self) -> None:
        """Renew, until cancelled, the leases of accepted runs that wait for a slot."""
        seconds = self._services.settings.lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                async with self._services.database.transaction() as tx:
                    await claims.renew_all(tx, self._owner, seconds=seconds)
            except Unavailable as error:
                logger.warning("The leases of waiting runs could not be renewed: %s", error)

    async def wait_until_idle(self) -> None:
        """Wait for the runs that are being executed."""
        while self._executing:
            await asyncio.wait(set(self._executing))

    async def _accept(self, request: RunRequest) -> list[str]:
        await self._ensure_provider(request.options.provider)
        await self._ensure_channel(request.options)
        return (await accept(self._services, request, PushMetadata(reserved_by=self._owner))).run_ids

    async def _ensure_provider(self, name: str | None) -> None:
        """Refuse who cannot analyze, so that a mistake is no outage of the analysis.

        Raises:
            BadInput: there is no such provider or model, or it is switched off.
        """
        ensure_provider(name)
        if name is not None and name not in (LOCAL, self._services.analysis.name):
            with suppress(Unavailable, BadSetting):  # the run finds out, and says so
                await find_model(self._services, name)

    async def _ensure_channel(self, options: RunOptions) -> None:
        """Resolve the run's channels before the alert is stored. From here on they are known without Prefect, too.

        Raises:
            BadInput: the channel that the options name does not exist.
            Unavailable: Prefect does not answer, and nothing else says where messages go.
        """
        try:
            await self._services.channels.select(options.notify_driver)
        except (BadInput, BadSetting):
            if options.notify_driver is not None:
                raise  # a mistake in the default channels is the notify stage's to report
        except Unavailable:
            if not options.defined:
                raise  # the nodes of a definition may name channels of their own, or none

    def _start(self, run_id: str, owner: str) -> asyncio.Task[PipelineResult]:
        task = asyncio.create_task(self._execute(run_id, owner), context=self._context.copy())
        self._executing.add(task)
        task.add_done_callback(self._executing.discard)
        return task

    async def _execute(self, run_id: str, owner: str) -> PipelineResult:
        try:
            async with self._slots:
                async with self._services.database.transaction() as tx:
                    record = await runs.get_run(tx, run_id)
                if record.lease_owner != owner:
                    lost_owner(record)  # refuse before Prefect gets a flow run of it
                await self._executor.execute(Claim(record=record, owner=owner, overdue=False))
            async with self._services.database.transaction() as tx:
                return (await read_story(tx, run_id)).result()
        except BaseException:
            # A run that is not executed here any more is one for a worker.
            await asyncio.shield(release_lease(self._services, run_id, owner))
            raise


@asynccontextmanager
async def open_bounded_worker(
    settings: Settings, addresses: StackAddresses, *, console: bool = False
) -> AsyncGenerator[BoundedWorker]:
    """A bounded worker on this stack. At the end it waits for the runs that are being executed.

    With `console`, messages go to the console where no channel is set up.

    Raises:
        Unavailable: the database or Prefect does not answer.
    """
    limit_end_of_services()
    limit_answers()
    async with AsyncExitStack() as opening:
        database = await opening.enter_async_context(open_database(addresses.database_url))
        # What this process knows of channels is nothing that workers and the API go by: it stores none of it.
        copies = EncryptedCache(database)
        channels = ChannelCache(copies, load_key(settings), drivers=None, timeout_seconds=BLOCKS_TIMEOUT_SECONDS)
        services = make_services(settings, database, blocks=channels, console=console)
        with prefect_errors():
            client = await enter_prefect(opening, settings, addresses.prefect_api_url)
        breaker, mirror = Breaker(), FlowRunMirror(client)
        # A person waits here, not a page: a Prefect that has just been started may take its time.
        results = settings.home.expanduser() / "results"
        executor = RunExecutor(services, mirror, StoryWriter(client, database), breaker, results, hurry=False)
        worker = BoundedWorker(services, executor)
        watch = Watch(client, mirror, breaker, channels, database, lambda: None, settings.prefect_patience_seconds)
        for duty in (worker.keep_reservations(), _watch_later(watch)):
            opening.callback(asyncio.create_task(duty).cancel)
        yield worker
        await worker.wait_until_idle()
        await executor.close()
        await send_what_is_queued(DRAIN_SECONDS if breaker.closed else 0)


async def _watch_later(watch: Watch) -> None:
    """Watch Prefect as a worker does, but not in the first moments: most commands are over by then."""
    await asyncio.sleep(WATCH_SECONDS)
    await watch.run()


async def _results(*executing: asyncio.Task[PipelineResult]) -> list[PipelineResult]:
    """The results of the tasks, in order. Cancelled, it cancels each of them once.

    A cancelled anyio scope cancels what it waits for again and again; a run that is closing its rows and releasing its
    lease must be left to do so. `wait_until_idle()` waits for that.
    """
    try:
        return await asyncio.shield(asyncio.gather(*executing))
    except asyncio.CancelledError:
        for task in executing:
            task.cancel()
        raise
