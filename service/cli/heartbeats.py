"""`alert-pipeline heartbeats`: list, show and remove the heartbeats that are expected."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestration.errors import HeartbeatNotFound
from orchestration.heartbeat import Heartbeat
from orchestration.moments import length_in_words
from orchestration.settings import load_settings
from orchestration.store import heartbeats
from orchestration.store.database import AsyncConnection, read_clock
from orchestration.store.heartbeats import Door
from service.cli.reader import read
from service.cli.terminal import Json, as_json, errors, output, show_facts

HELP = """Heartbeats: what has to say regularly that it lives. If it does not, somebody is notified.

A heartbeat begins with its first beat, and each beat is a request. From cron, with a key of the scope trigger:

    30 2 * * * backup && curl -fsS -m 10 --retry 3 -H @/etc/apk.header 'https://HOST/heartbeats/backup/?every=1d'

From Prometheus, with an alert that always fires (Watchdog), as a receiver of Alertmanager:

    route:     {receiver: default, routes: [{matchers: [alertname="Watchdog"], receiver: alive, repeat_interval: 1m}]}
    receivers: [{name: alive, webhook_configs: [{url: 'https://HOST/heartbeats/prometheus/?every=5m'}]}]

Parameters: every (90s, 5m, 2h, 1d), grace (by default a fifth of every, 30s to 1h), severity (critical), environment
(production). More in docs/heartbeats.md.
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=HELP)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The heartbeat's name.")]
Environment = Annotated[str, typer.Option(help="Its environment.")]


@app.command("list")
def show_list(
    missing: Annotated[bool, typer.Option("--missing", help="Only those that are missing.")] = False,
    json: Json = False,
) -> int:
    """List the heartbeats that are expected: those that are missing first."""
    found, door, now = read(load_settings(), _read_all)
    if missing:
        found = [one for one in found if one.missing_since is not None]
    if json:
        as_json([_flat(one, door, now) for one in found])
    elif found:
        output.print(_table(found, door, now))
    else:
        output.print("No heartbeat is missing" if missing else "No heartbeats: alert-pipeline heartbeats --help")
    if found and (door is None or not door.is_open):
        errors.print(_closed(door), style="yellow")
    return 0


@app.command()
def show(name: Name, environment: Environment = "production", json: Json = False) -> int:
    """Show a heartbeat: when it came last, and from when on it is missing."""
    found, door, now = read(load_settings(), _read_all)
    mine = [one for one in found if one.name == name and one.environment == environment]
    if not mine:
        raise HeartbeatNotFound(
            f"There is no heartbeat {name!r} in the environment {environment!r}; "
            "`alert-pipeline heartbeats list` shows what there is"
        )
    if json:
        as_json(_flat(mine[0], door, now))
        return 0
    (one,) = mine
    output.print(f"{one.name}: {state_of(one, door, now)}", style=f"bold {_style(one, door, now)}")
    facts = {
        "Environment": one.environment,
        "Severity": one.severity.value,
        "Expected": one.rhythm,
        "Last beat": f"{_utc(one.last_beat_at)} ({length_in_words((now - one.last_beat_at).total_seconds())} ago)",
        "Next beat": f"until {_utc(one.next_due_at)}",
        "Missing": f"since {_utc(one.missing_since)}" if one.missing_since else f"from {_utc(_late(one, door))} on",
        "Known since": _utc(one.created_at),
        "Why": f"alert-pipeline why 'heartbeat=\"{one.name}\"'" if one.missing_since else None,
    }
    show_facts(facts, width=14)
    if door is None or not door.is_open:
        errors.print(_closed(door), style="yellow")
    return 0


@app.command()
def remove(name: Name, environment: Environment = "production", json: Json = False) -> int:
    """Expect a heartbeat no more. If it is missing, its alert ends. The next beat with `every` begins it anew."""
    by = getpass.getuser()
    removed = read(load_settings(), lambda tx: heartbeats.remove(tx, name, environment, by=by))
    if json:
        as_json(removed.model_dump(mode="json"))
        return 0
    ends = ", and its alert ends" if removed.missing_since is not None else ""
    output.print(f"Heartbeat {name} ({environment}) is not expected any more{ends}")
    return 0


def state_of(one: Heartbeat, door: Door | None, now: datetime) -> str:
    """The state of a heartbeat in one word: missing, beating, late (it may still come), or unknown."""
    if one.missing_since is not None:
        return "missing"
    if now <= one.next_due_at:
        return "beating"
    return "late" if door is not None and door.is_open else "unknown"


async def _read_all(tx: AsyncConnection) -> tuple[list[Heartbeat], Door | None, datetime]:
    return await heartbeats.list_heartbeats(tx), await heartbeats.read_door(tx), await read_clock(tx)


def _flat(one: Heartbeat, door: Door | None, now: datetime) -> dict[str, Any]:
    moments = {"next_due_at": one.next_due_at, "missing_after": _late(one, door)}
    shown = {name: moment.isoformat().replace("+00:00", "Z") for name, moment in moments.items()}
    return one.model_dump(mode="json") | shown | {"state": state_of(one, door, now)}


def _late(one: Heartbeat, door: Door | None) -> datetime:
    return one.missing_after(None if door is None else door.open_since)


def _style(one: Heartbeat, door: Door | None, now: datetime) -> str:
    return {"missing": "red", "late": "yellow", "unknown": "yellow"}.get(state_of(one, door, now), "green")


def _table(found: Sequence[Heartbeat], door: Door | None, now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAME", "ENVIRONMENT", "STATE", "EVERY", "GRACE", "SEVERITY", "LAST BEAT", "MISSING"):
        table.add_column(title, no_wrap=True)
    for one in found:
        since = f"since {one.missing_since:%m-%d %H:%M:%S}" if one.missing_since else None
        table.add_row(
            one.name,
            one.environment,
            Text(state_of(one, door, now), style=_style(one, door, now)),
            length_in_words(one.every_seconds),
            length_in_words(one.grace_seconds),
            one.severity.value,
            f"{one.last_beat_at:%Y-%m-%d %H:%M:%S}",
            since or f"from {_late(one, door):%m-%d %H:%M:%S}",
        )
    return table


def _closed(door: Door | None) -> str:
    since = "" if door is None else f" since {_utc(door.seen_at)}"
    return f"No API has accepted beats{since}: no heartbeat is found to be missing until one does. Start one"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
