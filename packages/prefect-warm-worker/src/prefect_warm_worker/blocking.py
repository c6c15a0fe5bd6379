"""Warns of code that blocks the event loop, in which all runs, heartbeats and cancellations wait for it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

CHECKS = 4
"""How often within the allowed time the event loop has to answer."""


@contextmanager
def warn_of_blocking(seconds: float, logger: Logger) -> Generator[None]:
    """Within the body, log a warning with the place of any code that blocks the running event loop for so long."""
    watch = _Watch(asyncio.get_running_loop(), seconds, logger)
    thread = threading.Thread(target=watch.run, name="warm-worker-blocking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()


class _Watch:
    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, logger: Logger) -> None:
        self.ended = threading.Event()
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._seconds = seconds
        self._logger = logger

    def run(self) -> None:
        """Ask the event loop again and again for a sign of life."""
        while not self.ended.wait(self._seconds / CHECKS):
            answered = threading.Event()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:
                return  # the event loop is closed
            if not answered.wait(self._seconds):
                self._warn(answered, asked)

    def _warn(self, answered: threading.Event, asked: float) -> None:
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - Python documents it
        task = _name_of_task(self._loop)
        place = _place(frames.get(self._loop_thread))
        self._logger.warning(
            "The event loop has been blocked for %.1f s%s, at %s. All runs of this worker wait, and so do heartbeats "
            "and cancellations. Await asynchronous code instead, or call it with asyncio.to_thread(), or make the flow "
            "a plain `def`, which gets a thread of its own",
            time.monotonic() - asked,
            f" by {task}" if task else "",
            place,
        )
        while not answered.wait(1):
            if self.ended.is_set():
                return
        self._logger.warning("The event loop goes on: it was blocked for %.1f s", time.monotonic() - asked)


def _name_of_task(loop: asyncio.AbstractEventLoop) -> str | None:
    task = asyncio.current_task(loop)
    return task.get_name() if task is not None else None


def _place(frame: FrameType | None) -> str:
    """File, line and function of the innermost code that is neither Python's own nor an installed package's."""
    if frame is None:
        return "an unknown place"
    found, looked = frame, frame
    while looked.f_back is not None:
        if not _is_installed(looked.f_code.co_filename):
            found = looked
            break
        looked = looked.f_back
    return f"{found.f_code.co_filename}, line {found.f_lineno}, in {found.f_code.co_name}"


def _is_installed(file: str) -> bool:
    return file.startswith((sys.prefix, sys.base_prefix, "<"))
