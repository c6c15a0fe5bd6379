"""`alert-pipeline oncall`: who is on call, until when and who is next; and who is on call instead, for a time."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from orchestration.errors import BadInput
from orchestration.message import is_channel
from orchestration.moments import parse_moment
from orchestration.policy.oncall import ScheduleState, ScheduleWarning, state_of
from orchestration.policy.schedules import Override, Shift
from orchestration.policy.wall_clock import clock_at
from orchestration.redaction import shown
from orchestration.settings import load_settings
from orchestration.store.database import AsyncConnection, read_clock
from orchestration.store.encrypted_cache import read_channel_names
from orchestration.store.oncall import Schedules, read_schedules, warnings_of
from orchestration.store.overrides import OverrideRecord, add_override, list_overrides, remove_override
from service.cli.reader import read
from service.cli.terminal import Json, as_json, errors, output


class _ShowByDefault(TyperGroup):
    """`oncall`, `oncall SCHEDULE` and `oncall --at TIME` mean `oncall show …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ShowByDefault,
    rich_markup_mode="rich",
    help="Who is on call: now, at another moment, in the next days; and who is on call instead, for a time. "
    "`oncall SCHEDULE` is short for `oncall show SCHEDULE`.",
)

ScheduleName = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The name of a schedule of the policy.")]


@app.command()
def show(
    schedule: Annotated[
        str | None, typer.Argument(metavar="[SCHEDULE]", help="A schedule of the policy. By default all of them.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="The moment in question, in UTC: 03:12, or 2026-12-24 18:00. By default now."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=0, max=366, help="How many days of shifts to list.")] = 7,
    json: Json = False,
) -> int:
    """Show who is on call, since when and until when, who is next, and the shifts of the next days."""

    async def query(tx: AsyncConnection) -> tuple[datetime, Schedules, list[str] | None]:
        now = await read_clock(tx)
        moment = parse_moment(at, now, clock_time="next", name="--at") if at is not None else now
        return moment, await read_schedules(tx, moment), await read_channel_names(tx)

    moment, found, channels = read(load_settings(), query)
    names = list(found.rosters) if schedule is None else [schedule]
    states = [state_of(name, found.get(name), moment, timedelta(days=days)) for name in names]
    warnings = warnings_of(found, moment, schedule=schedule, channels=channels)
    if json:
        as_json(_as_json(moment, states, warnings))
    elif states:
        _show(moment, states, warnings)
    else:
        output.print("The policy has no schedules: nobody is on call. docs/oncall.md says how to add one")
    return 0


@app.command("override")
def add(
    schedule: ScheduleName,
    person: Annotated[str, typer.Argument(metavar="PERSON", help="Who is on call instead: a name of `people`.")],
    until: Annotated[
        str,
        typer.Option(metavar="TIME", help="Until when: 08:00, or 2026-12-24 18:00, in the time zone of the schedule."),
    ],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="From when, in the same way. By default from now on."),
    ] = None,
    json: Json = False,
) -> int:
    """Put a person on call instead of everybody else, for a time. A later override wins over an earlier one."""

    async def add_it(tx: AsyncConnection) -> tuple[OverrideRecord, str, bool]:
        now = await read_clock(tx)
        found = await read_schedules(tx, now)
        zone = found.get(schedule).schedule.time_zone
        if person not in found.policy.people:
            known = ", ".join(sorted(found.policy.people)) or "nobody"
            raise BadInput(f"`people` of the policy does not have {shown(person)}; it has: {known}")
        begins = parse_moment(start, now, clock_time="next", name="--from", time_zone=zone) if start else now
        ends = parse_moment(until, max(now, begins), clock_time="next", name="--until", time_zone=zone)
        new = Override(person=person, starts_at=begins, ends_at=ends)
        channels, contacts = await read_channel_names(tx), found.policy.people[person].contacts
        reached = channels is None or any(is_channel(contact, channels) for contact in contacts)
        return await add_override(tx, schedule, new, created_by=getpass.getuser()), zone, reached

    added, zone, reached = read(load_settings(), add_it)
    if not reached:
        errors.print(f"Warning: nothing reaches {person}: none of the contacts is a channel", style="yellow")
    if json:
        as_json(added.model_dump(mode="json"))
    else:
        span = f"{_local(added.starts_at, zone)} to {_local(added.ends_at, zone)} ({zone})"
        output.print(f"Override {added.id}: {added.person} is on call in {added.schedule} from {span}")
    return 0


@app.command("overrides")
def show_overrides(
    schedule: Annotated[
        str | None, typer.Argument(metavar="[SCHEDULE]", help="Only those of this schedule. By default all.")
    ] = None,
    json: Json = False,
) -> int:
    """List the overrides that are not over, in UTC."""

    async def query(tx: AsyncConnection) -> list[OverrideRecord]:
        return await list_overrides(tx, await read_clock(tx), schedules=None if schedule is None else [schedule])

    found = read(load_settings(), query)
    if json:
        as_json([override.model_dump(mode="json") for override in found])
    elif found:
        output.print(_override_table(found))
    else:
        output.print("No overrides" if schedule is None else f"No overrides of {schedule}")
    return 0


@app.command("remove-override")
def remove(
    id: Annotated[int, typer.Argument(metavar="ID", help="Its number, as `oncall overrides` lists it.")],
    json: Json = False,
) -> int:
    """Remove an override. One that has begun ends now; what was true until now stays on record."""
    removed = read(load_settings(), lambda tx: remove_override(tx, id))
    if json:
        as_json(removed.model_dump(mode="json"))
    else:
        one = removed.override
        how = "ends now" if removed.has_begun else "is removed"
        output.print(f"Override {one.id} {how}: {one.person} in {one.schedule}")
    return 0


# What is shown


def _as_json(moment: datetime, states: Sequence[ScheduleState], warnings: Sequence[ScheduleWarning]) -> dict[str, Any]:
    return {
        "at": moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "schedules": [state.model_dump(mode="json") for state in states],
        "warnings": [warning.model_dump(mode="json") for warning in warnings],
    }


def _show(moment: datetime, states: Sequence[ScheduleState], warnings: Sequence[ScheduleWarning]) -> None:
    for number, state in enumerate(states):
        if number:
            output.print()
        zone = state.time_zone
        output.print(f"{state.schedule}: {_names(state.people)}", style="bold" if state.people else "bold red")
        output.print(f"  {_local(moment, zone)} in {zone}, {moment.astimezone(UTC):%H:%M} UTC", style="dim")
        since = _local(state.since, zone) if state.since else "more than a year ago"
        until = _local(state.until, zone) if state.until else "for more than a year"
        by = ", by an override" if state.by_override else ""
        output.print(f"  Since {since}, until {until}{by}")
        following = (
            f"{_names(state.next_people)}, from {_local(state.next_since, zone)}" if state.next_since else "nobody"
        )
        output.print(f"  Next: {following}")
        for shift in state.shifts:
            output.print(_shift_line(shift, zone))
    for warning in warnings:
        errors.print(Text.assemble(("!", "yellow"), f" {warning}"))


def _shift_line(shift: Shift, zone: str) -> Text:
    style = "yellow" if shift.by_override else "" if shift.people else "red"
    by = " (override)" if shift.by_override else ""
    span = f"{_local(shift.starts_at, zone)} – {_local(shift.ends_at, zone)}"
    return Text.assemble(f"    {span}  ", (f"{_names(shift.people)}{by}", style))


def _override_table(found: Sequence[OverrideRecord]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ID", "SCHEDULE", "PERSON", "FROM (UTC)", "UNTIL (UTC)", "ADDED BY"):
        table.add_column(title, no_wrap=True)
    for one in found:
        span = (f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" for moment in (one.starts_at, one.ends_at))
        table.add_row(str(one.id), Text(one.schedule), Text(one.person), *span, Text(one.created_by))
    return table


def _names(people: Sequence[str]) -> str:
    return ", ".join(people) or "nobody"


def _local(moment: datetime, zone: str) -> str:
    """A moment as the clock of a time zone shows it."""
    return f"{clock_at(moment, zone):%a %Y-%m-%d %H:%M}"
