"""`alert-pipeline canary`: send a synthetic alert all the way, and measure it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from flows.round_trip import CanaryOrder, CanaryResult, send_canary
from orchestration.alert import Severity
from orchestration.settings import load_settings
from orchestration.signals import make_signals
from orchestration.store.database import Database
from service.cli.reader import read_at
from service.cli.terminal import Json, as_json, errors, output


def canary(
    channel: Annotated[
        str | None,
        typer.Option(help="The channel that it goes through: a channel block or a driver. By default CANARY_CHANNEL."),
    ] = None,
    default_channels: Annotated[
        bool, typer.Option("--default-channels", help="Send it to the default channels, as every alert.")
    ] = False,
    within: Annotated[
        float | None, typer.Option(min=1, max=3600, help="Seconds it may take. By default CANARY_WITHIN_SECONDS, 30.")
    ] = None,
    ping: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Request this when it arrived in time. By default CANARY_PING_URL."),
    ] = None,
    api: Annotated[
        str | None, typer.Option(metavar="URL", help="The API that it goes through. By default CANARY_API_URL.")
    ] = None,
    severity: Annotated[Severity, typer.Option(help="How bad it says that it is.")] = Severity.INFO,
    json: Json = False,
) -> int:
    """Send a test alert through door, queue, engine and a channel, measure each step, and end it.

    It is in the environment canary, and its message says that it is a test. Without --api it goes through
    http://127.0.0.1:8000, or into the queue directly if no API is there. Exit code: 0 if the channel accepted it in
    time and the ping succeeded, else 1.
    """
    settings = load_settings()
    order = CanaryOrder.of(
        settings,
        channel=channel,
        default_channels=default_channels,
        within_seconds=within,
        api_url=api,
        ping_url=ping,
        severity=severity,
    )

    async def work(database: Database, _: object) -> CanaryResult:
        return await send_canary(database, settings, make_signals(settings), order)

    result = read_at(settings, work)
    if json:
        as_json(result.model_dump(mode="json") | {"total_ms": result.total_ms})
    else:
        _show(result)
    return 0 if result.arrived and not result.ping_problem else 1


def _show(result: CanaryResult) -> None:
    mark, style = ("✓", "green") if result.arrived else ("✗", "red")
    output.print(
        Text.assemble((mark, style), f" {'arrived' if result.arrived else 'did not arrive'} on {result.channel}")
    )
    output.print(f"  {result.through}")
    before = 0.0
    for step in result.steps:
        output.print(f"  {step.name:<9} {step.after_ms:>8.0f} ms  +{step.after_ms - before:.0f}")
        before = step.after_ms
    if result.engine:
        output.print(f"  engine    {result.engine}; alert-pipeline trace {result.trace_id[:12]} shows more")
    if result.problem:
        errors.print(Text.assemble(("Error:", "bold red"), f" {result.problem}"))
    if result.ping_problem:
        errors.print(Text.assemble(("Error:", "bold red"), f" the ping failed: {result.ping_problem}"))
    elif result.ping:
        output.print(f"  pinged    {result.ping}")
