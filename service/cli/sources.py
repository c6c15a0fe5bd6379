"""The commands `alert-pipeline sources …`: what reads the bodies of senders, and mappings of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestration.alert import Alert
from orchestration.definitions import Kind, checked_name
from orchestration.errors import BadInput
from orchestration.policy.document import write_document
from orchestration.settings import Settings, load_settings
from orchestration.store import definitions as store
from orchestration.store.database import AsyncConnection
from orchestration.store.definitions import DefinitionRecord
from service.cli.definitions import (
    Version,
    change_stored,
    facts_of,
    show_outcomes,
    show_versions,
    state_of,
    user_name,
)
from service.cli.pushes import find_kept
from service.cli.reader import read
from service.cli.source_input import (
    BadMappingFile,
    known_sources,
    read_body,
    read_mapping_file,
    sources_and,
    stored_mappings,
)
from service.cli.terminal import STDIN, Json, as_json, errors, output, show_facts, show_problems
from service.definitions import Outcome
from service.replay import body_of
from tasks.ingest.sources import IN_CODE, SOURCES, Push, Sources, bids_for, parse_push, unknown_words
from tasks.ingest.sources.draft import draft_of
from tasks.ingest.sources.mapping import SourceMapping
from tasks.ingest.sources.mapping_text import to_store
from tasks.ingest.sources.shipped import SHIPPED, shipped_text
from tasks.ingest.sources.stored import sources_with

_EXAMPLE = """\
A mapping is a YAML file that says how the bodies of a sender become alerts:

name: lamp-watch

when: {has: [lamp.id, lamp.state]}

alert: {name: lamp.title, status: lamp.state, severity: lamp.level, fingerprint: lamp.id}

words: {firing: [dark], resolved: [lit]}

Try it on a body, and use it:

alert-pipeline sources draft body.json > lamp-watch.yaml

alert-pipeline sources try body.json --mapping lamp-watch.yaml

alert-pipeline sources apply lamp-watch.yaml
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The senders of alerts: what reads their bodies, and mappings of your own.",
    epilog=_EXAMPLE.replace("[", "\\["),  # rich reads brackets as markup
)

MappingFile = Annotated[str, typer.Argument(metavar="FILE", help="A YAML or JSON file with a mapping; - is stdin.")]
BodyFile = Annotated[str | None, typer.Argument(metavar="[FILE]", help="A file with the JSON of a body; - is stdin.")]
KeptPush = Annotated[
    str | None, typer.Option("--push", metavar="PUSH", help="Instead of a file: a push that was kept, as refused-12.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a source.")]


@app.command("list")
def list_sources(json: Json = False) -> int:
    """List the sources: those in code, the mappings that ship, and yours."""
    stored = stored_mappings(load_settings())
    versions = {mapping.name: mapping.version for mapping in stored or ()}
    known = sorted(sources_with(stored or ()).items())
    if json:
        as_json(
            [
                {"name": name, "title": source.title, "from": _origin(name, versions), "version": versions.get(name)}
                for name, source in known
            ]
        )
        return 0
    width = max(len(name) for name, _ in known)
    for name, source in known:
        output.print(f"{name:<{width}}  {source.title:<28}  {_origin(name, versions)}")
    if stored is None:
        errors.print("Mappings of your own were not looked at: the database does not answer", style="dim")
    return 0


def _origin(name: str, versions: dict[str, int]) -> str:
    if name in versions:
        instead = ", instead of the one that ships" if name in SHIPPED else ""
        return f"your mapping, version {versions[name]}{instead}"
    return "in code" if name in IN_CODE else "a mapping that ships"


@app.command()
def show(name: Name, version: Version = None, json: Json = False) -> int:
    """Show a source: your mapping with its versions, or the mapping that ships."""
    settings = load_settings()
    own = {mapping.name for mapping in stored_mappings(settings) or ()}
    if version is not None or name in own or (name not in SHIPPED and name not in IN_CODE):
        return _show_stored(name, version, json=json)
    title, text = SOURCES[name].title, None if name in IN_CODE else shipped_text(name)
    if json:
        as_json({"name": name, "title": title, "from": _origin(name, {}), "mapping": text})
    elif text is None:
        output.print(f"{name}: {title}, read by code", style="bold")
    else:
        output.print(text.rstrip())
    return 0


