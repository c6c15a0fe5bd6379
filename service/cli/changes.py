"""`alert-pipeline changes`: list and add change events, such as deployments."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from orchestration.changes.events import parse_change
from orchestration.contracts import ChangeEvent
from orchestration.errors import BadInput
from orchestration.moments import parse_moment
from orchestration.settings import load_settings
from orchestration.store.change_events import Recorded, list_changes, record_change
from orchestration.store.database import AsyncConnection, read_clock
from service.cli.reader import read
from service.cli.terminal import Json, as_json, output

HELP = """What people change: incidents shortly after it show it. From a deployment script, with a key for trigger:

    curl -fsS -H @/etc/apk.header -d '{"kind": "deploy", "title": "web 2.4.1", "labels": {"service": "web"}}' \\
        https://HOST/changes/

GitHub and Grafana send theirs as they are. More in docs/changes.md.
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=HELP)


@app.command("list")
def show_list(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 20,
    json: Json = False,
) -> int:
    """List the change events, the newest first."""
    found = read(load_settings(), lambda tx: list_changes(tx, limit=limit))
    if json:
        as_json([one.model_dump(mode="json") for one in found])
    elif found:
        output.print(_table(found))
    else:
        output.print("No changes: alert-pipeline changes --help")
    return 0


@app.command()
def add(
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What was done, such as 'web 2.4.1'.")],
    kind: Annotated[str, typer.Option(help="deploy, config, scale, flag, or any other word.")] = "change",
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who did it. By default you.")] = None,
    url: Annotated[str | None, typer.Option(help="Where more is said of it.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What it changed, such as service=web; repeatable.")
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When: 03:12, or ISO 8601. By default now.")] = None,
    id: Annotated[str | None, typer.Option(help="By which a repetition is known.")] = None,
    json: Json = False,
) -> int:
    """Add a change event."""
    body: dict[str, object] = {
        "title": title,
        "kind": kind,
        "by": by or getpass.getuser(),
        "labels": _labels(label or []),
    }
    body |= {name: value for name, value in (("url", url), ("id", id)) if value is not None}

    async def record(tx: AsyncConnection) -> tuple[Recorded, ChangeEvent]:
        now = await read_clock(tx)
        moment = {} if at is None else {"at": parse_moment(at, now, clock_time="last", name="--at").isoformat()}
        return await record_change(tx, parse_change(body | moment, now))

    done, event = read(load_settings(), record)
    if json:
        as_json({"status": done.value, "change": event.model_dump(mode="json")})
    else:
        output.print(f"{event.kind} {event.title} at {event.at:%Y-%m-%d %H:%M:%S} UTC: {done.value}")
    return 0


def _labels(given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    for name, sign, value in pairs:
        if not sign or not name.strip() or not value.strip():
            raise BadInput(f"--label: {name[:40]!r} is not NAME=VALUE, such as service=web")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _table(found: Sequence[ChangeEvent]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("AT", "KIND", "TITLE", "BY", "LABELS"):
        table.add_column(title)
    for one in found:
        labels = ", ".join(f"{name}={value}" for name, value in one.labels.items())
        table.add_row(f"{one.at:%Y-%m-%d %H:%M:%S}", one.kind, one.title, one.by, labels)
    return table
