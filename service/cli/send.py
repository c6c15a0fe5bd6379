"""`alert-pipeline send`: an alert from a script, from cron, or by hand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestration.alert import AlertStatus, Severity
from orchestration.errors import BadInput, BadSetting
from orchestration.settings import load_settings
from service.cli.api_door import DEFAULT_URL, KEY_VARIABLE, URL_VARIABLE, ApiKey, ApiUrl, door_to, plain
from service.cli.terminal import (
    STDIN,
    USAGE,
    Json,
    Stopped,
    as_json,
    errors,
    fail,
    output,
    stop_on_hangup,
    unheard,
)
from service.sending import LEAST_SECONDS, REQUEST_SECONDS, Door, Message, NotNow, Outcome, Spool, patiently

KEPT = 3
"""The exit code if the alert is kept, and is sent later."""

_BACKGROUND_SECONDS = 24 * 3600.0
_MOST_CHARACTERS = 8_000
"""How much of a text is sent; the API cuts what is longer than 8,192 characters."""
_CHUNK_BYTES = 64 * 1024
_MOST_READ = 256 * 1024 * 1024
"""How much of standard input is read: a writer that never ends must not keep the alert from being sent."""
_NAME_CHARACTERS = 200

EMPTY = "An alert whose text is empty"
"""What is sent if a script has nothing to say, such as the last line of an empty log."""


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
    url: ApiUrl = DEFAULT_URL,
    key: ApiKey = None,
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
    refused: Annotated[bool, typer.Option("--refused", help="With --flush: also what was refused before.")] = False,
    json: Json = False,
) -> int:
    """Send one alert to the API. It is kept on disk until the API has it: if the API is away, it arrives later, once.

        pg_dump shop > shop.sql || alert-pipeline send "The backup of shop failed" --severity critical
        alert-pipeline send "The backup of shop failed" --status resolved

    A text that may begin with a dash goes behind two: alert-pipeline send --severity critical -- "$text"

    Exit code: 0 if the API has it, 3 if it is kept and is sent later, 1 if it is refused, 2 if the command is wrong.
    """
    settings = load_settings()
    kept = Spool(spool or settings.home.expanduser() / "spool")
    door = door_to(url, key, settings)
    stop_on_hangup()
    if flush:
        if text is not None:
            fail("--flush sends what is kept already: leave out the text", code=USAGE)
        return _flush(kept, door, wait, again=refused, json=json)
    if refused:
        fail("--refused is for --flush: leave out the text", code=USAGE)
    body = _body(text, name=name, host=host, labels=label or [], severity=severity, status=status, link=link)
    message = Message(body=body, environment=plain(environment) if environment else None)
    try:
        result = _deliver(kept, door, message, wait)
    except Stopped as stop:
        if background and kept.waiting():
            _send_later(kept, door)
        raise Stopped(stop.exit_code, f"{stop.message}. The alert is kept in {kept.folder}, and sent later") from None
    if background and result.status is _Status.KEPT:
        _send_later(kept, door)
    _show(result, kept, json=json)
    return _CODES[result.status]


class _Status(StrEnum):
    SENT = "sent"
    KEPT = "kept"
    REFUSED = "refused"
    LOST = "lost"


_CODES = {_Status.SENT: 0, _Status.KEPT: KEPT, _Status.REFUSED: 1, _Status.LOST: 1}


@dataclass(frozen=True)
class _Result:
    """Where the alert is now."""

    status: _Status
    run_id: str | None = None
    reason: str | None = None


def _deliver(kept: Spool, door: Door, message: Message, seconds: float) -> _Result:
    """Keep an alert, then send what is kept, this one last: whatever ends this process, the alert is on disk."""
    try:
        path = kept.keep(message)
    except BadSetting as error:
        return _send_unkept(door, message, seconds, str(error))
    outcome, why = Outcome(), ""

    def attempt(left: float) -> None:
        try:
            kept.send_waiting(door, outcome, left)
        except NotNow:
            if path.exists():  # else it is done, and only others wait
                raise

    try:
        patiently(attempt, seconds)
    except (NotNow, BadSetting) as error:
        why = str(error)
    _show_refused({name: said for name, said in outcome.refused.items() if name != path.name}.values())
    if said := outcome.refused.get(path.name):
        return _Result(_Status.REFUSED, reason=said)
    if path.exists():
        return _Result(_Status.KEPT, reason=why)
    if any(other.name == path.name for other in kept.refused()):
        return _Result(_Status.REFUSED, reason="another process has sent it, and the API has refused it")
    return _Result(_Status.SENT, run_id=outcome.sent.get(path.name) or _run_again(door, message))


def _send_unkept(door: Door, message: Message, seconds: float, unkept: str) -> _Result:
    """Send an alert that cannot be kept."""
    run_ids: list[str] = []
    try:
        patiently(lambda left: run_ids.append(door.post(message, min(left, REQUEST_SECONDS))), seconds)
    except (NotNow, BadInput) as error:
        return _Result(_Status.LOST, reason=f"{error}. Nor can it be kept: {unkept}")
    return _Result(_Status.SENT, run_id=run_ids[0])


def _run_again(door: Door, message: Message) -> str | None:
    """The run of an alert that another process has sent: under the same key it is the same push."""
    try:
        return door.post(message, LEAST_SECONDS)
    except (NotNow, BadInput):
        return None


def _flush(kept: Spool, door: Door, seconds: float, *, again: bool, json: bool) -> int:
    outcome, why = Outcome(), None
    if again:
        kept.restore()
    try:
        patiently(lambda left: kept.send_waiting(door, outcome, left), seconds)
    except NotNow as error:
        why = str(error)
    _show_refused(outcome.refused.values())
    with unheard():
        if json:
            left = len(kept.waiting())
            as_json({"sent": len(outcome.sent), "refused": outcome.refused, "kept": left, "reason": why})
        elif why is not None:
            _show_kept(why, kept)
        elif outcome.sent:
            output.print(f"Sent: {len(outcome.sent)} that were kept")
    _point_to_refused(kept)
    return 1 if outcome.refused else KEPT if why is not None else 0


def _show(result: _Result, kept: Spool, *, json: bool) -> None:
    with unheard():
        if result.status is _Status.KEPT:
            _show_kept(result.reason, kept)
        elif result.status is not _Status.SENT:
            errors.print(f"{result.status.value.capitalize()}: {result.reason}")
    _point_to_refused(kept)
    with unheard():
        if json:
            as_json({"status": result.status.value, "run_id": result.run_id, "reason": result.reason})
        elif result.status is _Status.SENT:
            output.print(f"Sent: run {result.run_id}" if result.run_id else "Sent, by another process")


def _show_kept(why: str | None, kept: Spool) -> None:
    errors.print(f"Kept, and sent later: {why}. {len(kept.waiting())} wait in {kept.folder}")


def _show_refused(refused: Iterable[str]) -> None:
    with unheard():
        for said in refused:
            errors.print(f"An alert that was kept is refused: {said}")


def _point_to_refused(kept: Spool) -> None:
    """Say each time that alerts were refused, until somebody has looked at them."""
    if found := kept.refused():
        with unheard():
            many = f"{len(found)} refused alerts lie" if len(found) != 1 else "A refused alert lies"
            errors.print(
                f"{many} in {found[0].parent}: `alert-pipeline send --flush --refused` sends them again, "
                "and who wants none of them deletes the files"
            )


def _text_in(argument: str) -> str:
    """The text of the alert: the argument, or standard input. What is too long is cut, and says so."""
    text, of = _from_stdin() if argument == STDIN else (plain(argument), f"{len(argument):,} characters")
    text = text.strip()
    if len(text) <= _MOST_CHARACTERS:
        return text
    with unheard():
        errors.print(f"The text is cut: the first {_MOST_CHARACTERS:,} characters of {of} are sent")
    return f"{text[:_MOST_CHARACTERS]}\n[cut: the first {_MOST_CHARACTERS:,} characters of {of}]"


def _from_stdin() -> tuple[str, str]:
    """The beginning of standard input, and how long it is. All of it is read, so that its writer gets no error."""
    if sys.stdin is None:
        return "", ""
    stream, said, count = sys.stdin.buffer, b"", 0
    with suppress(OSError):
        said = stream.read(_CHUNK_BYTES)
        count = len(said)
        while count < _MOST_READ and (more := stream.read(_CHUNK_BYTES)):
            count += len(more)
    return said.decode(errors="replace"), f"{count:,} bytes"


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
    if said is None and not (name or "").strip():
        fail('Say what is wrong: alert-pipeline send "The backup failed" --severity critical', code=USAGE)
    text = _text_in(said or "")
    called = (plain(name or "").strip() or text.partition("\n")[0]).strip() or EMPTY
    pairs = [plain(one).partition("=") for one in labels]
    if wrong := [one for one, (label, sign, _) in zip(labels, pairs, strict=True) if not (label and sign)]:
        fail(f"--label {plain(wrong[0])[:80]!r}: write it as team=payments", code=USAGE)
    body = {
        "name": called[:_NAME_CHARACTERS],
        "description": text,
        "severity": severity.value,
        "status": status.value,
        "host": socket.gethostname() if host is None else plain(host),
        "labels": {label: value for label, _, value in pairs if value},
        "url": plain(link or ""),
        "occurred_at": datetime.now(UTC).isoformat(),
    }
    return {field: value for field, value in body.items() if value not in (None, "", {})}


def _send_later(kept: Spool, door: Door) -> None:
    """Start a process that goes on trying, unless there is one already: its lock on a file lasts as long as it."""
    command = [sys.executable, "-m", "service.cli.main", "send", "--flush", "--wait", f"{_BACKGROUND_SECONDS:g}"]
    env = os.environ | {URL_VARIABLE: door.url, "SEND_SPOOL": str(kept.folder.absolute())}
    with suppress(OSError), kept.background() as lock:
        if lock is None:
            return
        subprocess.Popen(  # noqa: S603 - this program itself
            command,
            env=env | ({KEY_VARIABLE: door.api_key} if door.api_key else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock,),
        )
