"""`alert-pipeline channels`: which channels there are and whether they work, and a test message to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestration.embedded_stack import find_running_stack
from orchestration.settings import Settings, load_settings
from orchestration.store.channels import read_health
from orchestration.store.database import Database
from service.cli.reader import read_at
from service.cli.terminal import Json, as_json, errors, output, progress

if TYPE_CHECKING:
    from service.channel_report import ChannelList, ChannelView, Tested

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Channels: list where messages go and whether that works, and send a test message.",
)

_STYLES = {"works": "green", "failing": "red", "unusable": "red", "paused": "yellow", "off": "dim", "unused": ""}


@app.command("list")
def show_list(json: Json = False) -> int:
    """List the channels: name, kind, target, whether each works, and its last message.

    A channel is set up by the environment (SLACK_WEBHOOK_URL …), or by a block
    that is saved in Prefect. A * marks those that get what names no channel.

    STATE is from the latest messages: works, failing, paused (the channel has
    asked for that), unused (no message yet), off, or unusable (wrong settings).

    Blocks of Prefect's own (Teams, Discord, SlackCredentials …) get only what
    names them, such as NOTIFY_CHANNELS=NAME.

    See also `alert-pipeline doctor`, which asks each channel now and sends
    nothing, and `alert-pipeline channels test NAME`, which sends a message.
    """
    settings = load_settings()

    async def work(database: Database, api_url: str | None) -> ChannelList:
        # Prefect takes seconds to import, and `--help` does not need it.
        from service.channel_report import list_channels

        async with database.transaction() as tx:
            health = await read_health(tx)
        return await list_channels(settings, api_url, health)

    found = read_at(settings, work)
    if json:
        as_json(found.model_dump(mode="json"))
    else:
        _show(found)
    return 0


@app.command("test")
def send_test(
    name: Annotated[
        str,
        typer.Argument(
            help="A channel of `alert-pipeline channels list`, or a driver, such as slack. For credentials that are "
            "saved in Prefect: NAME/#channel, or NAME/ops@example.com."
        ),
    ],
    json: Json = False,
) -> int:
    """Send a real message, marked as a test, and say what the vendor says of it.

    Slack with a bot names the address of the message; a mail server names the
    recipients that it accepted; others say only that they accepted it.

    On channels that show a state (Slack with a bot, PagerDuty) the test is
    ended at once. PagerDuty may notify somebody all the same.

    Nothing is recorded, and nothing is tried twice. Exit code: 0, or 1 if a
    message was not accepted.
    """
    settings = load_settings()
    with progress() as show:
        show(f"Sending a test message to {name} …" if not json else "")
        tested = asyncio.run(_test(settings, name))
    if json:
        as_json([one.model_dump(mode="json") for one in tested])
    else:
        _show_tested(tested)
    return 0 if all(one.ok for one in tested) else 1


async def _test(settings: Settings, name: str) -> list[Tested]:
    from service.channel_report import send_tests

    stack = find_running_stack(settings)
    api_url = settings.prefect_api_url or (stack.prefect_api_url if stack is not None else None)
    return await send_tests(settings, api_url, name)


def _show(found: ChannelList) -> None:
    if found.channels:
        output.print(_table(found.channels))
    for view in found.channels:
        if view.problem:
            output.print(Text(f"{view.name}: {view.problem}", style=_STYLES[view.state]))
    for note in (found.problem, found.unknown):
        if note is not None:
            errors.print(Text.assemble(("!", "yellow"), f" {note}"))
    if not found.channels:
        output.print("No channels. docs/channels.md says how to set one up")


def _table(views: Sequence[ChannelView]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "NAME", "KIND", "TARGET", "FROM", "STATE", "SINCE", "LAST SENT"):
        table.add_column(title, no_wrap=True, min_width=len(title))
    for view in views:
        since = view.failing_since if view.state == "failing" else None
        table.add_row(
            "*" if view.default else "",
            Text(view.name),
            view.kind or "-",
            Text(view.target or "-"),
            view.origin,
            Text(_state(view), style=_STYLES[view.state]),
            _moment(since),
            _moment(view.sent_at),
        )
    return table


def _state(view: ChannelView) -> str:
    return f"{view.state} until {view.paused_until:%H:%M:%S}" if view.paused_until is not None else view.state


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment is not None else "-"


def _show_tested(tested: Sequence[Tested]) -> None:
    for one in tested:
        mark = ("✓", "green") if one.ok else ("✗", "red")
        where = f"{one.name} ({one.kind} to {one.target})"
        output.print(Text.assemble(mark, f" {where}: {one.said} ({one.seconds:.1f} s)"))
