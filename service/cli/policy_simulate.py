"""The command `alert-pipeline policy simulate`: what another policy would have changed in the past."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from orchestration.errors import BadInput
from orchestration.policy.active import ActivePolicy
from orchestration.policy.model import Policy, as_duration, written_duration
from orchestration.policy.parse import parse_policy
from orchestration.policy.replay import Replay
from orchestration.policy.simulation import ChangedPages, PageChange, Simulation
from orchestration.policy.simulation import simulate as simulate_pages
from orchestration.settings import load_settings
from orchestration.store.database import AsyncConnection, read_clock
from orchestration.store.definitions import find_policy
from orchestration.store.oncall import read_schedules
from orchestration.store.past_pages import read_past_pages
from service.cli.policy_input import read_policy_file
from service.cli.reader import read
from service.cli.terminal import Json, as_json, output

_SHOWN_GROUPS = 40
_SHOWN_HOURS = 6


def simulate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A YAML or JSON file with a policy; - is stdin.")],
    since: Annotated[str, typer.Option(help="How far back: 12h, 7d, 4w.")] = "30d",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The latest pages that are looked at.")] = 50_000,
    json: Json = False,
) -> int:
    """Decide the pages of the past by the policy in use and by this one, and count what would have changed.

    Nothing is written and nothing is sent.
    """
    other = read_policy_file(file).policy
    start = datetime.now(UTC) - _span_of(since)

    async def query(tx: AsyncConnection) -> tuple[str, Simulation]:
        record = await find_policy(tx)
        present = parse_policy(record.config).policy if record else Policy()
        called = f"the policy, version {record.version}" if record else "no policy"
        now = await read_clock(tx)
        replays = [
            Replay(ActivePolicy(policy=policy, rosters=(await read_schedules(tx, start, policy)).rosters), now)
            for policy in (present, other)
        ]
        pages = [page async for page in read_past_pages(tx, start, limit=limit)]
        return called, simulate_pages(pages, *replays)

    called, found = read(load_settings(), query)
    if json:
        counts = {change.value: found.count(change) for change in PageChange}
        as_json({"file": file, "since": start.isoformat(), **counts, **found.model_dump(mode="json")})
    else:
        _show(found, f"{file} against {called}, since {start:%Y-%m-%d %H:%M} UTC")
    return 0


def _span_of(text: str) -> timedelta:
    try:
        return as_duration(text)
    except ValueError as error:
        raise BadInput(f"--since: {error}") from None


def _show(found: Simulation, title: str) -> None:
    output.print(title, style="bold")
    counts = ", ".join(f"{found.count(change)} {change}" for change in PageChange)
    output.print(f"  {found.pages} pages: {found.unchanged} unchanged, {counts}")
    for name in sorted({*found.before, *found.after}):
        was, now = found.before.get(name, 0), found.after.get(name, 0)
        output.print(f"  {name}: {was} pages" + ("" if was == now else f" → {now}"))
    _show_people(found)
    if not found.changes:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("CHANGE", "PAGES", "HOURS (UTC)", "ROUTE", "BEFORE", "AFTER", "EXAMPLE"):
        table.add_column(name, no_wrap=True)
    for group in found.changes[:_SHOWN_GROUPS]:
        hours = sorted(group.hours, key=lambda hour: -group.hours[hour])[:_SHOWN_HOURS]
        said = ", ".join(f"{hour:02}h: {group.hours[hour]}" for hour in sorted(hours))
        more = ", …" if len(group.hours) > len(hours) else ""
        table.add_row(
            *(group.change.value, str(group.pages), said + more, group.route),
            *(_names(group.before), _after(group), group.example),
        )
    output.print(table)
    if len(found.changes) > _SHOWN_GROUPS:
        output.print(f"  and {len(found.changes) - _SHOWN_GROUPS} more kinds of change: see --json")


def _show_people(found: Simulation) -> None:
    """How often each person was notified, and would have been; with the hours in which that differs."""
    for person in sorted({*found.people_before, *found.people_after}):
        was, now = found.people_before.get(person, {}), found.people_after.get(person, {})
        total = f"{sum(was.values())} pages" + ("" if was == now else f" → {sum(now.values())}")
        differ = [hour for hour in sorted({*was, *now}) if was.get(hour, 0) != now.get(hour, 0)]
        most = sorted(differ, key=lambda hour: -abs(was.get(hour, 0) - now.get(hour, 0)))[:_SHOWN_HOURS]
        said = ", ".join(f"{hour:02}h: {was.get(hour, 0)} → {now.get(hour, 0)}" for hour in sorted(most))
        more = ", …" if len(differ) > len(most) else ""
        output.print(f"  person {person}: {total}" + (f" ({said}{more}, UTC)" if said else ""))


def _after(group: ChangedPages) -> str:
    names = _names(group.after)
    if group.change is not PageChange.LATER:
        return names
    return f"{names}, by up to {written_duration(timedelta(minutes=group.later_minutes))}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "nobody"
