"""The local diagnosis: the likely cause, the confidence, and the evidence. Pure: it reads only its input.

The words of the alert choose the cause, and the checks of the alert's host support or weaken it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestration.analysis import AnalysisInput
from orchestration.contracts import Check, CheckStatus


class Cause(StrEnum):
    """What an alert can be about. In a tie the first member is taken. The checker of a cause has the same name."""

    MEMORY = "memory"
    DISK = "disk"
    CPU = "cpu"
    NETWORK = "network"
    PROCESS = "process"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CLEAR_WORDS: dict[Cause, frozenset[str]] = {
    Cause.MEMORY: _words("memory mem ram swap swapping heap oom ooms oomkill oomkilled rss"),
    Cause.DISK: _words("disk disks filesystem filesystems storage inode inodes enospc mountpoint nvme"),
    Cause.CPU: _words("cpu cpus processor processors loadavg cputhrottling"),
    Cause.NETWORK: _words("network dns packet packets unreachable connectivity nic icmp ping"),
    Cause.PROCESS: _words("processes systemd zombie zombies crashloop crashlooping crashloopbackoff daemon pid"),
}
"""Words that name exactly one cause."""

VAGUE_WORDS: dict[Cause, frozenset[str]] = {
    Cause.MEMORY: _words("leak leaking"),
    Cause.DISK: _words("volume volumes partition mount fs space quota"),
    Cause.CPU: _words("load core cores throttling throttled"),
    Cause.NETWORK: _words("interface gateway tcp link"),
    Cause.PROCESS: _words("process crash crashed crashing looping restarting restarted"),
}
"""Words that often name a cause and often something else: a load balancer, an API gateway."""

_CLEAR, _VAGUE = 1.0, 0.5
"""How much a clear and a vague word count."""

_NAME_WEIGHT, _DESCRIPTION_WEIGHT, _LABEL_WEIGHT = 4.0, 2.0, 1.0
"""How much a word counts by the place where it stands: a name counts more than description and label together."""

_CHECK_WEIGHT = {CheckStatus.CRITICAL: 1.5, CheckStatus.WARNING: 0.5}
"""How much the check of a cause adds to its words."""

_CONFIDENCE_OF_WEIGHT = ((4.0, 0.6), (2.0, 0.45), (1.0, 0.3), (0.0, 0.2))
"""The confidence by the least weight of the words that name the cause."""

_CHECK_CONFIDENCE = {CheckStatus.CRITICAL: 0.3, CheckStatus.WARNING: 0.15, CheckStatus.OK: -0.15}
"""How much the check of the cause changes the confidence."""

_TIE_PENALTY = 0.1
_MAX_CONFIDENCE_ELSEWHERE = 0.5  # the checks did not look at the host of the alert
_CONFIDENCE_UNKNOWN = 0.1
_CONFIDENCE_WARNING_CHECK_ONLY = 0.3
_CONFIDENCE_CRITICAL_CHECK_ONLY = 0.5
_CONFIDENCE_CRITICAL_CHECK_BESIDE_ALERT = 0.4  # the alert does not mention what the check found
_MIN_CONFIDENCE, _MAX_CONFIDENCE = 0.05, 0.95

_MAX_ALERTS = 100  # enough words to judge by; ten thousand alerts would block the event loop
_MAX_CHARACTERS = 4000

_RUN_OF_LETTERS = re.compile(r"[^\W\d_]+")
# "HighCPU", "OOMKilled", "CPUs", "diskSpace": an acronym ends where the next word begins.
_CAMEL_PART = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


@dataclass(frozen=True)
class Diagnosis:
    """The likely cause (None means unknown), the confidence from 0 to 1, and the evidence in words."""

    cause: Cause | None
    confidence: float
    evidence: tuple[str, ...]


def diagnose(case: AnalysisInput, *, of_this_host: bool) -> Diagnosis:
    """Find the likely cause. `of_this_host` says whether the checks looked at the host that the alert is about.

    The cause is the one with the highest weight: the sum of its words, and its check if any word names it. If no
    word names a cause, an unhealthy check is the cause. The checks are ignored for an alert about another host.
    """
    checks = {check.name: check for check in case.check.checks} if case.check and of_this_host else {}
    weights, places = _weigh_words(case)
    if not weights:
        return _from_checks(checks, beside_alert=bool(case.alerts or case.incident))
    totals = {cause: weight + _CHECK_WEIGHT.get(_status(checks, cause), 0.0) for cause, weight in weights.items()}
    cause = max(totals, key=lambda candidate: totals[candidate])
    status = _status(checks, cause)
    by_words = next(confidence for least, confidence in _CONFIDENCE_OF_WEIGHT if weights[cause] >= least)
    confidence = by_words + _CHECK_CONFIDENCE.get(status, 0.0)
    if list(totals.values()).count(totals[cause]) > 1:
        confidence -= _TIE_PENALTY
    if not of_this_host:
        confidence = min(confidence, _MAX_CONFIDENCE_ELSEWHERE)
    evidence = [f"{places[cause]} mentions {cause}"]
    if status is not CheckStatus.UNKNOWN:
        evidence.append(f"the {cause} check is {status}: {checks[cause].message}")
    return Diagnosis(cause, _bounded(confidence), tuple(evidence))


def unhealthy(checks: Sequence[Check]) -> list[Check]:
    """The checks with status critical or warning, the critical ones first."""
    found = [check for check in checks if check.status in _CHECK_WEIGHT]
    return sorted(found, key=lambda check: check.status is not CheckStatus.CRITICAL)


def words_of(text: str) -> frozenset[str]:
    """The words in the first 4,000 characters of a text, in lower case.

    Digits, `_` and other marks separate words, and so does camel case. Both readings of a camel-case word count:
    "OOMKilled" gives oom, killed and oomkilled. Only complete words count: "scpu" does not contain cpu.
    """
    found: set[str] = set()
    for run in _RUN_OF_LETTERS.findall(text[:_MAX_CHARACTERS]):
        found.add(run.lower())
        if run.isascii():
            found.update(part.lower() for part in _CAMEL_PART.findall(run))
    return frozenset(found)


def causes_in(texts: Iterable[str]) -> dict[Cause, float]:
    """The causes that the texts name: 1 if a clear word names the cause, 0.5 if only a vague word does."""
    words = frozenset[str]().union(*(words_of(text) for text in texts))
    found: dict[Cause, float] = {}
    for cause in Cause:
        if words & CLEAR_WORDS[cause]:
            found[cause] = _CLEAR
        elif words & VAGUE_WORDS[cause]:
            found[cause] = _VAGUE
    return found


def _from_checks(checks: dict[str, Check], *, beside_alert: bool) -> Diagnosis:
    known = [checks[cause] for cause in Cause if cause in checks]
    suspects = [check for check in unhealthy(known) if check.status is CheckStatus.CRITICAL or not beside_alert]
    if not suspects:
        return Diagnosis(None, _CONFIDENCE_UNKNOWN, ())
    worst = suspects[0]
    confidence = _CONFIDENCE_WARNING_CHECK_ONLY
    if worst.status is CheckStatus.CRITICAL:
        confidence = _CONFIDENCE_CRITICAL_CHECK_BESIDE_ALERT if beside_alert else _CONFIDENCE_CRITICAL_CHECK_ONLY
    if sum(check.status is worst.status for check in suspects) > 1:
        confidence -= _TIE_PENALTY
    evidence = f"the {worst.name} check is {worst.status}: {worst.message}"
    return Diagnosis(Cause(worst.name), _bounded(confidence), (evidence,))


def _weigh_words(case: AnalysisInput) -> tuple[dict[Cause, float], dict[Cause, str]]:
    """The weight of the words for each cause, and the most important place of these words."""
    weights: dict[Cause, float] = {}
    places: dict[Cause, str] = {}
    for weight, place, texts in _texts(case):
        for cause, clarity in causes_in(texts).items():
            weights[cause] = weights.get(cause, 0.0) + weight * clarity
            places.setdefault(cause, place)
    return {cause: weights[cause] for cause in Cause if cause in weights}, places


def _texts(case: AnalysisInput) -> list[tuple[float, str, set[str]]]:
    incident, alerts = case.incident, list(case.alerts)[:_MAX_ALERTS]
    names = {alert.name for alert in alerts} | {alert.title for alert in alerts}
    descriptions = {alert.description for alert in alerts}
    if incident is not None:
        # Not incident.summary: an earlier analysis may have written it.
        names.add(incident.title)
        descriptions.add(incident.description)
    annotations = _values(alert.annotations for alert in alerts)
    return [
        (_NAME_WEIGHT, "the alert's name", names),
        (_DESCRIPTION_WEIGHT, "the description", descriptions | annotations),
        (_LABEL_WEIGHT, "a label", _values(alert.labels for alert in alerts)),
    ]


def _values(maps: Iterable[dict[str, str]]) -> set[str]:
    """The values without links: the URL of a dashboard may contain any word."""
    values = {value for each in maps for value in each.values()}
    return {value for value in values if "://" not in value or " " in value}


def _status(checks: dict[str, Check], cause: Cause) -> CheckStatus:
    return checks[cause].status if cause in checks else CheckStatus.UNKNOWN


def _bounded(confidence: float) -> float:
    return round(min(_MAX_CONFIDENCE, max(_MIN_CONFIDENCE, confidence)), 2)
