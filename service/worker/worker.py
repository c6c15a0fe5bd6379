"""The worker's loop: claim while there is room, carry what was claimed, and end in good order."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from contextvars import copy_context

from orchestration.errors import Unavailable
from orchestration.redaction import redact_text
from orchestration.signals import logger
from orchestration.store import claims, workers
from orchestration.store.claims import Claim
from orchestration.store.listen import notifications
from orchestration.store.runs import INBOX_CHANNEL
from orchestration.store.workers import HEARTBEAT_SECONDS
from service.worker.breaker import Breaker
from service.worker.carry import Carrier
from service.worker.watch import Watch
from tasks.holders import may_live, process_name
from tasks.run import Services

POLL_SECONDS = 2.0
"""How often the worker looks for itself: for leases that ran out, and deadlines that nobody announces."""


class Worker:
    """Claims runs and carries them. Made by `open_worker()`."""

    def __init__(
        self, services: Services, carrier: Carrier, watch: Watch, breaker: Breaker, *, concurrency: int
    ) -> None:
        self.name = process_name()
        self.concurrency = concurrency
        self._services = services
        self._carrier = carrier
        self._watch = watch
        self._breaker = breaker
        self._wake = asyncio.Event()
        self._carrying: set[asyncio.Task[None]] = set()
        self._owed: set[str] = set()
        self._elsewhere = 0
        self._context = copy_context()
        self._duty: asyncio.Task[None] | None = None

    @property
    def services(self) -> Services:
        """What the runs of this process share."""
        return self._services

    @property
    def running(self) -> int:
        """How many runs this process is at, scheduled ones included."""
        return len(self._carrying) + self._elsewhere

    def wake(self) -> None:
        """Look for runs now."""
        self._wake.set()

    def occupy(self, places: int) -> None:
        """A run that Prefect's scheduler started takes (1) or gives back (-1) a place."""
        self._elsewhere += places
        self.wake()

    def start(self) -> asyncio.Task[None]:
        """Begin to claim and to carry. The task ends only if something in it breaks, or with `end()`."""
        self._duty = asyncio.create_task(self._run())
        return self._duty

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as duties:
            duties.create_task(self._listen())
            duties.create_task(self._beat())
            duties.create_task(self._watch.run())
            duties.create_task(self._claim_for_ever())

    async def end(self, grace_seconds: float) -> None:
        """Claim no more, and let the runs go on for so long; those that are not over then are given back."""
        duty, self._duty = self._duty, None
        if duty is None:
            return
        duty.cancel()
        await asyncio.wait({duty})
        await self._wait_idle(grace_seconds)
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            logger.warning("%d runs are given back as they stand", len(self._carrying))
            await asyncio.wait(self._carrying, timeout=5)
        await self._carrier.close()
        try:
            async with self._services.database.transaction() as tx:
                await workers.leave(tx, self.name)
        except Unavailable as error:
            logger.warning("The worker could not sign off: %s", error)

    async def _wait_idle(self, seconds: float) -> None:
        if self.running:
            logger.info("Waiting for %d runs, %g s at most", self.running, seconds)
        try:
            async with asyncio.timeout(seconds):
                while self.running:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return

    async def _claim_for_ever(self) -> None:
        looked_at = 0.0
        while True:
            self._wake.clear()
            by_itself = time.monotonic() - looked_at >= POLL_SECONDS
            try:
                if by_itself:
                    await self._tidy()
                await self._claim()
                if by_itself:
                    await self._claim_overdue()
                    looked_at = time.monotonic()
            except Unavailable as error:
                logger.warning("No runs can be claimed: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()

    async def _claim(self) -> None:
        """Take what there is room for."""
        controls = self._watch.controls
        room = 0 if controls.paused else self.concurrency - self.running
        if room > 0:
            self._carry_all(await self._take(room, limit_of_all=controls.limit))

    async def _claim_overdue(self) -> None:
        """A critical alert that has waited too long goes out whatever is set, and however full it is here."""
        room = 2 * self.concurrency - self.running
        if room > 0:
            self._carry_all(await self._take(room, overdue_only=True))

    def _carry_all(self, taken: list[Claim]) -> None:
        for claim in taken:
            # Each in the context in which the worker was opened, with Prefect's settings and client.
            task = asyncio.create_task(self._carry(claim), context=self._context.copy())
            self._carrying.add(task)
            task.add_done_callback(self._done)

    async def _take(self, room: int, *, overdue_only: bool = False, limit_of_all: int | None = None) -> list[Claim]:
        settings = self._services.settings
        async with self._services.database.transaction() as tx:
            return await claims.claim_runs(
                tx,
                process=self.name,
                limit=room,
                lease_seconds=settings.lease_seconds,
                deadline_seconds=settings.page_deadline_seconds,
                overdue_only=overdue_only,
                limit_of_all=limit_of_all,
            )

    async def _carry(self, claim: Claim) -> None:
        try:
            await self._carrier.carry(claim)
        except Unavailable as error:
            logger.warning("Run %s broke off and goes on later: %s", claim.run_id, error)
            self._owed.add(claim.owner)
        except Exception as error:  # noqa: BLE001 - a run with a bug must not end the worker
            logger.exception("Run %s broke off: %s", claim.run_id, redact_text(str(error)))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._carrying.discard(task)
        self.wake()

    async def _tidy(self) -> None:
        """Give back leases that nobody needs any more: those of dead processes of this host, and our own
        that could not be given back while the database was away."""
        async with self._services.database.transaction() as tx:
            holders = await claims.list_holders(tx)
            lost = {owner for owner in holders if owner in self._owed or not may_live(owner)}
            if lost:
                freed = await claims.free_leases(tx, lost)
                logger.warning("%d runs were left by a process that is gone; they go on where they stood", freed)
        self._owed.clear()

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(notifications(self._services.database.url, INBOX_CHANNEL)) as heard:
                    async for _ in heard:
                        self.wake()
            except Unavailable as error:
                logger.warning("The inbox is looked at every %g s for now: %s", POLL_SECONDS, error)
            await asyncio.sleep(1)

    async def _beat(self) -> None:
        host, pid, _ = self.name.rsplit("/", 2)
        while True:
            try:
                async with self._services.database.transaction() as tx:
                    await workers.beat(
                        tx,
                        name=self.name,
                        host=host,
                        pid=int(pid),
                        prefect_ok=self._breaker.closed,
                        running=self.running,
                    )
            except Unavailable as error:
                logger.warning("No heartbeat: %s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)
