"""The votes for what an incident is about: of the alert's words, of checks, of series, and of changes by people. Pure.

Words of the alert alone are a hint; what was seen at the target of the alert decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta

from orchestration.alert import Alert
from orchestration.changes.events import likelihood
from orchestration.contracts import Change, ChangeEvent, Check, CheckStatus
from tasks.analyze.case import IDENTITY_LABELS, Case
from tasks.analyze.topics import (
    SYMPTOM_WORDS,
    Topic,
    is_of_another_kind,
    is_symptom,
    names_in,
    shares_in,
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

_EVENT, _EVENT_WINDOW = 3.0, timedelta(minutes=60)
"""How much a change that people made to the target counts if it came right before; none counts after the window."""

_LITTLE_USED = 50.0
"""Percent of a resource in use below which a strange series of it is no shortage."""

_BUSY_BESIDE = 0.9
"""How much a busy CPU of this host counts if the alert speaks of something else: its sample is a moment."""

_SLOW = SYMPTOM_WORDS - names_in("error errors failed failures fault faults 5xx response responses success") | names_in(
    "slow slowness lag timeout timeouts hang hangs unresponsive overloaded performance"
)

OUTSIDE = frozenset({"http", "tcp", "tls", "dns"})
"""Checkers that see whether the target serves, as its users do."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What one piece of evidence says: a topic, and how much it counts. Against a topic, the weight is negative."""

    topic: Topic
    weight: float
    cites: str
    """The id of the evidence; "" for a vote against."""
    by_words: bool = False
    from_outside: bool = False
    """Whether it only saw if somebody answers."""
    about: str = ""
    event: ChangeEvent | None = None


def votes_of(case: Case) -> list[Vote]:
    """The votes of all that is known."""
    another = any(
        is_of_another_kind(alert.name) or (not topics_in([alert.name]) and is_of_another_kind(alert.description))
        for alert in case.alerts
    )
    words = [] if another else [*_of_words(case)]
    named = {vote.topic for vote in words}
    changes = _of_changes(case, _little_used(case) - named)
    return [*words, *_of_checks(case, named), *changes, *_of_events(case)]


def weights_of(votes: Iterable[Vote]) -> dict[Topic, float]:
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


def _of_words(case: Case) -> Iterator[Vote]:
    given, alerts = case.given, case.alerts
    names = {alert.name for alert in alerts} | {alert.title for alert in alerts}
    says = {alert.description for alert in alerts} | {
        value for alert in alerts for value in alert.annotations.values() if "://" not in value or " " in value
    }
    if given.incident is not None and not alerts:
        # Not incident.summary: an earlier analysis may have written it.
        names, says = {given.incident.title}, {given.incident.description}
    labels = {value for alert in alerts for name, value in alert.labels.items() if name.lower() not in IDENTITY_LABELS}
    cites = "alert-1" if "alert-1" in case.evidence else ""
    identities = sorted(_identities(alerts), key=len, reverse=True)
    for weight, texts in ((_NAME, names), (_DESCRIPTION, says), (_LABEL, labels)):
        said = (without_denied(_without(text, identities)) for text in texts)
        for topic, clarity in topics_in(said).items():
            yield Vote(topic=topic, weight=weight * clarity, cites=cites, by_words=True)
    for topic in topics_in_errors(names | says):
        yield Vote(topic=topic, weight=_ERROR, cites=cites, by_words=True)


def _identities(alerts: Iterable[Alert]) -> set[str]:
    """The names of hosts, services and teams in the labels of the alerts: their words say nothing."""
    values = {
        value
        for alert in alerts
        for name, value in alert.labels.items()
        if name.lower() in IDENTITY_LABELS - {"alertname"}
    }
    return {value for value in values | {value.partition(":")[0] for value in values} if len(value) > 2}


def _without(text: str, names: Sequence[str]) -> str:
    for name in names:
        text = text.replace(name, " ")
    return text


