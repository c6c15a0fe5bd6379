"""The commands of definitions: from a file to what runs, told in text and in JSON, and refused in one line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestration.errors import PipelineError
from orchestration.store.database import Database
from service.cli import main, run_pipeline
from service.cli.definition_input import BadFile, read_definition, read_new_definitions
from service.stack import StackAddresses
from tests.broken_definitions import BROKEN
from tests.cli_helpers import QUICK, all_runs, json_of, row_counts, says_in_one_line, side_by_side
from tests.conftest import Command
from tests.definition_helpers import look

pytest_plugins = ["tests.cli_helpers"]

Run = Callable[..., str]

BROKEN_TEXT = '{"nodes": [{"id": "a", "type": "context", "next": "b"}]}'


@pytest.fixture
def run(home: Path, stack: StackAddresses, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `alert-pipeline definitions …` in this process, which has Prefect imported; what it printed."""
    monkeypatch.setenv("ALERT_PIPELINE_HOME", str(home))

    def definitions(*words: object) -> str:
        assert main.app(["definitions", *map(str, words)], standalone_mode=False) == 0
        return capsys.readouterr().out

    return definitions


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a definition into a file."""

    def write(written: object, name: str = "look.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(written))
        return path

    return write


def test_from_a_file_to_what_runs_and_back(run: Run, file: Callable[..., Path], database: Database) -> None:
    path = file(look(description="one"))
    assert run("apply", path).splitlines()[0] == "✓ look: created, version 1"
    assert run("apply", path).splitlines() == ["= look: unchanged, version 1"]
    path = file(look(description="two"))
    (changed,) = json.loads(run("apply", path, "--json"))
    assert (changed["change"], changed["name"], changed["version"], changed["in_prefect"]) == (
        *("changed", "look", 2),
        True,
    )

    listed = run("list").splitlines()
    assert listed[0].split() == ["NAME", "VERSION", "STATE", "NODES", "TAGS", "UPDATED", "BY", "DESCRIPTION"]
    assert listed[1].split()[:4] == ["look", "2", "active", "2"]
    shown = run("show", "look")
    assert "look, version 2: active" in shown
    assert "●  checks  context" in shown
    assert "1  kept" in shown
    old = json.loads(run("show", "look", "--version", 1, "--json"))
    assert (old["version"], old["is_active"], [one["version"] for one in old["versions"]]) == (1, False, [2, 1])

    assert run("rollback", "look", 1) == "✓ look: rolled back to version 1\n"
    exported = file(json.loads(run("export", "look")), "exported.json")
    assert run("apply", exported) == "= look: unchanged, version 1\n"
    assert run("graph", "look", "--version", 2) == "●  checks  context\n●  notify  notify\n"
    assert run("graph", exported, "--mermaid").startswith("flowchart TD\n")

    assert run("disable", "look") == "- look: disabled, version 1\n"
    assert "  disabled  " in run("list")
    assert json.loads(run("enable", "look", "--json"))["is_active"]
    assert run("delete", "look") == "- look: deleted\n"
    assert run("list").startswith("No definitions. ")
    assert run("rollback", "look", 2) == "✓ look: rolled back to version 2\n"
    run("delete", "look")


def test_the_samples_are_stored_and_printed(run: Run, database: Database) -> None:
    applied = json.loads(run("apply", "--samples", "--json"))
    names = ["central-hub", "external-alerts", "health-checked", "local-monitor"]
    assert [one["name"] for one in applied] == names
    assert [name for name in names if name in run("samples")] == names
    assert json.loads(run("samples", "central-hub"))["name"] == "central-hub"
    for name in names:
        run("delete", name)


def test_a_broken_file_is_told_by_node_and_field(
    run: Run, file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for broken in BROKEN:
        path = file(broken.raw, "broken.json")
        assert main.app(["definitions", "validate", str(path)], standalone_mode=False) == 1
        text = capsys.readouterr().out
        assert text.startswith(f"✗ {path}: "), broken.name
        assert broken.says in text, broken.name
        assert broken.field in text, broken.name
        # What cannot be validated is refused before anything is asked for a stack.
        with pytest.raises(BadFile) as refused:
            read_new_definitions([str(path)], samples=False, name=None)
        assert broken.says in str(refused.value), broken.name
        with pytest.raises(BadFile):
            read_definition(str(path))


def test_a_valid_file_is_said_to_be_valid(run: Run, file: Callable[..., Path]) -> None:
    path = file(look())
    assert run("validate", path) == f"✓ {path}: valid, 2 nodes\n"
    assert json.loads(run("validate", path, "--json")) == {"file": str(path), "valid": True, "errors": []}


Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command in this process that must end with an error; its exit code, and what it said."""
    monkeypatch.setenv("ALERT_PIPELINE_HOME", str(home))

    def refuse(app: typer.Typer, *words: object) -> tuple[int, str]:
        with pytest.raises((PipelineError, SystemExit)) as ended:
            app([*map(str, words)], standalone_mode=False)
        said = capsys.readouterr()
        assert said.out == ""
        if isinstance(ended.value, SystemExit):
            return int(ended.value.code or 0), said.err.removeprefix("Error: ")
        return 1, str(ended.value)

    return refuse


