"""Alerts that begin and end, channels that wait or change their mind, and what the tables say of them afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import text

from orchestration.contracts import Delivery
from orchestration.engine.run import Services
from orchestration.errors import BadInput, DeliveryFailed
from orchestration.message import Message, NamedChannel
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store.database import Database
from orchestration.store.records import DeliveryRecord, RunRecord
from orchestration.store.story import read_story
from tests.conftest import MemoryChannel, MemoryChannels
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push


def busy(text: str = "it answered 503", *, retry_after_seconds: float | None = None) -> DeliveryFailed:
    return DeliveryFailed(text, retryable=True, retry_after_seconds=retry_after_seconds)


def refused(text: str = "it answered 404") -> DeliveryFailed:
    return DeliveryFailed(text, retryable=False)


def unanswered(text: str = "it did not answer in time") -> DeliveryFailed:
    return DeliveryFailed(text, retryable=True, perhaps_accepted=True)


async def push(services: Services, *, name: str = "HighCPU", **fields: Any) -> str:
    """One event of an alert into the inbox; the id of its run."""
    alert = {"name": name, "severity": "critical", "host": "web-1", "fingerprint": name, **fields}
    (run_id,) = await accept_push(services, alert, source="generic", environment="test")
    return run_id


async def tell(services: Services, **fields: Any) -> RunRecord:
    """One event of an alert, and its run to the end."""
    return await execute(services, await push(services, **fields))


async def end(services: Services, **fields: Any) -> RunRecord:
    """The end of the alert, and its run to the end."""
    return await tell(services, status="resolved", **fields)


def with_channels(services: Services, spare: Mapping[str, Any] | None = None, **channels: Any) -> Services:
    """These channels by default; `spare` are the others that are set up."""
    return replace(services, channels=MemoryChannels(channels, dict(spare or {})))


def with_settings(services: Services, **changes: Any) -> Services:
    settings: Settings = services.settings.model_copy(update=changes)
    return replace(services, settings=settings)


def titles(channel: MemoryChannel) -> list[str]:
    """The first word of each message: CRITICAL, RESOLVED."""
    return [message.title.split("]")[0].strip("[") for message in channel.messages]


@dataclass
class WaitingChannel(MemoryChannel):
    """A channel that accepts each message only when it is let go, once it has been `asked`."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Message) -> Delivery:
        self.asked.set()
        await self.let_go.wait()
        return await super().send(message)


@dataclass
class FailingChannel(MemoryChannel):
    """A channel that fails until it is repaired, and keeps what it was asked."""

    error: DeliveryFailed | None = field(default_factory=busy)
    asked: list[Message] = field(default_factory=list[Message])

    async def send(self, message: Message) -> Delivery:
        self.asked.append(message)
        if self.error is not None:
            raise self.error
        return await super().send(message)


@dataclass
class NoChannels:
    """A service for which nobody has set up a channel."""

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        if name is not None:
            raise BadInput(f"There is no channel or driver {name!r}")
        return []

    async def others(self, names: Collection[str]) -> Sequence[NamedChannel]:
        return []


async def ledger(database: Database, run_id: str) -> list[DeliveryRecord]:
    async with database.transaction() as tx:
        return (await read_story(tx, run_id)).deliveries


async def rows(database: Database, query: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a query in SQL."""
    async with database.transaction() as tx:
        return [dict(row) for row in (await tx.execute(text(query), values)).mappings()]


async def change(database: Database, statement: str, **values: Any) -> None:
    """Change rows, as time or a dead process does."""
    async with database.transaction() as tx:
        await tx.execute(text(statement), values)


async def redeliveries(database: Database) -> list[dict[str, Any]]:
    """The redeliveries that wait, with the seconds until they are due."""
    return await rows(
        database,
        "select *, extract(epoch from due_at - clock_timestamp()) as due_in from pipeline_run "
        "where reason = 'redelivery' and status = 'pending' order by id",
    )


async def execute_redelivery(services: Services) -> RunRecord:
    """The oldest redelivery that waits, to its end, as if its time had come."""
    return await execute_follow_up(services, RunReason.REDELIVERY)


async def execute_follow_up(services: Services, reason: RunReason) -> RunRecord:
    """The oldest follow-up of this kind that waits, to its end, as if its time had come."""
    query = "select run_id from pipeline_run where reason = :reason and status = 'pending' order by id limit 1"
    (first,) = await rows(services.database, query, reason=reason.value)
    return await execute(services, first["run_id"])


async def repair(services: Services, channel: FailingChannel) -> None:
    """The channel accepts messages again, and the pause after its last failure is over."""
    channel.error = None
    await end_pauses(services)


async def end_pauses(services: Services) -> None:
    """The pause of every channel after its last failure is over."""
    await change(services.database, "update channel_health set not_before = now()")
