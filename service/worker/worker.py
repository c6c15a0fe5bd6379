"""The worker's loop: claim while there is room, execute what was claimed, and end in good order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager, suppress
from contextvars import copy_context
from functools import partial

from orchestration.engine.lease import owner_is_alive, process_name
from orchestration.engine.run import Services
from orchestration.engine.waits import Slot, use_slot
from orchestration.errors import BadInput, RunBusy, RunNotFound, Unavailable
from orchestration.redaction import redact_text
from orchestration.signals import RunsClaimed, logger
from orchestration.store import claims, workers
from orchestration.store.claims import Claim
from orchestration.store.database import notifications
from orchestration.store.runs import INBOX_CHANNEL
from orchestration.store.workers import HEARTBEAT_SECONDS
from service.worker.breaker import Breaker
from service.worker.calendars import look_after_calendars
from service.worker.events import EventReporter
from service.worker.executor import RunExecutor
from service.worker.incidents import look_after_incidents
from service.worker.outages import look_after_channels
from service.worker.storms import look_after_storms
from service.worker.watch import Watch
from tasks.ingest.storms import Folded, fold_storms

RUNS_PER_SLOT = 16
"""How many runs a worker has at most for each slot, if most of them only wait."""

GATHER_SECONDS = 0.02
"""How long the worker waits for further slots to become free, while more runs wait than it could claim at once."""

POLL_SECONDS = 2.0
"""How often the worker polls: for expired leases, and for deadlines that no notification announces."""


class Worker:
    """Claims runs and executes them. Made by `open_worker()`."""

    def __init__(
        self, services: Services, executor: RunExecutor, watch: Watch, breaker: Breaker, *, concurrency: int
    ) -> None:
        self.name = process_name()
        self.concurrency = concurrency
        self._services = services
        self._executor = executor
        self._watch = watch
        self._breaker = breaker
        self._wake = asyncio.Event()
        self._executing: set[asyncio.Task[None]] = set()
        self._unreleased: set[str] = set()
        self._more_wait = False
        """Whether the latest claim has filled all slots, so that more runs may wait."""
        self._slots: set[Slot] = set()
        self._context = copy_context()
        self._duty: asyncio.Task[None] | None = None

    @property
    def services(self) -> Services:
        """The services that the runs of this process share."""
        return self._services

    @property
    def running(self) -> int:
        """How many runs this process executes, those that only wait and those that Prefect scheduled included."""
        return len(self._slots)

    @property
    def working(self) -> int:
        """How many of them do not only wait: for their next attempt, or for a channel that takes long to answer."""
        return sum(not slot.idle for slot in self._slots)

    def wake(self) -> None:
        """Look for runs now."""
        self._wake.set()

    @contextmanager
    def occupy(self) -> Generator[Slot]:
        """A run that is executed within the body has a slot of this worker."""
        slot = self._new_slot()
        try:
            with use_slot(slot):
                yield slot
        finally:
            self._free(slot)

    def _new_slot(self) -> Slot:
        slot = Slot(self.wake)
        self._slots.add(slot)
        return slot

    def _free(self, slot: Slot) -> None:
        self._slots.discard(slot)
        self.wake()

    def start(self) -> asyncio.Task[None]:
        """Begin to claim and to execute. The task ends with `end()`, and with nothing else."""
        self._duty = asyncio.create_task(self._run())
        return self._duty

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as duties:
            duties.create_task(_keep_up(self._listen))
            duties.create_task(_keep_up(self._beat))
            duties.create_task(_keep_up(self._watch.run))
            duties.create_task(_keep_up(partial(look_after_incidents, self._services)))
            duties.create_task(_keep_up(partial(look_after_calendars, self._services)))
            duties.create_task(_keep_up(partial(look_after_storms, self._services)))
            duties.create_task(_keep_up(self._keep_claiming))
            if self._services.settings.prefect_events:
                reporter = EventReporter(self._services.database, self._watch.client, self._breaker, self.name)
                duties.create_task(_keep_up(reporter.run))

    async def end(self, grace_seconds: float) -> None:
        """Claim no more, and wait so long for the runs; those that are not over then are released."""
        duty, self._duty = self._duty, None
        if duty is None:
            return
        duty.cancel()
        await asyncio.wait({duty})
        await self._wait_idle(grace_seconds)
        for task in self._executing:
            task.cancel()
        if self._executing:
            logger.warning("Releasing %d unfinished runs", len(self._executing))
            await asyncio.wait(self._executing, timeout=5)
        await self._executor.close()
        await self._services.pending_answers.close()
        try:
            async with self._services.database.transaction() as tx:
                await workers.leave(tx, self.name)
        except Unavailable as error:
            logger.warning("The end of this worker could not be recorded: %s", error)

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

    async def _keep_claiming(self) -> None:
        next_poll = next_run = 0.0
        while True:
            self._wake.clear()
            polls, is_due = time.monotonic() >= next_poll, time.monotonic() >= next_run
            try:
                if polls:
                    await self._free_runs()
                if polls or is_due:  # before the claim: what becomes due in between is claimed, or wakes it again
                    next_run = time.monotonic() + await self._seconds_until_due()
                await self._claim()
                if polls:
                    await self._claim_overdue()
                    next_poll = time.monotonic() + POLL_SECONDS
            except Unavailable as error:
                logger.warning("No runs can be claimed: %s", error)
                next_poll = time.monotonic() + POLL_SECONDS
                next_run = next_poll
            with suppress(TimeoutError):
                async with asyncio.timeout(min(next_run, next_poll) - time.monotonic()):
                    await self._wake.wait()
            if self._more_wait:
                await asyncio.sleep(GATHER_SECONDS)

    async def _free_runs(self) -> None:
        """Make more runs claimable. A bug here, or a row that nobody expects, must not keep the other runs waiting."""
        for duty in (self._release_lost, partial(look_after_channels, self._services)):
            try:
                await duty()
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001 - whatever fails here, runs are claimed
                logger.exception("A part of the worker failed; it is tried again in %g s", POLL_SECONDS)

    async def _seconds_until_due(self) -> float:
        """The time until the next run becomes due, or until the next poll if that is sooner."""
        async with self._services.database.statement() as tx:
            seconds = await claims.seconds_until_due(tx)
        return POLL_SECONDS if seconds is None else min(seconds, POLL_SECONDS)

    async def _claim(self) -> None:
        """Claim as many runs as there are free slots, after what is a storm has become one run."""
        folded = await self._fold()
        if folded.more:
            self.wake()  # what is no storm does not wait for it
        controls = self._watch.controls
        room = 0 if controls.paused else self._room(self.concurrency)
        if room > 0:
            claimed = await self._claim_runs(room, limit_of_all=controls.limit, up_to=folded.seen)
            self._more_wait = len(claimed) == room
            self._start_all(claimed, storm=folded.storm)

    async def _fold(self) -> Folded:
        try:
            return await fold_storms(self._services)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - without it each incident is told by itself
            logger.exception("Waiting runs could not be folded into a storm")
            return Folded()

    async def _claim_overdue(self) -> None:
        """Claim critical runs that have waited too long, whatever is set in Prefect and however busy this worker is."""
        room = self._room(2 * self.concurrency)
        if room > 0:
            self._start_all(await self._claim_runs(room, overdue_only=True))

    def _room(self, slots: int) -> int:
        """How many more runs this worker can execute with so many slots. Runs that only wait need none, but memory."""
        return min(slots - self.working, slots * RUNS_PER_SLOT - self.running)

    def _start_all(self, claimed: list[Claim], *, storm: bool = False) -> None:
        if claimed:
            overdue = sum(claim.overdue for claim in claimed)
            self._services.signals.note(RunsClaimed(count=len(claimed), overdue=overdue))
        for claim in claimed:
            # Each in the context in which the worker was opened, with Prefect's settings and client.
            slot = self._new_slot()
            task = asyncio.create_task(self._execute(claim, slot, storm=storm), context=self._context.copy())
            self._executing.add(task)
            task.add_done_callback(self._executing.discard)
            task.add_done_callback(lambda _, slot=slot: self._free(slot))

    async def _claim_runs(
        self, room: int, *, overdue_only: bool = False, limit_of_all: int | None = None, up_to: int | None = None
    ) -> list[Claim]:
        settings, database = self._services.settings, self._services.database
        async with database.statement() if limit_of_all is None else database.transaction() as tx:
            return await claims.claim_runs(
                tx,
                process=self.name,
                limit=room,
                lease_seconds=settings.lease_seconds,
                deadline_seconds=settings.page_deadline_seconds,
                overdue_only=overdue_only,
                limit_of_all=limit_of_all,
                up_to=up_to,
            )

    async def _execute(self, claim: Claim, slot: Slot, *, storm: bool) -> None:
        try:
            with use_slot(slot):
                await self._executor.execute(claim, storm=storm)
        except (RunBusy, RunNotFound, BadInput) as error:
            logger.warning("Run %s is left alone: %s", claim.run_id, error)
        except Unavailable as error:
            logger.warning("Run %s broke off and goes on later: %s", claim.run_id, error)
            self._unreleased.add(claim.owner)
        except Exception as error:  # noqa: BLE001 - an error in one run must not end the worker
            logger.exception("Run %s broke off: %s", claim.run_id, redact_text(str(error)))

    async def _release_lost(self) -> None:
        """Release leases that nobody needs any more: those of dead processes of this host, and our own that could not
        be released while the database was away."""
        async with self._services.database.transaction() as tx:
            owners = await claims.list_lease_owners(tx)
            lost = {owner for owner in owners if owner in self._unreleased or not owner_is_alive(owner)}
            if lost:
                freed = await claims.release_leases(tx, lost)
                logger.warning(
                    "%d runs were interrupted (their process died, or the database was down): workers continue them "
                    "at the first stage that has not succeeded",
                    freed,
                )
        self._unreleased.clear()

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(notifications(self._services.database.url, INBOX_CHANNEL)) as heard:
                    async for _ in heard:
                        self.wake()
            except Unavailable as error:
                logger.warning("No notifications of new runs, polling every %g s: %s", POLL_SECONDS, error)
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
                logger.warning("The heartbeat could not be written: %s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)


async def _keep_up(duty: Callable[[], Awaitable[None]]) -> None:
    """Do a duty until cancelled, and again after an error that it does not expect: no row, channel or block, and no bug
    in one duty, may end the worker, which every run needs."""
    while True:
        try:
            await duty()
        except Exception:  # noqa: BLE001 - whatever it is
            logger.exception("A part of the worker failed; it starts again in %g s", POLL_SECONDS)
        await asyncio.sleep(POLL_SECONDS)
