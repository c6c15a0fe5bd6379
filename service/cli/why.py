"""`alert-pipeline why`: why somebody was notified of something, or nobody was, on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated

import typer
from rich.text import Text

from orchestration.moments import parse_moment
from orchestration.settings import load_settings
from orchestration.store.database import AsyncConnection, read_clock
from orchestration.store.why import read_why
from orchestration.store.why_facts import Event, Why
from service.cli.reader import read
from service.cli.terminal import Json, as_json, output

_STYLES = {"✓": "green", "✗": "red", "-": "dim", "→": "yellow"}
_SHOWN = 30
_ID_DIGITS = 12


def why(
    what: Annotated[
        str,
        typer.Argument(
            help="A run's id or its start, an incident's number, an alert's name, an incident's title, or the start "
            "of one, matchers of labels such as 'instance=\"db-1\"', or a refused push such as refused-12."
        ),
    ],
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The moment in question, in UTC: 03:12, or 2026-11-26 03:12.")
    ] = None,
    all_lines: Annotated[bool, typer.Option("--all", help="Show the timeline from its beginning.")] = False,
    json: Json = False,
) -> int:
    """Say why somebody was notified of something, or nobody was.

    The answer comes first, then what happened: pushes that arrived or were refused, what was decided by which rule,
    each message and each try, what people did, and what comes next. All times are UTC.
    """

    async def query(tx: AsyncConnection) -> Why:
        now = await read_clock(tx)
        moment = parse_moment(at, now, clock_time="last", name="--at") if at is not None else None
        return await read_why(tx, what, moment)

    found = read(load_settings(), query)
    as_json(found.model_dump(mode="json")) if json else _show(found, all_lines=all_lines)
    return 0


def _show(found: Why, *, all_lines: bool) -> None:
    output.print(Text(found.answer, style="bold"))
    incident = found.incident
    if incident is not None:
        output.print(
            f"\n  Incident {incident.id} ({incident.status.value}, {incident.severity.value}, {incident.environment}): "
            f"{incident.title}"
        )
    shown = found.timeline if all_lines else found.timeline[-_SHOWN:]
    left_out = len(found.timeline) - len(shown)
    if left_out:
        output.print(f"  … {left_out} earlier lines, with --all", style="dim")
    day = _show_lines(shown)
    if found.upcoming:
        output.print("\n  Next", style="bold")
        _show_lines(found.upcoming, day)
    if found.other_incidents:
        output.print("\n  It also fits")
        for other in found.other_incidents:
            output.print(f"    incident {other.id} ({other.status.value}, {other.environment}): {other.title}")


def _show_lines(events: Sequence[Event], day: date | None = None) -> date | None:
    """Print these lines, with a heading for each day but the one that was printed last; return the last day."""
    for event in events:
        at = event.at.astimezone(UTC)
        if at.date() != day:
            day = at.date()
            heading = "today, " if day == datetime.now(UTC).date() else ""
            output.print(f"\n  {heading}{day:%Y-%m-%d}", style="dim")
        line = Text(f"  {at:%H:%M:%S} ")
        line.append(f"{event.mark} ", style=_STYLES.get(event.mark, ""))
        line.append(event.text)
        if event.run_id:
            line.append(f"  [{event.run_id[:_ID_DIGITS]}]", style="dim")
        output.print(line)
    return day
