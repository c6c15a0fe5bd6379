"""`alert-pipeline definitions`: pipelines of one's own, from a file to what runs."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from flows.samples import sample_names, sample_text
from orchestration.definitions import in_order
from orchestration.graph import BadDefinition, Definition, parse_definition, parse_definition_text
from orchestration.graph.drawing import mermaid
from orchestration.settings import load_settings
from orchestration.store import definitions as store
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord
from service.cli.definition_file import BadFile, is_file, new_definitions, read_definition
from service.cli.definition_views import (
    as_data,
    problems_as_data,
    show_graph,
    show_list,
    show_one,
    show_outcome,
    show_problems,
)
from service.cli.reader import read, read_at
from service.cli.terminal import as_json, fail, output
from service.definitions import Desk, Outcome

USAGE = 2

_EXAMPLE = """\
A definition is a JSON file. This one takes an alert in, looks at the disks, and asks for an analysis only if \
something is wrong there. `next` says what follows; several names run side by side, and join where they meet:

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
    help="Pipelines of your own: apply, list, show, draw and roll back definitions.",
    # Brackets are markup to rich.
    epilog=_EXAMPLE.replace("[", "\\["),
)

Name = Annotated[str, typer.Argument(help="The definition's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Version = Annotated[
    int | None, typer.Option(min=1, max=2_000_000_000, help="Which version; without it the current one.")
]


@app.command()
def apply(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE…", help="JSON files with a definition each; - for stdin.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Apply the four samples too.")] = False,
    name: Annotated[
        str | None, typer.Option(help="What it is called, whatever the file says; for one file only.")
    ] = None,
    json: Json = False,
) -> int:
    """Make definitions what runs under their names: a changed one is the next version, the same one changes nothing.

    All files are looked at first: if one is broken, none is applied. Where Prefect runs, the block
    pipeline-definition/NAME and the deployment definition-pipeline/NAME follow.
    """
    given = files or []
    if not given and not samples:
        fail("Nothing to apply: name a file, or give --samples (see --help)", code=USAGE)
    if name is not None and (len(given) != 1 or samples):
        fail("--name is for one file", code=USAGE)
    new = new_definitions(given, samples=samples, name=name)

    async def work(desk: Desk) -> list[Outcome]:
        return [await desk.apply(one, created_by=_who()) for one in new]

    _tell(_at_desk(work), as_json_text=json)
    return 0


@app.command("list")
def show_all(json: Json = False) -> int:
    """List the definitions, each with the version that is current."""

    async def work(database: Database) -> list[DefinitionRecord]:
        async with database.transaction() as tx:
            return await store.list_definitions(tx, include_inactive=True)

    found = read(load_settings(), work)
    as_json([as_data(record) for record in found]) if json else show_list(found)
    return 0


@app.command()
def show(name: Name, version: Version = None, json: Json = False) -> int:
    """Show a definition: what it is, its graph, and its versions."""

    async def work(database: Database) -> tuple[DefinitionRecord, list[DefinitionRecord]]:
        async with database.transaction() as tx:
            return await store.get_definition(tx, name, version), await store.list_versions(tx, name)

    record, versions = read(load_settings(), work)
    if json:
        as_json({**as_data(record, config=True), "versions": [as_data(one) for one in versions]})
    else:
        show_one(record, versions)
    return 0


@app.command()
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A JSON file with a definition; - for stdin.")],
    json: Json = False,
) -> int:
    """Say everything that is wrong with a definition, by node and field. Exit code 1 if anything is."""
    try:
        definition, _ = read_definition(file)
    except BadFile as error:
        if json:
            as_json({"file": file, "valid": False, "errors": problems_as_data(error)})
        else:
            show_problems(error, file)
        return 1
    if json:
        as_json({"file": file, "valid": True, "errors": []})
    else:
        output.print(f"✓ {file}: valid, {len(definition.nodes)} nodes", markup=False)
    return 0


