"""The command `alert-pipeline worker`: takes runs from the inbox until it is told to end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from orchestration.settings import Settings, load_settings
from service.cli.terminal import output, progress
from service.stack import StackAddresses, attach
from service.stack.process import collect_garbage_rarely


def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many runs at once, instead of WORKER_CONCURRENCY.")
    ] = None,
) -> int:
    """Take runs from the inbox and from Prefect's work pool until Ctrl-C or SIGTERM.

    At the end no new runs are taken, those that are going on have WORKER_GRACE_SECONDS, and the rest go on
    elsewhere. A second Ctrl-C ends at once. The same as `prefect worker start --pool alerts --type warm`.
    """
    settings = load_settings()
    with ExitStack() as opening:
        with progress() as show:
            addresses = opening.enter_context(attach(settings, progress=show))
            show("Starting the worker …")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, addresses, concurrency))
    return 0


async def _serve(settings: Settings, addresses: StackAddresses, concurrency: int | None) -> None:
    # Prefect takes seconds to import: `--help` need not wait for it.
    from service.mirror.deployments import POOL_NAME
    from service.worker.warm import WarmWorker

    collect_garbage_rarely()

    own = WarmWorker(POOL_NAME, name=_name(), limit=concurrency, settings=settings, addresses=addresses)
    serving = asyncio.create_task(own.start(printer=_say))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop, a fifth less work for each run; where it is not to be had, Python's own."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


def _say(text: str) -> None:
    output.print(text, markup=False)


def _name() -> str:
    """What the worker is called in Prefect."""
    return f"warm {socket.gethostname()} {os.getpid()}"
