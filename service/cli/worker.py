"""`alert-pipeline worker`: the process that executes runs."""

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
        int | None, typer.Option(min=1, max=1000, help="Runs at the same time, instead of WORKER_CONCURRENCY.")
    ] = None,
) -> int:
    """Execute runs from the queue and from Prefect's work pool until Ctrl-C or SIGTERM.

    Then it claims no new runs. Runs in progress have WORKER_GRACE_SECONDS to end; another worker executes the rest.
    A second Ctrl-C ends at once. The same as `prefect worker start --pool alerts --type warm`.
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
    # Prefect takes seconds to import, and `--help` does not need it.
    from service.mirror.deployments import POOL_NAME
    from service.worker.warm import WarmWorker

    collect_garbage_rarely()
    name = f"warm {socket.gethostname()} {os.getpid()}"  # as Prefect's UI shows the worker
    warm = WarmWorker(POOL_NAME, name=name, limit=concurrency, settings=settings, addresses=addresses)
    serving = asyncio.create_task(warm.start(printer=output.print))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop, which costs a fifth less for each run. None means Python's own, where uvloop is missing."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    # Names are looked up in uvloop's threads, by default four: a name server that hangs would delay every channel.
    os.environ.setdefault("UV_THREADPOOL_SIZE", "64")
    return new_event_loop
