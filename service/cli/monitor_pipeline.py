"""The command `monitor_pipeline`: lists the latest runs, watches them, or shows one run with all its attempts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestration.errors import Unavailable, error_in_words
from orchestration.json_text import to_json
from orchestration.settings import Settings, load_settings
from orchestration.states import parse_run_status
from orchestration.store.database import AsyncConnection, Database, notifications
from orchestration.store.records import AttemptRecord, DeliveryRecord, RunRecord
from orchestration.store.runs import DONE_CHANNEL, INBOX_CHANNEL, RunFilter, find_run, list_page
from orchestration.store.story import Story, read_story
from orchestration.store.timers import list_upcoming
from service.cli.reader import read, read_at
from service.cli.run_views import ATTEMPT_MARKS, SHORT, STYLES, duration, run_table, show_upcoming, status_of
from service.cli.terminal import (
    INTERRUPTED,
    USAGE,
    Stopped,
    as_json,
    errors,
    fail,
    output,
    run_app,
    shortened,
    show_facts,
)

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

POLL_SECONDS = 1.0
"""The longest time between two polls. PostgreSQL notifies of new and ended runs, but not of stages."""

MIN_POLL_SECONDS = 0.1
"""The shortest time between two polls, however many notifications come."""

_PAGE = 100
_MAX_PAGES = 50
_CLOCK_TOLERANCE = timedelta(seconds=5)
_FRAME_LINES = 4  # the table's head, the line below it, the prompt


@app.command(
    epilog="Examples:\n\nmonitor_pipeline --limit 50\n\nmonitor_pipeline --status failed\n\n"
    "monitor_pipeline --watch --environment production\n\nmonitor_pipeline --run-id 4be1 --json"
)
def monitor_pipeline(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many runs to list.")] = 10,
    status: Annotated[
        str | None,
        typer.Option(
            help="Only runs with this status, in any case: pending, ingested, checked, analyzed, notified "
            "(or completed), failed, retrying, skipped."
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only runs of this source, such as grafana.")] = None,
    environment: Annotated[str | None, typer.Option(help="Only runs of this environment, such as production.")] = None,
    run_id: Annotated[str | None, typer.Option(help="Show the run with this id, or with this start of an id.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show new runs and changes until Ctrl-C. In a pipe, one line per change.")
    ] = False,
    upcoming: Annotated[
        bool, typer.Option("--upcoming", help="List what waits for its time, such as reminders, the next one first.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else; with --watch, one object per line.")
    ] = False,
) -> int:
    """List the latest pipeline runs, or show one run with every attempt and delivery.

    Exit code: 0 (also after Ctrl-C of --watch), 1 if there is no such run or the database does not answer, 2 after
    wrong usage.
    """
    settings = load_settings()
    if watch and (run_id is not None or upcoming):
        fail(
            f"--watch shows the latest runs: leave out {'--run-id' if run_id is not None else '--upcoming'}", code=USAGE
        )
    if run_id is not None:
        _one(settings, run_id, json=json)
    elif upcoming:
        _upcoming(settings, limit, json=json)
    else:
        only = parse_run_status(status) if status is not None else None
        wanted = RunFilter(status=only, source=source, environment=environment)
        if watch:
            return _watch(settings, wanted, limit, as_json_lines=json)
        _latest(settings, wanted, limit, json=json)
    return 0


def _one(settings: Settings, run_id: str, *, json: bool) -> None:
    """Show the run with this id, or with this start of an id."""

    async def query(tx: AsyncConnection) -> Story:
        return await read_story(tx, (await find_run(tx, run_id)).run_id)

    story = read(settings, query)
    as_json(story.model_dump(mode="json")) if json else _show_run(story)


def _upcoming(settings: Settings, limit: int, *, json: bool) -> None:
    """List what waits for its time."""
    waiting = read(settings, lambda tx: list_upcoming(tx, limit=limit))
    as_json([run.model_dump(mode="json") for run in waiting]) if json else show_upcoming(waiting)


def _latest(settings: Settings, wanted: RunFilter, limit: int, *, json: bool) -> None:
    """List the latest runs."""
    found = read(settings, lambda tx: list_page(tx, wanted, limit=limit)).runs
    if json:
        as_json([run.model_dump(mode="json") for run in found])
    elif found:
        output.print(run_table(found))
    else:
        output.print("No pipeline runs")


def _show_run(story: Story) -> None:
    run = story.run
    output.print(f"{run.title or 'Run'}: {run.status.value}", style=f"bold {STYLES.get(run.status, '')}")
    definition = run.chosen_definition
    if run.definition_version is not None:
        definition = f"{run.definition_name}, version {run.definition_version}"
    facts = {
        "Run": run.run_id,
        "Trace": run.trace_id,
        "Source": f"{run.source}, {run.environment}",
        "Severity": run.severity.value,
        "Incident": run.incident_id,
        "Fingerprint": run.alert_fingerprint,
        "Definition": definition,
        "Stage": run.current_stage,
        "Skipped": run.skip_reason,
        "Created": f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "Duration": duration(run.total_duration_ms),
        "Attempts": run.total_attempts,
        "AI fallback": "used" if run.intelligence_fallback_used else None,
        "Engine": run.engine,
        "Flow run": run.prefect_flow_run_id,
        "Last error": error_in_words(run.last_error_type, run.last_error_message) if run.last_error_type else None,
    }
    show_facts(facts, width=13)
    output.print("  Attempts", style="bold")
    for attempt in story.attempts:
        output.print(f"    {_attempt(attempt)}")
    if story.deliveries:
        output.print("  Deliveries", style="bold")
    for delivery in story.deliveries:
        output.print(f"    {_delivery(delivery)}")


def _attempt(attempt: AttemptRecord) -> str:
    skipped = str((attempt.output_snapshot or {}).get("skipped", ""))
    note = error_in_words(attempt.error_type, attempt.error_message) if attempt.error_type else skipped
    return (
        f"{ATTEMPT_MARKS[attempt.status]} {attempt.node_id:<8} attempt {attempt.attempt}  {attempt.status.value:<9} "
        f"{duration(attempt.duration_ms):>9}  {note}"
    ).rstrip()


def _delivery(delivery: DeliveryRecord) -> str:
    mark = {"sent": "✓", "sending": "…"}.get(delivery.status, "✗")
    tries = f"{delivery.tries} {'try' if delivery.tries == 1 else 'tries'}"
    note = delivery.error or delivery.provider_id or ""
    return f"{mark} {delivery.channel} to {delivery.target}: {delivery.status} after {tries}  {note}".rstrip()


# --watch


@dataclass(frozen=True)
class Poll:
    """The runs that one poll of the database found."""

    changed: Sequence[RunRecord]
    """The runs that are new or have changed since the last poll, the oldest first. The first poll has the latest."""
    latest: Sequence[RunRecord]
    """The latest runs as they are now, the newest first."""


def _watch(settings: Settings, wanted: RunFilter, limit: int, *, as_json_lines: bool) -> int:
    """Watch until Ctrl-C, after which the exit code is 0."""

    async def work(database: Database, _: object) -> None:
        with _open_view(as_json_lines=as_json_lines) as view:
            await watch_runs(database, wanted, limit, view)

    try:
        read_at(settings, work)
    except Stopped as stop:
        if stop.exit_code != INTERRUPTED:
            raise
    return 0


async def watch_runs(database: Database, wanted: RunFilter, limit: int, view: TableView | LinesView) -> None:
    """Show new runs and changes until cancelled. An outage of the database is shown and waited for."""
    notified = asyncio.Event()
    changes = Changes(database, wanted, limit)
    channels = (INBOX_CHANNEL, DONE_CHANNEL)
    listeners = [asyncio.create_task(_listen(database.url, channel, notified)) for channel in channels]
    try:
        while not any(listener.done() for listener in listeners):
            notified.clear()
            try:
                poll = await changes.poll()
            except Unavailable as error:
                view.show_outage(str(error))
            else:
                view.show(poll)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await notified.wait()
            await asyncio.sleep(MIN_POLL_SECONDS)
        await asyncio.gather(*listeners)  # raises the error that ended a listener
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)


async def _listen(url: str, channel: str, notified: asyncio.Event) -> None:
    while True:
        with suppress(Unavailable):  # each poll reports the outage
            async with aclosing(notifications(url, channel)) as notices:
                async for _ in notices:
                    notified.set()
        await asyncio.sleep(POLL_SECONDS)


class Changes:
    """Finds the runs that are new or have changed since the last poll."""

    def __init__(self, database: Database, wanted: RunFilter, limit: int) -> None:
        self._database = database
        self._wanted = wanted
        self._limit = limit
        self._seen: dict[str, RunRecord] = {}
        self._until: datetime | None = None
        self._first = True
        self._latest: list[RunRecord] = []

    async def poll(self) -> Poll:
        """Read the runs once more.

        Raises:
            Unavailable: the database does not answer.
        """
        found, horizon = await self._find()
        # Runs older than the horizon were not read: those that have ended are still the same. A newer run that was
        # not found does not match the filter any more.
        beyond = [run for run in self._latest if run.created_at < horizon and run.status.final]
        shown = {run.run_id: run for run in beyond} | found
        self._latest = sorted(shown.values(), key=lambda run: run.created_at, reverse=True)[: self._limit]
        changed = self._latest if self._first else [run for run in found.values() if self._has_changed(run)]
        self._seen = found
        self._until = max((run.updated_at for run in found.values()), default=self._until)
        self._first = False
        return Poll(changed=sorted(changed, key=lambda run: run.created_at), latest=self._latest)

    def _has_changed(self, run: RunRecord) -> bool:
        before = self._seen.get(run.run_id)
        if before is not None:
            return _state(before) != _state(run)
        # An older run that comes into the page for the first time has not changed.
        return self._until is None or run.updated_at > self._until - _CLOCK_TOLERANCE

    async def _find(self) -> tuple[dict[str, RunRecord], datetime]:
        """Read the newest runs, back to a run that the last poll saw, and all runs that had not ended then.

        Also returns the horizon: the creation time of the oldest run up to which all runs were read.
        """
        found: dict[str, RunRecord] = {}
        cursor: str | None = None
        async with self._database.transaction() as tx:
            for _ in range(_MAX_PAGES):
                size = max(self._limit, _PAGE) if self._first else _PAGE
                page = await list_page(tx, self._wanted, limit=size, cursor=cursor)
                found |= {run.run_id: run for run in page.runs}
                cursor = page.next_cursor
                if self._first or cursor is None or found.keys() & self._seen.keys():
                    break
            horizon = (
                datetime.min.replace(tzinfo=UTC) if cursor is None else min(run.created_at for run in found.values())
            )
            unfinished = frozenset(run_id for run_id, run in self._seen.items() if not run.status.final) - found.keys()
            if unfinished:
                only = self._wanted.model_copy(update={"run_ids": unfinished})
                found |= {run.run_id: run for run in (await list_page(tx, only, limit=len(unfinished))).runs}
        return found, horizon


def _state(run: RunRecord) -> tuple[object, ...]:
    return run.status, run.current_stage, run.total_attempts


@contextmanager
def _open_view(*, as_json_lines: bool) -> Generator[TableView | LinesView]:
    """A live table on a terminal; lines in a pipe or as JSON."""
    if as_json_lines or not output.is_terminal:
        yield LinesView(as_json=as_json_lines)
        return
    # The shared console does not cut long lines, and a line that wraps would displace the table.
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        yield TableView(live)


class TableView:
    """Draws one table again after each change."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._latest: Sequence[RunRecord] = ()

    def show(self, poll: Poll) -> None:
        """Draw the table with the latest runs."""
        latest = self._latest = poll.latest
        unfinished = sum(not run.status.final for run in latest)
        newest = f", the last change at {max(run.updated_at for run in latest):%H:%M:%S} UTC" if latest else ""
        self._draw(Text(f"{len(latest)} runs, {unfinished} in progress{newest}. Ctrl-C ends", style="dim"))

    def show_outage(self, reason: str) -> None:
        """Keep the last table, with the outage below it."""
        self._draw(Text(f"{reason}. Retrying", style="bold red"))

    def _draw(self, below: Text) -> None:
        rows = self._latest[: max(self._live.console.height - _FRAME_LINES, 1)]
        table = run_table(rows) if rows else Text("No pipeline runs")
        self._live.update(Group(table, below), refresh=True)


class LinesView:
    """Writes one line per change, and flushes it for the reader of the pipe."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._outage = ""

    def show(self, poll: Poll) -> None:
        """Write a line for each changed run."""
        self._outage = ""
        if poll.changed:
            sys.stdout.write("".join(f"{self._line(run)}\n" for run in poll.changed))
            sys.stdout.flush()

    def show_outage(self, reason: str) -> None:
        """Write one line when an outage begins, and when its reason changes."""
        if reason != self._outage:
            errors.print(f"{reason}. Retrying", style="yellow")
        self._outage = reason

    def _line(self, run: RunRecord) -> str:
        if self._as_json:
            return to_json(run.model_dump(mode="json")).decode()
        cells = (f"{run.updated_at:%Y-%m-%d %H:%M:%S}", run.run_id[:SHORT], status_of(run), run.source)
        return "  ".join((*cells, duration(run.total_duration_ms), shortened(run.title))).rstrip()


def main() -> None:
    """Run the command `monitor_pipeline`."""
    run_app(app)
