"""Carries runs through Prefect in this process: one event loop, one database, one Prefect client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from typing import Any

import prefect
from prefect.client.schemas.objects import State
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.alert_pipeline import alert_pipeline, flow_run_name, flow_run_tags, run_flow
from flows.services import open_services, use_services
from orchestration.contracts import PipelineResult
from orchestration.errors import Unavailable
from orchestration.settings import Settings
from orchestration.store import runs
from orchestration.store.records import RunOptions
from orchestration.store.story import read_story
from service.stack import StackAddresses
from tasks.ingest.inbox import accept_health_check, accept_push
from tasks.run import Services, ensure_takable

AT_ONCE = 4
"""How many runs of a push go on at once: Prefect's server is one process, and more would only wait there."""


class Runner:
    """Accepts pushes and carries their runs. Made by `open_runner()`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._slots = asyncio.Semaphore(AT_ONCE)
        # What calls in comes from other contexts; runs need the one with Prefect's settings and clients.
        self._context = copy_context()
        self._carrying: set[asyncio.Task[PipelineResult]] = set()

    async def accept(
        self, payload: object, *, source: str, environment: str, trace_id: str, options: RunOptions
    ) -> list[str]:
        """Store a push; the ids of its runs.

        Raises:
            BadInput: the payload, a name, or the wanted channel is no good; nothing is written.
            Unavailable: the database or Prefect does not answer; nothing is written.
        """
        await self._check_channel(options)
        return await accept_push(
            self._services, payload, source=source, environment=environment, trace_id=trace_id, options=options
        )

    async def accept_health_check(self, *, source: str, environment: str, trace_id: str, options: RunOptions) -> str:
        """Store a run about this host's own health; its id. Raises what `accept()` does."""
        await self._check_channel(options)
        return await accept_health_check(
            self._services, source=source, environment=environment, trace_id=trace_id, options=options
        )

    async def carry_all(self, run_ids: Sequence[str]) -> list[PipelineResult]:
        """Carry stored runs to their ends, several at once; their results in the same order."""
        return await asyncio.gather(*(self._spawn(self._carry(run_id)) for run_id in run_ids))

    async def carry(self, run_id: str) -> PipelineResult:
        """Carry one run from where it stands to its end.

        Raises:
            RunNotFound, RunBusy, BadInput: the run cannot be taken.
            Unavailable: the database or Prefect broke off, and the run is not at its end.
        """
        return await self._spawn(self._carry(run_id))

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
        async with self._slots:
            async with self._services.database.transaction() as tx:
                record = await runs.get_run(tx, run_id)
            ensure_takable(record)
            named = alert_pipeline.with_options(flow_run_name=flow_run_name(record))
            with use_services(self._services), prefect.tags(*flow_run_tags(record)):
                state = await run_flow(named, run_id)
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
        Unavailable: the database does not answer.
    """
    async with AsyncExitStack() as opening:
        services = await opening.enter_async_context(open_services(settings, addresses.database_url))
        opening.enter_context(temporary_settings({PREFECT_API_URL: addresses.prefect_api_url}))
        await opening.enter_async_context(AsyncClientContext.get_or_create())
        opening.enter_context(SyncClientContext.get_or_create())
        runner = Runner(services)
        yield runner
        await runner.wait_until_idle()
