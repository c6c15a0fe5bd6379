"""Looks at Prefect, once for all runs: does it answer, what have operators set, what have they cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.exceptions import ObjectNotFound

from blocks.channels.shelf import ChannelShelf
from orchestration.engine.execution import executions
from orchestration.errors import Unavailable
from orchestration.signals import logger
from orchestration.store.database import Database
from service.worker.breaker import Breaker
from service.worker.mirror import PREFECT_ERRORS, Mirror

WATCH_SECONDS = 1.5
PROBE_SECONDS = 2.0
"""An answer that takes longer is none."""

RENEW_SECONDS = 15.0
"""How often what seldom changes is looked at: which deployment there is, and the channel blocks."""
RENEW_PATIENCE_SECONDS = 15.0
"""How long such a look may take."""


@dataclass(frozen=True, kw_only=True)
class Will:
    """What operators have set in Prefect."""

    paused: bool = False
    limit: int | None = None
    """How many runs all workers together may have."""


class Watch:
    """One look every second and a half. `changed` is called when claims may be possible that were not."""

    def __init__(
        self,
        client: PrefectClient,
        mirror: Mirror,
        breaker: Breaker,
        shelf: ChannelShelf | None,
        database: Database,
        changed: Callable[[], None],
    ) -> None:
        self._client = client
        self._mirror = mirror
        self._breaker = breaker
        self._shelf = shelf
        self._database = database
        self._changed = changed
        self.will = Will()

    async def run(self) -> None:
        """Look until cancelled."""
        # Side by side: a slow look at what seldom changes must not keep anybody from seeing that Prefect hangs.
        async with asyncio.TaskGroup() as both:
            both.create_task(self._look_for_ever())
            both.create_task(self._renew_for_ever())

    async def look(self) -> None:
        """Look once, at what seldom changes as well."""
        await self._look()
        if self._breaker.closed:
            await self._renew()

    async def _look_for_ever(self) -> None:
        while True:
            await self._look()
            await self._breaker.wait_open(WATCH_SECONDS)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if self._breaker.closed:
                await self._renew()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                if not self._breaker.closed and (broken := await self._client.api_healthcheck()) is not None:
                    raise broken
                before, self.will = self.will, await self._read_will()
                await self._pass_on_cancellations()
        except PREFECT_ERRORS as error:
            self._breaker.trip(f"{type(error).__name__}: {error}".rstrip(": "))
            return
        except Exception:  # noqa: BLE001 - it is a bug, and no outage: runs go on as before
            logger.exception("A look at Prefect went wrong")
            return
        if before != self.will:
            logger.info("Prefect: %s, limit %s", "paused" if self.will.paused else "not paused", self.will.limit)
        if self._breaker.reset() or before != self.will:
            self._changed()

    async def _renew(self) -> None:
        """What need not be looked at each time. What fails here comes again, and is no outage."""
        try:
            async with self._breaker.patience(RENEW_PATIENCE_SECONDS):
                if self._shelf is not None:
                    await self._shelf.refresh()
                await self._mirror.place(renew=True)
                await self._mirror.reconcile(self._database, executions())
        except (*PREFECT_ERRORS, Unavailable) as error:
            logger.warning("A look at Prefect broke off: %s: %s", type(error).__name__, error)

    async def _read_will(self) -> Will:
        """The pool, the queue and the deployment; each may pause, the smallest limit counts."""
        place = await self._mirror.place()
        paused, limits = False, list[int | None]()
        try:
            if place.deployment_id is not None:
                deployment = await self._client.read_deployment(place.deployment_id)
                paused = paused or deployment.paused
                shared = deployment.global_concurrency_limit
                limits.append(shared.limit if shared is not None and shared.active else None)
            if place.pool is not None:
                pool = await self._client.read_work_pool(place.pool)
                paused = paused or pool.is_paused
                limits.append(pool.concurrency_limit)
            if place.queue_id is not None:
                queue = await self._client.read_work_queue(place.queue_id)
                paused = paused or queue.is_paused
                limits.append(queue.concurrency_limit)
        except ObjectNotFound:
            await self._mirror.place(renew=True)
        set_limits = [limit for limit in limits if limit is not None]
        return Will(paused=paused, limit=min(set_limits) if set_limits else None)

    async def _pass_on_cancellations(self) -> None:
        live = {flow_run_id: one for flow_run_id, one in executions().items() if not one.cancelled}
        if not live:
            return
        wanted = {"id": {"any_": list(live)}, "state": {"type": {"any_": ["CANCELLING", "CANCELLED"]}}}
        for flow_run in await self._client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            handover = live[str(flow_run.id)]
            logger.info("Run %s was cancelled in Prefect: it stops where it stands", handover.run.run_id)
            handover.cancel()
