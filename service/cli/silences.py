"""`alert-pipeline silences`: keep alerts back for some time, list what is kept back, and end it."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestration.errors import BadInput
from orchestration.moments import length_in_words, parse_length, parse_moment
from orchestration.policy.holding import Silence
from orchestration.policy.matchers import BadMatcher, Matcher, parse_matchers
from orchestration.settings import load_settings
from orchestration.store import silences
from orchestration.store.actions import Actor, Via
from orchestration.store.database import AsyncConnection, read_clock
from orchestration.store.silences import PREVIEW, SilencedIncident
from service.cli.reader import read
from service.cli.terminal import USAGE, Json, as_json, fail, output, shortened

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Silences: nobody is notified of alerts with these labels for some time. They end by themselves; what still "
    "fires then is told, with who had silenced it. The all-clear of what was told is never kept back.",
)

By = Annotated[str | None, typer.Option(help="Who does it; by default the name of the user who runs the command.")]
_SHOWN_INCIDENTS = 20


@app.command()
def add(
    matchers: Annotated[
        list[str],
        typer.Argument(
            metavar="MATCHERS…", help="Conditions that must all hold: team=db, severity!=critical, host=~'web-.*'."
        ),
    ],
    lasts: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="For how long, such as 30m, 2h or 1d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Until when, such as 2026-12-01T08:00 or 08:00, in UTC.")
    ] = None,
    comment: Annotated[str, typer.Option(help="Why. The message after the silence says it.")] = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Only show what it keeps back now, and would have in the last 7 days.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--everything", help="It is meant that the matchers hold for every alert.")
    ] = False,
    by: By = None,
    json: Json = False,
) -> int:
    """Silence alerts by their labels, also severity, source, environment and alertname."""
    conditions = _matchers(matchers)
    silences.check_matchers(conditions, everything=everything)
    silences.check_comment(comment)
    if preview and lasts is None and until is None:
        return _preview(conditions, None, json=json)
    ends = _end_of(lasts, until)
    if preview:
        return _preview(conditions, ends, json=json)
    actor = Actor(by=by if by is not None else getpass.getuser(), via=Via.CLI)

    async def work(tx: AsyncConnection) -> tuple[Silence, list[SilencedIncident]]:
        made = await silences.add_silence(tx, conditions, actor, until=ends, comment=comment, everything=everything)
        return made, await silences.silenced_incidents(tx, conditions, since=timedelta(0))

    made, now = read(load_settings(), work)
    if json:
        as_json(_flat(made))
    else:
        output.print(f"Silence {made.id} keeps back {_written(made)} until {made.ends_at:%Y-%m-%d %H:%M} UTC")
        output.print(f"  Open incidents that it keeps back now: {len(now)}")
    return 0


@app.command("list")
def show_list(
    ended: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many silences to list.")] = 50,
    json: Json = False,
) -> int:
    """List the silences, the newest first."""

    async def query(tx: AsyncConnection) -> tuple[list[Silence], datetime]:
        return await silences.list_silences(tx, ended=ended, limit=limit), await read_clock(tx)

    found, now = read(load_settings(), query)
    if json:
        as_json([_flat(one) for one in found])
    elif found:
        output.print(_table(found, now))
    else:
        output.print("No silences")
    return 0


@app.command()
def end(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Its number.", min=1)],
    json: Json = False,
) -> int:
    """End a silence now. What it keeps back, and still fires, is told."""
    ended = read(load_settings(), lambda tx: silences.end_silence(tx, number))
    if json:
        as_json(_flat(ended))
    else:
        output.print(f"Silence {ended.id} of {_written(ended)} has ended")
    return 0


def _matchers(texts: list[str]) -> tuple[Matcher, ...]:
    """
    Raises:
        BadInput: one of them is no matcher.
    """
    try:
        return tuple(matcher for text in texts for matcher in parse_matchers(text))
    except BadMatcher as error:
        raise BadInput(f"MATCHERS: {error}") from None


def _end_of(lasts: str | None, until: str | None) -> timedelta | datetime:
    """
    Raises:
        BadInput: it is no length and no moment.
    """
    if (lasts is None) == (until is None):
        fail("Say how long: --for TIME or --until MOMENT, one of them", code=USAGE)
    if lasts is not None:
        return parse_length(lasts, name="--for")
    return parse_moment(until or "", datetime.now(UTC), clock_time="next", name="--until")


def _preview(matchers: tuple[Matcher, ...], ends: timedelta | datetime | None, *, json: bool) -> int:
    """Show what a silence keeps back, if it is one that can be added."""

    async def query(tx: AsyncConnection) -> list[SilencedIncident]:
        if ends is not None:
            silences.end_at(await read_clock(tx), ends)
        return await silences.silenced_incidents(tx, matchers, since=PREVIEW)

    found = read(load_settings(), query)
    now, before = [one for one in found if one.fires], [one for one in found if not one.fires]
    if json:
        as_json([one.model_dump(mode="json") for one in found])
        return 0
    output.print(f"Keeps back now: {len(now)}", style="bold")
    _show(now)
    output.print(f"Would have kept back in the last {PREVIEW.days} days: {len(before)}", style="bold")
    _show(before)
    return 0


def _show(found: list[SilencedIncident]) -> None:
    for one in found[:_SHOWN_INCIDENTS]:
        output.print(
            Text(f"  #{one.id} {one.severity.value:<8} {one.opened_at:%Y-%m-%d %H:%M} UTC  {shortened(one.title)}")
        )
    if len(found) > _SHOWN_INCIDENTS:
        output.print(f"  and {len(found) - _SHOWN_INCIDENTS} more")


def _written(silence: Silence) -> str:
    return ", ".join(map(str, silence.matchers))


def _flat(silence: Silence) -> dict[str, Any]:
    return silence.model_dump(mode="json")


def _table(found: list[Silence], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NUMBER", "ENDS", "BY", "MATCHERS", "COMMENT"):
        table.add_column(title, no_wrap=True)
    for one in found:
        left = (one.ends_at - now).total_seconds()
        ends = f"in {length_in_words(left)}" if left > 0 else f"{one.ends_at:%Y-%m-%d %H:%M}"
        table.add_row(str(one.id), ends, Text(one.by), Text(_written(one)), Text(one.comment))
    return table
