"""Child processes of the keeper: they never outlive it, and what they say goes to a bounded log."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from service.stack.account import Account

LOG_LIMIT = 5 * 1024 * 1024
"""Bytes of a log before it is set aside; one older log is kept."""

_SET_PARENT_DEATH_SIGNAL = 1


async def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    death_signal: signal.Signals,
    account: Account | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start `command` as a child that gets `death_signal` when this process dies, however it dies (Linux).

    Call it in the main thread: the kernel watches the thread that forks.
    """
    other = account if account is not None and account.switches else None
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=dict(env),
            pass_fds=tuple(pass_fds),
            user=other.uid if other else None,
            group=other.gid if other else None,
            extra_groups=[] if other else None,
            umask=0o077,
            # A session of its own: a signal to the keeper's process group is the keeper's to answer.
            start_new_session=True,
            preexec_fn=follow_parent(death_signal),
        )


async def end(process: Process, signal_number: signal.Signals, grace_seconds: float) -> None:
    """Ask the process to end; kill it when it has not ended after `grace_seconds`."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal_number)
    try:
        await asyncio.wait_for(process.wait(), grace_seconds)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def describe_exit(code: int | None) -> str:
    """`exit code 1`, `SIGKILL`."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def start_log(log: Path) -> None:
    """Begin a new log; the last one is kept beside it."""
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))


def bound_log(log: Path, limit: int = LOG_LIMIT) -> None:
    """Set a log aside that has grown past `limit`, while its process goes on writing (it appends)."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > limit:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def log_tail(log: Path, lines: int = 4) -> str:
    """The last lines of a log, on one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(said[-lines:])[-600:]


def follow_parent(signal_number: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn` after which the child gets this signal when its parent dies (Linux; None elsewhere)."""
    if sys.platform != "linux":
        return None
    # Loaded before the fork: the child of a process with threads may do very little.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, int(signal_number), 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)

    return in_child
