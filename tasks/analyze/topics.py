"""The vocabulary of the local analysis: what an incident can be about, and the words that name it. Pure.

Words of the alert, names of metrics, checkers, and messages of checks all become topics here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from orchestration.contracts import Check


class Topic(StrEnum):
    """What an incident can be about. In a tie the first member is taken."""

    MEMORY = "memory"
    DISK = "disk"
    CPU = "cpu"
    CERTIFICATE = "certificate"
    DNS = "dns"
    CONNECTIONS = "connections"
    BACKLOG = "backlog"
    DEPLOY = "deploy"
    DEPENDENCY = "dependency"
    TRAFFIC = "traffic"
    NETWORK = "network"
    PROCESS = "process"


def names_in(text: str) -> frozenset[str]:
    """The words of a list that is written as a text."""
    return frozenset(text.split())


CLEAR_WORDS: dict[Topic, frozenset[str]] = {
    Topic.MEMORY: names_in("memory mem ram swap swapping heap oom ooms oomkill oomkilled rss"),
    Topic.DISK: names_in("disk disks filesystem filesystems storage inode inodes enospc mountpoint nvme"),
    Topic.CPU: names_in("cpu cpus processor processors loadavg cputhrottling"),
    Topic.CERTIFICATE: names_in("certificate certificates cert certs x509 ssl"),
    Topic.DNS: names_in("dns nxdomain servfail resolver coredns nameserver enotfound getaddrinfo"),
    Topic.CONNECTIONS: names_in("connections numbackends deadlock deadlocks maxconn"),
    Topic.BACKLOG: names_in("backlog lag queue queues queued consumerlag unacked undelivered"),
    Topic.DEPLOY: names_in("deploy deployed deploying rollout rollback"),
    Topic.DEPENDENCY: names_in("upstream downstream dependency dependencies"),
    Topic.TRAFFIC: names_in("traffic rps qps surge ddos ratelimit ratelimited"),
    Topic.NETWORK: names_in("network packet packets unreachable connectivity nic icmp ping retransmits"),
    Topic.PROCESS: names_in("processes systemd zombie zombies crashloop crashlooping crashloopbackoff daemon pid"),
}
"""Words that name exactly one topic."""

VAGUE_WORDS: dict[Topic, frozenset[str]] = {
    Topic.MEMORY: names_in("leak leaking malloc"),
    Topic.DISK: names_in("volume volumes partition mount fs space quota"),
    Topic.CPU: names_in("load load1 load5 core cores throttling throttled"),
    Topic.CERTIFICATE: names_in("tls expiry expires expired expiring handshake"),
    Topic.DNS: names_in("resolve resolving lookup"),
    Topic.CONNECTIONS: names_in("connection pool sessions locks"),
    Topic.BACKLOG: names_in("pending consumer consumers messages jobs waiting ready"),
    Topic.DEPLOY: names_in("release released version canary"),
    Topic.DEPENDENCY: names_in("backend backends"),
    Topic.TRAFFIC: names_in("requests throughput spike"),
    Topic.NETWORK: names_in("interface gateway tcp link dropped drops timeout"),
    Topic.PROCESS: names_in("process crash crashed crashing looping restarting restarted restarts down up"),
}
"""Words that often name a topic and often something else: a load balancer, an API gateway."""

PHRASES: tuple[tuple[Topic, re.Pattern[str]], ...] = tuple(
    (topic, re.compile(pattern, re.IGNORECASE))
    for topic, pattern in (
        (Topic.MEMORY, r"out of memory|cannot allocate memory|java heap space|memory limit exceeded"),
        (Topic.DISK, r"no space left on device|disk quota exceeded|read-only file ?system|input/output error"),
        (Topic.CERTIFICATE, r"certificate (has |is )?expired|certificate verify failed|unknown authority|x509:"),
        (
            Topic.DNS,
            r"no such host|name or service not known|failure in name resolution|could ?n.t resolve|server misbehaving",
        ),
        (
            Topic.CONNECTIONS,
            r"too many (clients|connections)|connections? (pool|slots) (is |are )?(exhausted|full|reserved)"
            r"|remaining connection slots|pool.{0,20}(timed? ?out|exhausted)|lock wait timeout",
        ),
        (Topic.DEPENDENCY, r"\b50[234] (bad gateway|service unavailable|gateway time-?out)|upstream (connect|request)"),
        (Topic.NETWORK, r"no route to host|network is unreachable|connection timed out"),
        (Topic.PROCESS, r"connection refused|segmentation fault|core dumped|exited with|back-?off restarting"),
    )
)
"""What operating systems, databases and libraries say in their errors."""

SYMPTOM_WORDS = names_in(
    "latency duration seconds error errors failed failures fault faults availability unavailable slow 5xx "
    "response responses success apdex p50 p90 p95 p99"
)
"""Words of metrics that say that something suffers, and not from what."""

TOPIC_OF_CHECKER: dict[str, Topic] = {
    "memory": Topic.MEMORY,
    "disk": Topic.DISK,
    "cpu": Topic.CPU,
    "network": Topic.NETWORK,
    "process": Topic.PROCESS,
    "tls": Topic.CERTIFICATE,
    "dns": Topic.DNS,
}

_REFUSED = names_in("refused refuses reset closed")
_UNREACHABLE = names_in("timed timeout unreachable route answer")

_CLEAR, _VAGUE = 1.0, 0.5
"""How much a clear and a vague word count."""

_MAX_CHARACTERS = 4000
_RUN_OF_LETTERS = re.compile(r"[^\W\d_]+(?:\d+(?![^\W\d_]))?")
# "HighCPU", "OOMKilled", "CPUs", "diskSpace": an acronym ends where the next word begins.
_CAMEL_PART = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def words_of(text: str) -> frozenset[str]:
    """The words in the first 4,000 characters of a text, in lower case.

    Digits, `_` and other marks separate words, and so does camel case. Both readings of a camel-case word count:
    "OOMKilled" gives oom, killed and oomkilled. Only complete words count: "scpu" does not contain cpu.
    """
    found: set[str] = set()
    for run in _RUN_OF_LETTERS.findall(text[:_MAX_CHARACTERS]):
        found.update((run.lower(), run.rstrip("0123456789").lower()))
        if run.isascii():
            found.update(part.lower() for part in _CAMEL_PART.findall(run))
    return frozenset(found)


def topics_in(texts: Iterable[str]) -> dict[Topic, float]:
    """The topics that the texts name: 1 if a clear word names it, 0.5 if only a vague word does."""
    words = frozenset[str]().union(*(words_of(text) for text in texts))
    found: dict[Topic, float] = {}
    for topic in Topic:
        if words & CLEAR_WORDS[topic]:
            found[topic] = _CLEAR
        elif words & VAGUE_WORDS[topic]:
            found[topic] = _VAGUE
    return found


def topics_in_errors(texts: Iterable[str]) -> set[Topic]:
    """The topics of the errors that the texts quote."""
    shown = "\n".join(text[:_MAX_CHARACTERS] for text in texts)
    return {topic for topic, phrase in PHRASES if phrase.search(shown)}


def is_symptom(metric: str) -> bool:
    """Whether a metric says that something suffers: how slow it is, or how often it fails."""
    return bool(words_of(metric) & SYMPTOM_WORDS) or any(part in metric.lower() for part in ("5xx", "p99", "p95"))


def topic_of_check(check: Check) -> Topic | None:
    """What a check is about: by its checker, or, if that looks from outside, by what it says."""
    if (known := TOPIC_OF_CHECKER.get(check.name)) is not None:
        return known
    message = check.message.replace(check.target, " ") if check.target else check.message
    words, found = words_of(message), topics_in([message])
    clear = {topic for topic, clarity in found.items() if clarity == _CLEAR}
    if check.name in ("http", "tcp"):
        outside = (Topic.CERTIFICATE, Topic.DNS)
        if (said := next((topic for topic in outside if topic in clear), None)) is not None:
            return said
        if words & _REFUSED:
            return Topic.PROCESS
        return Topic.NETWORK if words & _UNREACHABLE else None
    return max(found, key=lambda topic: found[topic], default=None)
