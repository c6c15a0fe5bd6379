"""A look at this host: its busiest processes, its largest and oldest files.

Of processes only names and ids are shown, because a command line can contain secrets.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import shlex
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath

import psutil

from orchestration.threads import in_daemon_thread

TOP_PROCESSES = 3
CPU_WINDOW_SECONDS = 0.03
"""Seconds between the two readings of CPU time. The kernel counts in steps of 10 ms: enough for a ranking."""

FILE_SEARCH_SECONDS = 0.15
FILE_SEARCH_DEPTH = 8
LARGE_BYTES = 50 * 2**20
OLD_BYTES = 10 * 2**20
OLD_DAYS = 30
TOP_FILES = 5

_LIKELY_FIRST = ("var/log", "tmp", "var/tmp", "var/cache", "var/lib", "home", "root", "srv", "opt")
_NEVER = frozenset({"/proc", "/sys", "/dev", "/run"})
_WHERE_FILES_PILE_UP = frozenset(
    {"log", "logs", "tmp", "cache", ".cache", "backup", "backups", "dump", "dumps", "crash", "core"}
)


@dataclass(frozen=True)
class ProcessUse:
    """What a process uses, in words such as "2.1 GiB"."""

    pid: int
    name: str
    use: str

    def __str__(self) -> str:
        own = ", this worker" if self.pid == os.getpid() else ""
        return f"{self.name} (pid {self.pid}{own}): {self.use}"


async def top_by_memory() -> list[ProcessUse]:
    """The processes that use the most memory (resident set), the largest first."""
    return [ProcessUse(pid, _shown(name), in_bytes(rss)) for rss, pid, name in await in_daemon_thread(_largest)]


def _largest() -> list[tuple[int, int, str]]:
    processes = psutil.process_iter(["name", "memory_info"])
    sizes = ((info.rss, each.pid, each.info["name"]) for each in processes if (info := each.info["memory_info"]))
    return heapq.nlargest(TOP_PROCESSES, (size for size in sizes if size[0]))


async def top_by_cpu() -> list[ProcessUse]:
    """The processes that use the most CPU now; among equals, those that have used the most since they started."""
    before, began = await in_daemon_thread(_read_cpu_times), time.perf_counter()
    await asyncio.sleep(CPU_WINDOW_SECONDS)
    after, elapsed = await in_daemon_thread(_read_cpu_times), time.perf_counter() - began
    busy: list[tuple[float, float, int, str]] = []
    for (pid, created), (seconds, name) in after.items():
        earlier, _ = before.get((pid, created), (seconds, name))
        busy.append((seconds - earlier, seconds, pid, name))
    return [
        ProcessUse(pid, _shown(name), f"about {100 * spent / elapsed:.0f} % of a core now, {total:.0f} s so far")
        if spent
        else ProcessUse(pid, _shown(name), f"{total:.0f} s of CPU so far")
        for spent, total, pid, name in sorted(busy, reverse=True)[:TOP_PROCESSES]
        if total
    ]


def _read_cpu_times() -> dict[tuple[int, float], tuple[float, str]]:
    """The seconds of CPU and the name of each process, by its id and the time at which it started."""
    return {
        (process.pid, process.info["create_time"]): (times.user + times.system, process.info["name"])
        for process in psutil.process_iter(["name", "cpu_times", "create_time"])
        if (times := process.info["cpu_times"])
    }


def _shown(name: str | None) -> str:
    # The kernel has only 15 characters. psutil adds the rest from the command line, which a process can change
    # to any text: only the first word of such a name is used.
    name = name or "?"
    if len(name) > 15:
        name = name.split()[0][:64]
    return printable(name)


def printable(text: str) -> str:
    """A text from outside as one line, without characters that move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def in_bytes(size: float) -> str:
    """A size for people: 512 B, 3.0 MiB, 2.1 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@dataclass(frozen=True, order=True)
class FoundFile:
    """A file, the bytes that it uses on the disk, and the days since it was written."""

    size_bytes: int
    path: str
    age_days: int

    @property
    def quoted(self) -> str | None:
        """The path, quoted for a shell; None if it has a character that must not reach a terminal."""
        return shlex.quote(self.path) if self.path.isprintable() else None


@dataclass
class FileFindings:
    """The largest files that were found, and the large files that were not written to for a long time."""

    root: str
    large: list[FoundFile] = field(default_factory=list[FoundFile])
    old: list[FoundFile] = field(default_factory=list[FoundFile])
    files_seen: int = 0
    complete: bool = False


def look_around(
    root: str, time_limit_seconds: float = FILE_SEARCH_SECONDS, depth_limit: int = FILE_SEARCH_DEPTH
) -> FileFindings:
    """Find large and old files below `root`: first in the folders where they usually are, broad before deep.

    The call blocks for at most `time_limit_seconds`, if the disk answers. It follows no symbolic link, stays on the
    file system, and skips folders that it may not read. `complete` says whether the time was enough.

    Raises:
        OSError: `root` itself cannot be read.
    """
    findings = FileFindings(root)
    deadline = time.perf_counter() + time_limit_seconds
    now = time.time()
    for entry in _files(root, depth_limit):
        if time.perf_counter() > deadline:
            return findings
        if entry is not None:
            with suppress(OSError):
                _add_file(findings, entry, now)
    findings.complete = True
    return findings


def _files(root: str, depth_limit: int) -> Iterator[os.DirEntry[str] | None]:
    """Each file of the file system, and None for each other entry, so that the caller can stop there as well."""
    # Plain strings and DirEntry: a Path for each entry would double the time.
    root = os.path.realpath(root)
    device = os.lstat(root).st_dev
    likely = (os.path.join(root, folder) for folder in _LIKELY_FIRST)  # noqa: PTH118
    folders = deque((folder, 1) for folder in likely if os.path.realpath(folder) == folder)
    folders.append((root, 0))
    seen: set[str] = set()
    while folders:
        folder, depth = folders.popleft()
        if folder in seen or folder in _NEVER:
            continue
        seen.add(folder)
        for entry in _entries(folder, device):
            if _is_folder(entry):
                if depth < depth_limit:
                    folders.append((entry.path, depth + 1))
                yield None
            else:
                yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir(follow_symlinks=False)
    return False


def _entries(folder: str, device: int) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError):
        if os.lstat(folder).st_dev == device:
            with os.scandir(folder) as entries:
                yield from entries


def _add_file(findings: FileFindings, entry: os.DirEntry[str], now: float) -> None:
    if not entry.is_file(follow_symlinks=False):
        return
    findings.files_seen += 1
    status = entry.stat(follow_symlinks=False)
    size = status.st_blocks * 512  # a sparse file uses less than its length
    if size < OLD_BYTES:
        return
    found = FoundFile(size, entry.path, max(0, int((now - status.st_mtime) / 86400)))
    if size >= LARGE_BYTES:
        _keep_largest(findings.large, found)
    if found.age_days >= OLD_DAYS and _WHERE_FILES_PILE_UP.intersection(PurePath(entry.path).parts):
        _keep_largest(findings.old, found)


def _keep_largest(kept: list[FoundFile], found: FoundFile) -> None:
    kept[:] = heapq.nlargest(TOP_FILES, [*kept, found])
