"""`alert-pipeline mail-door`: alerts by mail."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from orchestration.settings import load_settings
from service.cli.api_door import DEFAULT_URL, ApiKey, ApiUrl, door_to
from service.cli.terminal import output


def mail_door(
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            "--recipient",
            "-r",
            envvar="MAIL_DOOR_RECIPIENTS",
            help="An address that accepts alerts: alerts@example.com, or with =ENVIRONMENT or =ENVIRONMENT/SOURCE. "
            "*@example.com means all. Repeatable; in the variable with spaces between them.",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            envvar="MAIL_DOOR_ALLOW",
            help="A mail server that may send, or a network. By default this machine. Repeatable, as --recipient.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(envvar="MAIL_DOOR_HOST", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="MAIL_DOOR_PORT", help="The port; 0 means any free port.")
    ] = 8025,
    max_bytes: Annotated[
        int, typer.Option(min=10_000, max=100_000_000, envvar="MAIL_DOOR_MAX_BYTES", help="The largest mail.")
    ] = 10_000_000,
    url: ApiUrl = DEFAULT_URL,
    key: ApiKey = None,
) -> int:
    """Accept alerts by mail, over SMTP and LMTP, until Ctrl-C.

    The API stores them. Until it has, the mail server that sent a mail keeps it, and tries again.
    """
    # Importing aiosmtpd takes a moment that other commands need not spend.
    from service.mail.door import MailDoor, Recipient, networks_of, serve_mail

    door = MailDoor(
        door=door_to(url, key, load_settings()),
        recipients=[Recipient.of(one) for one in recipient or []],
        allowed=networks_of(allow or []),
        max_bytes=max_bytes,
    )

    async def serve() -> None:
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await serve_mail(door, host=host, port=port, ended=ended, ready=_show)

    asyncio.run(serve())
    return 0


def _show(host: str, port: int) -> None:
    output.print(f"Mail      {host} port {port}, SMTP and LMTP", markup=False, highlight=False)
