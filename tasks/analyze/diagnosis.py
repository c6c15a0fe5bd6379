"""The local diagnosis: the likely topic, the confidence, and the claims with their evidence. Pure.

Each piece of evidence votes for what the incident is about (`votes.py`), unless all is well (`health.py`). Where
nothing was seen, or the votes are split, the confidence says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from textwrap import shorten

from orchestration.analysis import AnalysisInput
from orchestration.contracts import ChangeEvent, CheckStatus, Claim, ClaimKind, Evidence, EvidenceKind
from orchestration.target import is_test_notification
from tasks.analyze.case import Case
from tasks.analyze.health import Health, health_of
from tasks.analyze.topics import Topic, topic_of_check
from tasks.analyze.votes import Vote, votes_of, weights_of

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

_UNKNOWN = 0.1

_MAX_CITED, _MAX_QUOTED, _MAX_EFFECTS = 4, 2, 3
_QUOTE = 160  # characters of the alert

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


def diagnose(given: AnalysisInput) -> Diagnosis:
    """Find what the incident is about. A check, a change and an event count only as they concern its target."""
    case = Case(given)
    votes = votes_of(case)
    health = health_of(case, {vote.topic for vote in votes if vote.by_words})
    if given.alerts and all(map(is_test_notification, given.alerts)):
        well = _healthy(case, health) if health is not None else Diagnosis(evidence=list(case.evidence.values()))
        return replace(well, healthy=True, is_test=True, confidence=_MAX)
    if health is not None:
        return _healthy(case, health)
    return _likely_cause(case, votes)


def _likely_cause(case: Case, votes: Sequence[Vote]) -> Diagnosis:
    found_well = _found_well(case)
    weights = {topic: weight for topic, weight in weights_of(votes).items() if topic not in found_well}
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


def _found_well(case: Case) -> set[Topic]:
    """The topics of which every check that looked at the target found that all is well."""
    found: dict[Topic, set[CheckStatus]] = {}
    for _, check in case.checks:
        if (topic := topic_of_check(check)) is not None and not case.is_other(check.target):
            found.setdefault(topic, set()).add(check.status)
    return {topic for topic, statuses in found.items() if statuses <= {CheckStatus.OK}}


def _explained(topic: Topic, votes: Sequence[Vote], weights: Mapping[Topic, float]) -> Topic:
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


def _confidence(weight: float, rival: float, votes: Sequence[Vote]) -> float:
    sure = weight / (weight + _HALF) * (1 - _RIVAL * min(rival / weight, 1.0))
    most = _MAX
    if all(vote.by_words for vote in votes):
        most = _MAX_BY_WORDS
    elif all(vote.by_words or vote.event for vote in votes):
        most = _MAX_BY_TIME
    elif votes[0].topic is Topic.NETWORK and all(vote.by_words or vote.from_outside for vote in votes):
        most = _MAX_UNREACHABLE
    return round(min(sure, most), 2)


def _healthy(case: Case, health: Health) -> Diagnosis:
    cites = list(health.cites[:_MAX_CITED])
    quotes = [case.evidence[number].says for number in cites]
    says = f"Nothing is wrong there now: {'; '.join(quotes)}"
    claim = Claim(kind=ClaimKind.HEALTHY, says=says, cites=cites, quotes=quotes)
    evidence = list(case.evidence.values())
    return Diagnosis(healthy=True, confidence=health.confidence, claims=[claim, *_episodes(case)], evidence=evidence)


def _cause(case: Case, topic: Topic, votes: Sequence[Vote]) -> Claim:
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


def _effects(case: Case, topic: Topic | None) -> list[Claim]:
    """What else is known: other unhealthy checks, and what came before."""
    unhealthy = [
        (number, check)
        for number, check in case.checks
        if check.status.is_unhealthy and topic_of_check(check) is not topic
    ]
    unhealthy.sort(key=lambda one: one[1].status is not CheckStatus.CRITICAL)
    also = (_effect("Also", case.evidence[number]) for number, _ in unhealthy)
    return [*islice(also, _MAX_EFFECTS), *_episodes(case)]


def _episodes(case: Case) -> list[Claim]:
    latest = case.evidence.get(f"{EvidenceKind.EPISODE}-1")
    return [_effect("Before", latest)] if latest else []


def _effect(word: str, one: Evidence) -> Claim:
    return Claim(kind=ClaimKind.EFFECT, says=f"{word}: {one.says}", cites=[one.id], quotes=[one.says])
