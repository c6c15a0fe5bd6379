"""Carries runs through Prefect in this process: one event loop, one database, one Prefect client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import copy_context
from typing import Any

import httpx
from prefect.client.schemas.objects import State
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.alert_pipeline import carry_in_prefect
from flows.definition_pipeline import flow_of
from flows.services import open_services, use_services
from orchestration.contracts import PipelineResult
from orchestration.errors import Unavailable
from orchestration.redaction import redact_text
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store import leases, runs
from orchestration.store.listing import find_run
from orchestration.store.story import read_story
from service.stack import StackAddresses
from tasks.holders import holder_name
from tasks.ingest.inbox import PushMetadata, accept
from tasks.run import Services
from tasks.taking import ensure_takable

AT_ONCE = 4
"""How many runs of a push go on at once: Prefect's server is one process, and more would only wait there."""


HAND_OVER_SECONDS = 5.0
"""How long the end of a process waits for Prefect to have the last events and log lines."""


class Runner:
    """Accepts pushes and carries their runs. Made by `open_runner()`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._slots = asyncio.Semaphore(AT_ONCE)
        # What calls in comes from other contexts; runs need the one with Prefect's settings and clients.
        self._context = copy_context()
        self._carrying: set[asyncio.Task[PipelineResult]] = set()
        # What is accepted here is carried here: no worker of the same stack may take it meanwhile.
        self._holder = holder_name()

    async def accept(self, request: RunRequest) -> list[str]:
        """Store the runs of a request; their ids.

        Raises:
            BadInput: the payload, a name, the definition or the channel is wrong; nothing is written.
            Unavailable: the database or Prefect does not answer; nothing is written.
        """
        await self._check_channel(request.options)
        # In the context with Prefect's settings: the block of a definition is read there.
        accepting = accept(self._services, request, PushMetadata(reserved_by=self._holder))
        return (await asyncio.create_task(accepting, context=self._context.copy())).run_ids

    async def carry_all(self, run_ids: Sequence[str]) -> list[PipelineResult]:
        """Carry stored runs to their ends, several at once; their results in the same order."""
        return await _results(*(self._spawn(self._carry(run_id)) for run_id in run_ids))

    async def resume(self, id_prefix: str) -> PipelineResult:
        """Carry one run, named by its id or the start of it, from where it stands to its end.

        Raises:
            RunNotFound, RunBusy, BadInput: the run cannot be taken, or several start so.
            Unavailable: the database or Prefect broke off, and the run is not at its end.
        """
        async with self._services.database.transaction() as tx:
            run = await find_run(tx, id_prefix)
        (result,) = await _results(self._spawn(self._carry(run.run_id)))
        return result

    async def keep_accepted(self) -> None:
        """Hold on, until cancelled, to the runs that wait for their turn here."""
        seconds = self._services.settings.lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                async with self._services.database.transaction() as tx:
                    await leases.renew_all(tx, self._holder, seconds=seconds)
            except Unavailable as error:
                logger.warning("The leases of waiting runs could not be renewed: %s", error)

    async def wait_until_idle(self) -> None:
        """Wait for the runs that are going on."""
        while self._carrying:
            await asyncio.wait(set(self._carrying))

    def _spawn(self, work: Coroutine[None, None, PipelineResult]) -> asyncio.Task[PipelineResult]:
        task = asyncio.create_task(work, context=self._context.copy())
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        return task

    async def _check_channel(self, options: RunOptions) -> None:
        """A channel that does not exist is an error now, not after the alert is stored."""
        if options.notify_driver:
            context = self._context.copy()
            await asyncio.create_task(self._select(options.notify_driver), context=context)

    async def _select(self, name: str) -> None:
        await self._services.channels.select(name)

    async def _carry(self, run_id: str) -> PipelineResult:
        try:
            return await self._carry_in_turn(run_id)
        except BaseException:
            await asyncio.shield(self._let_go(run_id))
            raise

    async def _let_go(self, run_id: str) -> None:
        """A run that is not carried here any more is one for a worker."""
        with suppress(Unavailable):
            async with self._services.database.transaction() as tx:
                await leases.release(tx, run_id, owner=self._holder)

    async def _carry_in_turn(self, run_id: str) -> PipelineResult:
        async with self._slots:
            async with self._services.database.transaction() as tx:
                record = await runs.get_run(tx, run_id)
            ensure_takable(record)
            with use_services(self._services):
                try:
                    state = await carry_in_prefect(record, flow_of(record))
                except (httpx.HTTPError, PrefectException) as error:
                    raise Unavailable(
                        f"Prefect broke off ({_in_words(error)}). "
                        f"The run is stored: resume it with alert-pipeline resume {run_id}"
                    ) from error
            return await self._result(run_id, state)

    async def _result(self, run_id: str, state: State[Any]) -> PipelineResult:
        async with self._services.database.transaction() as tx:
            story = await read_story(tx, run_id)
        if story.run.status.final:
            return story.result()
        raise Unavailable(
            f"The flow run ended {state.name} before run {run_id} did: {state.message} "
            f"The run is stored: resume it with alert-pipeline resume {run_id}"
        )


@asynccontextmanager
async def open_runner(settings: Settings, addresses: StackAddresses) -> AsyncGenerator[Runner]:
    """A runner on this stack. At the end it waits for the runs that are going on.

    Raises:
        Unavailable: the database or Prefect does not answer.
    """
    async with AsyncExitStack() as opening:
        services = await opening.enter_async_context(open_services(settings, addresses.database_url))
        opening.enter_context(temporary_settings({PREFECT_API_URL: addresses.prefect_api_url}))
        try:
            await opening.enter_async_context(AsyncClientContext.get_or_create())
            opening.enter_context(SyncClientContext.get_or_create())
        except (RuntimeError, httpx.HTTPError, PrefectException) as error:  # Prefect's client raises RuntimeError
            raise Unavailable(f"Prefect cannot be used: {_in_words(error)}") from error
        runner = Runner(services)
        keeping = asyncio.create_task(runner.keep_accepted())
        opening.callback(keeping.cancel)
        yield runner
        await runner.wait_until_idle()
        await _hand_over()


async def _hand_over() -> None:
    """Prefect sends events and log lines from threads of its own; wait until its server has them."""
    for worker in (EventsWorker, APILogWorker):
        drained = worker.drain_all(timeout=HAND_OVER_SECONDS, at_exit=False)
        if inspect.isawaitable(drained):
            await drained


async def _results(*carrying: asyncio.Task[PipelineResult]) -> list[PipelineResult]:
    """The results of the tasks, in order. Cancelled, it cancels each of them once.

    A cancelled anyio scope cancels what it waits for again and again; a run that is closing its rows and giving
    back its lease must be left to do so. `wait_until_idle()` waits for that.
    """
    try:
        return await asyncio.shield(asyncio.gather(*carrying))
    except asyncio.CancelledError:
        for task in carrying:
            task.cancel()
        raise


def _in_words(error: Exception) -> str:
    return redact_text(" ".join(str(error).split()) or type(error).__name__, limit=300)
