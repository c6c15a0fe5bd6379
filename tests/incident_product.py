"""The product as the incident machine drives it: workers with their executors, what people do, and time that passes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.orchestration import PrefectClient
from sqlalchemy import text

from orchestration.engine.execution import DIRECT, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.engine.waits import Slot, use_slot
from orchestration.errors import IllegalTransition, PipelineError, Unavailable
from orchestration.requests import RunRequest
from orchestration.settings import Settings
from orchestration.signals import Signals
from orchestration.store import actions, claims, ingest_order
from orchestration.store.actions import Actor, Via
from orchestration.store.database import Database
from service.mirror.flow_runs import FlowRunMirror
from service.mirror.stories import StoryWriter
from service.worker import executor
from service.worker.breaker import Breaker
from service.worker.executor import RunExecutor
from service.worker.outages import look_after_channels
from tasks.analyze.local import LocalAnalysis
from tasks.ingest.inbox import PushMetadata, accept
from tasks.kinds import KINDS
from tests.incident_senders import Push
from tests.incident_world import (
    JumpingLoop,
    MoodyChannel,
    MoodyChannels,
    MortalDatabase,
    Worker,
    current_worker,
    empty,
    let_pass,
    overslept_at_claim,
)

ADA = Actor(by="ada", via=Via.CLI)
LEASE = timedelta(seconds=30)

_QUIET = """
    select not exists (
            select from pipeline_run as run
            where run.status not in ('notified', 'skipped', 'failed') and run.reason not in ('reminder', 'expiry')
                and (run.incident_id = incident.id
                    or run.incident_key = incident.incident_key and run.environment = incident.environment)
        ) and not exists (
            select from incident_channel as known
            where known.incident_id = incident.id
                and (known.version < incident.news_version or known.failing_since is not null)
        )
    from incident where id = :id
