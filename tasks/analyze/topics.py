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
    Topic.MEMORY: names_in("memory mem ram swap swapping heap oom ooms oomkill oomkilled rss hugepages metaspace"),
    Topic.DISK: names_in(
        "disk disks filesystem filesystems storage inode inodes enospc mountpoint nvme ssd hdd raid mdadm smart zfs "
        "zpool lvm datastore tablespace persistentvolume persistentvolumeclaim pvc ebs iops iowait"
    ),
    Topic.CPU: names_in("cpu cpus processor processors loadavg cputhrottling runqueue"),
    Topic.CERTIFICATE: names_in(
        "certificate certificates cert certs x509 ssl letsencrypt acme pki keystore truststore ocsp"
    ),
    Topic.DNS: names_in("dns nxdomain servfail resolver coredns kubedns nameserver nameservers enotfound getaddrinfo"),
    Topic.CONNECTIONS: names_in(
        "connections numbackends deadlock deadlocks maxconn conntrack sockets pgbouncer emfile"
    ),
    Topic.BACKLOG: names_in(
        "backlog lag queue queues queued consumerlag unacked undelivered deadletter dlq mailq spool"
    ),
    Topic.DEPLOY: names_in("deploy deployed deploying rollout rollback rolledback"),
    Topic.DEPENDENCY: names_in("upstream downstream dependency dependencies"),
    Topic.TRAFFIC: names_in("traffic rps qps pps surge ddos flood ratelimit ratelimited bandwidth"),
    Topic.NETWORK: names_in(
        "network infiniband ethernet transceiver packet packets unreachable connectivity nic icmp ping retransmits bgp "
        "ospf vpn ipsec vlan lacp wan jitter"
    ),
    Topic.PROCESS: names_in(
        "processes procs systemd supervisord zombie zombies crashloop crashlooping crashloopbackoff daemon pid"
    ),
}
"""Words that name exactly one topic."""

OTHER_LANGUAGES: dict[Topic, frozenset[str]] = {
    Topic.MEMORY: names_in("arbeitsspeicher hauptspeicher mémoire memoria"),
    Topic.DISK: names_in("speicherplatz festplatte festplatten laufwerk dateisystem disque disco"),
    Topic.CPU: names_in("prozessor prozessorlast processeur procesador"),
    Topic.CERTIFICATE: names_in("zertifikat zertifikate certificat certificado"),
    Topic.CONNECTIONS: names_in("verbindungen connexions conexiones"),
    Topic.BACKLOG: names_in("warteschlange rückstau"),
    Topic.NETWORK: names_in("netzwerk réseau"),
    Topic.PROCESS: names_in("dienst"),
}
"""The same for alerts that are not in English."""

VAGUE_WORDS: dict[Topic, frozenset[str]] = {
    Topic.MEMORY: names_in("leak leaking malloc"),
    Topic.DISK: names_in("volume volumes partition mount fs space quota array drive drives io degraded watermark"),
    Topic.CPU: names_in("load load1 load5 core cores throttling throttled steal"),
    Topic.CERTIFICATE: names_in("tls expiry expires expired expiring handshake"),
    Topic.DNS: names_in("resolve resolving lookup lookups"),
    Topic.CONNECTIONS: names_in("connection sessions locks descriptors"),
    Topic.BACKLOG: names_in("pending consumer consumers messages jobs waiting undeliverable"),
    Topic.DEPLOY: names_in("release released version canary"),
    Topic.DEPENDENCY: names_in("backend backends"),
    Topic.TRAFFIC: names_in("request requests requestcount throughput spike hits flows"),
    Topic.NETWORK: names_in("interface tcp link dropped drops timeout loss tunnel peer carrier"),
    Topic.PROCESS: names_in(
        "process crash crashed crashing looping restarting restarted restarts stopped exited absent down up"
    ),
}
"""Words that often name a topic and often something else: a load balancer, an API gateway."""

PHRASES: tuple[tuple[Topic, re.Pattern[str]], ...] = tuple(
    (topic, re.compile(pattern, re.IGNORECASE))
    for topic, pattern in (
        (Topic.MEMORY, r"out of memory|cannot allocate memory|java heap space|memory limit exceeded"),
        (
            Topic.DISK,
            r"no space left on device|flood.?stage|disk quota exceeded|read-only file ?system|input/output error",
        ),
        (Topic.CERTIFICATE, r"certificate (has |is )?expired|certificate verify failed|unknown authority|x509:"),
        (
            Topic.DNS,
            r"no such host|name (or )?service (not known|error)|failure in name resolution|could ?n.t resolve"
            r"|server misbehaving",
        ),
        (
            Topic.CONNECTIONS,
            r"too many (clients|connections)|connections? (pool|slots) (is |are )?(exhausted|full|reserved)"
            r"|remaining connection slots|pool.{0,20}(timed? ?out|exhausted)|lock wait timeout|too many open files",
        ),
        (Topic.DEPENDENCY, r"\b50[234] (bad gateway|service unavailable|gateway time-?out)|upstream (connect|request)"),
        (Topic.NETWORK, r"no route to host|network is unreachable|connection timed out|\binterface \S.{0,60}\bdown\b"),
        (
            Topic.PROCESS,
            r"connection refused|segmentation fault|core dumped|exited with|back-?off restarting"
            r"|\bnot running\b|\bno (living )?workers?\b"
            r"|\b(has|was|is) (stopped|terminated)\b|\bfailed to start\b|\bno process(es)?\b",
        ),
    )
)
"""What operating systems, databases and libraries say in their errors."""

