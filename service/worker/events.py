"""A worker's duty: it reports to Prefect what has happened. Of all workers, one does it at a time.

This never delays a page: the worker reports what is committed, and waits while Prefect does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient

from blocks.prefect_api import PrefectUnavailable, prefect_errors
from orchestration.errors import Unavailable
from orchestration.signals import logger
from orchestration.store import event_cursor
from orchestration.store.database import Database
from orchestration.store.event_cursor import Cursor, HistoryEvent, Horizon, PageEvent
from service.mirror.events import REPORTED_EVENTS, Event, event_of_page, events_of_history, send_events
from service.worker.breaker import Breaker

LOOK_SECONDS = 1.0
"""Time between two looks at what is new."""

SETTLE_SECONDS = 0.2
"""Time between two looks while transactions that were under way are waited for."""

LONGEST_WAIT_SECONDS = 60.0
"""How long a transaction that was under way is waited for. Ours take seconds: a longer one is of somebody else."""

IDLE_SECONDS = 5.0
"""Time between two attempts to get the lease, and after a failure."""

RENEW_SECONDS = 5.0
"""How often the lease is renewed."""

SEND_SECONDS = 10.0
"""How long Prefect may take for a batch."""

OLDEST = timedelta(hours=1)
"""What is older is not reported: no automation should act on it."""

MOST_BEHIND = 20_000
"""How many rows the cursor may be behind. Prefect drops events past 50,000 that wait."""


class EventReporter:
    """Reports to Prefect what has happened since its last report."""

    def __init__(self, database: Database, client: PrefectClient, breaker: Breaker, owner: str) -> None:
        self._database = database
        self._client = client
        self._breaker = breaker
        self._owner = owner
        self._cursor: Cursor | None = None
        self._horizon: Horizon | None = None
        self._renew_at = 0.0
        self._wait_until = 0.0
        self._fails = False

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            while True:  # noqa: ASYNC110 - it waits for time alone
                await asyncio.sleep(await self._try())
        finally:
            await self._release()

    async def look(self) -> float:
        """Look once. Returns after how many seconds to look again.

        Raises:
            Unavailable: the database or Prefect does not answer.
        """
        if not self._breaker.closed or (cursor := await self._lease()) is None:
            return IDLE_SECONDS
        async with self._database.statement() as tx:
            now = await event_cursor.read_snapshot(tx)
        horizon = event_cursor.next_horizon(self._horizon, cursor, now)
        if self._horizon is None:
            self._wait_until = asyncio.get_running_loop().time() + LONGEST_WAIT_SECONDS
        if horizon is None or not (event_cursor.is_reached(horizon, now) or self._waited_long(horizon)):
            self._horizon = horizon
            if cursor.unsettled:
                await self._report(cursor, cursor.history_id, cursor.delivery_id)
            return LOOK_SECONDS if horizon is None else SETTLE_SECONDS
        reported = await self._report(_caught_up(cursor, horizon), horizon.history_id, horizon.delivery_id)
        if (reported.history_id, reported.delivery_id) == (horizon.history_id, horizon.delivery_id):
            self._horizon = None
            return LOOK_SECONDS
        return 0.0

    def _waited_long(self, horizon: Horizon) -> bool:
        """Whether the horizon was waited for long enough."""
        return horizon.transaction is not None and asyncio.get_running_loop().time() >= self._wait_until

    async def _try(self) -> float:
        try:
            seconds = await self.look()
        except Unavailable as error:
            self._cursor = None
            outage = isinstance(error, PrefectUnavailable) and not self._breaker.closed  # which the watch has said
            if not self._fails and not outage:
                logger.warning("No events are sent to Prefect for now: %s", error)
                self._fails = True
            return IDLE_SECONDS
        self._fails = False
        return seconds

    async def _lease(self) -> Cursor | None:
        """The cursor, if this worker has its lease."""
        now = asyncio.get_running_loop().time()
        if self._cursor is None or now >= self._renew_at:
            async with self._database.statement() as tx:
                self._cursor = await event_cursor.lease(tx, self._owner)
            self._renew_at = now + RENEW_SECONDS
            if self._cursor is None:
                self._horizon = None
        return self._cursor

    async def _report(self, cursor: Cursor, history_id: int, delivery_id: int) -> Cursor:
        """Report what lies between the cursor and these ids, or the first part of it. Returns the new cursor."""
        async with self._database.statement() as tx:
            lines = await event_cursor.read_history(tx, cursor.history_id, history_id, REPORTED_EVENTS)
            pages = await event_cursor.read_pages(tx, cursor, delivery_id)
        new, events = _events(cursor, lines, pages)
        new = replace(
            new,
            history_id=lines[-1].id if len(lines) == event_cursor.MOST_READ else history_id,
            delivery_id=min(delivery_id, cursor.delivery_id + event_cursor.MOST_READ),
        )
        if new == cursor:
            return cursor
        if events:
            with prefect_errors():
                async with self._breaker.limit(SEND_SECONDS):
                    await send_events(self._client, events)
        async with self._database.statement() as tx:
            if await event_cursor.save(tx, self._owner, new):
                self._cursor = new
            else:  # another worker has the lease: this one was asleep for too long
                self._cursor = self._horizon = None
        return new

    async def _release(self) -> None:
        if self._cursor is None:
            return
        try:
            async with self._database.statement() as tx:
                await event_cursor.release(tx, self._owner)
        except Unavailable:
            return  # the lease expires


def _caught_up(cursor: Cursor, horizon: Horizon) -> Cursor:
    """The cursor, moved on if it is too far behind."""
    behind = horizon.history_id - cursor.history_id, horizon.delivery_id - cursor.delivery_id
    if max(behind) <= MOST_BEHIND:
        return cursor
    logger.warning(
        "No events are sent to Prefect for %d lines of the history and %d messages since the last report: too many",
        *(max(0, rows - MOST_BEHIND) for rows in behind),
    )
    return replace(
        cursor,
        history_id=max(cursor.history_id, horizon.history_id - MOST_BEHIND),
        delivery_id=max(cursor.delivery_id, horizon.delivery_id - MOST_BEHIND),
    )


def _events(cursor: Cursor, lines: Sequence[HistoryEvent], pages: Sequence[PageEvent]) -> tuple[Cursor, list[Event]]:
    """The events of these rows, and the cursor with the messages that have not ended yet."""
    unsettled: dict[int, bool] = {}
    found: list[tuple[datetime, Event]] = [(line.at, event) for line in lines for event in events_of_history(line)]
    for page in pages:
        was_reported = cursor.unsettled.get(page.id, False)
        if page.sent:
            found.append((page.at, event_of_page(page, failed=False)))
        elif page.failed and (page.ended or not was_reported):
            found.append((page.at, event_of_page(page, failed=True)))
        if not page.ended:
            unsettled[page.id] = was_reported or page.failed
    if (more := len(unsettled) - event_cursor.MOST_UNSETTLED) > 0:
        logger.warning("No events are sent to Prefect for the end of %d messages: too many have not ended", more)
        unsettled = dict(sorted(unsettled.items())[more:])
    since = datetime.now(UTC) - OLDEST
    events = [event for at, event in sorted(found, key=lambda each: each[0]) if at >= since]
    if len(events) < len(found):
        logger.warning("%d events are not sent to Prefect: they are older than an hour", len(found) - len(events))
    return replace(cursor, unsettled=unsettled), events
