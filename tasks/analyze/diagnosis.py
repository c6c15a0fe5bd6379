"""The local diagnosis: the likely topic, the confidence, and the claims with their evidence. Pure.

Each piece of evidence votes for what the incident is about. Words of the alert alone are a hint; what was seen at the
target of the alert decides. Where nothing was seen, or the votes are split, the confidence says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from textwrap import shorten
from typing import TypeVar

from orchestration.alert import Alert, Severity, first_start
from orchestration.analysis import AnalysisInput
from orchestration.changes.events import likelihood
from orchestration.contracts import (
    Change,
    ChangeEvent,
    Check,
    CheckStatus,
    Claim,
    ClaimKind,
    Evidence,
    EvidenceKind,
    Target,
)
from orchestration.evidence import evidence_of
from orchestration.places import read_place
from orchestration.target import is_test_notification
from tasks.analyze.topics import (
    Topic,
    is_symptom,
    names_in,
    names_several,
    topic_of_check,
    topic_of_metric,
    topics_in,
    topics_in_errors,
    without_denied,
    words_of,
)

_NAME, _DESCRIPTION, _LABEL = 2.0, 1.0, 0.5
"""How much a word of the alert counts, by the place where it stands."""

_ERROR = 1.5
"""How much an error counts that the alert quotes, such as "no space left on device"."""

_CHECK = {CheckStatus.CRITICAL: 3.0, CheckStatus.WARNING: 1.25, CheckStatus.OK: -2.0}
"""How much a check of the target counts for its topic."""

_CHANGE = 2.5
"""How much the strangest series counts; the others less, by their score beside that one's."""

_MADE = names_in(
    "change deploy deployment release rollout rollback config configuration flag scale migration upgrade update patch"
)
"""The kinds of events that can be undone. A campaign or a holiday cannot."""

_EVENT, EVENT_WINDOW = 3.0, timedelta(minutes=60)
"""How much a change that people made to the target counts if it came right before; none counts after the window."""

_LEAST = 1.0
"""The least weight of an answer."""

_HALF = 2.5
"""The weight at which the confidence is one half, if nothing speaks for another topic."""

_RIVAL = 0.45
"""How much of the confidence a second topic of the same weight takes."""

_MAX_BY_WORDS, _MAX = 0.45, 0.95
"""The most confidence if only the alert's own words speak for it, and at all."""

_MAX_BY_TIME = 0.6
"""The most confidence if all that speaks for it is that somebody changed something before: that is no proof."""

_MAX_UNREACHABLE = 0.55
"""The most confidence that it is the network if all that was seen is that nobody answers: the host may be down."""

_ROOTS = frozenset({Topic.MEMORY, Topic.DISK, Topic.CERTIFICATE, Topic.DNS, Topic.CONNECTIONS, Topic.DEPLOY})
_SYMPTOMS = frozenset({Topic.BACKLOG, Topic.DEPENDENCY})
_LOADED = frozenset({Topic.CPU, Topic.CONNECTIONS})
_SURELY = 2.4
"""The weight from which one piece of evidence for a root explains a symptom: a critical check, a deploy just before."""

_HEALTHY_BY_EXPRESSION, _HEALTHY_BY_TOPIC, _HEALTHY = 0.8, 0.7, 0.5
"""The confidence that all is well: by the alert's own expression, by a check of its topic, by less, such as a look that
lasts a moment, or any check where nothing speaks of trouble, or what was strange is over."""

_UNKNOWN = 0.1

_MAX_ALERTS = 100  # enough words to judge by; ten thousand alerts would block the event loop
_MAX_CITED, _MAX_QUOTED, _MAX_EFFECTS = 4, 2, 3
_QUOTE = 160  # characters of the alert

_REACH = names_in("down up unreachable offline reachable available unavailable answer answers responding probe")

_OUTSIDE = frozenset({"http", "tcp", "tls", "dns"})
"""Checkers that see whether the target serves, as its users do."""

# Labels that say whose it is or where it runs. A team named "storage" is no sign of a disk.
_NAMES = names_in(
    "instance host hostname node nodename server pod pod_name service job namespace cluster app application team owner "
    "env environment region zone datacenter dc project tenant customer component container image deployment "
    "statefulset daemonset squad contact entity monitor alertname severity priority status"
)

