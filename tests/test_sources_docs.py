"""docs/sources.md: who follows the page alone has a mapping that works, and every field and command is on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import typer

from service.cli import pushes, sources
from tasks.ingest.sources import SOURCES, parse_push
from tasks.ingest.sources.draft import draft_of
from tasks.ingest.sources.mapped import source_of
from tasks.ingest.sources.mapping import AlertFields, Condition, Ignored, SourceMapping, StateWords
from tasks.ingest.sources.mapping_text import parse_mapping, read_mapping
from tasks.ingest.sources.shipped import SHIPPED

PAGE = (Path(__file__).parent.parent / "docs" / "sources.md").read_text()


def printed(language: str) -> str:
    """The first block of this language on the page."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_made_up_vendor_of_the_page_is_read_as_the_page_says() -> None:
    body: dict[str, Any] = json.loads(printed("json"))
    mapping = read_mapping(printed("yaml")).mapping
    known = {**SOURCES, mapping.name: source_of(mapping)}

    (alert,) = parse_push(body, sources=known).alerts
    shown = re.search(r"firing critical: (.*)\n", PAGE)
    assert shown is not None
    assert (alert.title, alert.severity.value, alert.status.value) == (shown[1], "critical", "firing")
    for label, value in {
        "about": alert.description,
        "labels": ", ".join(f"{name}={text}" for name, text in alert.labels.items()),
        "id": alert.fingerprint,
        "incident": alert.incident_key,
    }.items():
        assert re.search(rf"^    {label}:\s+{re.escape(value)}$", PAGE, re.MULTILINE), (label, value)

    body["alarm"]["mode"] = "GONE"
    (ended,) = parse_push(body, sources=known).alerts
    assert (ended.fingerprint, ended.firing) == (alert.fingerprint, False)


def test_the_draft_for_it_reads_it_too() -> None:
    body = json.loads(printed("json"))
    drafted = source_of(parse_mapping(draft_of(body, name="kettle")))
    assert drafted.bid(body)
    assert drafted.parse(body).alerts[0].name == "Boiler 3 is too hot"


def test_every_field_of_a_mapping_is_on_the_page() -> None:
    for model in (SourceMapping, AlertFields, StateWords, Condition, Ignored):
        for field in model.model_fields:
            assert f"`{field}`" in PAGE, field


def test_every_mapping_that_ships_is_on_the_page() -> None:
    rows = re.findall(r"^\| ([a-z][a-z0-9-]*) \| ", PAGE, re.MULTILINE)
    assert rows == sorted(SHIPPED)
    for name, mapping in SHIPPED.items():
        assert f"| {name} | {mapping.title} |" in PAGE


def test_every_command_and_flag_is_on_the_page() -> None:
    for group, module in (("sources", sources), ("pushes", pushes)):
        command: Any = typer.main.get_command(module.app)
        for name, below in command.commands.items():
            assert f"`alert-pipeline {group} {name}" in PAGE
            for parameter in below.params:
                for flag in parameter.opts:
                    assert not flag.startswith("--") or flag == "--help" or f"`{flag}" in PAGE, (name, flag)
