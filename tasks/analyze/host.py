"""Which host this is, and which of its processes use most. A command line can carry secrets: names and ids only."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from orchestration.alert import Alert
from tasks.check.threads import in_daemon_thread

TOP = 3
CPU_WINDOW_SECONDS = 0.03
"""Between the two readings of CPU time, which the kernel counts in steps of 10 ms: enough to rank by."""

_HOST_LABELS = ("instance", "host", "hostname", "node")


@dataclass(frozen=True)
class ProcessUse:
    """What one process uses, in words such as "2.1 GiB"."""

    pid: int
    name: str
    use: str

    def __str__(self) -> str:
        own = ", this worker" if self.pid == os.getpid() else ""
        return f"{self.name} (pid {self.pid}{own}): {self.use}"


class CpuTime(NamedTuple):
    """Seconds of CPU that a process has used since it started."""

    name: str
    created: float
    seconds: float


def hosts_of(alerts: Iterable[Alert]) -> list[str]:
    """The hosts that the alerts name in a label: instance, host, hostname or node. Each once, without its port."""
    named = (next((alert.labels[label] for label in _HOST_LABELS if alert.labels.get(label)), "") for alert in alerts)
    return [host for host in dict.fromkeys(map(bare_host, named)) if host]


def bare_host(instance: str) -> str:
    """The host of `host`, `host:port`, `[IPv6]:port` or `scheme://host:port/path`, in small letters."""
    host = one_line(instance).lower().rpartition("://")[2].partition("/")[0]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def is_this_host(host: str, own_name: str, own_addresses: frozenset[str]) -> bool:
    """Whether a host named by an alert is the one that runs this process.

    A short name stands for any domain: web-1 is web-1.example.com. Two full names have to be equal.
    """
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.is_loopback or str(address) in own_addresses
    own = own_name.lower()
    if host in (own, "localhost") or host.endswith(".localhost"):
        return True
    both_full = "." in host and "." in own
    return not both_full and host.partition(".")[0] == own.partition(".")[0]


async def other_hosts(hosts: Iterable[str]) -> list[str]:
    """Those hosts that are not the one that runs this process."""
    hosts = list(hosts)
    own_addresses = await in_daemon_thread(_read_addresses) if hosts else frozenset[str]()
    return [host for host in hosts if not is_this_host(host, socket.gethostname(), own_addresses)]


def _read_addresses() -> frozenset[str]:
    return frozenset(
        interface.address.partition("%")[0] for found in psutil.net_if_addrs().values() for interface in found
    )


async def top_by_memory() -> list[ProcessUse]:
    """The processes that hold the most memory (resident set), the largest first."""
    return list(await in_daemon_thread(_read_memory_use))


def _read_memory_use() -> tuple[ProcessUse, ...]:
    sizes = [
        (process.info["memory_info"].rss, process.pid, process.info["name"])
        for process in psutil.process_iter(["name", "memory_info"])
        if process.info["memory_info"] and process.info["memory_info"].rss
    ]
    return tuple(ProcessUse(pid, _shown(name), in_bytes(rss)) for rss, pid, name in sorted(sizes, reverse=True)[:TOP])


async def top_by_cpu() -> list[ProcessUse]:
    """The processes that use the most CPU right now; among equals, those that have used the most so far."""
    before, began = await in_daemon_thread(_read_cpu_times), time.perf_counter()
    await asyncio.sleep(CPU_WINDOW_SECONDS)
    after, elapsed = await in_daemon_thread(_read_cpu_times), time.perf_counter() - began
    busy: list[tuple[float, float, int, str]] = []
    for pid, now in after.items():
        then = before.get(pid)
        spent = now.seconds - then.seconds if then and then.created == now.created else 0.0
        busy.append((spent, now.seconds, pid, now.name))
    # In a quiet moment nobody is busy: then those that have used the most so far.
    return [
        ProcessUse(pid, _shown(name), f"about {100 * spent / elapsed:.0f} % of a core now, {total:.0f} s so far")
        if spent
        else ProcessUse(pid, _shown(name), f"{total:.0f} s of CPU so far")
        for spent, total, pid, name in sorted(busy, reverse=True)[:TOP]
        if total
    ]


def _read_cpu_times() -> dict[int, CpuTime]:
    readings: dict[int, CpuTime] = {}
    for process in psutil.process_iter(["name", "cpu_times", "create_time"]):
        times = process.info["cpu_times"]
        if times:
            seconds = times.user + times.system
            readings[process.pid] = CpuTime(process.info["name"], process.info["create_time"], seconds)
    return readings


def _shown(name: str | None) -> str:
    # The kernel keeps 15 characters. psutil makes up the rest from the command line, which a process can
    # rewrite into a whole title: of such a name only the first word is taken.
    name = name or "?"
    if len(name) > 15:
        name = name.split()[0][:64]
    return one_line(name)


def one_line(text: str) -> str:
    """Somebody else's text as one line, without what would move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def in_bytes(size: float) -> str:
    """A size for people: 512 B, 3.0 MiB, 2.1 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