def _little_used(case: Case) -> set[Topic]:
    """Of what the target has plenty, by the figures that a check shows."""
    return {
        topic
        for _, check in case.checks
        if check.name == "prometheus" and not case.is_other(check.target)
        for topic, share in shares_in(check.message).items()
        if share < _LITTLE_USED
    }


def _of_checks(case: Case, named: Set[Topic]) -> Iterator[Vote]:
    for number, check in case.checks:
        topic = topic_of_check(check)
        if topic is None or check.status not in _CHECK:
            continue
        weight = _CHECK[check.status]
        if weight > 0 and _is_beside(case, check, named):
            weight = _BUSY_BESIDE
        if weight > 0 and case.is_other(check.target):
            yield from _elsewhere(topic, weight, number, check.target)
        else:
            outside = check.name in OUTSIDE
            yield Vote(topic=topic, weight=weight, cites=number if weight > 0 else "", from_outside=outside)


def _is_beside(case: Case, check: Check, named: Set[Topic]) -> bool:
    """Whether a busy CPU is only seen beside what an alert says, which is neither about it nor about being slow."""
    if check.name != "cpu" or Topic.CPU in named or not case.target.is_own or not case.alerts:
        return False
    said = words_of(" ".join(f"{alert.name} {alert.description}" for alert in case.alerts))
    return not said & _SLOW


def _of_changes(case: Case, little_used: Set[Topic]) -> Iterator[Vote]:
    """The strangest series of each topic, but for what the target has plenty of.

    Several statistics of one thing are no more evidence than one.
    """
    changes = list(case.changes)
    strongest = max((change.score for _, change in changes), default=0.0)
    best: dict[Topic, Vote] = {}
    for number, change in changes if strongest > 0 else []:
        for vote in _of_change(case, number, change, _CHANGE * change.score / strongest):
            if vote.topic in little_used and not vote.about:
                continue
            if vote.topic not in best or best[vote.topic].weight < vote.weight:
                best[vote.topic] = vote
    yield from best.values()


def _of_change(case: Case, number: str, change: Change, weight: float) -> Iterator[Vote]:
    topic = topic_of_change(change)
    if case.is_other(change.entity):
        yield from _elsewhere(topic, weight, number, change.entity)
    elif topic is not None:
        yield Vote(topic=topic, weight=weight, cites=number)


def _elsewhere(topic: Topic | None, weight: float, cites: str, about: str) -> Iterator[Vote]:
    """What is wrong with something else: what it is about, if that is known, and that the target may depend on it.

    That it is down, or cannot be reached, is nothing but a dependency.
    """
    known = topic is not None and topic not in (Topic.PROCESS, Topic.NETWORK)
    if topic is not None and known:
        yield Vote(topic=topic, weight=weight, cites=cites, about=about)
    yield Vote(topic=Topic.DEPENDENCY, weight=weight / 2 if known else weight, cites=cites, about=about)


def topic_of_change(change: Change) -> Topic | None:
    """What a series that has changed is about; None if that is not known, or it is only a symptom."""
    if is_symptom(change.metric):
        return None
    topic = topic_of_metric(change.metric)
    # Less traffic is what an outage looks like, and more processes are no process that is down.
    if (topic is Topic.TRAFFIC and change.now < change.high) or (topic is Topic.PROCESS and _is_up(change)):
        return None
    return topic


def _is_up(change: Change) -> bool:
    return change.metric.lower().rpartition("_")[2] == "up" and change.now >= change.low


def _of_events(case: Case) -> Iterator[Vote]:
    began = case.began_at
    for number, event in case.events:
        concerned = not event.labels or any(case.concerns(value) for value in event.labels.values())
        weight = _EVENT * likelihood(event, began, _EVENT_WINDOW) if began is not None else 0.0
        if concerned and weight and words_of(event.kind) & _MADE:
            yield Vote(topic=Topic.DEPLOY, weight=weight, cites=number, event=event)