_RATE = re.compile(
    r"(?:requests?|connections?|flows?|packets|sessions|queries|hits|calls|logins|orders)(?:count|s?_total|_in|_received)?"
    r"(?: received)?[ _](?:per[ _]second|per[ _]minute|rate\b|ps\b)|\b(?:r|q|p)ps\b",
    re.IGNORECASE,
)
"""Metrics of how much is asked of something, such as new_connections_per_second."""

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

_LOST = SYMPTOM_WORDS | names_in("dropped drops lost loss discarded refused rejected retransmitted")

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


_CLAUSES = re.compile(r"[.;,!?](?=\s|$)|\n|\bbut\b|\bwhile\b|\balthough\b", re.IGNORECASE)
_WELL = re.compile(
    r"\b(?:fine|ok(?:ay)?|normal|healthy|unaffected|within limits)\b"
    r"|(?:\bnot|n[’']t|\bnever|\bno) (?:\w+ ){0,2}"
    r"(?:full|high|low|problem|issue|cause|affected|overloaded|exhausted|short)\b"
    r"|\bunknown\b",
    re.IGNORECASE,
)
_USED = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d+)?) ?(?:%|percent\b)", re.IGNORECASE)
_SCARCE = re.compile(
    r"\b(?:free|left|available|remaining|idle|below|less|under|only|lost|loss|errors?|drops?|rate)\b|<", re.IGNORECASE
)
_HALF, _HIGH = 50.0, 70.0


def without_denied(text: str) -> str:
    """A text without the clauses that say that something is well: the disk is not full, CPU is 12 %."""
    return ". ".join(clause for clause in _CLAUSES.split(text[:_MAX_CHARACTERS]) if not _is_denied(clause))


def _is_denied(clause: str) -> bool:
    if _WELL.search(clause):
        return True
    used = [float(share) for share in _USED.findall(clause)]
    return bool(used) and max(used) < _HALF and not _SCARCE.search(clause) and len(clause.split()) <= _FEW_WORDS


_FEW_WORDS = 8
"""A clause with a low share is about nothing else if it is short."""


def topics_in(texts: Iterable[str]) -> dict[Topic, float]:
    """The topics that the texts name: 1 if a clear word names it, 0.5 if only a vague word does."""
    words = frozenset[str]().union(*(words_of(text) for text in texts))
    found: dict[Topic, float] = {}
    for topic in Topic:
        if words & (CLEAR_WORDS[topic] | OTHER_LANGUAGES.get(topic, frozenset())):
            found[topic] = _CLEAR
        elif words & VAGUE_WORDS[topic]:
            found[topic] = _VAGUE
    return found


_NO_TOPIC = re.compile(
    r"(cpu|core|gpu|chassis|board|inlet|ambient|psu)[\W_]*temp|temperature|humidity|\bsmoke\b"
    r"|(?<!error)(?<!error[ _-])budget|billing|spend"
    r"|kube\w*quota|clock|\bntp|(?<![a-z])Ntp",
    re.IGNORECASE,
)


def is_of_another_kind(name: str) -> bool:
    """Whether an alert is about what no topic is: heat, money, time. A word such as CPU in it says nothing."""
    return _NO_TOPIC.search(name[:_MAX_CHARACTERS]) is not None or "fan" in words_of(name)


def shares_in(message: str) -> dict[Topic, float]:
    """How much of a host is used, as Prometheus' figures say: percent by topic."""
    named = {"cpu": Topic.CPU, "memory": Topic.MEMORY, "disk": Topic.DISK}
    return {named[name]: float(share) for name, share in _FIGURE.findall(message[:_MAX_CHARACTERS])}


_FIGURE = re.compile(r"\b(cpu|memory|disk) (\d{1,3}(?:\.\d+)?) %")


def topics_in_errors(texts: Iterable[str]) -> set[Topic]:
    """The topics of the errors that the texts quote."""
    shown = "\n".join(text[:_MAX_CHARACTERS] for text in texts)
    return {topic for topic, phrase in PHRASES if phrase.search(shown)}


def is_symptom(metric: str) -> bool:
    """Whether a metric says that something suffers: how slow it is, or how often it fails."""
    return bool(words_of(metric) & SYMPTOM_WORDS) or any(part in metric.lower() for part in ("5xx", "p99", "p95"))


def topic_of_metric(text: str) -> Topic | None:
    """What a metric is about, by its name or by what is said of it."""
    if _RATE.search(text) and not words_of(text) & _LOST:
        return Topic.TRAFFIC
    found = topics_in([text])
    return max(found, key=lambda topic: found[topic], default=None)


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
    return _topic_of_finding(message) or topic_of_metric(str(check.metrics.get("expression", "")))


def _topic_of_finding(message: str) -> Topic | None:
    """What Prometheus' first sentence is about, which is that of the alert's own expression.

    If it lists several figures of a host, it is about the highest share; about none if all are low.
    """
    first = message.partition("; ")[0]
    named = [topic for topic, clarity in topics_in([first]).items() if clarity == _CLEAR]
    if len(named) < 2:
        return topic_of_metric(first)
    shares = {
        float(share): topic
        for clause in first.split(", ")
        for share in _USED.findall(clause)
        if (topic := topic_of_metric(clause)) is not None
    }
    highest = max(shares, default=0.0)
    return shares[highest] if highest >= _HIGH else None


def names_several(check: Check) -> bool:
    """Whether a check lists figures of a host, and is about none of them."""
    return check.name == "prometheus" and topic_of_check(check) is None and len(topics_in([check.message])) > 1
