"""The commands `alert-pipeline definitions …`: store, show, draw and roll back pipeline definitions."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from flows.samples import sample_names, sample_text
from orchestration.definitions import Kind, in_order
from orchestration.graph import BadDefinition, Definition, decode_definition, parse_definition
from orchestration.graph.drawing import draw, mermaid
from orchestration.settings import load_settings
from orchestration.store import definitions as store
from orchestration.store.database import AsyncConnection, Database
from orchestration.store.definitions import DefinitionRecord
from service.cli.definition_input import BadFile, is_file, read_definition, read_new_definitions, read_stored
from service.cli.reader import read, read_at
from service.cli.terminal import USAGE, Json, as_json, fail, output, show_facts, show_problems
from service.definitions import DefinitionService, Outcome
from tasks.kinds import KINDS, validate_definition

T = TypeVar("T")

_EXAMPLE = """\
A definition is a JSON file. This one ingests an alert, checks the disks, and asks for an analysis only if a disk \
check fails. `next` names the nodes that follow. Several names run side by side, and join at a node that all of them \
lead to:

{"name": "disk-first", "defaults": {"max_retries": 2, "timeout_seconds": 60}, "nodes": [

{"id": "ingest", "type": "ingest", "next": "disk"},

{"id": "disk", "type": "context", "config": {"checker_names": ["disk"]}, "next": "full"},

{"id": "full", "type": "condition", "config": {"expression": "disk.checks_failed > 0", \
"if_true": "analyze", "if_false": "notify"}},

{"id": "analyze", "type": "intelligence", "next": "notify"},

{"id": "notify", "type": "notify"}]}

Try it:

alert-pipeline definitions graph disk-first.json

alert-pipeline definitions apply disk-first.json

run_pipeline --definition disk-first --sample
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Your own pipelines: apply, list, show, draw and roll back definitions.",
    epilog=_EXAMPLE.replace("[", "\\["),  # rich reads brackets as markup
)

Name = Annotated[str, typer.Argument(help="The definition's name.")]
Version = Annotated[
    int | None, typer.Option(min=1, max=2_000_000_000, help="The version; by default the current version.")
]


@app.command()
def apply(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE…", help="JSON files with one definition each; - is stdin.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Also apply the four samples.")] = False,
    name: Annotated[
        str | None, typer.Option(help="Store the definition under this name. Only with a single file.")
    ] = None,
    json: Json = False,
) -> int:
    """Store definitions and run them from now on. A changed definition becomes its next version.

    If one of the files is invalid, none is applied. Where Prefect runs, the block pipeline-definition/NAME and the
    deployment definition-pipeline/NAME are updated as well.
    """
    given = files or []
    if not given and not samples:
        fail("Nothing to apply: name a file, or give --samples (see --help)", code=USAGE)
    if name is not None and (len(given) != 1 or samples):
        fail("--name needs exactly one file, and no --samples", code=USAGE)
    new = read_new_definitions(given, samples=samples, name=name)

    async def work(service: DefinitionService) -> list[Outcome]:
        return [await service.apply(each, created_by=user_name()) for each in new]

    outcomes = change_stored(Kind.PIPELINE, work)
    if json:
        as_json([_outcome_as_data(outcome) for outcome in outcomes])
    else:
        show_outcomes(outcomes)
    return 0


@app.command("list")
def show_all(json: Json = False) -> int:
    """List the definitions with their current versions."""
    found = read(load_settings(), lambda tx: store.list_definitions(tx, include_inactive=True))
    if json:
        as_json([_as_data(record) for record in found])
    elif found:
        output.print(_table(found))
    else:
        output.print("No definitions. Store the four samples with: alert-pipeline definitions apply --samples")
    return 0


@app.command()
def show(name: Name, version: Version = None, json: Json = False) -> int:
    """Show a definition with its graph and its versions."""

    async def query(tx: AsyncConnection) -> tuple[DefinitionRecord, list[DefinitionRecord]]:
        return await store.get_definition(tx, name, version), await store.list_versions(tx, name)

    record, versions = read(load_settings(), query)
    if json:
        data = {**_as_data(record), "config": in_order(record.config)}
        as_json({**data, "versions": [_as_data(each) for each in versions]})
    else:
        _show_definition(record, versions)
    return 0


@app.command()
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A JSON file with a definition; - is stdin.")],
    json: Json = False,
) -> int:
    """List all problems of a definition, by node and field. Exit code: 0, or 1 if there is a problem."""
    try:
        definition, _ = read_definition(file)
    except BadFile as error:
        if json:
            problems = [problem.model_dump(mode="json") for problem in error.problems]
            as_json({"file": file, "valid": False, "errors": problems})
        else:
            show_problems(file, error)
        return 1
    if json:
        as_json({"file": file, "valid": True, "errors": []})
    else:
        output.print(f"✓ {file}: valid, {len(definition.nodes)} nodes")
    return 0


@app.command()
def export(name: Name, version: Version = None) -> int:
    """Print a definition as a file. To change it: `… export NAME > NAME.json`, edit the file, and apply it."""
    as_json(in_order(read_stored(load_settings(), name, version).config, name=name))
    return 0


@app.command()
def graph(
    name_or_file: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A stored definition or a file; - is stdin.")
    ],
    version: Version = None,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a Mermaid flowchart, for documents and pull requests.")
    ] = False,
) -> int:
    """Draw a definition's graph: which nodes run side by side, which wait for others, and under which condition."""
    if not is_file(name_or_file):
        record = read_stored(load_settings(), name_or_file, version)
        try:
            definition = parse_definition(record.config, KINDS.by_type)
        except BadDefinition as error:
            raise BadFile(name_or_file, error) from None
    elif version is not None:
        fail("--version is for a stored definition, not for a file", code=USAGE)
    else:
        definition, _ = read_definition(name_or_file)
    if as_mermaid:
        output.print(mermaid(definition))
    else:
        _show_graph(definition)
    return 0


