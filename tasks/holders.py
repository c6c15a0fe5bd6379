"""Who holds leases: the names of processes, and which runs this one holds before it begins them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from orchestration.store.records import new_id

_held: dict[str, str] = {}


def hold(run_ids: Iterable[str], owner: str) -> None:
    """Runs whose lease this process holds from the moment they were written: the next `take_run()` of each has it."""
    _held.update(dict.fromkeys(run_ids, owner))


def held_as(run_id: str) -> str | None:
    """Under which name this process holds a run that it has not begun yet."""
    return _held.get(run_id)


def take_held(run_id: str) -> str | None:
    """The same, for the one who begins it now."""
    return _held.pop(run_id, None)


def holder_name() -> str:
    """A name under which this process can hold leases; another one each time."""
    return f"{process_name()}/{new_id()[:8]}"


def process_name() -> str:
    """Who this process is among all that hold leases: host, id, and when it started, since ids come again.

    The name of a lease's holder is this with something random behind it, another one each time.
    """
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def may_live(owner: str) -> bool:
    """Whether the holder of a lease may still be at work. Only a process of this host can be known dead."""
    host, process_id, started, _ = owner.rsplit("/", 3)
    if host != socket.gethostname():
        return True
    try:
        return _started(int(process_id)) == started
    except psutil.AccessDenied:
        return True


def _started(process_id: int) -> str | None:
    """When a process started, on a clock that nobody sets; None: it has ended, whether or not its parent knows."""
    try:
        process = psutil.Process(process_id)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError):
            # Field 22, in ticks since boot. psutil adds the moment of the boot, which moves with the wall clock,
            # and a holder that lives would be taken for dead.
            return Path(f"/proc/{process_id}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
