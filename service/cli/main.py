"""The command `alert-pipeline`: the table of its commands, each imported when it is used.

All of them together take seconds to import, and a person who acknowledges a page at night waits for one.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from service.cli.imported import Imported
from service.cli.terminal import run_app

COMMANDS: dict[str, str] = {
    "up": "service.cli.up:up",
    "api": "service.cli.api:api",
    "worker": "service.cli.worker:worker",
    "incidents": "service.cli.incidents:app",
    "why": "service.cli.why:why",
    "trace": "service.cli.trace:trace",
    "resume": "service.cli.resume:resume",
    "check": "service.cli.check:check",
    "changes": "service.cli.changes:app",
    "analyze": "service.cli.analyze:app",
    "silences": "service.cli.silences:app",
    "oncall": "service.cli.oncall:app",
    "policy": "service.cli.policy:app",
    "sources": "service.cli.sources:app",
    "pushes": "service.cli.pushes:app",
    "definitions": "service.cli.definitions:app",
    "channels": "service.cli.channels:app",
    "heartbeats": "service.cli.heartbeats:app",
    "canary": "service.cli.canary:canary",
    "automations": "service.cli.automations:app",
    "send": "service.cli.send:send",
    "mail-door": "service.cli.mail_door:mail_door",
    "load": "service.cli.load:load",
    "keys": "service.cli.keys:app",
    "doctor": "service.cli.doctor:doctor",
    "env": "service.cli.env:env",
}
"""Each command, and where it is: a function, or a group of commands."""

FAILURES = {"check": 3}
"""The exit codes of commands that could not do their work, where 1 and 2 say what they have found."""

UNHEARD = ("send",)
"""The commands whose result is not what they print."""


class _Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Imported(COMMANDS)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


@app.callback()
def about() -> None:
    """From a webhook to the person on call. See also: run_pipeline, monitor_pipeline."""


def main() -> None:
    """Run the command `alert-pipeline`."""
    run_app(app, FAILURES, UNHEARD)


if __name__ == "__main__":
    main()
