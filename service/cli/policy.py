"""The commands `alert-pipeline policy …`: store, show, test and roll back the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from orchestration.definitions import POLICY_NAME, Kind, NewDefinition, policy_in_order
from orchestration.policy.document import write_document
from orchestration.policy.model import Route
from orchestration.policy.parse import parse_policy
from orchestration.policy.problems import PolicyProblem
from orchestration.settings import load_settings
from orchestration.store import definitions as store
from orchestration.store.database import AsyncConnection
from orchestration.store.definitions import DefinitionRecord
from service.cli import policy_import
from service.cli.definitions import (
    Version,
    change_stored,
    facts_of,
    show_outcomes,
    show_versions,
    state_of,
    user_name,
)
from service.cli.policy_input import (
    BadPolicyFile,
    known_channels,
    read_policy_file,
)
from service.cli.policy_simulate import simulate
from service.cli.policy_way import show_way
from service.cli.reader import read
from service.cli.terminal import Json, as_json, errors, output, show_facts, show_problems
from service.definitions import Outcome

_EXAMPLE = """\
A policy is a YAML or JSON file. In this one a critical alert of a database goes to two channels, a quiet one is \
kept back at night, and everything else goes to the default channels:

windows: {night: [{times: ["22:00-24:00", "00:00-07:00"], location: Europe/Lisbon}]}

routes: [

{name: databases, matchers: [team="db"], channels: [slack-db], routes: [

{severity: critical, channels: [slack-db, phone]},

{severity: info, mute: night}]}]

Try it:

alert-pipeline policy validate policy.yml

alert-pipeline policy test --policy policy.yml --alert '{"alertname": "DiskFull", "severity": "critical", "team": "db"}'

alert-pipeline policy apply policy.yml
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The policy: who is notified of which alerts, how and when. Apply, show, test and roll back.",
    epilog=_EXAMPLE.replace("[", "\\["),  # rich reads brackets as markup
)
app.add_typer(policy_import.app, name="import")

PolicyFile = Annotated[str, typer.Argument(metavar="FILE", help="A YAML or JSON file with a policy; - is stdin.")]


@app.command()
def apply(file: PolicyFile, json: Json = False) -> int:
    """Store a policy and use it from now on. A changed policy becomes the next version.

    A policy with a problem is not stored. Where Prefect runs, the block alert-policy/policy is updated as well.
    """
    found = read_policy_file(file, channels=known_channels(load_settings()))
    outcome = change_stored(
        Kind.POLICY, lambda service: service.apply(NewDefinition.of_policy(found), created_by=user_name())
    )
    warnings = [f"warning: {warning}" for warning in found.warnings]
    _show_outcome(outcome.model_copy(update={"notes": [*warnings, *outcome.notes]}), json=json)
    return 0


@app.command()
def show(version: Version = None, json: Json = False) -> int:
    """Show the policy with its routes and its versions."""

    async def query(tx: AsyncConnection) -> tuple[DefinitionRecord, list[DefinitionRecord]]:
        found = await store.get_definition(tx, POLICY_NAME, version, kind=Kind.POLICY)
        return found, await store.list_versions(tx, POLICY_NAME, kind=Kind.POLICY)

    record, versions = read(load_settings(), query)
    if json:
        data = {**_as_data(record), "config": policy_in_order(record.config)}
        as_json({**data, "versions": [_as_data(each) for each in versions]})
    else:
        _show_policy(record, versions)
    return 0


@app.command()
def validate(file: PolicyFile, json: Json = False) -> int:
    """List all problems of a policy, by line and field. Exit code: 0, or 1 if there is a problem.

    A channel that does not exist is a warning, if a worker has written down which there are.
    """
    channels = known_channels(load_settings())
    try:
        found = read_policy_file(file, channels=channels)
    except BadPolicyFile as error:
        if json:
            as_json({"file": file, "valid": False, "errors": _problems_as_data(error.problems), "warnings": []})
        else:
            show_problems(file, error)
        return 1
    if json:
        as_json({"file": file, "valid": True, "errors": [], "warnings": _problems_as_data(found.warnings)})
    else:
        output.print(f"✓ {file}: valid, {_count(found.policy.routes)} routes")
        for warning in found.warnings:
            output.print(f"    warning: {warning}", style="yellow")
        if channels is None:
            errors.print("Channels were not looked at: no worker has written down which there are", style="dim")
    return 0


