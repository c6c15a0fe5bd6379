"""`alert-pipeline doctor`: is this installation well, and what to do where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from orchestration.errors import BadSetting
from orchestration.settings import load_settings
from service.cli.terminal import as_json, output, progress

if TYPE_CHECKING:
    from service.doctor.finding import Finding

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "broken": ("✗", "red"), "skipped": ("-", "dim")}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
) -> int:
    """Look at settings, disks, database, clock, workers, inbox, Prefect and channels; say how to mend what is broken.

    Nothing is started, changed or sent. Exit code: 0, or 1 when something is broken; a warning (!) is not.
    """
    with progress() as show:
        show("Looking at everything …" if not json else "")
        findings = _findings()
    broken = [finding for finding in findings if finding.level == "broken"]
    if json:
        as_json({"ok": not broken, "findings": [finding.model_dump(mode="json") for finding in findings]})
    else:
        _show(findings)
    return 1 if broken else 0


def _findings() -> list[Finding]:
    from service.doctor.finding import broken

    try:
        settings = load_settings()
    except BadSetting as error:
        # Nothing else can be looked at without knowing where it is.
        return [broken("settings", str(error), "Set the variable as docs/settings.md has it, or not at all")]
    from service.doctor.examine import examine

    return asyncio.run(examine(settings))


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.level]
        output.print(Text.assemble((mark, style), f" {finding.check:<{width}}  {finding.detail}"))
        if finding.mend and finding.level != "ok":
            output.print(Text(f"  {'':<{width}}  → {finding.mend}", style=style))
    counts = {level: sum(finding.level == level for finding in findings) for level in ("broken", "warning")}
    if not any(counts.values()):
        output.print("All is well", style="bold green")
        return
    warnings = "1 warning" if counts["warning"] == 1 else f"{counts['warning']} warnings"
    output.print(f"{counts['broken']} broken, {warnings}", style="bold")