IN_WORDS = {
    Topic.MEMORY: "memory is short",
    Topic.DISK: "a disk is the trouble",
    Topic.CPU: "the CPU is overloaded",
    Topic.CERTIFICATE: "a certificate is the trouble",
    Topic.DNS: "names fail to resolve",
    Topic.CONNECTIONS: "connections run out or are blocked",
    Topic.BACKLOG: "work piles up in a queue",
    Topic.DEPLOY: "a change that was just made",
    Topic.DEPENDENCY: "something that it depends on",
    Topic.TRAFFIC: "more traffic than usual",
    Topic.NETWORK: "the network is disturbed",
    Topic.PROCESS: "a process is down or failing",
}

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The likely topic (None means unknown, or healthy), how sure that is, and the claims that say why."""

    topic: Topic | None = None
    healthy: bool = False
    is_test: bool = False
    """Whether nothing has happened: somebody tests whether messages arrive."""
    confidence: float = _UNKNOWN
    claims: Sequence[Claim] = ()
    evidence: Sequence[Evidence] = ()
    about: str = ""
    """What stands out beside the target, such as a service that it depends on."""
    event: ChangeEvent | None = None
    """The change that people made which is probably the cause."""


@dataclass(frozen=True, kw_only=True)
class _Vote:
    topic: Topic
    weight: float
    cites: str
    """The id of the evidence; "" for a vote against."""
    by_words: bool = False
    from_outside: bool = False
    """Whether it only saw if somebody answers."""
    about: str = ""
    event: ChangeEvent | None = None


@dataclass
class _Case:
    """An analysis' input with its numbered evidence."""

    given: AnalysisInput
    evidence: dict[str, Evidence] = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = {one.id: one for one in evidence_of(self.given)}

    @property
    def target(self) -> Target:
        return self.given.target or Target()

    @property
    def checks(self) -> Iterator[tuple[str, Check]]:
        return self._numbered(EvidenceKind.CHECK, self.given.check.checks if self.given.check else [])

    @property
    def changes(self) -> Iterator[tuple[str, Change]]:
        return self._numbered(EvidenceKind.CHANGE, self.given.check.changes if self.given.check else [])

    @property
    def events(self) -> Iterator[tuple[str, ChangeEvent]]:
        return self._numbered(EvidenceKind.EVENT, self.given.events)

    def _numbered(self, kind: EvidenceKind, found: Sequence[_T]) -> Iterator[tuple[str, _T]]:
        named = ((f"{kind}-{number}", one) for number, one in enumerate(found, 1))
        return (pair for pair in named if pair[0] in self.evidence)

    @property
    def began_at(self) -> datetime | None:
        opened_at = self.given.incident.opened_at if self.given.incident else None
        return first_start(self.given.alerts) or opened_at

    def is_other(self, name: str) -> bool:
        """Whether a name is surely of something else than the target."""
        return bool(name and self.names) and not _concerns(name, self.names)

    @cached_property
    def names(self) -> frozenset[str]:
        """What the target is called, in lower case."""
        labels = (value for name, value in self.target.labels.items() if name in _NAMES)
        hosts = (alert.host for alert in self.given.alerts)
        found = {_bare(name) for name in (self.target.host, self.target.url, *labels, *hosts) if name}
        return frozenset(found | {name.partition(".")[0] for name in found})


def diagnose(given: AnalysisInput) -> Diagnosis:
    """Find what the incident is about. A check, a change and an event count only as they concern its target."""
    case = _Case(given)
    if given.alerts and all(map(is_test_notification, given.alerts)):
        evidence = list(case.evidence.values())
        return Diagnosis(healthy=True, is_test=True, confidence=_MAX, evidence=evidence)
    votes = [*_of_words(case), *_of_checks(case), *_of_changes(case), *_of_events(case)]
    weights = _weights(votes)
    healthy = _healthy(case, {vote.topic for vote in votes if vote.by_words})
    if healthy is not None:
        return healthy
    weights = {topic: weight for topic, weight in weights.items() if topic not in _found_well(case)}
    topic = _explained(max(Topic, key=lambda one: weights.get(one, 0.0)), votes, weights)
    if weights.get(topic, 0.0) < _LEAST:
        return Diagnosis(claims=_effects(case, None), evidence=list(case.evidence.values()))
    own = sorted((vote for vote in votes if vote.topic is topic and vote.cites), key=lambda one: -one.weight)
    rival = max((weight for other, weight in weights.items() if other is not topic), default=0.0)
    return Diagnosis(
        topic=topic,
        confidence=_confidence(weights[topic], max(rival, 0.0), own),
        claims=[_cause(case, topic, own), *_effects(case, topic)],
        evidence=list(case.evidence.values()),
        about=next((vote.about for vote in own if vote.about), ""),
        event=next((vote.event for vote in own if vote.event), None),
    )