async def test_files_that_cannot_be_used(refused: Refused, database: Database, stack: object, tmp_path: Path) -> None:
    names = ("good", "twin", "broken", "big", "deep", "binary", "text", "closed", "Bad Name")
    good, twin, broken, big, deep, binary, text, closed, unnamed = (tmp_path / f"{name}.json" for name in names)
    for path in (good, twin, closed, unnamed):
        path.write_text(json.dumps(look() | ({} if path in (closed, unnamed) else {"name": "look"})))
    broken.write_text(BROKEN_TEXT)
    big.write_text(json.dumps({"nodes": [], "description": "x" * 10_000_000}))
    deep.write_text('{"nodes": ' + "[" * 100_000 + "]" * 100_000 + "}")
    binary.write_bytes(bytes(range(256)) * 100)
    text.write_text("nodes:\n  - id: checks\n")
    closed.chmod(0)
    no_way = f"{broken}: The definition cannot be used: node 'a', field 'next': there is no node 'b'"
    cases: list[tuple[list[object], int, str]] = [
        (["apply", good, broken], 1, no_way),
        (["apply", good, twin], 1, "Two of these definitions are called 'look'"),
        (["apply", big], 1, "is too large: a definition has at most 262,144 bytes"),
        (["apply", deep], 1, "is nested deeper than 16 levels"),
        (["apply", binary], 1, "is not JSON"),
        (["apply", text], 1, "is not JSON: Expecting value in line 1, column 1"),
        (["apply", tmp_path], 1, "cannot be read: Is a directory"),
        (["apply", tmp_path / "none.json"], 1, "cannot be read: No such file or directory"),
        (["apply", unnamed], 1, "A definition cannot be called 'Bad Name'"),
        (["apply"], 2, "Nothing to apply"),
        (["apply", good, "--samples", "--name", "x"], 2, "--name needs exactly one file"),
        (["graph", good, "--version", "1"], 2, "--version is for a stored definition"),
        (["show", "nowhere"], 1, "There is no definition 'nowhere'; stored are: none"),
        (["graph", "nowhere"], 1, "There is no definition 'nowhere'"),
        (["disable", "nowhere"], 1, "There is no definition 'nowhere'"),
        (["rollback", "nowhere", "1"], 1, "There is no definition 'nowhere'"),
        (["samples", "nowhere"], 1, "There is no sample 'nowhere'; there are: central-hub, external-alerts"),
    ]
    if os.geteuid() != 0:  # root reads what is closed to all
        cases.append((["apply", closed], 1, "cannot be read: Permission denied"))
    for words, code, says in cases:
        # In a thread: within this event loop the command could not start one of its own.
        ended, said = await asyncio.to_thread(refused, main.app, "definitions", *words)
        assert (ended, says in said) == (code, True), (words, said)
    assert await row_counts(database) == {}


