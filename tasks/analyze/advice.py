"""Recommendations for the person on call, by cause. Their commands only read; none of them changes anything.

A command may contain only numbers and quoted paths of this host: people paste commands, and the text of an alert
comes from somebody else.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestration.contracts import Check, Recommendation
from tasks.analyze.diagnosis import Cause
from tasks.analyze.host import OLD_BYTES, OLD_DAYS, FileFindings, ProcessUse, in_bytes

HIGH, MEDIUM = "high", "medium"
GENERAL = "general"
"""The type of a recommendation that belongs to no cause."""

_FAILED_SERVICES = ("systemctl --failed", "journalctl -p err --since -1h --no-pager | tail -n 50")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What this host shows for one cause, and the check of that cause."""

    processes: Sequence[ProcessUse] = ()
    files: FileFindings | None = None
    load: tuple[float, float, float] | None = None
    check: Check | None = None
    errors: list[str] = field(default_factory=list[str])


def advise(cause: Cause | None, findings: Findings) -> list[Recommendation]:
    """The recommendations for a cause, the most urgent first, each with a command. None means that it is unknown."""
    if cause:
        return _ADVICE[cause](findings)
    unknown = "Neither the alert nor the checks name a cause."
    return [_advice(GENERAL, MEDIUM, "Look at the host", unknown, "uptime; free -h; df -h", *_FAILED_SERVICES)]


def also_look_at(check: Check) -> Recommendation:
    """A recommendation to look at an unhealthy check that is not the likely cause.

    A check of something that is no `Cause` gets no commands: only its message says what to look at.
    """
    cause = next((cause for cause in Cause if cause == check.name), None)
    first = advise(cause, Findings(check=check))[0] if cause else None
    return Recommendation(
        type=cause or GENERAL,
        priority=MEDIUM,
        title=f"Look at the {check.name} check too: it is {check.status}",
        description=check.message,
        actions=first.actions[:2] if first else [],
    )


def _advice(cause: str, priority: str, title: str, description: str, *commands: str) -> Recommendation:
    return Recommendation(type=cause, priority=priority, title=title, description=description, actions=list(commands))


def _memory(findings: Findings) -> list[Recommendation]:
    largest = _listed("Largest now", findings.processes)
    commands = ("ps aux --sort=-%mem | head", *_about(findings.processes), "free -h")
    killed = "journalctl -k --since -1h --no-pager | grep -iE 'out of memory|oom-kill'"
    return [
        _advice(Cause.MEMORY, HIGH, "Find what uses the memory", largest, *commands),
        _advice(Cause.MEMORY, MEDIUM, "See whether the kernel has killed a process for lack of memory", "", killed),
    ]


def _disk(findings: Findings) -> list[Recommendation]:
    root = findings.files.root if findings.files else worst_path(findings.check)
    path = shlex.quote(root) if root.isprintable() and root.startswith("/") else "/"
    fills = (f"du -xh --max-depth=2 {path} 2>/dev/null | sort -h | tail", f"df -h {path}", f"df -i {path}")
    hidden = "Look for space used by logs and deleted files"
    deleted = "A deleted file frees its space when the last process closes it."
    return [
        _advice(Cause.DISK, HIGH, f"Find what fills {path}", _large_files(findings.files), *fills),
        *([_old_files(findings.files, path)] if findings.files and findings.files.old else []),
        _advice(Cause.DISK, MEDIUM, hidden, deleted, "journalctl --disk-usage", "lsof -nP +L1 | head"),
    ]


def _old_files(files: FileFindings, path: str) -> Recommendation:
    size, days = f"{OLD_BYTES >> 20} MiB", f"{OLD_DAYS} days"
    listed = ", ".join(f"{found.path!a} {in_bytes(found.size_bytes)}, {found.age_days} days" for found in files.old)
    old = f"-xdev -type f -size +{OLD_BYTES >> 20}M -mtime +{OLD_DAYS}"
    shown = [quoted for found in files.old if (quoted := found.quoted)]
    return _advice(
        Cause.DISK,
        MEDIUM,
        "Look at old files that can perhaps be deleted",
        f"Not written to for {days} or more, {size} or more: {listed}.",
        f"find {path} {old} -printf '%s %TF %p\\n' | sort -n | tail",
        *([f"ls -lhd -- {' '.join(shown)}"] if shown else []),
    )


def _large_files(files: FileFindings | None) -> str:
    if files is None:
        return ""
    reach = f"{files.files_seen:,} files checked" + ("" if files.complete else ", not all: the time limit was reached")
    if not files.large:
        return f"No single large file found ({reach})."
    return f"Largest: {', '.join(f'{f.path!a} {in_bytes(f.size_bytes)}' for f in files.large)} ({reach})."


def _cpu(findings: Findings) -> list[Recommendation]:
    load = findings.load
    averages = f"Load average {load[0]:.2f}, {load[1]:.2f}, {load[2]:.2f} (1, 5, 15 min). " if load else ""
    busiest = averages + _listed("Busiest", findings.processes)
    commands = ("ps aux --sort=-%cpu | head", *_about(findings.processes), "uptime")
    kinds = "See whether it is work, waiting for disks (wa) or a busy neighbour (st)"
    return [
        _advice(Cause.CPU, HIGH, "Find what uses the CPU", busiest, *commands),
        _advice(Cause.CPU, MEDIUM, kinds, "", "vmstat 1 5"),
    ]


def _network(findings: Findings) -> list[Recommendation]:
    found = findings.check.message if findings.check else ""
    commands = ("ip -br addr", "ip route", "cat /etc/resolv.conf", "ss -s")
    return [
        _advice(Cause.NETWORK, HIGH, "Find where the network ends", found, *commands),
        _advice(Cause.NETWORK, MEDIUM, "Look for errors and drops on the interfaces", "", "ip -s link"),
    ]


def _process(findings: Findings) -> list[Recommendation]:
    found = findings.check.message if findings.check else ""
    return [_advice(Cause.PROCESS, HIGH, "Find what stopped, and why", found, *_FAILED_SERVICES)]


_ADVICE: Mapping[Cause, Callable[[Findings], list[Recommendation]]] = {
    Cause.MEMORY: _memory,
    Cause.DISK: _disk,
    Cause.CPU: _cpu,
    Cause.NETWORK: _network,
    Cause.PROCESS: _process,
}


def _about(processes: Sequence[ProcessUse]) -> list[str]:
    pids = ",".join(str(process.pid) for process in processes)
    return [f"ps -o pid,ppid,user,rss,pcpu,etime,comm -p {pids}"] if pids else []


def _listed(heading: str, processes: Sequence[ProcessUse]) -> str:
    return f"{heading}: {'; '.join(map(str, processes))}." if processes else ""


def worst_path(check: Check | None) -> str:
    """The fullest path that the disk check found; "/" if it found none."""
    path = check.metrics.get("worst_path") if check else None
    return path if isinstance(path, str) else "/"