def _weights(votes: Iterable[_Vote]) -> dict[Topic, float]:
    """The sum of the votes for each topic. All that is wrong with one other thing is one dependency, not several."""
    weights: dict[Topic, float] = {}
    strongest: dict[str, float] = {}
    for vote in votes:
        weight = vote.weight
        if vote.topic is Topic.DEPENDENCY and vote.about:
            known = strongest.get(vote.about, 0.0)
            strongest[vote.about] = max(known, weight)
            weight = strongest[vote.about] - known
        weights[vote.topic] = weights.get(vote.topic, 0.0) + weight
    return weights


def _found_well(case: _Case) -> set[Topic]:
    """The topics of which every check that looked at the target found that all is well."""
    found: dict[Topic, set[CheckStatus]] = {}
    for _, check in case.checks:
        if (topic := topic_of_check(check)) is not None and not case.is_other(check.target):
            found.setdefault(topic, set()).add(check.status)
    return {topic for topic, statuses in found.items() if statuses <= {CheckStatus.OK}}


def _explained(topic: Topic, votes: Sequence[_Vote], weights: Mapping[Topic, float]) -> Topic:
    """The root of a symptom: work that piles up, and what fails elsewhere, have a cause if one was surely seen.

    What is asked more than usual uses more: that is the root of a busy CPU and of many connections.
    """
    if topic in _LOADED:
        asked = sum(vote.weight for vote in votes if vote.topic is Topic.TRAFFIC and not vote.by_words)
        return Topic.TRAFFIC if Topic.TRAFFIC in weights and asked >= _SURELY else topic
    if topic not in _SYMPTOMS:
        return topic
    seen: dict[Topic, float] = {}
    for vote in votes:
        if vote.topic in weights and vote.topic in _ROOTS and not vote.by_words:
            seen[vote.topic] = max(seen.get(vote.topic, 0.0), vote.weight)
    root = max(seen, key=lambda one: seen[one], default=None)
    return root if root is not None and seen[root] >= _SURELY else topic


def _confidence(weight: float, rival: float, votes: Sequence[_Vote]) -> float:
    sure = weight / (weight + _HALF) * (1 - _RIVAL * min(rival / weight, 1.0))
    most = _MAX
    if all(vote.by_words for vote in votes):
        most = _MAX_BY_WORDS
    elif all(vote.by_words or vote.event for vote in votes):
        most = _MAX_BY_TIME
    elif votes[0].topic is Topic.NETWORK and all(vote.by_words or vote.from_outside for vote in votes):
        most = _MAX_UNREACHABLE
    return round(min(sure, most), 2)


# What votes


def _of_words(case: _Case) -> Iterator[_Vote]:
    given = case.given
    alerts = list(given.alerts)[:_MAX_ALERTS]
    names = {alert.name for alert in alerts} | {alert.title for alert in alerts}
    says = {alert.description for alert in alerts} | {
        value for alert in alerts for value in alert.annotations.values() if "://" not in value or " " in value
    }
    if given.incident is not None and not alerts:
        # Not incident.summary: an earlier analysis may have written it.
        names, says = {given.incident.title}, {given.incident.description}
    labels = {value for alert in alerts for name, value in alert.labels.items() if name.lower() not in _NAMES}
    cites = "alert-1" if "alert-1" in case.evidence else ""
    identities = sorted(_identities(alerts), key=len, reverse=True)
    for weight, texts in ((_NAME, names), (_DESCRIPTION, says), (_LABEL, labels)):
        said = (without_denied(_without(text, identities)) for text in texts)
        for topic, clarity in topics_in(said).items():
            yield _Vote(topic=topic, weight=weight * clarity, cites=cites, by_words=True)
    for topic in topics_in_errors(names | says):
        yield _Vote(topic=topic, weight=_ERROR, cites=cites, by_words=True)


def _identities(alerts: Iterable[Alert]) -> set[str]:
    """The names of hosts, services and teams in the labels of the alerts: their words say nothing."""
    values = {
        value for alert in alerts for name, value in alert.labels.items() if name.lower() in _NAMES - {"alertname"}
    }
    return {value for value in values | {value.partition(":")[0] for value in values} if len(value) > 2}


def _without(text: str, names: Sequence[str]) -> str:
    for name in names:
        text = text.replace(name, " ")
    return text