@app.command()
def export(name: Name, version: Version = None) -> int:
    """Print a definition as a file holds it: `… export NAME > NAME.json`, edit it, and apply it again."""
    record = read(load_settings(), lambda database: _get(database, name, version))
    as_json(in_order(record.config, name=record.name))
    return 0


@app.command()
def graph(
    name_or_file: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A stored definition, or a file; - for stdin.")
    ],
    version: Version = None,
    mermaid_: Annotated[
        bool, typer.Option("--mermaid", help="As a Mermaid flowchart, for documents and pull requests.")
    ] = False,
) -> int:
    """Draw a definition: what runs side by side, what waits for what, and when."""
    definition = _definition_of(name_or_file, version)
    if mermaid_:
        output.print(mermaid(definition), markup=False)
    else:
        show_graph(definition)
    return 0


@app.command()
def samples(name: Annotated[str | None, typer.Argument(help="A sample, to print it.")] = None) -> int:
    """Show the samples; with a name print one, to begin your own with: `… samples central-hub > my.json`."""
    if name is not None:
        output.print(sample_text(name).rstrip(), markup=False)
        return 0
    for one in sample_names():
        definition = parse_definition_text(sample_text(one))
        output.print(one, style="bold", markup=False)
        output.print(f"  {definition.description}", markup=False)
        show_graph(definition, indent="    ")
    output.print("Store them with: alert-pipeline definitions apply --samples", markup=False)
    return 0


@app.command()
def enable(name: Name, json: Json = False) -> int:
    """Have a disabled definition run again, in its current version."""
    return _change(lambda desk: desk.set_active(name, active=True), json=json)


@app.command()
def disable(name: Name, json: Json = False) -> int:
    """Keep a definition from running, also when Prefect asks for it. Nothing of it is lost."""
    return _change(lambda desk: desk.set_active(name, active=False), json=json)


@app.command()
def rollback(
    name: Name,
    version: Annotated[int, typer.Argument(min=1, max=2_000_000_000, help="The version that is to run again.")],
    json: Json = False,
) -> int:
    """Have an earlier version run again. It also brings back what was deleted."""
    return _change(lambda desk: desk.rollback(name, version), json=json)


@app.command()
def delete(name: Name, json: Json = False) -> int:
    """Take a definition away, with its block and its deployment. Runs that named it can still be resumed."""
    return _change(lambda desk: desk.delete(name), json=json)


def _definition_of(what: str, version: int | None) -> Definition:
    if is_file(what):
        if version is not None:
            fail("--version is for a stored definition, not for a file", code=USAGE)
        return read_definition(what)[0]
    record = read(load_settings(), lambda database: _get(database, what, version))
    try:
        return parse_definition(record.config)
    except BadDefinition as error:
        raise BadFile(what, error) from None


async def _get(database: Database, name: str, version: int | None) -> DefinitionRecord:
    async with database.transaction() as tx:
        return await store.get_definition(tx, name, version)


def _change(work: Callable[[Desk], Awaitable[Outcome]], *, json: bool) -> int:
    async def all_of_it(desk: Desk) -> list[Outcome]:
        return [await work(desk)]

    _tell(_at_desk(all_of_it), as_json_text=json, one=True)
    return 0


def _at_desk(work: Callable[[Desk], Awaitable[list[Outcome]]]) -> list[Outcome]:
    return read_at(load_settings(), lambda database, url: work(Desk(database=database, prefect_api_url=url)))


def _tell(outcomes: list[Outcome], *, as_json_text: bool, one: bool = False) -> None:
    if not as_json_text:
        for outcome in outcomes:
            show_outcome(outcome)
        return
    data = [
        {"change": done.change, "in_prefect": done.in_prefect, "notes": done.notes, **as_data(done.definition)}
        for done in outcomes
    ]
    as_json(data[0] if one else data)


def _who() -> str:
    """Who is at the command line, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return "command line"
