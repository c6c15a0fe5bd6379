"""Polls Prefect, once for all runs: whether it answers, what operators have set, and what they have cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.exceptions import ObjectNotFound

from blocks.channels.resolver import ChannelCache
from blocks.prefect_api import PrefectUnavailable, prefect_errors
from orchestration.engine.execution import executions
from orchestration.errors import Unavailable
from orchestration.signals import logger
from orchestration.store.database import Database
from service.mirror.flow_runs import FlowRunMirror
from service.worker.breaker import Breaker

WATCH_SECONDS = 1.5
"""Time between two polls."""
PART_OF_PATIENCE, LONGEST_POLL_SECONDS = 2 / 3, 10.0
"""How much of the patience with Prefect a poll may take. A slower Prefect counts as one that does not answer. A Prefect
that hangs is noticed soon, however patiently a single run waits for it."""

RENEW_SECONDS = 15.0
"""Time between two reads of what seldom changes: the deployment, the channel blocks, flow runs that must be ended."""
RENEW_TIMEOUT_SECONDS = 15.0
"""How long such a read may take."""


@dataclass(frozen=True, kw_only=True)
class OperatorControls:
    """What operators have set in Prefect."""

    paused: bool = False
    limit: int | None = None
    """The number of runs that all workers together may execute. None means no limit."""


@dataclass(eq=False)
class Watch:
    """Polls Prefect. `changed` is called when runs may be claimed that could not be claimed before."""

    client: PrefectClient
    mirror: FlowRunMirror
    breaker: Breaker
    channels: ChannelCache
    database: Database
    changed: Callable[[], None]
    patience_seconds: float = 3.0
    """How long Prefect may take to start a run."""
    controls: OperatorControls = OperatorControls()

    async def run(self) -> None:
        """Poll until cancelled."""
        # Side by side: a slow read of what seldom changes must not delay the discovery that Prefect hangs.
        async with asyncio.TaskGroup() as both:
            both.create_task(self._poll_forever())
            both.create_task(self._renew_forever())

    async def look(self) -> None:
        """Poll once, and read what seldom changes. It raises nothing: a Prefect that fails opens the breaker."""
        await self._poll()
        if self.breaker.closed:
            await self._renew()

    async def _poll_forever(self) -> None:
        while True:
            await self._poll()
            await self.breaker.wait_open(WATCH_SECONDS)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if self.breaker.closed:
                await self._renew()

    async def _poll(self) -> None:
        before = self.controls
        try:
            with prefect_errors():
                async with asyncio.timeout(min(self.patience_seconds * PART_OF_PATIENCE, LONGEST_POLL_SECONDS)):
                    if not self.breaker.closed and (failure := await self.client.api_healthcheck()) is not None:
                        raise failure
                    self.controls = await self._read_controls()
                    await self._pass_on_cancellations()
        except PrefectUnavailable as error:
            self.breaker.trip(str(error))
            return
        except Exception:  # noqa: BLE001 - a bug, and no outage: it must not end the worker
            logger.exception("Polling Prefect failed")
            return
        if before != self.controls:
            state = "paused" if self.controls.paused else "not paused"
            logger.info("Operators' settings in Prefect: %s, limit %s", state, self.controls.limit)
        if self.breaker.reset() or before != self.controls:
            self.changed()

    async def _renew(self) -> None:
        """Read what seldom changes. A failure here is no outage: the next read tries again."""
        try:
            with prefect_errors():
                async with self.breaker.limit(RENEW_TIMEOUT_SECONDS):
                    await self.channels.refresh()
                    await self.mirror.target(renew=True)
                    await self.mirror.reconcile(self.database, executions())
        except Unavailable as error:
            logger.warning(
                "Prefect's channel blocks and flow runs could not be read; the known channels stay in use: %s", error
            )
        except Exception:  # noqa: BLE001 - a bug, and no outage: it must not end the worker
            logger.exception("Reading the channel blocks and flow runs from Prefect failed")

    async def _read_controls(self) -> OperatorControls:
        """Pool, queue and deployment: each of them can pause, and the smallest limit counts."""
        target = await self.mirror.target()
        paused, limits = list[bool](), list[int | None]()
        try:
            if target.deployment_id is not None:
                deployment = await self.client.read_deployment(target.deployment_id)
                shared = deployment.global_concurrency_limit
                paused.append(deployment.paused)
                limits.append(shared.limit if shared is not None and shared.active else None)
            if target.pool is not None:
                pool = await self.client.read_work_pool(target.pool)
                paused.append(pool.is_paused)
                limits.append(pool.concurrency_limit)
            if target.queue_id is not None:
                queue = await self.client.read_work_queue(target.queue_id)
                paused.append(queue.is_paused)
                limits.append(queue.concurrency_limit)
        except ObjectNotFound:
            await self.mirror.target(renew=True)
        smallest = min((limit for limit in limits if limit is not None), default=None)
        return OperatorControls(paused=any(paused), limit=smallest)

    async def _pass_on_cancellations(self) -> None:
        live = {id_: execution for id_, execution in executions().items() if not execution.cancelled}
        if not live:
            return
        wanted = {"id": {"any_": list(live)}, "state": {"type": {"any_": ["CANCELLING", "CANCELLED"]}}}
        for flow_run in await self.client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            execution = live[str(flow_run.id)]
            run_id = execution.run.run_id
            logger.info(
                "Run %s was cancelled in Prefect and stops now. Resume it with: alert-pipeline resume %s",
                run_id,
                run_id,
            )
            execution.cancel()
