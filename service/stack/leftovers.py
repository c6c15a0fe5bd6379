"""Servers that outlived their keeper, which the kernel prevents on Linux and nothing prevents elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import psutil


async def end_leftovers(folder: Path, mark: str, signal_number: signal.Signals, grace_seconds: float) -> None:
    """End every process that works in `folder` and has `mark` in its command line; kill it when that takes long.

    Only for the holder of the stack's lock: then nobody uses what is found. The oldest is asked alone, since a
    server ends its own children.
    """
    deadline = time.monotonic() + grace_seconds
    asked: set[int] = set()
    while left := _working_in(folder, mark):
        for one in left if time.monotonic() > deadline else left[:1]:
            with contextlib.suppress(psutil.Error):
                if time.monotonic() > deadline:
                    one.kill()
                elif one.pid not in asked:
                    asked.add(one.pid)
                    one.send_signal(signal_number)
        await asyncio.sleep(0.05)


def _working_in(folder: Path, mark: str) -> list[psutil.Process]:
    """Those processes, oldest first. A shell that somebody left standing in the folder is none of them."""
    found: list[tuple[float, int, psutil.Process]] = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if one.cwd() == str(folder) and mark in " ".join(one.cmdline()):
                found.append((one.create_time(), one.pid, one))
    return [one for _, _, one in sorted(found, key=lambda item: item[:2])]