def _of_checks(case: _Case) -> Iterator[_Vote]:
    for number, check in case.checks:
        topic = topic_of_check(check)
        if topic is None or check.status not in _CHECK:
            continue
        weight = _CHECK[check.status]
        if weight > 0 and case.is_other(check.target):
            yield from _elsewhere(topic, weight, number, check.target)
        else:
            outside = check.name in _OUTSIDE
            yield _Vote(topic=topic, weight=weight, cites=number if weight > 0 else "", from_outside=outside)


def _of_changes(case: _Case) -> Iterator[_Vote]:
    """The strangest series of each topic. Several statistics of one thing are no more evidence than one."""
    changes = list(case.changes)
    strongest = max((change.score for _, change in changes), default=0.0)
    best: dict[Topic, _Vote] = {}
    for number, change in changes if strongest > 0 else []:
        for vote in _of_change(case, number, change, _CHANGE * change.score / strongest):
            if vote.topic not in best or best[vote.topic].weight < vote.weight:
                best[vote.topic] = vote
    yield from best.values()


def _of_change(case: _Case, number: str, change: Change, weight: float) -> Iterator[_Vote]:
    topic = _topic_of_metric(change)
    if case.is_other(change.entity):
        yield from _elsewhere(topic, weight, number, change.entity)
    elif topic is not None:
        yield _Vote(topic=topic, weight=weight, cites=number)


def _elsewhere(topic: Topic | None, weight: float, cites: str, about: str) -> Iterator[_Vote]:
    """What is wrong with something else: what it is about, if that is known, and that the target may depend on it.

    That it is down, or cannot be reached, is nothing but a dependency.
    """
    known = topic is not None and topic not in (Topic.PROCESS, Topic.NETWORK)
    if topic is not None and known:
        yield _Vote(topic=topic, weight=weight, cites=cites, about=about)
    yield _Vote(topic=Topic.DEPENDENCY, weight=weight / 2 if known else weight, cites=cites, about=about)


def _topic_of_metric(change: Change) -> Topic | None:
    if is_symptom(change.metric):
        return None
    topic = topic_of_metric(change.metric)
    # Less traffic is what an outage looks like, and more processes are no process that is down.
    if (topic is Topic.TRAFFIC and change.now < change.high) or (topic is Topic.PROCESS and _is_up(change)):
        return None
    return topic


def _is_up(change: Change) -> bool:
    return change.metric.lower().rpartition("_")[2] == "up" and change.now >= change.low


def _of_events(case: _Case) -> Iterator[_Vote]:
    began = case.began_at
    for number, event in case.events:
        concerned = not event.labels or any(_concerns(value, case.names) for value in event.labels.values())
        weight = _EVENT * likelihood(event, began, EVENT_WINDOW) if began is not None else 0.0
        if concerned and weight and words_of(event.kind) & _MADE:
            yield _Vote(topic=Topic.DEPLOY, weight=weight, cites=number, event=event)


def _concerns(name: str, names: frozenset[str]) -> bool:
    """Whether a name is one of the target's: web-1:9100, https://web-1/health and web-1 are the same."""
    plain = _bare(name)
    return plain in names or plain.partition(".")[0] in names


def _bare(name: str) -> str:
    """A name in lower case, without scheme, path and port."""
    place = read_place(name)
    return place.host if place else name.lower()


# What is said


def _healthy(case: _Case, topics: set[Topic]) -> Diagnosis | None:
    """The diagnosis that all is well, if what was seen says so: no check is unhealthy, and no series is strange now.

    What a check finds now counts more than a series of the same topic, which shows the time before.
    """
    checks = [(number, check) for number, check in case.checks if check.status is not CheckStatus.UNKNOWN]
    if not checks or any(check.status is not CheckStatus.OK for _, check in checks):
        return None
    by_expression = [number for number, check in checks if check.name == "prometheus" and _is_about(check, topics)]
    covered = {topic_of_check(check) for _, check in checks}
    strange = {_topic_of_metric(change) for _, change in case.changes if change.until is None}
    if not by_expression and not strange <= covered - {None}:
        return None
    by_topic = [number for number, check in checks if topic_of_check(check) in topics or check.name in _OUTSIDE]
    alone = not case.given.alerts and case.given.incident is None
    outside = bool(topics) and topics <= {Topic.NETWORK, Topic.PROCESS, Topic.CERTIFICATE, Topic.DNS}
    # That something can be connected to says nothing of a process that has failed there.
    outside = outside and (Topic.PROCESS not in topics or _speaks_of_reach(case))
    of_topic = {check.name for _, check in checks if topic_of_check(check) in topics and _covers(check, case)}
    if not of_topic and any(topic_of_check(check) in topics for _, check in checks) and not by_expression:
        return None
    if by_expression or alone:
        confidence = _HEALTHY_BY_EXPRESSION
    elif of_topic or (outside and by_topic):
        confidence = _HEALTHY if of_topic == {"cpu"} else _HEALTHY_BY_TOPIC
    elif topics or (_speaks_of_trouble(case) and not any(change.until for _, change in case.changes)):
        return None  # what was looked at is not what the alert is about
    else:
        confidence = _HEALTHY
    cites = [*dict.fromkeys([*by_expression, *by_topic, *(number for number, _ in checks)])][:_MAX_CITED]
    quotes = [case.evidence[number].says for number in cites]
    says = f"Nothing is wrong there now: {'; '.join(quotes)}"
    claim = Claim(kind=ClaimKind.HEALTHY, says=says, cites=cites, quotes=quotes)
    evidence = list(case.evidence.values())
    return Diagnosis(healthy=True, confidence=confidence, claims=[claim, *_episodes(case)], evidence=evidence)


