"""Definitions as people see them on the command line, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestration.definitions import in_order
from orchestration.graph import BadDefinition, Definition, parse_definition
from orchestration.graph.drawing import draw
from orchestration.store.definitions import DefinitionRecord
from service.cli.terminal import output
from service.definitions import Outcome

_MARKS = {"unchanged": "=", "deleted": "-", "disabled": "-"}
_WORDS = {"rolled_back": "rolled back to"}


def as_data(record: DefinitionRecord, *, config: bool = False) -> dict[str, Any]:
    """A definition as JSON has it, with or without what it says."""
    data = record.model_dump(mode="json", exclude={"config", "content_hash", "is_current"})
    data["node_count"] = record.node_count
    return {**data, "config": in_order(record.config)} if config else data


def state_of(record: DefinitionRecord) -> str:
    """Whether a version runs."""
    if record.is_active:
        return "active"
    return "disabled" if record.is_current else "kept"


def show_outcome(outcome: Outcome) -> None:
    """One line for what became of a definition, and one for each thing that a person should know besides."""
    record = outcome.definition
    mark = _MARKS.get(outcome.change, "✓")
    words = _WORDS.get(outcome.change, outcome.change)
    version = "" if outcome.change == "deleted" else f", version {record.version}"
    if outcome.change == "rolled_back":
        words, version = f"{words} version {record.version}", ""
    output.print(f"{mark} {record.name}: {words}{version}", markup=False)
    for note in outcome.notes:
        output.print(f"    {note}", style="dim", markup=False)


def show_list(records: Sequence[DefinitionRecord]) -> None:
    """A line for each definition."""
    if not records:
        output.print("No definitions. `alert-pipeline definitions apply --samples` stores four to begin with")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAME", "VERSION", "STATE", "NODES", "TAGS", "UPDATED", "BY"):
        table.add_column(title, no_wrap=True)
    table.add_column("DESCRIPTION", no_wrap=True, min_width=4)
    for record in records:
        state = Text(state_of(record), style="green" if record.is_active else "yellow")
        cells = (record.name, str(record.version), state, str(record.node_count), ", ".join(record.tags))
        when = f"{record.updated_at:%Y-%m-%d %H:%M}"
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), when, *_people(record))
    output.print(table)


def _people(record: DefinitionRecord) -> tuple[Text, Text]:
    return Text(record.created_by), Text(" ".join(record.description.split()))


def show_one(record: DefinitionRecord, versions: Sequence[DefinitionRecord]) -> None:
    """A version of a definition: what it is, its graph, and the versions beside it."""
    output.print(f"{record.name}, version {record.version}: {state_of(record)}", style="bold", markup=False)
    facts = {
        "What": record.description,
        "Tags": ", ".join(record.tags),
        "Created": f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC by {record.created_by or 'nobody known'}",
    }
    for label, value in facts.items():
        if value:
            output.print(f"  {label + ':':<9} {value}", markup=False)
    output.print("  Graph", style="bold")
    show_graph(parse_definition(record.config), indent="    ")
    output.print("  Versions", style="bold")
    for one in versions:
        when = f"{one.created_at:%Y-%m-%d %H:%M}"
        output.print(f"    {one.version:>3}  {state_of(one):<8}  {when}  {one.created_by}", markup=False)


def show_graph(definition: Definition, *, indent: str = "") -> None:
    """The graph as text."""
    for line in draw(definition):
        output.print(indent + line, markup=False)


def show_problems(error: BadDefinition, where: str) -> None:
    """A line for each thing that is wrong."""
    count = len(error.problems) + error.more
    output.print(f"✗ {where}: {count} {'problem' if count == 1 else 'problems'}", style="bold red", markup=False)
    for line in error.lines:
        output.print(f"    {line}", markup=False)


def problems_as_data(error: BadDefinition) -> list[dict[str, Any]]:
    """What is wrong, as JSON has it."""
    return [problem.model_dump(mode="json") for problem in error.problems]
