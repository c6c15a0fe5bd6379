"""The commands `alert-pipeline policy import …`: a policy from the configuration of another program."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestration.definitions import policy_in_order
from orchestration.policy.alertmanager import import_alertmanager
from orchestration.policy.document import MAX_BYTES, write_document
from orchestration.policy.problems import BadPolicy
from service.cli.policy_input import BadPolicyFile
from service.cli.terminal import Json, as_json, errors, output, read_file

app = typer.Typer(no_args_is_help=True, help="Make a policy of the configuration of another program.")


@app.callback()
def about() -> None:
    """Make a policy of the configuration of another program."""


@app.command()
def alertmanager(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Alertmanager's configuration; - is stdin.")],
    json: Json = False,
) -> int:
    """Print the policy that routes as Alertmanager's configuration does, as YAML. Nothing is stored.

    What was not taken over, and which channels to save, is listed on standard error: `… alertmanager.yml > policy.yml`.
    """
    text = read_file(file, MAX_BYTES)
    try:
        imported = import_alertmanager(text)
    except BadPolicy as error:
        raise BadPolicyFile(file, error) from None
    config = policy_in_order(imported.policy.written)
    if json:
        as_json({"policy": config, "receivers": dict(imported.receivers), "notes": imported.notes})
        return 0
    output.print(write_document(config).rstrip())
    for note in imported.notes:
        errors.print(f"{file}, {note}", style="yellow")
    return 0
