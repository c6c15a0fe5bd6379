"""`alert-pipeline keys`: create, list and revoke API keys."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from orchestration.encryption import load_cipher
from orchestration.settings import load_settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import ApiKey, NewKey, Scope
from service.cli.reader import read
from service.cli.terminal import as_json, errors, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Create, list and revoke keys of the HTTP API.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The key's name: who or what uses it, such as alertmanager.")],
    scope: Annotated[
        list[Scope],
        typer.Option(help="What the key allows: trigger, read, resume, admin (all). Repeat the option for several."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> int:
    """Create a key and print it. It cannot be shown again."""
    settings = load_settings()
    cipher = load_cipher(settings)

    async def work(database: Database) -> NewKey:
        async with database.transaction() as tx:
            return await keys.create_key(tx, name, frozenset(scope), cipher)

    made = read(settings, work)
    if json:
        as_json(made.model_dump(mode="json") | {"scopes": sorted(made.scopes)})
        return 0
    output.print(f"Key             {made.token}", markup=False)
    output.print(f"Signing secret  {made.signing_secret}", markup=False)
    errors.print(
        f"{made.name}, for {', '.join(sorted(made.scopes))}. Keep them now: they are not shown again. "
        "Send the key with each request. Never send the signing secret: it makes X-Signature.",
        markup=False,
    )
    return 0


@app.command("list")
def show(
    json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> int:
    """List the names of all keys, also of revoked ones. Only their hashes are stored."""

    async def work(database: Database) -> list[ApiKey]:
        async with database.transaction() as tx:
            return await keys.list_keys(tx)

    found = read(load_settings(), work)
    if json:
        hidden = {"hash", "sealed_signing_secret"}
        as_json([key.model_dump(mode="json", exclude=hidden) | {"scopes": sorted(key.scopes)} for key in found])
    elif found:
        output.print(_table(found))
    else:
        output.print("No API keys", markup=False)
    return 0


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The key's name.")]) -> int:
    """Revoke a key for good. Running APIs refuse it within seconds."""

    async def work(database: Database) -> None:
        async with database.transaction() as tx:
            await keys.revoke_key(tx, name)

    read(load_settings(), work)
    output.print(f"{name} is revoked", markup=False)
    return 0


def _table(found: list[ApiKey]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAME", "KEY", "SCOPES", "CREATED", "LAST USED", "STATE"):
        table.add_column(title, no_wrap=True)
    for key in found:
        used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "in use"
        scopes = ", ".join(sorted(key.scopes))
        table.add_row(key.name, f"{key.prefix}…", scopes, f"{key.created_at:%Y-%m-%d %H:%M}", used, state)
    return table
