"""Recommendations for the person on call, by topic. Their commands only read; none of them changes anything.

A command may contain only numbers, quoted paths of this host, and names that are safe in a shell: people paste
commands, and the text of an alert comes from somebody else. A command for another host says where it is run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestration.contracts import ChangeEvent, Check, Recommendation, Target
from orchestration.redaction import one_line
from orchestration.target import read_place
from tasks.analyze.host import OLD_BYTES, OLD_DAYS, FileFindings, ProcessUse, in_bytes
from tasks.analyze.platforms import ON_WINDOWS, SAFE, on_cluster, on_kubernetes
from tasks.analyze.topics import Topic, topic_of_check

HIGH, MEDIUM = "high", "medium"
GENERAL = "general"
"""The type of a recommendation that belongs to no topic."""

_FAILED_SERVICES = ("systemctl --failed", "journalctl -p err --since -1h --no-pager | tail -n 50")
_MAIL_PORTS = (25, 587)
_PORTS_OF_EXPORTERS = (*range(9100, 9200), 9256, 9308, 9404)
"""An alert's `instance` often has one of these. Nothing speaks TLS there that the alert could be about."""
_DEVICES = re.compile(r"snmp|ipmi|switch|router|firewall", re.IGNORECASE)
"""Jobs of what has no shell with the commands of Linux."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known for the advice about one topic: the target, what this host shows if it is that, what stands out."""

    target: Target = field(default_factory=lambda: Target(is_own=True))
    name: str = ""
    """What people call the target, if it has no host."""
    is_windows: bool = False
    about: str = ""
    """What stands out beside the target, such as a service that it depends on."""
    event: ChangeEvent | None = None
    """The change that people made which is probably the cause."""
    is_replica: bool = False
    """Whether the alert speaks of a copy of a database that is behind."""
    processes: Sequence[ProcessUse] = ()
    path: str = ""
    """The file system or folder that the alert names."""
    is_busy: bool = False
    """Whether only what a disk reads and writes stands out, which says nothing of space."""
    is_locked: bool = False
    """Whether the alert speaks of locks in a database, and not of connections that run out."""
    is_failing: bool = False
    """Whether the alert speaks of a disk that fails, and not of one that is full."""
    files: FileFindings | None = None
    load: tuple[float, float, float] | None = None
    check: Check | None = None
    errors: list[str] = field(default_factory=list[str])

    @property
    def service(self) -> str:
        """What the target is called if it has no host; "" if that is unsafe in a shell."""
        return self.name if SAFE.fullmatch(self.name) else ""

    @property
    def place(self) -> str:
        """The target's name if a shell can have it; "" if it has none, or one that is unsafe there."""
        return self.target.host if SAFE.fullmatch(self.target.host) else ""

    def there(self, *commands: str) -> list[str]:
        """Commands that are run on the target. For another host, or a service, they say so."""
        if self.target.is_own:
            return list(commands)
        if _DEVICES.search(self.target.labels.get("job", "")):
            return []
        where = f"on {self.place}" if self.place else f"where {self.service} runs" if self.service else ""
        if not where:
            return []  # nobody knows where
        return [f"{where}: {command}" for command in commands]


def advise(topic: Topic | None, findings: Findings) -> list[Recommendation]:
    """The recommendations for a topic, the most urgent first. None means that it is unknown."""
    if topic and findings.is_windows and (known := ON_WINDOWS.get(topic)) is not None:
        title, *commands = known
        return [_advice(topic, HIGH, title, _found(findings), *findings.there(*commands))]
    if (known := on_cluster(findings.target.labels)) is not None:
        title, *commands = known
        return [_advice(topic or GENERAL, HIGH, title, _found(findings), *commands)]
    if topic and (known := on_kubernetes(topic, findings.target.labels)) is not None:
        title, *commands = known
        return [_advice(topic, HIGH, title, _found(findings), *commands)]
    if topic:
        return _ADVICE[topic](findings)
    unknown = "Nothing that is known names a cause."
    if findings.target.is_own or findings.target.host:
        where = "" if findings.target.is_own else f" {findings.place}".rstrip()
        title = f"Look at the host{where}"
        return [_advice(GENERAL, MEDIUM, title, unknown, *findings.there("uptime; free -h; df -h", *_FAILED_SERVICES))]
    service = one_line(findings.target.name, 80)
    return [_advice(GENERAL, MEDIUM, f"Look at {service}" if service else "Look at what the alert names", unknown)]


