"""Which cause an alert's words speak of. Whole words only: "scpu" is no CPU, "HighCPU" is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum


class Cause(StrEnum):
    """What an alert can be about. In a tie the earlier one is taken. A cause's checker has the same name."""

    MEMORY = "memory"
    DISK = "disk"
    CPU = "cpu"
    NETWORK = "network"
    PROCESS = "process"


CLEAR_WORDS: dict[Cause, frozenset[str]] = {
    Cause.MEMORY: frozenset(
        {"memory", "mem", "ram", "swap", "swapping", "heap", "oom", "ooms", "oomkill", "oomkilled", "rss"}
    ),
    Cause.DISK: frozenset(
        {"disk", "disks", "filesystem", "filesystems", "storage", "inode", "inodes", "enospc", "mountpoint", "nvme"}
    ),
    Cause.CPU: frozenset({"cpu", "cpus", "processor", "processors", "loadavg", "cputhrottling"}),
    Cause.NETWORK: frozenset(
        {"network", "dns", "packet", "packets", "unreachable", "connectivity", "nic", "icmp", "ping"}
    ),
    Cause.PROCESS: frozenset(
        {"processes", "systemd", "zombie", "zombies", "crashloop", "crashlooping", "crashloopbackoff", "daemon", "pid"}
    ),
}
"""Words that speak of one cause."""

VAGUE_WORDS: dict[Cause, frozenset[str]] = {
    Cause.MEMORY: frozenset({"leak", "leaking"}),
    Cause.DISK: frozenset({"volume", "volumes", "partition", "mount", "fs", "space", "quota"}),
    Cause.CPU: frozenset({"load", "core", "cores", "throttling", "throttled"}),
    Cause.NETWORK: frozenset({"interface", "gateway", "tcp", "link"}),
    Cause.PROCESS: frozenset({"process", "crash", "crashed", "crashing", "looping", "restarting", "restarted"}),
}
"""Words that often speak of a cause and often of something else: a load balancer, an API gateway."""

_RUN_OF_LETTERS = re.compile(r"[^\W\d_]+")
# "HighCPU", "OOMKilled", "CPUs", "diskSpace": an acronym ends where the next word begins.
_CAMEL_PART = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_MAX_CHARACTERS = 4000


def words_of(text: str) -> frozenset[str]:
    """The words of a text in small letters. Digits, `_` and other marks part words, and so does camel case.

    Both readings of a camel-case run count: "OOMKilled" is oom, killed and oomkilled. Only the first 4,000
    characters are read.
    """
    found: set[str] = set()
    for run in _RUN_OF_LETTERS.findall(text[:_MAX_CHARACTERS]):
        found.add(run.lower())
        if run.isascii():
            found.update(part.lower() for part in _CAMEL_PART.findall(run))
    return frozenset(found)


def causes_in(texts: Iterable[str]) -> dict[Cause, float]:
    """The causes that the texts speak of: 1 where a clear word says so, 0.5 where only a vague one does."""
    words = frozenset[str]().union(*(words_of(text) for text in texts))
    found: dict[Cause, float] = {}
    for cause in Cause:
        if words & CLEAR_WORDS[cause]:
            found[cause] = 1.0
        elif words & VAGUE_WORDS[cause]:
            found[cause] = 0.5
    return found