def _show_stored(name: str, version: int | None, *, json: bool) -> int:
    async def query(tx: AsyncConnection) -> tuple[DefinitionRecord, list[DefinitionRecord]]:
        found = await store.get_definition(tx, name, version, kind=Kind.SOURCE)
        return found, await store.list_versions(tx, name, kind=Kind.SOURCE)

    record, versions = read(load_settings(), query)
    if json:
        as_json({**_as_data(record), "mapping": _document(record), "versions": [_as_data(each) for each in versions]})
        return 0
    output.print(f"{record.name}, version {record.version}: {state_of(record)}", style="bold")
    output.print(write_document(_document(record)).rstrip())
    show_versions(versions)
    return 0


@app.command("try")
def try_body(
    file: BodyFile = None,
    push: KeptPush = None,
    mapping: Annotated[
        str | None, typer.Option(metavar="FILE", help="A mapping that is not applied, to be tried too.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Read it as the address of this source does.")] = None,
    json: Json = False,
) -> int:
    """Show which source reads a body, and what it makes of it. Nothing is sent.

    Exit code: 0, or 1 if no source can read it.
    """
    settings = load_settings()
    sources = known_sources(settings)
    if mapping is not None:
        sources = sources_and(read_mapping_file(mapping), sources)
    body, sent_as = _body(settings, file, push)
    return _show_tried(body, sources, source or sent_as, json=json)


def _body(settings: Settings, file: str | None, push: str | None) -> tuple[object, str | None]:
    """The body that an argument names, and the source of the address that it was sent to, if that is known."""
    if (file is None) is (push is None):
        raise BadInput("Give either a file with a body, or --push with a push that was kept")
    if push is not None:
        kept = find_kept(settings, push)
        return body_of(kept), kept.source
    return read_body(file or STDIN, settings.max_payload_bytes), None


def _show_tried(body: object, sources: Sources, source: str | None, *, json: bool) -> int:
    bids, push, problem, unknown = dict[str, int](), None, "", list[str]()
    try:
        bids = bids_for(body, sources)
        push = parse_push(body, source=source, sources=sources)
        unknown = [] if push.ignored else unknown_words(body, push.source, sources)
    except BadInput as error:
        problem = str(error)
    if json:
        found = None if push is None else _push_as_data(push)
        as_json({"recognized_by": bids, "push": found, "unknown_words": unknown, "error": problem or None})
    else:
        for name, bid in bids.items():
            output.print(f"{name} recognizes it ({bid})")
        if push is not None:
            _show_push(push)
            for said in unknown:
                output.print(f"  {said}", style="yellow")
        else:
            errors.print(f"No source reads it: {problem}", style="bold red")
    return 1 if push is None else 0


def _push_as_data(push: Push) -> dict[str, Any]:
    return {
        "source": push.source,
        "ignored": push.ignored or None,
        "errors": list(push.errors),
        "alerts": [alert.model_dump(mode="json", exclude={"raw_payload"}) for alert in push.alerts],
    }


def _show_push(push: Push) -> None:
    if push.ignored:
        output.print(f"{push.source} ignores it: {push.ignored}", style="bold")
    else:
        output.print(
            f"{push.source} reads {len(push.alerts)} alert{'s' if len(push.alerts) != 1 else ''}", style="bold"
        )
    for alert in push.alerts:
        _show_alert(alert)
    for error in push.errors:
        output.print(f"  not used: {error}", style="yellow")


def _show_alert(alert: Alert) -> None:
    output.print(f"  {alert.status.value} {alert.severity.value}: {alert.title or alert.name}")
    moments = {"started": alert.started_at, "ended": alert.ended_at, "happened": alert.occurred_at}
    show_facts(
        {
            "name": alert.name,
            "about": alert.description.partition("\n")[0][:200] or None,
            "labels": ", ".join(f"{name}={value}" for name, value in alert.labels.items()) or None,
            "links": ", ".join(f"{name} {address}" for name, address in alert.links.items()) or None,
            **{name: f"{when:%Y-%m-%d %H:%M:%S} UTC" if when else None for name, when in moments.items()},
            "reason": alert.state_reason or None,
            "id": alert.fingerprint,
            "incident": alert.incident_key,
        },
        indent=4,
    )


