"""What Prefect has not heard of yet: lines of the history, and messages whose delivery has ended.

A cursor says up to which id Prefect has heard of them. Ids are given before their transactions are committed, so a row
with a lower id may become visible after one with a higher id. Therefore the cursor moves to an id only when every
transaction that was under way after that id was seen has ended: `Horizon`. A message whose delivery has not ended by
then is looked up by its id until it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.store.deliveries import FAILED, GIVEN_UP, SENDING, SENT
from orchestration.store.models import HistoryRow

LEASE_SECONDS = 15.0
"""How long the lease of the cursor lasts. Only the worker that has it reports to Prefect."""

OVERDUE_SECONDS = 30.0
"""After so long a page that still fails is said to have failed. A final error is said at once."""

MOST_READ = 500
"""How many rows are read at once."""

MOST_UNSETTLED = 2000
"""How many messages whose delivery has not ended are remembered."""

CANARY_DELIVERED, CANARY_MISSED = "canary_delivered", "canary_missed"
"""The events of the history that say whether a canary arrived. They belong to no incident."""

CANARY_ENVIRONMENT = "canary"
"""The environment of all canaries, so that they never meet another incident. Prefect hears of them as canaries."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Up to where Prefect has heard of everything."""

    history_id: int
    delivery_id: int
    unsettled: dict[int, bool] = field(default_factory=dict[int, bool])
    """The deliveries up to there that had not ended: by id, whether their failure was reported."""


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The latest rows at some moment, and what has to end before they and all before them can be seen."""

    history_id: int
    delivery_id: int
    transaction: int | None = None
    """The first transaction that had not begun a moment later. None means that this moment is still to come."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is in the tables now."""

    history_id: int
    delivery_id: int
    oldest_transaction: int
    """Every transaction before this one has ended."""
    next_transaction: int


class AboutIncident(Contract):
    """The incident that something happened to, as it is now."""

    incident_id: int | None = None
    title: str | None = None
    severity: str | None = None
    status: str | None = None
    environment: str | None = None
    incident_key: str | None = None
    source: str | None = None
    route: str | None = None
    run_id: str | None = None
    flow_run_id: str | None = None


class HistoryEvent(AboutIncident):
    """A line of the history."""

    id: int
    event: str
    details: dict[str, Any]
    at: UtcDatetime


class PageEvent(AboutIncident):
    """A message, as the ledger has it."""

    id: int
    channel: str
    driver: str
    delivery_status: str
    tries: int
    version: int | None
    error: str | None
    response: dict[str, Any]
    created_at: UtcDatetime
    settled_at: UtcDatetime | None
    overdue: bool

    @property
    def ended(self) -> bool:
        """Whether nobody tries to send it any more."""
        return self.delivery_status not in (SENDING, FAILED)

    @property
    def sent(self) -> bool:
        """Whether somebody was notified: a message that was only brought up to date notifies nobody."""
        return self.delivery_status == SENT and self.response.get("silent") is not True

    @property
    def failed(self) -> bool:
        """Whether it has failed for good, or for long."""
        final = self.response.get("retryable") is False
        return self.delivery_status == GIVEN_UP or (
            self.delivery_status == FAILED and self.tries > 0 and (final or self.overdue)
        )

    @property
    def at(self) -> datetime:
        """When its delivery ended, or else when it began."""
        return self.settled_at or self.created_at


async def note_canary(tx: AsyncConnection, event: str, details: Mapping[str, object], *, run_id: str | None) -> None:
    """Write to the history whether a canary arrived."""
    await tx.execute(insert(HistoryRow).values(event=event, details=dict(details), run_id=run_id))


_LEASE = text(
    """
    insert into event_cursor (id, history_id, delivery_id, owner, leased_until)
    select 1, (select coalesce(max(id), 0) from history), (select coalesce(max(id), 0) from delivery), :owner,
        clock_timestamp() + make_interval(secs => :seconds)
    on conflict (id) do update set owner = excluded.owner, leased_until = excluded.leased_until
    where event_cursor.owner is null or event_cursor.owner = excluded.owner
        or event_cursor.leased_until < clock_timestamp()
    returning history_id, delivery_id, unsettled
    """
)


async def lease(tx: AsyncConnection, owner: str) -> Cursor | None:
    """Lease the cursor for `LEASE_SECONDS`, or renew the lease. None means that another worker has it."""
    row = (await tx.execute(_LEASE, {"owner": owner, "seconds": LEASE_SECONDS})).mappings().one_or_none()
    if row is None:
        return None
    unsettled = {int(number): reported is True for number, reported in row["unsettled"].items()}
    return Cursor(history_id=row["history_id"], delivery_id=row["delivery_id"], unsettled=unsettled)