def _speaks_of_reach(case: _Case) -> bool:
    return any(words_of(f"{alert.name} {alert.description}") & _REACH for alert in case.given.alerts[:_MAX_ALERTS])


def _speaks_of_trouble(case: _Case) -> bool:
    return any(alert.firing and alert.severity is not Severity.INFO for alert in case.given.alerts)


def _covers(check: Check, case: _Case) -> bool:
    """Whether a check has looked at the very thing of which the alert speaks: that path, space and not inodes."""
    if check.name == "process":
        return _NO_PROCESS not in check.message
    if topic_of_check(check) is not Topic.DISK:
        return True
    alerts = case.given.alerts[:_MAX_ALERTS]
    if any(words_of(f"{alert.name} {alert.description}") & _NOT_SPACE for alert in alerts):
        return False
    paths = {alert.labels[name] for alert in alerts for name in _PATH_LABELS if alert.labels.get(name)}
    seen = set(re.findall(r"(?<!\S)/\S*", check.message)) | set(re.findall(r"(?<!\S)/\S*", str(check.metrics)))
    return not paths or not seen or paths <= {path.rstrip(",;:") for path in seen}


_NO_PROCESS = "no process to look for"
_NOT_SPACE = names_in("inode inodes raid smart mdadm degraded readonly iops iowait latency slow")
_PATH_LABELS = ("mountpoint", "mount", "path", "filesystem")


def _is_about(check: Check, topics: set[Topic]) -> bool:
    """Whether what Prometheus says can be the alert's own expression. Its host's figures of other topics are not."""
    topic = topic_of_check(check)
    return topic in topics if topic is not None else not names_several(check)


def _cause(case: _Case, topic: Topic, votes: Sequence[_Vote]) -> Claim:
    cites = [*dict.fromkeys(vote.cites for vote in votes)][:_MAX_CITED]
    shown = [case.evidence[number] for number in cites]
    seen = [one for one in shown if one.kind is not EvidenceKind.ALERT]
    if not seen:
        # Cut between words: half a word is nothing that the alert says.
        quotes = [shorten(one.says.rpartition(" [")[0] or one.says, _QUOTE, placeholder=" …") for one in shown[:1]]
        why = f"the alert says so, and nothing else was seen: {''.join(quotes)}"
    else:
        quotes = [one.says for one in seen[:_MAX_QUOTED]]
        why = "; ".join(f"{one.about}: {one.says}" if one.about else one.says for one in seen[:_MAX_QUOTED])
    says = f"Probably {IN_WORDS[topic]}: {why}"
    return Claim(kind=ClaimKind.CAUSE, topic=topic.value, says=says, cites=cites, quotes=quotes)


def _effects(case: _Case, topic: Topic | None) -> list[Claim]:
    """What else is known: other unhealthy checks, and what came before."""
    unhealthy = [
        (number, check)
        for number, check in case.checks
        if check.status.is_unhealthy and topic_of_check(check) is not topic
    ]
    unhealthy.sort(key=lambda one: one[1].status is not CheckStatus.CRITICAL)
    also = (_effect("Also", case.evidence[number]) for number, _ in unhealthy)
    return [*islice(also, _MAX_EFFECTS), *_episodes(case)]


def _episodes(case: _Case) -> list[Claim]:
    latest = case.evidence.get(f"{EvidenceKind.EPISODE}-1")
    return [_effect("Before", latest)] if latest else []


def _effect(word: str, one: Evidence) -> Claim:
    return Claim(kind=ClaimKind.EFFECT, says=f"{word}: {one.says}", cites=[one.id], quotes=[one.says])
