"""The command `alert-pipeline doctor`: checks this installation and says how to fix what is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.text import Text

from orchestration.embedded_stack import find_running_stack
from orchestration.errors import BadSetting
from orchestration.settings import Settings, load_settings
from service.cli.terminal import Json, as_json, output, progress
from service.doctor import Finding, broken

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "broken": ("✗", "red"), "skipped": ("-", "dim")}


def doctor(json: Json = False) -> int:
    """Check settings, disks, database, clock, workers, inbox, Prefect and channels; say how to fix what is broken.

    Nothing is started, changed or sent. Exit code: 0, or 1 when something is broken; a warning (!) is not.
    """
    with progress() as show:
        show("Checking the installation …" if not json else "")
        try:
            findings = asyncio.run(examine(load_settings()))
        except BadSetting as error:
            # Without its settings the other parts cannot be found.
            findings = [broken("settings", str(error), "Set the variable as docs/settings.md says, or unset it")]
    healthy = all(finding.level != "broken" for finding in findings)
    if json:
        as_json({"ok": healthy, "findings": [finding.model_dump(mode="json") for finding in findings]})
    else:
        _show(findings)
    return 0 if healthy else 1


async def examine(settings: Settings) -> list[Finding]:
    """Make all checks at once, without starting, changing or sending anything."""
    # Prefect takes seconds to import: `--help` and a wrong setting need not wait for it.
    from service.doctor.channels import channel_findings
    from service.doctor.database import database_findings
    from service.doctor.host import host_findings
    from service.doctor.prefect import prefect_findings

    stack = find_running_stack(settings)
    database_url = settings.database_url.get_secret_value() if settings.database_url is not None else None
    embedded_url = stack.database_url if stack is not None else None
    api_url = settings.prefect_api_url or (stack.prefect_api_url if stack is not None else None)
    groups = await asyncio.gather(
        host_findings(settings),
        database_findings(settings, database_url or embedded_url, embedded=database_url is None),
        prefect_findings(settings, api_url, embedded=settings.prefect_api_url is None, stack_runs=stack is not None),
        channel_findings(settings, api_url),
    )
    return [finding for group in groups for finding in group]


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.level]
        output.print(Text.assemble((mark, style), f" {finding.check:<{width}}  {finding.detail}"))
        if finding.fix and finding.level != "ok":
            output.print(Text(f"  {'':<{width}}  → {finding.fix}", style=style))
    counts = {level: sum(finding.level == level for finding in findings) for level in ("broken", "warning")}
    if not any(counts.values()):
        output.print("All is well", style="bold green")
        return
    warnings = "1 warning" if counts["warning"] == 1 else f"{counts['warning']} warnings"
    output.print(f"{counts['broken']} broken, {warnings}", style="bold")