"""


@dataclass(frozen=True)
class Recorded:
    """A run whose ingest the product has recorded. `position` is that of the history at that moment."""

    run_id: str
    position: int


def executor_without_prefect(services: Services, results: Path) -> RunExecutor:
    """An executor whose copies the workers have: to make one takes as long as some runs."""
    breaker, mirror = Breaker(), cast("FlowRunMirror", None)
    breaker.trip("there is no Prefect")
    stories = StoryWriter(cast("PrefectClient", None), cast("Database", None))
    return RunExecutor(services, mirror, stories, breaker, results)


class Product:
    """Database, channels and workers. `shift` is how far the machine's clock is ahead of the real one."""

    def __init__(self, loop: JumpingLoop, database: Database, settings: Settings, executor: RunExecutor) -> None:
        self.loop, self.database, self.settings, self._executor = loop, database, settings, executor
        self.shift = timedelta()
        self.workers: list[Worker] = []
        self.surprises: list[str] = []
        """Errors that no run may break off with."""
        self.channels = MoodyChannels(
            *(MoodyChannel(name, database, lambda: self.now) for name in ("chat", "mail", "spare"))
        )
        self.do(empty(database))
        self.services = self._services(database)

    def do(self, coroutine: Any) -> Any:
        """Let the machine do something; what does not end within two minutes never does."""
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 120))

    @property
    def now(self) -> datetime:
        """The time on the machine's clock."""
        return datetime.now(UTC) + self.shift

    def _services(self, database: Database) -> Services:
        return Services(
            database=database,
            signals=Signals([]),
            settings=self.settings,
            channels=self.channels,
            analysis=LocalAnalysis(),
            kinds=KINDS,
        )

    # Senders

    async def accept(self, push: Push) -> tuple[str, bool, tuple[str, str]]:
        """Accept a push. Returns its run, whether that is a duplicate, and the environment and key of its incident."""
        request = RunRequest(payload=push.body(self.shift), source=push.vendor, environment=push.environment)
        written = await accept(self.services, request, PushMetadata(skip_duplicates=True))
        (run_id,) = written.run_ids
        async with self.database.statement() as tx:
            query = text("select environment, incident_key from pipeline_run where run_id = :id")
            row = (await tx.execute(query, {"id": run_id})).one()
        return run_id, bool(written.duplicates), (row[0], row[1])

    # Channels

    async def answer(self, name: str, answers: bool) -> None:
        """A channel that hangs answers, or it never will. What a worker has sent that is asleep stays as it is."""
        for sending in self.channels.all[name].hanging:
            if not sending.worker.database.asleep:
                sending.answers = answers
                sending.go.set()
        await self.settle()

    # Workers

    def worker(self, number: int) -> Worker:
        """A worker that is alive and awake."""
        while len(working := [one for one in self.workers if one.works]) <= number:
            name = f"machine/{len(self.workers)}/1"
            worker = Worker(name, MortalDatabase(self.database, partial(self._bury, name)), None)
            worker.executor = copy(self._executor)
            worker.executor._services = self._services(worker.database)
            self.workers.append(worker)
        return working[number]

    def _bury(self, name: str) -> None:
        for worker in self.workers:
            if worker.name == name:
                for task in worker.tasks:
                    task.cancel()

    async def _claim(self, worker: Worker, limit: int) -> int:
        try:
            async with worker.database.transaction() as tx:
                claimed = await claims.claim_runs(
                    tx, process=worker.name, limit=limit, lease_seconds=LEASE.total_seconds(), deadline_seconds=30.0
                )
        except Unavailable:
            return 0
        for claim in claimed:
            task = asyncio.create_task(self._execute(worker, claim))
            worker.tasks.add(task)
            task.add_done_callback(worker.tasks.discard)
            if worker.database.dead:
                task.cancel()
        return len(claimed)

    async def _execute(self, worker: Worker, claim: claims.Claim) -> None:
        current_worker.set(worker)
        overslept_at_claim.set(worker.overslept)
        try:
            with suppress(PipelineError, asyncio.CancelledError), use_slot(Slot()):
                await worker.executor.execute(claim)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            if not worker.database.dead:
                self.surprises.append(f"run {claim.run_id}: {error!r}")

    async def settle(self) -> None:
        """Wait until every run is over or waits: for a channel that hangs, for its next attempt, or asleep."""
        quiet = waits = 0
        while quiet < 3:
            await asyncio.sleep(0)
            if self.database.in_use:
                await asyncio.sleep(0.0005)
                quiet, waits = 0, waits + 1
                if waits % 1000 == 0:
                    gc.collect()  # a task that was cancelled while it got its connection has not given it back
            else:
                quiet = quiet + 1 if self.loop.is_idle() else 0
        for refusal in (one for channel in self.channels.all.values() for one in channel.refused):
            refusal.known |= not refusal.sending.worker.database.asleep

    async def work(
        self, first: int, second: int, *, dies_after: int | None = None, sleeps_after: int | None = None
    ) -> int:
        """Two workers claim and execute up to so many runs each. The first may die or fall asleep. Returns how many."""
        workers = self.worker(0), self.worker(1)
        workers[0].database.dies_after, workers[0].database.sleeps_after = dies_after, sleeps_after
        claiming = [asyncio.create_task(self._claim(one, n)) for one, n in zip(workers, (first, second), strict=True)]
        await self.settle()
        workers[0].database.dies_after, workers[0].database.sleeps_after = None, None
        return sum(one.result() for one in claiming if one.done())

    async def poll(self) -> None:
        """A worker looks after channels, and after runs of workers that are gone."""
        async with self.database.transaction() as tx:
            gone = tuple(f"{worker.name}/" for worker in self.workers if worker.database.dead)
            if gone and (owners := [one for one in await claims.list_lease_owners(tx) if one.startswith(gone)]):
                await claims.release_leases(tx, owners)
        await look_after_channels(self.services)

    async def kill(self, number: int) -> None:
        """A worker dies where it stands."""
        self.worker(number).database.die()
        await self.settle()

    async def wake_all(self) -> None:
        """Every worker that is asleep wakes up, and goes on where it stood.

        One that still holds a push which it has read, and not recorded, dies: `let_pass()` cannot move what is in its
        memory, so that it would record moments that were never named.
        """
        async with self.database.statement() as tx:
            query = text("select lease_owner from pipeline_run where awaits_ingest and lease_owner is not null")
            holders = {owner.rpartition("/")[0] for owner in (await tx.execute(query)).scalars()}
        for worker in self.workers:
            if worker.database.asleep and worker.outlived and worker.name in holders:
                worker.database.die()
            worker.outlived = False
            worker.database.wake()
        await self.settle()

    async def left_to_do(self) -> list[dict[str, Any]]:
        """The runs that are left to do now, or soon: what else waits in the queue is a reminder or an expiry.

        One that found a push which was not recorded yet looks again after 5 minutes.
        """
        async with self.database.statement() as tx:
            query = """
                select run_id, reason, status, current_stage, due_at, lease_owner, lease_expires_at, last_error_message
                from pipeline_run
                where status not in ('notified', 'skipped', 'failed')
                    and not (
                        status = 'pending' and reason in ('reminder', 'expiry')
                        and due_at > clock_timestamp() + interval '6 minutes'
                    )
            """
            return [dict(row) for row in (await tx.execute(text(query))).mappings()]

    # People

    async def act(self, pick: int, action: str, until: timedelta) -> tuple[str, bool] | None:
        """Let a person act on an incident: its id, and whether all was said of it. None means that nobody can act."""
        async with self.database.transaction() as tx:
            ids = list((await tx.execute(text("select id from incident order by id"))).scalars())
        if not ids:
            return None
        incident_id = str(ids[pick % len(ids)])
        with suppress(IllegalTransition):
            async with self.database.transaction() as tx:
                match action:
                    case "acknowledge":
                        await actions.acknowledge(tx, incident_id, ADA, self.settings)
                    case "unacknowledge":
                        await actions.unacknowledge(tx, incident_id, ADA, self.settings)
                    case "resolve":
                        await actions.resolve(tx, incident_id, ADA)
                    case "close":
                        await actions.close(tx, incident_id, ADA)
                    case _:
                        await actions.snooze(tx, incident_id, ADA, self.settings, until=until)
                said = (await tx.execute(text(_QUIET), {"id": int(incident_id)})).scalar_one()
            return incident_id, said
        return None

    # Time

    def let_pass(self, span: timedelta) -> None:
        """Time passes, for the database, for what waits inside of processes, and for whoever is asleep."""
        for name in self.channels.all:
            self.do(self.answer(name, False))
        self.do(let_pass(self.database, span))
        self.shift += span
        for worker in self.workers:
            worker.overslept += worker.database.asleep and span > LEASE
            worker.outlived |= worker.database.asleep
        self.loop.jumped += span.total_seconds()
        self.do(self.settle())


async def _execute_alone(_settings: Settings, _url: str, run_id: str, *, owner: str) -> bool:
    """What a process of its own does with a run during which workers have died; here its worker does it."""
    services = cast("Worker", current_worker.get()).executor._services
    async with lease_run(services, run_id, engine=DIRECT, owner=owner) as run:
        run.suspect = True
        await Execution(run).execute_directly()
    return True


@contextmanager
def recorded_runs() -> Generator[list[Recorded]]:
    """While the body works, the runs whose ingest is saved, in that order. What was saved may be rolled back."""
    saved: list[Recorded] = []
    save = ingest_order.save_ingest_result

    async def spy(tx: Any, run_id: str, result: Any, **more: Any) -> None:
        await save(tx, run_id, result, **more)
        position = (await tx.execute(text("select last_value from history_id_seq"))).scalar_one()
        saved.append(Recorded(run_id, position))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_order, "save_ingest_result", spy)
        patch.setattr(executor, "execute_alone", _execute_alone)
        yield saved
