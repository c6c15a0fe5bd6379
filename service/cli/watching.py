"""`monitor_pipeline --watch`: the latest runs as they come and move, as a table that changes or a line a change."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestration.errors import Unavailable
from orchestration.store.database import Database, notifications
from orchestration.store.records import RunRecord
from orchestration.store.runs import DONE_CHANNEL, INBOX_CHANNEL, RunFilter, list_page
from service.cli.run_table import SHORT, duration, run_table, status_of
from service.cli.terminal import errors, output

LOOK_SECONDS = 1.0
"""How long it waits to be woken: new runs and ends send a notice, stages do not."""

CALM_SECONDS = 0.1
"""Between two looks, however much is heard."""

_PAGE = 100
_MOST_PAGES = 50
_SLACK = timedelta(seconds=5)
_FRAME_LINES = 4  # the table's head, the line below it, the prompt


@dataclass(frozen=True)
class Look:
    """What one look has found."""

    changed: Sequence[RunRecord]
    """The runs that are new or have moved, the oldest first; at the first look the latest ones."""
    latest: Sequence[RunRecord]
    """The latest runs as they are now, the newest first."""


class View(Protocol):
    """How changes are shown."""

    def show(self, look: Look) -> None:
        """What has changed."""
        ...

    def lost(self, reason: str) -> None:
        """Nothing can be seen at the moment."""
        ...


async def watch_runs(database: Database, wanted: RunFilter, limit: int, view: View) -> None:
    """Show what happens until cancelled. While the database does not answer, it says so and tries again."""
    heard = asyncio.Event()
    changes = Changes(database, wanted, limit)
    listeners = [asyncio.create_task(_listen(database.url, one, heard)) for one in (INBOX_CHANNEL, DONE_CHANNEL)]
    try:
        while not any(listener.done() for listener in listeners):
            heard.clear()
            try:
                look = await changes.look()
            except Unavailable as error:
                view.lost(str(error))
            else:
                view.show(look)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await heard.wait()
            await asyncio.sleep(CALM_SECONDS)
        await asyncio.gather(*listeners)  # one has met what it was not made for
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)


async def _listen(url: str, channel: str, heard: asyncio.Event) -> None:
    while True:
        with suppress(Unavailable):  # each look says so too
            async with aclosing(notifications(url, channel)) as notices:
                async for _ in notices:
                    heard.set()
        await asyncio.sleep(LOOK_SECONDS)


class Changes:
    """What has changed since the last look."""

    def __init__(self, database: Database, wanted: RunFilter, limit: int) -> None:
        self._database = database
        self._wanted = wanted
        self._limit = limit
        self._seen: dict[str, RunRecord] = {}
        self._until: datetime | None = None
        self._first = True
        self._latest: list[RunRecord] = []

    async def look(self) -> Look:
        """Look once more.

        Raises:
            Unavailable: the database does not answer.
        """
        found, horizon = await self._find()
        # Beyond the horizon nobody looked: what was over there still is. What is missing before it matches no more.
        beyond = [run for run in self._latest if run.created_at < horizon and run.status.final]
        shown = {run.run_id: run for run in beyond} | found
        self._latest = sorted(shown.values(), key=lambda run: run.created_at, reverse=True)[: self._limit]
        changed = self._latest if self._first else [run for run in found.values() if self._is_news(run)]
        self._seen = found
        self._until = max((run.updated_at for run in found.values()), default=self._until)
        self._first = False
        return Look(changed=sorted(changed, key=lambda run: run.created_at), latest=self._latest)

    def _is_news(self, run: RunRecord) -> bool:
        before = self._seen.get(run.run_id)
        if before is not None:
            return _state(before) != _state(run)
        # Older runs that come into the page for the first time are no news.
        return self._until is None or run.updated_at > self._until - _SLACK

    async def _find(self) -> tuple[dict[str, RunRecord], datetime]:
        """The newest runs, back to a horizon that those seen before lie on this side of, and what still moves."""
        found: dict[str, RunRecord] = {}
        cursor: str | None = None
        horizon = datetime.min.replace(tzinfo=UTC)
        async with self._database.transaction() as tx:
            for _ in range(_MOST_PAGES):
                size = max(self._limit, _PAGE) if self._first else _PAGE
                page = await list_page(tx, self._wanted, limit=size, cursor=cursor)
                found |= {run.run_id: run for run in page.runs}
                cursor = page.next_cursor
                horizon = page.runs[-1].created_at if cursor is not None else datetime.min.replace(tzinfo=UTC)
                if self._first or cursor is None or found.keys() & self._seen.keys():
                    break
            moving = frozenset(run_id for run_id, run in self._seen.items() if not run.status.final) - found.keys()
            if moving:
                only = self._wanted.model_copy(update={"run_ids": moving})
                found |= {run.run_id: run for run in (await list_page(tx, only, limit=len(moving))).runs}
        return found, horizon


def _state(run: RunRecord) -> tuple[object, ...]:
    return run.status, run.current_stage, run.total_attempts


@contextmanager
def view(*, as_json_lines: bool) -> Generator[View]:
    """A table on a terminal; in a pipe, and as JSON, lines."""
    if as_json_lines or not output.is_terminal:
        yield Lines(as_json=as_json_lines)
        return
    # The console of the other commands does not cut long lines, and a line that wraps would displace the table.
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        yield LiveTable(live)


class LiveTable:
    """One table, drawn anew when something has changed."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._latest: Sequence[RunRecord] = ()

    def show(self, look: Look) -> None:
        """Draw the table."""
        latest = self._latest = look.latest
        moving = sum(not run.status.final for run in latest)
        newest = f", the last change at {max(run.updated_at for run in latest):%H:%M:%S} UTC" if latest else ""
        self._draw(Text(f"{len(latest)} runs, {moving} in progress{newest}. Ctrl-C ends", style="dim"))

    def lost(self, reason: str) -> None:
        """Keep the table, and say below it that it is old."""
        self._draw(Text(f"{reason}. Trying again", style="bold red"))

    def _draw(self, below: Text) -> None:
        rows = self._latest[: max(self._live.console.height - _FRAME_LINES, 1)]
        table = run_table(rows) if rows else Text("No pipeline runs")
        self._live.update(Group(table, below), refresh=True)


class Lines:
    """A line a change, at once: somebody reads them at the other end of a pipe."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lost = ""

    def show(self, look: Look) -> None:
        """Write the changes."""
        self._lost = ""
        if look.changed:
            sys.stdout.write("".join(f"{self._line(run)}\n" for run in look.changed))
            sys.stdout.flush()

    def lost(self, reason: str) -> None:
        """Say so once."""
        if reason != self._lost:
            errors.print(f"{reason}. Trying again", style="yellow", markup=False)
        self._lost = reason

    def _line(self, run: RunRecord) -> str:
        if self._as_json:
            return orjson.dumps(run.model_dump(mode="json")).decode()
        cells = (f"{run.updated_at:%Y-%m-%d %H:%M:%S}", run.run_id[:SHORT], status_of(run), run.source)
        return "  ".join((*cells, duration(run.total_duration_ms), run.title)).rstrip()