def also_look_at(check: Check, findings: Findings) -> Recommendation:
    """A recommendation to look at an unhealthy check that is not the likely cause, at what was checked."""
    topic = topic_of_check(check)
    known = Findings(target=findings.target, name=check.target or findings.name, check=check)
    if not findings.target.is_own and check.target:
        place = read_place(check.target)
        known = replace(known, target=Target(host=place.host if place else ""))
    first = advise(topic, known)[0] if topic else None
    return Recommendation(
        type=topic or GENERAL,
        priority=MEDIUM,
        title=f"Look at the {check.name} check too: it is {check.status}",
        description=check.message,
        actions=first.actions[:2] if first else [],
    )


def _advice(topic: str, priority: str, title: str, description: str, *commands: str) -> Recommendation:
    return Recommendation(type=topic, priority=priority, title=title, description=description, actions=list(commands))


def _memory(findings: Findings) -> list[Recommendation]:
    largest = _listed("Largest now", findings.processes)
    commands = findings.there("ps aux --sort=-%mem | head", *_about(findings.processes), "free -h")
    killed = findings.there("journalctl -k --since -1h --no-pager | grep -iE 'out of memory|oom-kill'")
    return [
        _advice(Topic.MEMORY, HIGH, "Find what uses the memory", largest, *commands),
        _advice(Topic.MEMORY, MEDIUM, "See whether the kernel has killed a process for lack of memory", "", *killed),
    ]


def _disk(findings: Findings) -> list[Recommendation]:
    if findings.is_failing:
        shown = findings.there("cat /proc/mdstat", "lsblk -o NAME,SIZE,STATE,MODEL,SERIAL", "smartctl --scan")
        errors = findings.there("journalctl -k --since -1h --no-pager | grep -iE 'i/o error|ata[0-9]|nvme|md[0-9]'")
        return [_advice(Topic.DISK, HIGH, "See which disk of the array fails", _found(findings), *shown, *errors)]
    if findings.is_busy:
        shown = findings.there("iostat -x 1 3", "pidstat -d 1 5")
        return [_advice(Topic.DISK, HIGH, "See what reads from the disk and writes to it", _found(findings), *shown)]
    root = findings.files.root if findings.files else findings.path or worst_path(findings.check)
    path = shlex.quote(root) if root.isprintable() and root.startswith("/") else "/"
    fills = findings.there(
        f"du -xh --max-depth=2 {path} 2>/dev/null | sort -h | tail", f"df -h {path}", f"df -i {path}"
    )
    hidden = "Look for space used by logs and deleted files"
    deleted = "A deleted file frees its space when the last process closes it."
    used = findings.there("journalctl --disk-usage", "lsof -nP +L1 | head")
    return [
        _advice(Topic.DISK, HIGH, f"Find what fills {path}", _large_files(findings.files), *fills),
        *([_old_files(findings.files, path)] if findings.files and findings.files.old else []),
        _advice(Topic.DISK, MEDIUM, hidden, deleted, *used),
    ]


