"""The documentation says what the code does: settings, signals, flags and commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic_core import PydanticUndefined

from orchestration.reasons import Reason
from orchestration.settings import Settings
from orchestration.signals import Signal
from service.api import create_app
from service.cli import main, monitor_pipeline, run_pipeline

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    """What docs/settings.md has to say of each setting."""
    rows = ["| Variable | Default | Description |", "| --- | --- | --- |"]
    for field in Settings.model_fields.values():
        rows.append(f"| `{field.validation_alias}` | {shown(field.default)} | {field.description} |")
    return "\n".join(rows)


def shown(default: Any) -> str:
    """A default as a person would write it into the environment."""
    if default is PydanticUndefined:
        return "see below"
    if default is None or default == ():
        return "none"
    text = ",".join(default) if isinstance(default, tuple) else str(getattr(default, "value", default))
    return f"`{int(default) if isinstance(default, bool) else text}`"


def test_every_setting_is_documented_as_it_is() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text(), "put this into it:\n" + settings_table()


def test_the_settings_of_the_readme_are_those_of_the_code() -> None:
    for row in re.findall(r"^\| `(?:ORCHESTRATION|STATSD)_.*$", README, re.MULTILINE):
        assert row in settings_table()


@pytest.mark.parametrize("signal", Signal)
def test_every_signal_is_documented(signal: Signal) -> None:
    assert f"`{signal.value}`" in (ROOT / "docs" / "signals.md").read_text()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_documented(reason: Reason) -> None:
    assert f"`{reason.value}`" in (ROOT / "docs" / "how-it-works.md").read_text()


@pytest.mark.parametrize("module", [main, monitor_pipeline, run_pipeline])
def test_every_flag_is_documented(module: Any) -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    for one in commands_of(typer.main.get_command(module.app)):
        for parameter in one.params:
            for flag in parameter.opts:
                documented = f"`{flag}" in page or f" {flag.upper()}`" in page
                assert documented or flag == "--help", flag


def commands_of(command: Any) -> list[Any]:
    """A command with all that are below it."""
    return [command, *(one for below in getattr(command, "commands", {}).values() for one in commands_of(below))]


def test_every_endpoint_is_documented() -> None:
    page = (ROOT / "docs" / "http.md").read_text()
    document = create_app(Settings(), "postgresql://nowhere/none").openapi()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"| `{method.upper()} {path}` |" in page


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = ".venv/bin/uv run pytest"
    assert command in README
    assert command in (ROOT / ".ci" / "run").read_text()


def test_every_page_is_linked_from_the_readme() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in README
