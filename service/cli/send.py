"""`alert-pipeline send`: an alert from a script, from cron, or by hand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from orchestration.alert import AlertStatus, Severity
from orchestration.errors import BadInput
from orchestration.local_key import local_key_for
from orchestration.settings import load_settings
from service.cli.load import DEFAULT_URL
from service.cli.terminal import STDIN, USAGE, Json, as_json, errors, fail, output, read_file
from service.sending import Door, Message, NotNow, Spool, patiently

KEPT = 3
"""The exit code if the alert is kept, and is sent later."""

_KEY = "SEND_API_KEY"
_BACKGROUND_SECONDS = 24 * 3600.0
_MAX_TEXT = 32 * 1024
_NAME_CHARACTERS = 200


def send(
    text: Annotated[
        str | None, typer.Argument(help="What is wrong, in a line; `-` reads it from standard input.")
    ] = None,
    severity: Annotated[Severity, typer.Option("--severity", "-s")] = Severity.WARNING,
    status: Annotated[AlertStatus, typer.Option(help="`resolved` ends the alert of the same name and host.")] = (
        AlertStatus.FIRING
    ),
    name: Annotated[
        str | None,
        typer.Option(help="What the alert is called each time. By default the text, which then has to stay the same."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Where it happens. By default this machine; '' means at no host.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="A label, as team=payments. Repeatable.")
    ] = None,
    link: Annotated[str | None, typer.Option(help="A page about it.")] = None,
    environment: Annotated[str | None, typer.Option(help="Where it happens. By default production.")] = None,
    url: Annotated[str, typer.Option(envvar="SEND_URL", help="The API.")] = DEFAULT_URL,
    key: Annotated[
        str | None,
        typer.Option(envvar=_KEY, help="An API key with the scope trigger. By default the local key, on its machine."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, max=86_400, help="For how many seconds to try before the alert is kept.")
    ] = 10.0,
    spool: Annotated[
        Path | None,
        typer.Option(envvar="SEND_SPOOL", help="Where it is kept. By default `spool` in ALERT_PIPELINE_HOME."),
    ] = None,
    background: Annotated[
        bool, typer.Option("--background/--no-background", help="Go on trying in the background, for a day.")
    ] = True,
    flush: Annotated[bool, typer.Option("--flush", help="Send what is kept, and nothing else.")] = False,
    json: Json = False,
) -> int:
    """Send one alert to the API. If the API is away, the alert is kept on disk, and arrives once it is back, once.

        pg_dump shop > shop.sql || alert-pipeline send "The backup of shop failed" --severity critical
        alert-pipeline send "The backup of shop failed" --status resolved

    Exit code: 0 if the API has it, 3 if it is kept and is sent later, 1 if it is refused, 2 if the command is wrong.
    """
    settings = load_settings()
    kept = Spool(spool or settings.home.expanduser() / "spool")
    door = Door(url=url, api_key=key or local_key_for(settings, url))
    message = None
    if not flush:
        said = read_file(STDIN, _MAX_TEXT).decode(errors="replace") if text == STDIN else text
        message = Message(
            body=_body(said, name=name, host=host, labels=label or [], severity=severity, status=status, link=link),
            environment=environment,
        )
    elif text is not None:
        fail("--flush sends what is kept already: leave out the text", code=USAGE)
    try:
        run_id = _deliver(kept, door, message, wait) if message is not None else _flush(kept, door, wait)
    except NotNow as error:
        left = len(kept.waiting())
        errors.print(f"Kept, and sent later: {error}. {left} wait in {kept.folder}", markup=False, highlight=False)
        if background and message is not None:
            _send_later(kept.folder, door)
        return KEPT
    if json:
        as_json({"run_id": run_id})
    elif run_id:
        output.print(f"Sent: run {run_id}", markup=False, highlight=False)
    return 0


def _deliver(kept: Spool, door: Door, message: Message, seconds: float) -> str:
    """Send what is kept, then this alert. Returns its run.

    Raises:
        NotNow: the API takes nothing, or another process still sends what is kept; this alert is kept as well.
        BadInput: this alert is refused.
    """
    run_ids: list[str] = []

    def attempt() -> bool:
        if kept.waiting():  # what was said before comes first
            _flush(kept, door, 0)
        run_ids.append(door.post(message))
        return False

    try:
        patiently(attempt, seconds)
    except NotNow:
        kept.keep(message)
        raise
    return run_ids[0]


def _flush(kept: Spool, door: Door, seconds: float) -> None:
    """Send what is kept.

    Raises:
        NotNow: the API takes nothing, or another process sends it.
    """

    def attempt() -> bool:
        try:
            return kept.send_oldest(door)
        except BadInput as error:
            errors.print(f"An alert that was kept is refused: {error}", markup=False, highlight=False)
            return True

    with kept.alone() as alone:
        if not alone:
            raise NotNow("another process sends what is kept")
        patiently(attempt, seconds)


def _body(
    said: str | None,
    *,
    name: str | None,
    host: str | None,
    labels: list[str],
    severity: Severity,
    status: AlertStatus,
    link: str | None,
) -> dict[str, object]:
    text = (said or "").strip()
    called = (name or text.partition("\n")[0]).strip()
    if not called:
        fail('Say what is wrong: alert-pipeline send "The backup failed" --severity critical', code=USAGE)
    pairs = [one.partition("=") for one in labels]
    if wrong := [
        one for one, (label, sign, value) in zip(labels, pairs, strict=True) if not (label and sign and value)
    ]:
        fail(f"--label {wrong[0][:80]!r}: write it as team=payments", code=USAGE)
    body = {
        "name": called[:_NAME_CHARACTERS],
        "description": text,
        "severity": severity.value,
        "status": status.value,
        "host": socket.gethostname() if host is None else host,
        "labels": {label: value for label, _, value in pairs},
        "url": link,
        "occurred_at": datetime.now(UTC).isoformat(),
    }
    return {field: value for field, value in body.items() if value not in (None, "", {})}


def _send_later(folder: Path, door: Door) -> None:
    """Start a process that goes on trying. If there is one already, it ends at once."""
    command = [sys.executable, "-m", "service.cli.main", "send", "--flush", "--wait", f"{_BACKGROUND_SECONDS:g}"]
    env = os.environ | {"SEND_URL": door.url, "SEND_SPOOL": str(folder.absolute())}
    subprocess.Popen(  # noqa: S603 - this program itself
        command,
        env=env | ({_KEY: door.api_key} if door.api_key else {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
