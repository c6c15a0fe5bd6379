"""The commands `alert-pipeline policy import …`: a policy from the configuration of another program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from orchestration.definitions import policy_in_order
from orchestration.policy.alertmanager import import_alertmanager
from orchestration.policy.document import MAX_BYTES, write_document
from orchestration.policy.goalert import import_goalert
from orchestration.policy.grafana_oncall import import_grafana_oncall
from orchestration.policy.importing import Imported
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
    return _import(file, import_alertmanager, json=json)


@app.command("grafana-oncall")
def grafana_oncall(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A JSON object with the lists of Grafana OnCall's API; - is stdin.")
    ],
    json: Json = False,
) -> int:
    """Print the policy that escalates as Grafana OnCall does, as YAML. Nothing is stored.

    What was not taken over, and which channels to save, is listed on standard error. docs/migrating.md says how to get
    the file.
    """
    return _import(file, import_grafana_oncall, json=json)


@app.command()
def goalert(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The JSON that GoAlert's GraphQL API answers with; - is stdin.")
    ],
    json: Json = False,
) -> int:
    """Print the policy that escalates as GoAlert does, as YAML. Nothing is stored.

    What was not taken over, and which channels to save, is listed on standard error. docs/migrating.md has the query.
    """
    return _import(file, import_goalert, json=json)


def _import(file: str, read: Callable[[bytes], Imported], *, json: bool) -> int:
    text = read_file(file, MAX_BYTES)
    try:
        imported = read(text)
    except BadPolicy as error:
        raise BadPolicyFile(file, error) from None
    config = policy_in_order(imported.policy.written)
    if json:
        receivers = {"receivers": dict(imported.receivers)} if imported.receivers else {}
        as_json({"policy": config, **receivers, "notes": imported.notes})
        return 0
    output.print(write_document(config).rstrip())
    for note in imported.notes:
        errors.print(f"{file}, {note}", style="yellow")
    return 0
