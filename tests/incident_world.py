"""The parts around the incident machine: moody channels, workers that die or fall asleep, a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import DateTime, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed, Unavailable
from orchestration.message import Message, NamedChannel
from orchestration.store.database import Database
from orchestration.store.models import Base

TABLES = [table for table in Base.metadata.sorted_tables]


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can jump ahead: what waits for its time inside a process waits no longer."""

    jumped = 0.0

    def time(self) -> float:
        return super().time() + self.jumped

    def is_idle(self) -> bool:
        """Whether everybody waits for a timer, for somebody outside, or for the caller."""
        ready: Collection[Any] = self._ready  # pyright: ignore
        return not ready


class MortalDatabase(Database):
    """The database as one worker sees it: from its death on, every statement is refused, and nothing is committed."""

    def __init__(self, real: Database, on_death: Callable[[], None]) -> None:
        self.__dict__.update(real.__dict__)
        self._on_death = on_death
        self.dead = False
        self.dies_after: int | None = None
        self.sleeps_after: int | None = None
        """After how many more statements the worker falls asleep. It sleeps between two statements: without locks."""
        self.naps = 0
        self._awake = asyncio.Event()
        self._awake.set()

    @property
    def asleep(self) -> bool:
        """Whether the worker does nothing at all, not even renew its leases."""
        return not self._awake.is_set()

    def die(self) -> None:
        self.dead = True
        self._awake.set()
        self._on_death()

    def wake(self) -> None:
        self.sleeps_after = None
        self._awake.set()

    async def point(self) -> None:
        """A point between two steps of the worker: here it may die or fall asleep."""
        if self.sleeps_after is not None:
            self.sleeps_after -= 1
            if self.sleeps_after < 0:
                self.sleeps_after = None
                self.naps += 1
                self._awake.clear()
        await self._awake.wait()
        self._live()

    def _live(self) -> None:
        if self.dies_after is not None and not self.dead:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.die()
        if self.dead:
            raise Unavailable("the worker is dead")

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        await self.point()
        async with super().transaction() as tx:
            yield tx
            self._live()

    @asynccontextmanager
    async def statement(self) -> AsyncGenerator[AsyncConnection]:
        await self.point()
        async with super().statement() as tx:
            yield tx


@dataclass(eq=False)
class Worker:
    """One process. Its runs are tasks of this loop."""

    name: str
    database: MortalDatabase
    executor: Any
    tasks: set[asyncio.Task[None]] = field(default_factory=set[Any])
    overslept: int = 0
    """How often it has slept for longer than its leases."""
    outlived: bool = False
    """Whether time has passed while it sleeps."""

    @property
    def works(self) -> bool:
        return not self.database.dead and not self.database.asleep


