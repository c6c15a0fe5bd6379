"""SIGINT, which ends a worker, also where a shell lets its processes ignore it."""

from __future__ import annotations

import asyncio
import signal

_IS_IGNORED = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""How this process was started. Prefect's command loads this module before it sets its own handlers, which pass SIGINT
on to what was there."""


def hear_sigint() -> None:
    """Let SIGINT cancel the current task, if it would be ignored.

    A script starts its background processes (`prefect worker start … &`) so that they ignore SIGINT. But Prefect's
    command turns SIGTERM into SIGINT, and a worker that ignores it would never end.
    """
    task = asyncio.current_task()
    if task is None or not _IS_IGNORED:
        return
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