@app.command()
def validate(file: MappingFile, json: Json = False) -> int:
    """List all problems of a mapping, by line and field. Exit code: 0, or 1 if there is a problem."""
    try:
        found = read_mapping_file(file)
    except BadMappingFile as error:
        if json:
            as_json({"file": file, "valid": False, "errors": [each.model_dump(mode="json") for each in error.problems]})
        else:
            show_problems(file, error)
        return 1
    if json:
        as_json({"file": file, "valid": True, "errors": []})
    else:
        output.print(f"✓ {file}: valid, source {found.mapping.name}")
        _warn_of_sample(found.mapping, sources_and(found))
    return 0


def _warn_of_sample(mapping: SourceMapping, sources: Sources) -> None:
    """Say what is wrong with the sample of a mapping, which nothing else tries."""
    if mapping.sample is None:
        return
    source = sources[mapping.name]
    sample = source.sample("01")
    if not source.bid(sample):
        output.print("    warning: its own sample does not meet `when`", style="yellow")
    elif not source.parse(sample).alerts:
        output.print("    warning: its own sample gives no alert", style="yellow")


@app.command()
def apply(file: MappingFile, json: Json = False) -> int:
    """Store a mapping and read bodies with it from now on. A changed mapping becomes the next version.

    A mapping with a problem is not stored. Where Prefect runs, the block alert-source/NAME is updated as well.
    """
    new = to_store(read_mapping_file(file))
    _show_outcome(change_stored(Kind.SOURCE, lambda service: service.apply(new, created_by=user_name())), json=json)
    return 0


@app.command()
def export(name: Name, version: Version = None) -> int:
    """Print a mapping as YAML: yours, or the one that ships. To change it, edit the file and apply it."""
    own = {mapping.name for mapping in stored_mappings(load_settings()) or ()}
    if version is None and name not in own and name in SHIPPED:
        output.print(shipped_text(name).rstrip())
        return 0
    if name in IN_CODE:
        raise BadInput(f"{name} is read by code, and has no mapping")
    record = read(load_settings(), lambda tx: store.get_definition(tx, name, version, kind=Kind.SOURCE))
    output.print(write_document(_document(record)).rstrip())
    return 0


@app.command()
def rollback(
    name: Name,
    version: Annotated[int, typer.Argument(min=1, max=2_000_000_000, help="The version to use from now on.")],
    json: Json = False,
) -> int:
    """Use an earlier version of your mapping again. This also restores a deleted one."""
    _show_outcome(change_stored(Kind.SOURCE, lambda service: service.rollback(name, version)), json=json)
    return 0


@app.command()
def delete(name: Name, json: Json = False) -> int:
    """Delete your mapping. A mapping that ships under the same name counts again."""
    _show_outcome(change_stored(Kind.SOURCE, lambda service: service.delete(name)), json=json)
    return 0


@app.command()
def draft(
    file: BodyFile = None,
    push: KeptPush = None,
    name: Annotated[str | None, typer.Option(help="The name of the source; by default that of the file.")] = None,
) -> int:
    """Propose a mapping for a body of an unknown sender, as YAML: a start, which somebody looks through."""
    settings = load_settings()
    stem = "" if file is None or file == STDIN else Path(file).stem
    chosen = checked_name(name or _as_name(stem))
    body, _ = _body(settings, file, push)
    mapping = draft_of(body, name=chosen)
    output.print(write_document(mapping).rstrip())
    again = f"--push {push}" if push is not None else file
    errors.print(f"A draft: look at each field. Then: alert-pipeline sources try {again} --mapping FILE", style="dim")
    return 0


def _as_name(stem: str) -> str:
    words = "".join(each if each.isascii() and each.isalnum() else " " for each in stem.lower()).split()
    return "-".join(words)[:64].strip("-") or "my-sender"


def _show_outcome(outcome: Outcome, *, json: bool) -> None:
    if json:
        as_json({**facts_of(outcome), **_as_data(outcome.definition)})
    else:
        show_outcomes([outcome])


def _document(record: DefinitionRecord) -> dict[str, Any]:
    """The mapping with its fields in the order in which people read them: PostgreSQL keeps no order."""
    config: dict[str, Any] = {"name": record.name, **record.config}
    known = {key: config[key] for key in SourceMapping.model_fields if key in config}
    return {**known, **config}


def _as_data(record: DefinitionRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"kind", "tags", "config", "content_hash", "is_current"})
