"""`alert-pipeline load`: try an installation with many alerts, and end them again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from secrets import token_hex
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestration.errors import BadInput
from orchestration.local_key import local_key_for
from orchestration.places import is_loopback
from orchestration.redaction import redact_text
from orchestration.settings import load_settings
from service.cli.api_door import DEFAULT_URL
from service.cli.terminal import Json, as_json, errors, output, progress
from service.load import ENVIRONMENT, Answers, Body, Load, Shape, send
from tasks.ingest.sources import IN_CODE

_MOST = 100_000


def load(
    shape: Annotated[
        Shape,
        typer.Argument(
            help="steady: each push is an incident of its own, at --rate. storm: the same, all at once. "
            "flapping: ten incidents fire and end in turn."
        ),
    ] = Shape.STEADY,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=_MOST, help="How many pushes.")] = 100,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Pushes a second. A storm has no rate.")] = 10.0,
    source: Annotated[str, typer.Option(help=f"In whose words: {', '.join(IN_CODE)}.")] = "generic",
    connections: Annotated[int, typer.Option(min=1, max=256, help="How many connections send them.")] = 16,
    channel: Annotated[
        str | None, typer.Option(help="The channel of their messages. By default what the policy says.")
    ] = None,
    url: Annotated[str, typer.Option(help="The API.")] = DEFAULT_URL,
    key: Annotated[
        str | None,
        typer.Option(envvar="LOAD_API_KEY", help="An API key with the scope trigger. By default the local key."),
    ] = None,
    end: Annotated[bool, typer.Option("--end/--no-end", help="Send the end of each alert at the end.")] = True,
    hold: Annotated[
        float, typer.Option(min=0, max=86_400, help="For how many seconds they fire before their ends are sent.")
    ] = 10.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before alerts go to another machine.")] = False,
    json: Json = False,
) -> int:
    """Send many alerts to an installation of yours, and their ends: their messages go to its channels.

    They are in the environment "load" and say that they are a test. To see what a storm looks like on a channel:

        alert-pipeline load storm -n 1000 --channel slack

    Exit code: 0 if every push was accepted, else 1.
    """
    if source not in IN_CODE:
        raise BadInput(f"--source: there is no {source[:60]!r}; there are: {', '.join(IN_CODE)}")
    host = urlsplit(url).hostname or ""
    if not is_loopback(host) and not yes and not typer.confirm(f"Send {count} alerts to {redact_text(url)}?", err=True):
        raise typer.Abort
    wanted = Load(shape=shape, source=source, count=count, rate=rate, mark=f"load-{token_hex(3)}", channel=channel)
    known = key or local_key_for(load_settings(), url)
    pace = None if shape is Shape.STORM else rate
    fired = _send("sending", wanted.pushes(), count, url=url, key=known, connections=connections, rate=pace)
    ended = Answers()
    if end and fired.seconds:
        ends = list(wanted.ends())
        with progress() as show:
            show(f"They fire for {hold:g} s …")
            time.sleep(hold)
        ended = _send("ending", iter(ends), len(ends), url=url, key=known, connections=connections)
    _show(wanted, fired, ended, json=json)
    return 0 if not fired.refused and not ended.refused else 1


def _send(
    what: str,
    bodies: Iterator[Body],
    count: int,
    *,
    url: str,
    key: str | None,
    connections: int,
    rate: float | None = None,
) -> Answers:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(what, total=count)
        return asyncio.run(
            send(
                bodies,
                url=url,
                key=key,
                connections=connections,
                rate=rate,
                progress=lambda: bar.advance(task),
            )
        )


def _show(wanted: Load, fired: Answers, ended: Answers, *, json: bool) -> None:
    refused = fired.refused + ended.refused
    figures = {
        "environment": ENVIRONMENT,
        "mark": wanted.mark,
        "accepted": len(fired.seconds),
        "ended": len(ended.seconds),
        "refused": dict(refused),
        "p50_ms": round(fired.percentile(0.5), 1),
        "p99_ms": round(fired.percentile(0.99), 1),
    }
    if json:
        as_json(figures)
        return
    output.print(f"accepted  {len(fired.seconds)} of {fired.count}, and {len(ended.seconds)} ends")
    output.print(f"answered  p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms")
    for why, times in refused.most_common(10):
        output.print(f"refused   {times} × {why}")
    output.print(f"see       alert-pipeline incidents list --environment {ENVIRONMENT}")
