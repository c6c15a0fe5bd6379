"""The commands `alert-pipeline pushes …`: pushes that were kept because no source could read them."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from orchestration.errors import BadInput
from orchestration.redaction import one_line
from orchestration.settings import Settings, load_settings
from orchestration.signals import make_signals
from orchestration.store.database import Database
from orchestration.store.definitions import StoredDefinitions
from orchestration.store.mappings import read_mappings
from orchestration.store.policies import StoredPolicies
from orchestration.store.unread import KEPT_CHARACTERS, MOST_LISTED, UnreadPush, find_unread, list_unread
from service.cli.reader import read, read_at
from service.cli.terminal import Json, as_json, errors, output, shortened, show_facts
from service.replay import Replayed, ReplayIntake, replay, replay_all
from tasks.ingest.sources.fields import long_text

_NAME = re.compile(r"(?:refused-)?(\d{1,18})")

app = typer.Typer(
    no_args_is_help=True,
    help="Pushes that were kept because no source could read them: look at them, and read them again.",
)

PushName = Annotated[str, typer.Argument(metavar="PUSH", help="A kept push, such as refused-12.")]


def find_kept(settings: Settings, name: str) -> UnreadPush:
    """The kept push with this name, such as `refused-12` or `12`.

    Raises:
        BadInput: it is no such name, or no push with it is kept.
        Unavailable: the database does not answer.
    """
    number = _number_of(name)
    return read(settings, lambda tx: find_unread(tx, number))


def _number_of(name: str) -> int:
    found = _NAME.fullmatch(name.strip())
    if found is None:
        raise BadInput(f"{shortened(name)!r} is no kept push: they are called refused-12 and so on")
    return int(found[1])


@app.command("list")
def list_pushes(
    all_: Annotated[bool, typer.Option("--all", help="Also those that a source could read later.")] = False,
    json: Json = False,
) -> int:
    """List the pushes that no source could read, oldest first."""
    found = read(load_settings(), lambda tx: list_unread(tx, include_read=all_))
    if json:
        as_json([push.model_dump(mode="json") for push in found])
        return 0
    for push in found:
        when = f"{push.at:%Y-%m-%d %H:%M:%S}" if push.at else ""
        state = "  read" if push.run_ids else ""
        output.print(
            f"{push.name:<14} {when}  {push.sender or 'the local key'}  {push.path}{state}  {one_line(push.body, 60)}"
        )
    if not found:
        output.print("No push is kept: every one could be read")
    if len(found) == MOST_LISTED:
        errors.print(f"These are the oldest {MOST_LISTED:,}; there may be more", style="dim")
    return 0


@app.command()
def show(name: PushName, json: Json = False) -> int:
    """Show a push that was kept, with its body."""
    push = find_kept(load_settings(), name)
    if json:
        as_json(push.model_dump(mode="json"))
        return 0
    output.print(push.name, style="bold")
    show_facts(
        {
            "when": f"{push.at:%Y-%m-%d %H:%M:%S} UTC" if push.at else None,
            "from": f"{push.sender or 'the local key'} at {push.address or '?'}",
            "to": push.path,
            "why": push.reason,
            "runs": ", ".join(push.run_ids) or None,
        }
    )
    # A sender may have written what a terminal takes for a command.
    output.print(long_text(push.body, KEPT_CHARACTERS))
    return 0


@app.command("replay")
def replay_pushes(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PUSH]…", help="The pushes; by default all that are kept.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read, and store nothing.")] = False,
    json: Json = False,
) -> int:
    """Read pushes again that were kept, after a mapping was applied. Their runs are executed by the workers.

    A push that was read once is not read again. Exit code: 0, or 1 if some are still not understood.
    """
    settings = load_settings()
    numbers = [_number_of(name) for name in names or ()]

    async def run(database: Database, _: object) -> list[Replayed]:
        async with database.transaction() as tx:
            mappings = await read_mappings(tx)
            chosen = [await find_unread(tx, number) for number in numbers]
        intake = ReplayIntake(
            database=database,
            signals=make_signals(settings),
            settings=settings,
            definitions=StoredDefinitions(database),
            policies=StoredPolicies(database),
            mappings=mappings,
        )
        if not chosen:
            return await replay_all(intake, dry_run=dry_run)
        return [await replay(intake, push, dry_run=dry_run) for push in chosen]

    done = read_at(settings, run)
    if json:
        as_json([each.model_dump(mode="json") for each in done])
    else:
        _show(done, dry_run=dry_run)
    return 1 if any(each.source is None and not each.was_read for each in done) else 0


def _show(done: list[Replayed], *, dry_run: bool) -> None:
    for each in done:
        if each.was_read:
            output.print(f"= {each.push}: was read before, run {', '.join(each.run_ids)}")
        elif each.source is None:
            output.print(f"✗ {each.push}: {each.reason}")
        elif each.ignored:
            output.print(f"✓ {each.push}: {each.source} ignores it: {each.ignored}")
        else:
            runs = "" if dry_run else f", run {', '.join(each.run_ids)}"
            alerts = f"{each.alerts} alert{'s' if each.alerts != 1 else ''}"
            output.print(f"✓ {each.push}: {each.source} reads {alerts}{runs}")
    if not done:
        output.print("Nothing to read: no push is kept")
