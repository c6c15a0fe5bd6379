"""The command `alert-pipeline up`: everything on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Annotated

import typer

from orchestration.errors import BadSetting
from orchestration.settings import load_settings
from service.cli.terminal import output, progress
from service.stack import HeldStack, StackAddresses
from service.up import ensure_port_free, serve

PORT, PREFECT_PORT = 8000, 4200


def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the API listens.")] = PORT,
    host: Annotated[str, typer.Option(help="The API's address; other than loopback asks for keys.")] = "127.0.0.1",
    prefect_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where Prefect's API and UI listen, on 127.0.0.1.")
    ] = PREFECT_PORT,
) -> int:
    """Start everything and keep it running until Ctrl-C: PostgreSQL, Prefect's server and UI, the API, a worker.

    What DATABASE_URL or PREFECT_API_URL name is used instead of an embedded part. A part that dies is started
    again. Commands that run meanwhile use the same stack.
    """
    settings = load_settings()
    ensure_port_free(host, port, option="--port")
    if port == prefect_port and not settings.prefect_api_url:
        raise BadSetting(f"Port {port} cannot be both the API's and Prefect's; choose another with --prefect-port")
    with ExitStack() as opening, ExitStack() as starting:
        show = starting.enter_context(progress())
        chosen = None if settings.prefect_api_url else prefect_port
        stack = opening.enter_context(HeldStack(settings, progress=show, prefect_port=chosen))

        def ready() -> None:
            starting.close()
            _say_ready(stack.addresses, f"http://{host}:{port}")

        asyncio.run(_until_ended(serve(stack, host=host, port=port, progress=show, ready=ready)))
    return 0


async def _until_ended(work: Coroutine[None, None, None]) -> None:
    """Serve until Ctrl-C or SIGTERM, which for a service both mean a clean end."""
    serving = asyncio.create_task(work)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    serving.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        if not ended.is_set():
            raise


def _say_ready(addresses: StackAddresses, api: str) -> None:
    embedded = "postgres" in addresses.embedded
    output.print(f"API       {api}/orchestration/  (documentation: {api}/docs)", markup=False)
    output.print(f"Admin     {api}/admin/orchestration/", markup=False)
    output.print(f"Prefect   {(addresses.prefect_api_url or '').removesuffix('/api')}", markup=False)
    output.print(f"Database  {'embedded, by socket only' if embedded else 'DATABASE_URL'}", markup=False)
    output.print("Ready. Ctrl-C ends it.", markup=False)
