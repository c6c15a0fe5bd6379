"""The large and the old files of one file system, as far as a quarter of a second reaches."""

from __future__ import annotations

import heapq
import os
import shlex
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath

TIME_LIMIT_SECONDS = 0.25
DEPTH_LIMIT = 8
LARGE_BYTES = 50 * 2**20
OLD_BYTES = 10 * 2**20
OLD_DAYS = 30
TOP = 5

_LIKELY_FIRST = ("var/log", "tmp", "var/tmp", "var/cache", "var/lib", "home", "root", "srv", "opt")
_NEVER = frozenset({"/proc", "/sys", "/dev", "/run"})
_WHERE_FILES_PILE_UP = frozenset(
    {"log", "logs", "tmp", "cache", ".cache", "backup", "backups", "dump", "dumps", "crash", "core"}
)


@dataclass(frozen=True, order=True)
class FoundFile:
    """A file by what it takes on the disk, in bytes, and the days since it was written."""

    size_bytes: int
    path: str
    age_days: int

    @property
    def quoted(self) -> str | None:
        """The path for a shell; None where it has a character that must not reach a terminal."""
        return shlex.quote(self.path) if self.path.isprintable() else None


@dataclass
class FileFindings:
    """What a look around found: the largest files, and the large ones that nobody has written to for long."""

    root: str
    large: list[FoundFile] = field(default_factory=list[FoundFile])
    old: list[FoundFile] = field(default_factory=list[FoundFile])
    files_seen: int = 0
    complete: bool = False


def look_around(
    root: str, time_limit_seconds: float = TIME_LIMIT_SECONDS, depth_limit: int = DEPTH_LIMIT
) -> FileFindings:
    """Look for large and old files below `root`, where they usually are first, broad before deep.

    It blocks, for `time_limit_seconds` at most as long as the disk answers. It follows no symbolic link, does
    not leave the file system, and leaves out folders that it may not read. `complete` says whether the time
    was enough.

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
                _take(findings, entry, now)
    findings.complete = True
    return findings


def _files(root: str, depth_limit: int) -> Iterator[os.DirEntry[str] | None]:
    """Each file of the file system; None for whatever else is met, so that the caller can stop there as well."""
    # Plain strings and DirEntry throughout: a Path each would double the time.
    root = os.path.realpath(root)
    device = os.lstat(root).st_dev
    likely = (os.path.join(root, folder) for folder in _LIKELY_FIRST)  # noqa: PTH118
    folders = deque((folder, 1) for folder in likely if os.path.realpath(folder) == folder)
    folders.append((root, 0))
    seen: set[str] = set()
    while folders:
        folder, depth = folders.popleft()
        if folder in seen or folder in _NEVER or _device_of(folder) != device:
            continue
        seen.add(folder)
        for entry in _entries(folder):
            if _is_folder(entry):
                if depth < depth_limit:
                    folders.append((entry.path, depth + 1))
                yield None
            else:
                yield entry


def _device_of(folder: str) -> int | None:
    try:
        return os.lstat(folder).st_dev
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def _take(findings: FileFindings, entry: os.DirEntry[str], now: float) -> None:
    if not entry.is_file(follow_symlinks=False):
        return
    findings.files_seen += 1
    status = entry.stat(follow_symlinks=False)
    size = status.st_blocks * 512  # a sparse file takes less than it seems to
    if size < OLD_BYTES:
        return
    found = FoundFile(size, entry.path, max(0, int((now - status.st_mtime) / 86400)))
    if size >= LARGE_BYTES:
        _keep_largest(findings.large, found)
    if found.age_days >= OLD_DAYS and _WHERE_FILES_PILE_UP.intersection(PurePath(entry.path).parts):
        _keep_largest(findings.old, found)


def _keep_largest(kept: list[FoundFile], found: FoundFile) -> None:
    kept[:] = heapq.nlargest(TOP, [*kept, found])
