"""The pages about the policy say what it is: every field is there, and every command prints what the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.engine.run import Services
from orchestration.policy.model import (
    CheckRule,
    Escalation,
    Flapping,
    Grouping,
    Inhibition,
    Person,
    Policy,
    Route,
    Step,
    Storm,
    Timing,
)
from orchestration.policy.windows import Period
from orchestration.store.database import Database
from service.cli import main
from tests.life_helpers import opened

DOCS = Path(__file__).parent.parent / "docs"
EXPORTS = {"oncall.json": "grafana-oncall.json", "goalert.json": "goalert.json"}
"""Files that the pages tell the reader to get from another program."""
MODELS = (CheckRule, Escalation, Flapping, Grouping, Inhibition, Period, Person, Policy, Route, Step, Storm, Timing)


def files_of(page: str) -> dict[str, str]:
    """The files that a page shows, by the name in their first line."""
    return {
        block.splitlines()[0].removeprefix("# "): block
        for block in re.findall(r"^```yaml\n(# .*?)^```", page, re.MULTILINE | re.DOTALL)
    }


def examples_of(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """The commands that a page shows, as words, each with the lines that it prints."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for one in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = one.splitlines()
            yield shlex.split(command), lines


def masked(lines: list[str]) -> list[str]:
    """Lines without what is different each time: who has applied a version, and when."""
    said = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d UTC by|) +\S+$", "WHEN WHO", line) for line in lines]
    return [re.sub(r"\d\dh: ", "HOUR: ", line).rstrip() for line in said]


@pytest.fixture
async def two_pages(services: Services) -> None:
    """What has happened before the reader simulates a policy."""
    for name in ("HighCPU", "DiskFull"):
        await opened(services, name)


@pytest.mark.parametrize("name", ["policy.md", "migrating.md"])
def test_every_command_prints_what_the_page_shows(
    name: str,
    two_pages: None,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del two_pages
    page = (DOCS / name).read_text()
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.chdir(tmp_path)
    for file, text in files_of(page).items():
        (tmp_path / file).write_text(text)
    for file, payload in EXPORTS.items():
        shutil.copy(Path(__file__).parent / "exports" / payload, tmp_path / file)
    different: dict[str, tuple[list[str], list[str]]] = {}
    for words, expected in examples_of(page):
        program, *arguments = words[: words.index(">")] if ">" in words else words
        assert program == "alert-pipeline"
        main.app(arguments, standalone_mode=False)
        printed = capsys.readouterr()
        if ">" in words:
            (tmp_path / words[-1]).write_text(printed.out)
        said = (printed.err if ">" in words else printed.out).splitlines()
        if expected[-1:] == ["…"]:  # the page leaves the rest out
            said, expected = said[: len(expected) - 1], expected[:-1]
        if masked(said) != masked(expected):
            different[" ".join(words)] = (expected, said)
    assert different == {}


def test_every_field_is_documented():
    page = (DOCS / "policy.md").read_text()
    names = {field.alias or name for model in MODELS for name, field in model.model_fields.items()}
    assert {name for name in names if f"`{name}`" not in page} == set()