@app.command()
def export(version: Version = None) -> int:
    """Print the policy as YAML. To change it: `… export > policy.yml`, edit the file, and apply it."""
    record = read(load_settings(), lambda tx: store.get_definition(tx, POLICY_NAME, version, kind=Kind.POLICY))
    output.print(write_document(policy_in_order(record.config)).rstrip())
    return 0


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(min=1, max=2_000_000_000, help="The version to use from now on.")],
    json: Json = False,
) -> int:
    """Use an earlier version of the policy again. This also restores a deleted policy."""
    _show_outcome(change_stored(Kind.POLICY, lambda service: service.rollback(POLICY_NAME, version)), json=json)
    return 0


@app.command()
def delete(json: Json = False) -> int:
    """Delete the policy: everything goes to the default channels, as if there had never been one."""
    _show_outcome(change_stored(Kind.POLICY, lambda service: service.delete(POLICY_NAME)), json=json)
    return 0


app.command("test")(show_way)
app.command()(simulate)


def _show_outcome(outcome: Outcome, *, json: bool) -> None:
    if json:
        as_json({**facts_of(outcome), **_as_data(outcome.definition)})
    else:
        show_outcomes([outcome], deleted="deleted, everything goes to the default channels")


def _as_data(record: DefinitionRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"kind", "name", "tags", "config", "content_hash", "is_current"})


def _problems_as_data(problems: Sequence[PolicyProblem]) -> list[dict[str, Any]]:
    return [problem.model_dump(mode="json") for problem in problems]


def _show_policy(record: DefinitionRecord, versions: Sequence[DefinitionRecord]) -> None:
    policy = parse_policy(record.config).policy
    output.print(f"policy, version {record.version}: {state_of(record)}", style="bold")
    sections = {
        "Windows": policy.windows,
        "Escalations": policy.escalations,
        "Schedules": policy.schedules,
        "People": policy.people,
    }
    show_facts(
        {
            "What": record.description or None,
            "Created": f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC by {record.created_by or 'unknown'}",
            "Catch-all": ", ".join(policy.catch_all) or None,
            **{label: ", ".join(names) or None for label, names in sections.items()},
            "Inhibitions": len(policy.inhibitions) or None,
        },
        width=13,
    )
    output.print("  Routes", style="bold")
    _show_routes(policy.routes, "    ")
    output.print("    otherwise → the default channels")
    show_versions(versions)


def _show_routes(routes: Sequence[Route], indent: str) -> None:
    for route in routes:
        output.print(f"{indent}{_line_of(route)}")
        _show_routes(route.routes, f"{indent}  ")


def _line_of(route: Route) -> str:
    """A route on one line: its conditions, and who is notified."""
    conditions = [*route.severity, *route.source, *route.environment, *map(str, route.matchers)]
    conditions += [f"during {name}" for name in route.during]
    silent = [f"not during {name}" for name in route.mute] + [f"only during {name}" for name in route.active]
    targets = list(route.channels or ()) + ([f"escalation {route.escalation}"] if route.escalation else [])
    if route.channels == () and not targets:
        targets = ["nobody"]
    if route.definition:
        targets.append(f"pipeline {route.definition}")
    target = f" → {', '.join([*targets, *silent])}" if targets or silent else ""
    name = f"{route.name}: " if route.name else ""
    return f"{name}{', '.join(conditions) or 'everything'}{target}{', and goes on' if route.continue_ else ''}"


def _count(routes: Sequence[Route]) -> int:
    return sum(1 + _count(route.routes) for route in routes)