@dataclass(eq=False)
class Sending:
    """One message that a worker tries to send."""

    message: Message
    worker: Worker
    channel: str
    overslept: int
    """How often the worker had overslept when it began."""
    naps: int
    """How often the worker had slept when it began."""
    overslept_at_claim: int
    """How often the worker had overslept when it claimed the run."""
    lost: bool = False
    """The channel has accepted it, and its answer got lost."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    answers: bool = True

    @property
    def key(self) -> str:
        return self.message.idempotency_key

    @property
    def slept(self) -> bool:
        """Whether its worker has slept in the middle, be it for a moment."""
        return self.worker.database.naps > self.naps

    @property
    def blind(self) -> bool:
        """Whether its worker slept through its lease in the middle: it cannot know that another one has gone on."""
        return self.worker.overslept > self.overslept

    @property
    def late(self) -> bool:
        """Whether its worker had lost the run by then: what the channel answers does not count if another goes on."""
        return self.worker.overslept > self.overslept_at_claim

    @property
    def uncertain(self) -> bool:
        """Whether nobody may know that the channel has accepted it."""
        return self.lost or self.blind or self.worker.database.dead


@dataclass
class Refusal:
    """A channel has asked to be left alone until then."""

    sending: Sending
    until: datetime
    known: bool = False
    """Whether its worker has had the time to write that down."""


current_worker: ContextVar[Worker] = ContextVar("current_worker")
overslept_at_claim: ContextVar[int] = ContextVar("overslept_at_claim")


class MoodyChannel:
    """A channel in one of several moods, with a log of what it has accepted."""

    driver = "moody"
    shows_state = False

    def __init__(self, name: str, real: Database, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.name = self.target = name
        self.mood = "ok"
        self.retry_after = 0.0
        self.accepted: list[Sending] = []
        self.hanging: list[Sending] = []
        self.refused: list[Refusal] = []
        self.problems: list[str] = []
        self._real = real

    async def send(self, message: Message) -> Delivery:
        worker = current_worker.get()
        sending = Sending(message, worker, self.name, worker.overslept, worker.database.naps, overslept_at_claim.get())
        await self._check_present(sending)
        await worker.database.point()
        self._check_wait(sending)
        match self.mood:
            case "500":
                raise DeliveryFailed("it answered 500", retryable=True)
            case "404":
                raise DeliveryFailed("it answered 404", retryable=False)
            case "429":
                self.refused.append(Refusal(sending, self._clock() + timedelta(seconds=self.retry_after)))
                raise DeliveryFailed("it answered 429", retryable=True, retry_after_seconds=self.retry_after)
            case "reset":
                raise DeliveryFailed("the connection was reset", retryable=True, perhaps_accepted=True)
            case "drop":
                sending.lost = True
                await self._accept(sending)
                raise DeliveryFailed("no answer", retryable=True, perhaps_accepted=True)
            case "hang":
                await self._hang(sending)
            case _:
                pass
        await self._accept(sending)
        number = len(self.accepted)
        return Delivery(driver="moody", provider="moody", channel=self.name, status="sent", provider_id=f"m{number}")

    async def _check_present(self, sending: Sending) -> None:
        """What is sent is not what another version has overtaken long before the sending began."""
        async with self._real.statement() as tx:
            query = """
                select count(*) from incident
                where id = :id and news_version > :version and updated_at < clock_timestamp() - interval '5 s'
            """
            incident_id, version = incident_of(sending), version_of(sending)
            if (await tx.execute(text(query), {"id": incident_id, "version": version})).scalar_one():
                self.problems.append(f"{sending.key} was begun after it had been overtaken")

    def _check_wait(self, sending: Sending) -> None:
        """A message comes no earlier than the channel has asked, unless its worker could not know that."""
        until = [one.until for one in self.refused if one.known and not (one.sending.uncertain or one.sending.late)]
        if until and not sending.slept and self._clock() < max(until) - timedelta(seconds=1):
            self.problems.append(f"{sending.key} came before {max(until)}, although the channel had asked to wait")

    async def _hang(self, sending: Sending) -> None:
        self.hanging.append(sending)
        try:
            await sending.go.wait()
        finally:
            self.hanging.remove(sending)
        if not sending.answers:
            raise DeliveryFailed("it did not answer in time", retryable=True, perhaps_accepted=True)

    async def _accept(self, sending: Sending) -> None:
        """Keep the message, if nothing that was accepted before forbids it."""
        before = [one for one in self.accepted if one.message.dedup_key == sending.message.dedup_key]
        version = version_of(sending)
        for one in before:
            if one.key == sending.key and not one.uncertain and not sending.blind:
                self.problems.append(f"{sending.key} was accepted twice")
            if version_of(one) > version and not sending.blind:
                self.problems.append(f"{sending.key} was accepted after {one.key}")
        self.accepted.append(sending)
        self.refused.clear()  # it works again
        async with self._real.statement() as tx:
            query = text("select status from delivery where idempotency_key = :key")
            if (await tx.execute(query, {"key": sending.key})).scalar_one_or_none() == "sent" and not sending.blind:
                self.problems.append(f"{sending.key} was sent again although it is on record as sent")


def version_of(sending: Sending) -> int:
    """The version of the incident that a message is about; the key says it."""
    incident, version, node, channel = sending.key.split("/")
    assert incident.startswith("incident-"), sending.key
    assert (node, channel) == ("notify", sending.channel), sending.key
    return int(version)


def incident_of(sending: Sending) -> int:
    """The id of the incident that a message is about; the key says it."""
    return int(sending.key.split("/")[0].removeprefix("incident-"))


class MoodyChannels:
    """Two channels by default, and one for what neither of them accepts."""

    def __init__(self, *channels: MoodyChannel) -> None:
        self.all = {channel.name: channel for channel in channels}
        self.default = [channel.name for channel in channels[:2]]

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        return self._named(self.default if name is None else [name])

    async def others(self, names: Collection[str]) -> Sequence[NamedChannel]:
        return self._named([name for name in self.all if name not in names])

    def _named(self, names: Sequence[str]) -> Sequence[NamedChannel]:
        return [NamedChannel(name=name, channel=self.all[name]) for name in names]


async def empty(database: Database) -> None:
    """Forget everything."""
    async with database.transaction() as tx:
        names = [table.name for table in TABLES]
        found = await tx.execute(
            text(" union all ".join(f"select '{n}' where exists (select from {n})" for n in names))
        )
        if used := list(found.scalars()):
            await tx.execute(text(f"truncate {', '.join(used)} cascade"))


def _move_all(seconds: float) -> str:
    """One text with a statement for each table that has moments."""
    moments = {table.name: [one.name for one in table.columns if isinstance(one.type, DateTime)] for table in TABLES}
    changes = {
        table: ", ".join(f"{name} = {name} - make_interval(secs => {seconds})" for name in names)
        for table, names in moments.items()
        if names
    }
    return ";".join(f"update {table} set {change}" for table, change in changes.items())


async def let_pass(database: Database, passed: timedelta) -> None:
    """Move all moments of the database back by so much, those in pushes that are not recorded yet included.

    Time takes no locks, but this does, in an order of its own, while workers record what a channel has answered. So it
    is PostgreSQL's to find that they wait for each other, and this begins again.
    """
    while True:
        try:
            return await _move_back(database, passed)
        except Unavailable as error:
            if "deadlock" not in str(error):
                raise


async def _move_back(database: Database, passed: timedelta) -> None:
    async with database.transaction() as tx:
        await tx.exec_driver_sql(_move_all(passed.total_seconds()))
        waiting = (await tx.execute(text("select id, payload from pipeline_run where awaits_ingest"))).all()
        for run_id, payload in waiting:
            for alert in payload.get("alerts") or []:
                for name in ("started_at", "ended_at", "episode_at", "occurred_at"):
                    if alert.get(name):
                        alert[name] = (datetime.fromisoformat(alert[name]) - passed).isoformat()
            statement = text("update pipeline_run set payload = cast(:payload as jsonb) where id = :id")
            await tx.execute(statement, {"id": run_id, "payload": orjson.dumps(payload).decode()})
