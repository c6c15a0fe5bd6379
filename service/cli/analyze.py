"""`alert-pipeline analyze`: the table of its commands."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from service.cli.imported import Imported

INCIDENT = "incident"
COMMANDS: dict[str, str] = {
    "changes": "service.cli.analyze_changes:changes",
    INCIDENT: "service.cli.analyze_incident:analyze_incident",
}
"""Each command, and where it is."""


class _Analyze(TyperGroup):
    """The group of these commands. A first word that is none of them is an incident."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Imported(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the arguments, and what is left of these."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            return INCIDENT, self.commands[INCIDENT], args
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Analyze, no_args_is_help=True, rich_markup_mode=None, help="What probably happened, and what changed."
)


@app.callback()
def about() -> None:
    """What probably happened, and what changed."""
