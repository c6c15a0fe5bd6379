"""The units in deploy/: what systemd itself says of them, and what they start."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from service.cli import main

UNITS = sorted((Path(__file__).parent.parent / "deploy" / "systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/alert-pipeline", str(tmp_path)))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # Of the machine's own units it may say what it likes.
    about_ours = [line for line in said.stderr.splitlines() if any(unit.stem in line for unit in UNITS)]
    assert about_ours == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_restarts_what_it_starts_for_as_long_as_it_takes(unit: Path) -> None:
    text = unit.read_text()
    assert "Restart=always" in text
    assert "StartLimitIntervalSec=0" in text.partition("[Service]")[0]


@pytest.mark.parametrize(
    "unit", [unit for unit in UNITS if unit.stem.startswith("alert-pipeline")], ids=lambda unit: unit.stem
)
def test_a_unit_starts_a_command_that_there_is(unit: Path) -> None:
    (command,) = re.findall(r"^ExecStart=\S+/alert-pipeline (.*)$", unit.read_text(), re.MULTILINE)
    name, *arguments = shlex.split(command)
    group = typer.main.get_command(main.app)
    there = getattr(group, "commands", {})[name]
    # Parsing is all that happens: the command itself is not called.
    there.make_context(name, arguments)