def test_an_error_is_one_line(command: Command, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(BROKEN_TEXT)
    said = says_in_one_line(command("alert-pipeline", "definitions", "apply", str(broken)), 1)
    assert said == f"{broken}: The definition cannot be used: node 'a', field 'next': there is no node 'b' (known: a)"


def test_looking_at_a_file_needs_no_prefect(tmp_path: Path) -> None:
    path = tmp_path / "look.json"
    path.write_text(json.dumps(look()))
    code = (
        "import sys\nfrom service.cli import main\n"
        "main.app(['definitions', 'validate', sys.argv[1]], standalone_mode=False)\n"
        "main.app(['definitions', 'graph', sys.argv[1]], standalone_mode=False)\n"
        "assert 'prefect' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


GATE: dict[str, Any] = {
    "nodes": [
        {"id": "ingest", "type": "ingest", "next": "critical"},
        {
            "id": "critical",
            "type": "condition",
            "config": {"expression": "ingest.severity == 'critical'", "if_true": "page", "if_false": "mail"},
        },
        {"id": "page", "type": "notify"},
        {"id": "mail", "type": "notify"},
    ]
}


async def test_a_run_of_a_file_and_its_dry_run(command: Command, database: Database, tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(GATE))
    with_gate = ["run_pipeline", "--config", str(path)]
    push = ["--payload", '{"name": "HighCPU", "severity": "critical"}']
    dry, real, text = side_by_side(
        command,
        ([*with_gate, *push, "--dry-run"], QUICK),
        ([*with_gate, *push, "--json"], QUICK),
        ([*with_gate, "--payload", '{"name": "Slow", "severity": "info"}'], QUICK),
    )
    assert "Dry run: nothing is written, nothing is sent" in dry.stdout
    assert "●    critical  condition: ingest.severity == 'critical'" in dry.stdout
    assert "    ingest    ingests 1 alert\n" in dry.stdout

    result = json_of(real)
    assert (real.returncode, result["status"], result["definition_version"]) == (0, "COMPLETED", None)
    states = {node["id"]: node["status"] for node in result["nodes"]}
    assert states == {"ingest": "succeeded", "critical": "succeeded", "page": "succeeded", "mail": "skipped"}
    assert text.returncode == 0
    assert "- does not hold: ingest.severity == 'critical'" in text.stdout
    assert "  page (notify): skipped, " in text.stdout
    assert "  mail (notify): " in text.stdout
    assert len(await all_runs(database)) == 2


async def test_what_run_pipeline_refuses_before_anything_starts(
    refused: Refused, database: Database, tmp_path: Path
) -> None:
    gate, broken = tmp_path / "gate.json", tmp_path / "broken.json"
    gate.write_text(json.dumps(GATE))
    broken.write_text(BROKEN_TEXT)
    ended = refused(run_pipeline.app, "--config", gate)
    assert ended == (1, "The definition needs an alert: give it one with --sample, --payload or --file")
    code, said = refused(run_pipeline.app, "--config", broken, "--sample")
    assert (code, "there is no node 'b'" in said) == (1, True)
    # What no source reads may be a stored mapping's, so the database is asked, in an event loop of the command's own.
    code, said = await asyncio.to_thread(refused, run_pipeline.app, "--config", gate, "--payload", '{"a": 1}')
    assert (code, "no source recognizes the payload" in said) == (1, True)
    assert await row_counts(database) == {}


def test_a_dry_run_of_a_stored_definition_as_json(
    run: Run, file: Callable[..., Path], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    page = {"id": "page", "type": "notify", "config": {"channel": "nowhere"}}
    run("apply", file({"nodes": [page if node["id"] == "page" else node for node in GATE["nodes"]]}, "gate.json"))
    words = ["--definition", "gate", "--sample", "--dry-run", "--json"]
    assert run_pipeline.app(words, standalone_mode=False) == 0
    shown = json.loads(capsys.readouterr().out)
    with pytest.raises(PipelineError, match="There is no channel or driver 'nobody'"):
        run_pipeline.app([*words, "--notify-driver", "nobody"], standalone_mode=False)
    run("delete", "gate")

    assert (shown["dry_run"], shown["definition"], shown["version"]) == (True, "gate", 1)
    assert [node["next"] for node in shown["nodes"]] == [["critical"], ["page", "mail"], [], []]
    assert shown["nodes"][0]["what"] == "ingests 2 alerts"
    assert "would fail: There is no channel or driver 'nowhere'" in shown["nodes"][2]["what"]
