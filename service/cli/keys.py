"""`alert-pipeline keys`: create, list and revoke API keys."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from orchestration.encryption import load_cipher
from orchestration.local_key import header_path, load_local_key
from orchestration.settings import load_settings
from orchestration.store import keys
from orchestration.store.keys import ApiKey, Scope
from service.cli.reader import read
from service.cli.terminal import Json, as_json, errors, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Create, list and revoke keys of the HTTP API.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The key's name: who or what uses it, such as alertmanager.")],
    scope: Annotated[
        list[Scope],
        typer.Option(
            help="What the key allows: trigger, read, resume, respond, admin (all). Repeat the option for several."
        ),
    ],
    json: Json = False,
) -> int:
    """Create a key and print it. It cannot be shown again."""
    settings = load_settings()
    cipher = load_cipher(settings)
    made = read(settings, lambda tx: keys.create_key(tx, name, frozenset(scope), cipher))
    if json:
        as_json(made.model_dump(mode="json") | {"scopes": sorted(made.scopes)})
        return 0
    output.print(f"Key             {made.token}")
    output.print(f"Signing secret  {made.signing_secret}")
    errors.print(
        f"{made.name}, for {', '.join(sorted(made.scopes))}. Keep them now: they are not shown again. "
        "Send the key with each request. Never send the signing secret: it makes X-Signature."
    )
    return 0


@app.command("list")
def show(json: Json = False) -> int:
    """List the names of all keys, also of revoked ones. Only their hashes are stored."""
    found = read(load_settings(), keys.list_keys)
    if json:
        hidden = {"hash", "sealed_signing_secret"}
        as_json([key.model_dump(mode="json", exclude=hidden) | {"scopes": sorted(key.scopes)} for key in found])
    elif found:
        output.print(_table(found))
    else:
        output.print("No API keys")
    return 0


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The key's name.")]) -> int:
    """Revoke a key for good. Running APIs refuse it within seconds."""
    read(load_settings(), lambda tx: keys.revoke_key(tx, name))
    output.print(f"{name} is revoked")
    return 0


@app.command()
def local() -> int:
    """Print the path of the file with this machine's own key, for curl: curl -H "@$(alert-pipeline keys local)" …

    The key is made if there is none. An API with this ALERT_PIPELINE_HOME accepts it from this machine.
    """
    settings = load_settings()
    load_local_key(settings)
    output.print(str(header_path(settings)), soft_wrap=True)
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