@app.command()
def samples(name: Annotated[str | None, typer.Argument(help="The sample to print.")] = None) -> int:
    """Draw the sample definitions, or print one as a file to start from: `… samples central-hub > my.json`."""
    if name is not None:
        output.print(sample_text(name).rstrip())
        return 0
    for sample in sample_names():
        definition = validate_definition(decode_definition(sample_text(sample)))
        output.print(sample, style="bold")
        output.print(f"  {definition.description}")
        _show_graph(definition, indent="    ")
    output.print("Store them with: alert-pipeline definitions apply --samples")
    return 0


@app.command()
def enable(name: Name, json: Json = False) -> int:
    """Allow runs of a disabled definition again. Its current version runs."""
    return _change(lambda service: service.set_active(name, active=True), json=json)


@app.command()
def disable(name: Name, json: Json = False) -> int:
    """Refuse all runs of a definition, also runs that Prefect starts. Nothing is deleted."""
    return _change(lambda service: service.set_active(name, active=False), json=json)


@app.command()
def rollback(
    name: Name,
    version: Annotated[int, typer.Argument(min=1, max=2_000_000_000, help="The version to run from now on.")],
    json: Json = False,
) -> int:
    """Make an earlier version the current one. This also restores a deleted definition."""
    return _change(lambda service: service.rollback(name, version), json=json)


@app.command()
def delete(name: Name, json: Json = False) -> int:
    """Delete a definition with its block and its deployment. Its past runs can still be resumed."""
    return _change(lambda service: service.delete(name), json=json)


def _change(change: Callable[[DefinitionService], Awaitable[Outcome]], *, json: bool) -> int:
    outcome = change_stored(Kind.PIPELINE, change)
    if json:
        as_json(_outcome_as_data(outcome))
    else:
        show_outcomes([outcome])
    return 0


def change_stored(kind: Kind, work: Callable[[DefinitionService], Awaitable[T]]) -> T:
    """The result of `work`, which changes definitions of one kind in the database, and in Prefect if that runs.

    Raises:
        Unavailable: the database does not answer.
    """
    settings = load_settings()

    async def with_service(database: Database, api_url: str | None) -> T:
        return await work(DefinitionService(database=database, settings=settings, prefect_api_url=api_url, kind=kind))

    return read_at(settings, with_service)


def user_name() -> str:
    """The name of the user at the command line, for the record of who applied a version."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return "command line"


def _as_data(record: DefinitionRecord) -> dict[str, Any]:
    data = record.model_dump(mode="json", exclude={"kind", "config", "content_hash", "is_current"})
    return {**data, "node_count": record.node_count}


def _outcome_as_data(outcome: Outcome) -> dict[str, Any]:
    return {**facts_of(outcome), **_as_data(outcome.definition)}


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """The result of a change as data, without what was changed."""
    return {"change": outcome.change, "in_prefect": outcome.in_prefect, "notes": outcome.notes}


def show_outcomes(outcomes: Sequence[Outcome], *, deleted: str = "deleted") -> None:
    """Print one line for each changed definition, and one for each note. `deleted` says what a deletion means."""
    for outcome in outcomes:
        name, version = outcome.definition.name, outcome.definition.version
        match outcome.change:
            case "rolled_back":
                output.print(f"✓ {name}: rolled back to version {version}")
            case "deleted":
                output.print(f"- {name}: {deleted}")
            case change:
                mark = {"unchanged": "=", "disabled": "-"}.get(change, "✓")
                output.print(f"{mark} {name}: {change}, version {version}")
        for note in outcome.notes:
            output.print(f"    {note}", style="dim")


def _table(records: Sequence[DefinitionRecord]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAME", "VERSION", "STATE", "NODES", "TAGS", "UPDATED", "BY"):
        table.add_column(title, no_wrap=True)
    table.add_column("DESCRIPTION", no_wrap=True, min_width=4)
    for record in records:
        table.add_row(
            record.name,
            str(record.version),
            Text(state_of(record), style="green" if record.is_active else "yellow"),
            str(record.node_count),
            ", ".join(record.tags),
            f"{record.updated_at:%Y-%m-%d %H:%M}",
            record.created_by,
            " ".join(record.description.split()),
        )
    return table


def state_of(record: DefinitionRecord) -> str:
    """Whether a version is used: active, disabled, or kept for what refers to it."""
    if record.is_active:
        return "active"
    return "disabled" if record.is_current else "kept"


def _show_definition(record: DefinitionRecord, versions: Sequence[DefinitionRecord]) -> None:
    output.print(f"{record.name}, version {record.version}: {state_of(record)}", style="bold")
    facts = {
        "What": record.description or None,
        "Tags": ", ".join(record.tags) or None,
        "Created": f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC by {record.created_by or 'unknown'}",
    }
    show_facts(facts, width=9)
    output.print("  Graph", style="bold")
    _show_graph(parse_definition(record.config, KINDS.by_type), indent="    ")
    show_versions(versions)


def show_versions(versions: Sequence[DefinitionRecord]) -> None:
    """Print one line for each version."""
    output.print("  Versions", style="bold")
    for each in versions:
        when = f"{each.created_at:%Y-%m-%d %H:%M}"
        output.print(f"    {each.version:>3}  {state_of(each):<8}  {when}  {each.created_by}")


def _show_graph(definition: Definition, *, indent: str = "") -> None:
    for line in draw(definition):
        output.print(indent + line)
