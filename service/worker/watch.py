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
WATCH_TIMEOUT_SECONDS = 2.0
"""How long a poll may take. A slower Prefect counts as one that does not answer."""

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


class Watch:
    """Polls Prefect. `changed` is called when runs may be claimed that could not be claimed before."""

    def __init__(
        self,
        client: PrefectClient,
        mirror: FlowRunMirror,
        breaker: Breaker,
        channels: ChannelCache,
        database: Database,
        changed: Callable[[], None],
    ) -> None:
        self._client = client
        self._mirror = mirror
        self._breaker = breaker
        self._channels = channels
        self._database = database
        self._changed = changed
        self.controls = OperatorControls()

    async def run(self) -> None:
        """Poll until cancelled."""
        # Side by side: a slow read of what seldom changes must not delay the discovery that Prefect hangs.
        async with asyncio.TaskGroup() as both:
            both.create_task(self._poll_forever())
            both.create_task(self._renew_forever())

    async def look(self) -> None:
        """Poll once, and read what seldom changes. It raises nothing: a Prefect that fails opens the breaker."""
        await self._poll()
        if self._breaker.closed:
            await self._renew()

    async def _poll_forever(self) -> None:
        while True:
            await self._poll()
            await self._breaker.wait_open(WATCH_SECONDS)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if self._breaker.closed:
                await self._renew()

    async def _poll(self) -> None:
        before = self.controls
        try:
            with prefect_errors():
                async with asyncio.timeout(WATCH_TIMEOUT_SECONDS):
                    if not self._breaker.closed and (failure := await self._client.api_healthcheck()) is not None:
                        raise failure
                    self.controls = await self._read_controls()
                    await self._pass_on_cancellations()
        except PrefectUnavailable as error:
            self._breaker.trip(str(error))
            return
        except Exception:  # noqa: BLE001 - a bug, and no outage: it must not end the worker
            logger.exception("Polling Prefect failed")
            return
        if before != self.controls:
            state = "paused" if self.controls.paused else "not paused"
            logger.info("Operators' settings in Prefect: %s, limit %s", state, self.controls.limit)
        if self._breaker.reset() or before != self.controls:
            self._changed()

    async def _renew(self) -> None:
        """Read what seldom changes. A failure here is no outage: the next read tries again."""
        try:
            with prefect_errors():
                async with self._breaker.patience(RENEW_TIMEOUT_SECONDS):
                    await self._channels.refresh()
                    await self._mirror.target(renew=True)
                    await self._mirror.reconcile(self._database, executions())
        except Unavailable as error:
            logger.warning(
                "Prefect's channel blocks and flow runs could not be read; the known channels stay in use: %s", error
            )
        except Exception:  # noqa: BLE001 - a bug, and no outage: it must not end the worker
            logger.exception("Reading the channel blocks and flow runs from Prefect failed")

    async def _read_controls(self) -> OperatorControls:
        """Pool, queue and deployment: each of them can pause, and the smallest limit counts."""
        target = await self._mirror.target()
        paused, limits = False, list[int | None]()
        try:
            if target.deployment_id is not None:
                deployment = await self._client.read_deployment(target.deployment_id)
                paused = paused or deployment.paused
                shared = deployment.global_concurrency_limit
                limits.append(shared.limit if shared is not None and shared.active else None)
            if target.pool is not None:
                pool = await self._client.read_work_pool(target.pool)
                paused = paused or pool.is_paused
                limits.append(pool.concurrency_limit)
            if target.queue_id is not None:
                queue = await self._client.read_work_queue(target.queue_id)
                paused = paused or queue.is_paused
                limits.append(queue.concurrency_limit)
        except ObjectNotFound:
            await self._mirror.target(renew=True)
        set_limits = [limit for limit in limits if limit is not None]
        return OperatorControls(paused=paused, limit=min(set_limits) if set_limits else None)

    async def _pass_on_cancellations(self) -> None:
        live = {flow_run_id: one for flow_run_id, one in executions().items() if not one.cancelled}
        if not live:
            return
        wanted = {"id": {"any_": list(live)}, "state": {"type": {"any_": ["CANCELLING", "CANCELLED"]}}}
        for flow_run in await self._client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            execution = live[str(flow_run.id)]
            run_id = execution.run.run_id
            logger.info(
                "Run %s was cancelled in Prefect and stops now. Resume it with: alert-pipeline resume %s",
                run_id,
                run_id,
            )
            execution.cancel()
