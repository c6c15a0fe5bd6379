"""The verdict that all is well: what was seen says that nothing is wrong at the target now. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from orchestration.alert import Severity
from orchestration.contracts import Check, CheckStatus
from tasks.analyze.case import PATH_LABELS, Case
from tasks.analyze.topics import Topic, names_in, names_several, topic_of_check, words_of
from tasks.analyze.votes import OUTSIDE, topic_of_change

_BY_EXPRESSION, _BY_TOPIC, _BY_LESS = 0.8, 0.7, 0.5
"""The confidence that all is well: by the alert's own expression, by a check of its topic, by less, such as a look that
lasts a moment, or any check where nothing speaks of trouble, or what was strange is over."""

_REACH = names_in("down up unreachable offline reachable available unavailable answer answers responding probe")

_NO_PROCESS = "no process to look for"
_NOT_SPACE = names_in("inode inodes raid smart mdadm degraded readonly iops iowait latency slow")

_SEEN_FROM_OUTSIDE = frozenset({Topic.NETWORK, Topic.PROCESS, Topic.CERTIFICATE, Topic.DNS})
"""What a checker that sees whether the target serves can find well."""

_MOMENTARY = frozenset({"cpu"})
"""Checkers whose look lasts a moment: an alert is about minutes."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How sure it is that all is well, and the evidence for it, the best first."""

    confidence: float
    cites: Sequence[str]


def health_of(case: Case, topics: Set[Topic]) -> Health | None:
    """That all is well, if what was seen says so; `topics` is what the alert's words are about.

    No check may be unhealthy, and no series strange now. What a check finds now counts more than a series of the same
    topic, which shows the time before.
    """
    seen = _Seen(case, topics)
    if not seen.all_ok or seen.is_strange_now or seen.missed_the_thing:
        return None
    confidence = _confidence(seen)
    return None if confidence is None else Health(confidence=confidence, cites=seen.cites)


def _confidence(seen: _Seen) -> float | None:
    if seen.by_expression or seen.nobody_alerted:
        return _BY_EXPRESSION
    if seen.of_the_thing:
        return _BY_LESS if {check.name for check in seen.of_the_thing} <= _MOMENTARY else _BY_TOPIC
    if seen.is_served:
        return _BY_TOPIC
    if seen.topics or seen.trouble_goes_on:
        return None  # what was looked at is not what the alert is about
    return _BY_LESS


@dataclass
class _Seen:
    """What was seen at the target, as the verdict asks for it."""

    case: Case
    topics: Set[Topic]
    """What the alert's words are about."""

    @cached_property
    def checks(self) -> list[tuple[str, Check]]:
        """The checks that could look."""
        return [(number, check) for number, check in self.case.checks if check.status is not CheckStatus.UNKNOWN]

    @property
    def all_ok(self) -> bool:
        return bool(self.checks) and all(check.status is CheckStatus.OK for _, check in self.checks)

    @cached_property
    def by_expression(self) -> list[str]:
        """The checks of the alert's own expression."""
        return [number for number, check in self.checks if check.name == "prometheus" and _is_about(check, self.topics)]

    @property
    def is_strange_now(self) -> bool:
        """Whether a series is strange now, and no check of its topic has looked since."""
        strange = {topic_of_change(change) for _, change in self.case.changes if change.until is None}
        covered = {topic_of_check(check) for _, check in self.checks}
        return not self.by_expression and not strange <= covered - {None}

    @cached_property
    def of_topic(self) -> list[Check]:
        """The checks of what the alert is about."""
        return [check for _, check in self.checks if topic_of_check(check) in self.topics]

    @cached_property
    def of_the_thing(self) -> list[Check]:
        """Those that have looked at the very thing of which the alert speaks."""
        return [check for check in self.of_topic if _covers(check, self.case)]

    @property
    def missed_the_thing(self) -> bool:
        """Whether checks of the topic have looked at something else, such as another path."""
        return bool(self.of_topic) and not self.of_the_thing and not self.by_expression

    @property
    def is_served(self) -> bool:
        """Whether the target serves, and the alert says nothing more than that it does not."""
        outside = bool(self.topics) and self.topics <= _SEEN_FROM_OUTSIDE
        # That something can be connected to says nothing of a process that has failed there.
        outside = outside and (Topic.PROCESS not in self.topics or _speaks_of_reach(self.case))
        return outside and bool(self.by_topic)

    @cached_property
    def by_topic(self) -> list[str]:
        return [
            number for number, check in self.checks if topic_of_check(check) in self.topics or check.name in OUTSIDE
        ]

    @property
    def nobody_alerted(self) -> bool:
        """Whether somebody only asked, and nothing speaks of trouble."""
        return not self.case.given.alerts and self.case.given.incident is None

    @property
    def trouble_goes_on(self) -> bool:
        """Whether an alert fires, and nothing that was strange is over."""
        return _speaks_of_trouble(self.case) and not any(change.until for _, change in self.case.changes)

    @property
    def cites(self) -> list[str]:
        """The evidence, the best first."""
        return [*dict.fromkeys([*self.by_expression, *self.by_topic, *(number for number, _ in self.checks)])]


def _speaks_of_reach(case: Case) -> bool:
    return any(words_of(f"{alert.name} {alert.description}") & _REACH for alert in case.alerts)


def _speaks_of_trouble(case: Case) -> bool:
    return any(alert.firing and alert.severity is not Severity.INFO for alert in case.given.alerts)


def _covers(check: Check, case: Case) -> bool:
    """Whether a check has looked at the very thing of which the alert speaks: that path, space and not inodes."""
    if check.name == "process":
        return _NO_PROCESS not in check.message
    if topic_of_check(check) is not Topic.DISK:
        return True
    alerts = case.alerts
    if any(words_of(f"{alert.name} {alert.description}") & _NOT_SPACE for alert in alerts):
        return False
    paths = {alert.labels[name] for alert in alerts for name in PATH_LABELS if alert.labels.get(name)}
    seen = set(re.findall(r"(?<!\S)/\S*", check.message)) | set(re.findall(r"(?<!\S)/\S*", str(check.metrics)))
    return not paths or not seen or paths <= {path.rstrip(",;:") for path in seen}


def _is_about(check: Check, topics: Set[Topic]) -> bool:
    """Whether what Prometheus says can be the alert's own expression. Its host's figures of other topics are not."""
    topic = topic_of_check(check)
    return topic in topics if topic is not None else not names_several(check)