_SAVE = text(
    """
    update event_cursor
    set history_id = :history_id, delivery_id = :delivery_id, unsettled = cast(:unsettled as jsonb),
        leased_until = clock_timestamp() + make_interval(secs => :seconds)
    where owner = :owner
    """
)


async def save(tx: AsyncConnection, owner: str, cursor: Cursor) -> bool:
    """Save the cursor, and renew its lease. False means that another worker has the lease now."""
    unsettled = orjson.dumps({str(number): reported for number, reported in cursor.unsettled.items()}).decode()
    values = {"history_id": cursor.history_id, "delivery_id": cursor.delivery_id, "unsettled": unsettled}
    return (await tx.execute(_SAVE, {**values, "owner": owner, "seconds": LEASE_SECONDS})).rowcount > 0


_RELEASE = text("update event_cursor set owner = null, leased_until = null where owner = :owner")


async def release(tx: AsyncConnection, owner: str) -> None:
    """Release the lease, so that another worker reports to Prefect at once."""
    await tx.execute(_RELEASE, {"owner": owner})


_SNAPSHOT = text(
    """
    select coalesce((select max(id) from history), 0) as history_id,
        coalesce((select max(id) from delivery), 0) as delivery_id,
        txid_snapshot_xmin(now) as oldest_transaction, txid_snapshot_xmax(now) as next_transaction
    from txid_current_snapshot() as now
    """
)


async def read_snapshot(tx: AsyncConnection) -> Snapshot:
    """What is in the tables now."""
    return Snapshot(**(await tx.execute(_SNAPSHOT)).mappings().one())


def next_horizon(horizon: Horizon | None, cursor: Cursor, now: Snapshot) -> Horizon | None:
    """The horizon after another look. None means that there is nothing new.

    The transactions are noted one look after the ids: a transaction has its own number a little after it has given an
    id to a row.
    """
    if horizon is None:
        if (now.history_id, now.delivery_id) == (cursor.history_id, cursor.delivery_id):
            return None
        return Horizon(history_id=now.history_id, delivery_id=now.delivery_id)
    return horizon if horizon.transaction is not None else replace(horizon, transaction=now.next_transaction)


def is_reached(horizon: Horizon, now: Snapshot) -> bool:
    """Whether everything up to the horizon can be seen."""
    return horizon.transaction is not None and now.oldest_transaction >= horizon.transaction


_INCIDENT = """
    incident.title, incident.severity, incident.status, incident.environment, incident.incident_key,
    incident.metadata ->> 'source' as source, incident.metadata ->> 'route' as route
"""

_HISTORY = text(
    f"""
    select line.id, line.event, line.details, line.at, line.incident_id, line.run_id, {_INCIDENT},
        run.prefect_flow_run_id as flow_run_id
    from history as line
    left join incident on incident.id = line.incident_id
    left join pipeline_run as run on run.run_id = line.run_id
    where line.id > :after and line.id <= :up_to and line.event = any(:events)
        and incident.environment is distinct from '{CANARY_ENVIRONMENT}'
    order by line.id limit {MOST_READ}
    """
)


async def read_history(tx: AsyncConnection, after: int, up_to: int, events: Collection[str]) -> list[HistoryEvent]:
    """The lines of the history between these ids with one of these events, at most `MOST_READ`, oldest first."""
    rows = (await tx.execute(_HISTORY, {"after": after, "up_to": up_to, "events": list(events)})).mappings()
    return [HistoryEvent.model_validate(dict(row)) for row in rows]


_PAGES = text(
    f"""
    select delivery.id, delivery.channel, delivery.driver, delivery.status as delivery_status, delivery.tries,
        delivery.version, delivery.error, delivery.response, delivery.created_at, delivery.settled_at,
        delivery.created_at < clock_timestamp() - interval '{OVERDUE_SECONDS:g} s' as overdue,
        delivery.incident_id, {_INCIDENT}, run.run_id, run.prefect_flow_run_id as flow_run_id
    from delivery
    join pipeline_run as run on run.id = delivery.pipeline_run_id
    left join incident on incident.id = delivery.incident_id
    where (delivery.id = any(:unsettled) or delivery.id > :after and delivery.id <= :up_to)
        and run.environment <> '{CANARY_ENVIRONMENT}'
    order by delivery.id limit {MOST_READ + MOST_UNSETTLED}
    """
)


async def read_pages(tx: AsyncConnection, cursor: Cursor, up_to: int) -> list[PageEvent]:
    """The messages that had not ended, and those between the cursor and this id, oldest first."""
    up_to = min(up_to, cursor.delivery_id + MOST_READ)
    values = {"unsettled": list(cursor.unsettled), "after": cursor.delivery_id, "up_to": up_to}
    return [PageEvent.model_validate(dict(row)) for row in (await tx.execute(_PAGES, values)).mappings()]