def _old_files(files: FileFindings, path: str) -> Recommendation:
    size, days = f"{OLD_BYTES >> 20} MiB", f"{OLD_DAYS} days"
    listed = ", ".join(f"{found.path!a} {in_bytes(found.size_bytes)}, {found.age_days} days" for found in files.old)
    old = f"-xdev -type f -size +{OLD_BYTES >> 20}M -mtime +{OLD_DAYS}"
    shown = [quoted for found in files.old if (quoted := found.quoted)]
    return _advice(
        Topic.DISK,
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
    commands = findings.there("ps aux --sort=-%cpu | head", *_about(findings.processes), "uptime")
    kinds = "See whether it is work, waiting for disks (wa) or a busy neighbour (st)"
    return [
        _advice(Topic.CPU, HIGH, "Find what uses the CPU", busiest, *commands),
        _advice(Topic.CPU, MEDIUM, kinds, "", *findings.there("vmstat 1 5")),
    ]


def _network(findings: Findings) -> list[Recommendation]:
    commands = findings.there("ip -br addr", "ip route", "cat /etc/resolv.conf", "ss -s")
    errors = findings.there("ip -s link")
    return [
        _advice(Topic.NETWORK, HIGH, "Find where the network ends", _found(findings), *commands),
        _advice(Topic.NETWORK, MEDIUM, "Look for errors and drops on the interfaces", "", *errors),
    ]


def _process(findings: Findings) -> list[Recommendation]:
    where = "" if findings.target.is_own else f" on {findings.place}" if findings.place else ""
    commands = findings.there(*_FAILED_SERVICES)
    return [_advice(Topic.PROCESS, HIGH, f"Find what stopped{where}, and why", _found(findings), *commands)]


def _certificate(findings: Findings) -> list[Recommendation]:
    checked = read_place(findings.check.target) if findings.check and findings.check.name == "tls" else None
    port = (checked.port if checked else None) or findings.target.port or 443
    name = f"{findings.place}:{port}" if findings.place and (checked or port not in _PORTS_OF_EXPORTERS) else ""
    mail = " -starttls smtp" if port in _MAIL_PORTS else ""
    show = f"openssl s_client -connect {name}{mail} </dev/null 2>/dev/null | openssl x509 -noout -subject -dates"
    title = f"Renew the certificate of {findings.place}" if findings.place else "Renew the certificate"
    return [_advice(Topic.CERTIFICATE, HIGH, title, _found(findings), *([show] if name else []))]


def _dns(findings: Findings) -> list[Recommendation]:
    name = findings.place
    commands = [f"dig {name}", f"dig +trace {name}"] if name else []
    title = f"See who answers for {name}" if name else "See whether the name servers answer"
    return [_advice(Topic.DNS, HIGH, title, _found(findings), *commands)]


def _connections(findings: Findings) -> list[Recommendation]:
    server = one_line(findings.about, 80) or findings.place or findings.service or "the database"
    if findings.is_locked:
        waits = f"See which sessions of {server} wait for which locks"
        return [_advice(Topic.CONNECTIONS, HIGH, waits, _found(findings))]
    holds = f"See who holds the connections of {server}"
    listed = findings.there("ss -tn state established | awk '{print $4}' | sort | uniq -c | sort -n | tail")
    return [_advice(Topic.CONNECTIONS, HIGH, holds, _found(findings), *listed)]


def _backlog(findings: Findings) -> list[Recommendation]:
    what = "See whether the consumers of the queue run, and what they wait for"
    if findings.is_replica:
        what = "See whether the replica still follows, and what holds it back: a long query, its disk, or the network"
    return [_advice(Topic.BACKLOG, HIGH, what, _found(findings))]


def _deploy(findings: Findings) -> list[Recommendation]:
    event = findings.event
    if event is None:
        return [_advice(Topic.DEPLOY, HIGH, "See what was changed last, and whether it can be rolled back", "")]
    by = f" by {one_line(event.by, 60)}" if event.by else ""
    what = f"{one_line(event.kind, 40)} at {event.at:%H:%M} UTC{by}: {one_line(event.title, 160)}"
    rest = f"{what}{f' ({one_line(event.url, 300)})' if event.url else ''}"
    return [_advice(Topic.DEPLOY, HIGH, f"Consider a rollback of: {one_line(event.title, 120)}", rest)]


def _dependency(findings: Findings) -> list[Recommendation]:
    about = one_line(findings.about, 120)
    first = f"Look at {about} first" if about else "Look at what it depends on first"
    return [_advice(Topic.DEPENDENCY, HIGH, first, "It behaves unlike its past, and the target needs it.")]


def _traffic(findings: Findings) -> list[Recommendation]:
    return [
        _advice(Topic.TRAFFIC, HIGH, "See where the requests come from", _found(findings)),
        _advice(Topic.TRAFFIC, MEDIUM, "Add capacity, or limit what is not needed", ""),
    ]


_ADVICE: Mapping[Topic, Callable[[Findings], list[Recommendation]]] = {
    Topic.MEMORY: _memory,
    Topic.DISK: _disk,
    Topic.CPU: _cpu,
    Topic.CERTIFICATE: _certificate,
    Topic.DNS: _dns,
    Topic.CONNECTIONS: _connections,
    Topic.BACKLOG: _backlog,
    Topic.DEPLOY: _deploy,
    Topic.DEPENDENCY: _dependency,
    Topic.TRAFFIC: _traffic,
    Topic.NETWORK: _network,
    Topic.PROCESS: _process,
}


def _found(findings: Findings) -> str:
    return findings.check.message if findings.check else ""


def _about(processes: Sequence[ProcessUse]) -> list[str]:
    pids = ",".join(str(process.pid) for process in processes)
    return [f"ps -o pid,ppid,user,rss,pcpu,etime,comm -p {pids}"] if pids else []


def _listed(heading: str, processes: Sequence[ProcessUse]) -> str:
    return f"{heading}: {'; '.join(map(str, processes))}." if processes else ""


def worst_path(check: Check | None) -> str:
    """The fullest path that the disk check found; "/" if it found none."""
    path = check.metrics.get("worst_path") if check else None
    return path if isinstance(path, str) else "/"
