"""Which routes an alert takes at a moment, and why: an ordered path, and who is notified at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orchestration.alert import Alert, Severity
from orchestration.contracts import Contract
from orchestration.policy.matchers import all_match
from orchestration.policy.model import Policy, Route
from orchestration.policy.windows import is_within
from orchestration.redaction import shown


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What of an alert a policy decides by."""

    labels: Mapping[str, str]
    """Its labels; where it has none of the name also severity, source, environment and alertname."""
    severity: Severity
    source: str
    environment: str

    @classmethod
    def of(cls, alert: Alert, *, environment: str) -> Subject:
        """The subject that an alert is for a policy."""
        return cls.from_parts(
            alert.labels, name=alert.name, severity=alert.severity, source=alert.source, environment=environment
        )

    @classmethod
    def from_parts(
        cls, labels: Mapping[str, str], *, name: str, severity: Severity, source: str, environment: str
    ) -> Subject:
        """The subject of an alert with these labels and this name."""
        known = {"severity": severity.value, "source": source, "environment": environment, "alertname": name}
        return cls(labels={**known, **labels}, severity=severity, source=source, environment=environment)


class Verdict(StrEnum):
    """What happened to an alert at a route."""

    CHOSEN = "chosen"
    """It matches, and its target is notified."""
    MUTED = "muted"
    """It matches, and nobody is notified now."""
    PASSED_ON = "passed_on"
    """It matches, and a route below it decides."""
    NOT_MATCHED = "not_matched"


class PathStep(Contract):
    """One route that was looked at."""

    route: str
    """Where the route is in the policy: `routes[0].routes[2]`."""
    name: str = ""
    depth: int
    """0 for a route of the policy itself, 1 for one below it, …"""
    verdict: Verdict
    reason: str


class Target(Contract):
    """Who is notified by one route. With neither channels nor an escalation those are the default channels."""

    route: str
    name: str = ""
    channels: tuple[str, ...] | None = None
    """None means that no route on the way says it."""
    escalation: str | None = None
    definition: str | None = None
    muted_by: str = ""
    """Why nobody is notified now; "" means that somebody is."""

    @property
    def is_default(self) -> bool:
        """Whether no route on the way says who is notified."""
        return self.channels is None and self.escalation is None


class Decision(Contract):
    """The path of an alert through a policy, and the targets at its end, in order."""

    path: tuple[PathStep, ...]
    targets: tuple[Target, ...]

    @property
    def is_default(self) -> bool:
        """Whether the default channels are notified too: no route matches, or one that does not say whom."""
        return not self.targets or any(target.is_default and not target.muted_by for target in self.targets)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that are notified now, in order, without the default ones and those of escalations."""
        return _distinct(name for target in self.targets if not target.muted_by for name in target.channels or ())

    @property
    def escalations(self) -> tuple[str, ...]:
        """The escalations that begin now, in order."""
        return _distinct(target.escalation for target in self.targets if not target.muted_by and target.escalation)

    @property
    def definition(self) -> str | None:
        """The pipeline definition of the first target that names one."""
        return next((target.definition for target in self.targets if target.definition), None)

    @property
    def muted_by(self) -> str:
        """Why nobody is notified now; "" unless every target is muted."""
        all_muted = bool(self.targets) and all(target.muted_by for target in self.targets)
        return self.targets[0].muted_by if all_muted else ""


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def decide(policy: Policy, subject: Subject, at: datetime, *, explain: bool = True) -> Decision:
    """Which routes a subject takes at a moment, which is aware, with the reason of each step.

    Without `explain` the path is empty, which takes a third of the time in a policy of many routes.
    """
    walk = _Walk(policy, subject, at, explain=explain)
    targets = walk.through(policy.routes, "routes", Target(route=""), 0)
    return Decision(path=tuple(walk.path), targets=tuple(targets))


def union(decisions: Sequence[Decision]) -> Decision:
    """The decision for an incident: the paths and the targets of its alerts one after the other, each target once.

    A target that is muted for one alert and not for another is not muted.
    """
    if len(decisions) == 1:
        return decisions[0]
    path = [step for decision in decisions for step in decision.path]
    targets: dict[tuple[object, ...], Target] = {}
    for target in (target for decision in decisions for target in decision.targets):
        known = targets.get(key := (target.route, target.channels, target.escalation))
        if known is None or (known.muted_by and not target.muted_by):
            targets[key] = target
    # An alert that no route matches goes to the default channels, whatever the others do.
    if targets and any(not decision.targets for decision in decisions):
        targets[()] = Target(route="")
    return Decision(path=tuple(path), targets=tuple(targets.values()))


class _Walk:
    """One way of a subject through the routes; it notes each step."""

    def __init__(self, policy: Policy, subject: Subject, at: datetime, *, explain: bool) -> None:
        self.path: list[PathStep] = []
        self._explain = explain
        self._policy = policy
        self._subject = subject
        self._at = at

    def through(self, routes: Sequence[Route], place: str, above: Target, depth: int) -> list[Target]:
        """The targets of these routes, which inherit what they do not say from the one above."""
        found = list[Target]()
        for number, route in enumerate(routes):
            targets = self._at_route(route, f"{place}[{number}]", above, depth)
            found += targets
            if targets and not route.continue_:
                break
        return found

    def _at_route(self, route: Route, place: str, above: Target, depth: int) -> list[Target]:
        """The targets that the route and those below it lead to; none if it does not match."""
        if not self._matches(route):
            if self._explain:
                self._note(route, place, depth, Verdict.NOT_MATCHED, self._unmet(route))
            return []
        reason = _conditions(route) if self._explain else ""
        at = len(self.path)
        target = _target(route, place, above)
        if below := self.through(route.routes, f"{place}.routes", target, depth + 1):
            self._note(route, place, depth, Verdict.PASSED_ON, f"{reason}; a route below it matches too", at=at)
            return below
        if muted_by := self._muted_by(route):
            self._note(route, place, depth, Verdict.MUTED, f"{reason}; {muted_by}", at=at)
            return [target.model_copy(update={"muted_by": muted_by})]
        more = "; the routes after it are looked at too" if route.continue_ else ""
        self._note(route, place, depth, Verdict.CHOSEN, f"{reason}{more}", at=at)
        return [target]

    def _matches(self, route: Route) -> bool:
        """Whether the subject meets all conditions of the route."""
        subject = self._subject
        return (
            (not route.severity or subject.severity in route.severity)
            and (not route.source or subject.source in route.source)
            and (not route.environment or subject.environment in route.environment)
            and all_match(route.matchers, subject.labels)
            and (not route.during or any(map(self._is_in, route.during)))
        )

    def _unmet(self, route: Route) -> str:
        """The first condition of the route that the subject does not meet, in words. There is one."""
        subject = self._subject
        for name, allowed, value in (
            ("severity", route.severity, subject.severity),
            ("source", route.source, subject.source),
            ("environment", route.environment, subject.environment),
        ):
            if allowed and value not in allowed:
                return f"{name} is {value}, not {' or '.join(allowed)}"
        for matcher in route.matchers:
            if not matcher.matches(subject.labels):
                value = subject.labels.get(matcher.label)
                found = "there is no such label" if value is None else f"it is {shown(value)}"
                return f"{matcher} does not hold: {found}"
        return f"it is not {' or '.join(route.during)} now"

    def _muted_by(self, route: Route) -> str:
        if (window := next(filter(self._is_in, route.mute), None)) is not None:
            return f"muted: it is {window} now"
        if route.active and not any(map(self._is_in, route.active)):
            return f"not active: it is not {' or '.join(route.active)} now"
        return ""

    def _is_in(self, window: str) -> bool:
        return is_within(self._policy.windows[window], self._at)

    def _note(
        self, route: Route, place: str, depth: int, verdict: Verdict, reason: str, *, at: int | None = None
    ) -> None:
        if not self._explain:
            return
        step = PathStep(route=place, name=route.name or "", depth=depth, verdict=verdict, reason=reason)
        self.path.insert(len(self.path) if at is None else at, step)


def _target(route: Route, place: str, above: Target) -> Target:
    """The target of a route. Channels and escalation are inherited together, the definition by itself."""
    own = {"channels": route.channels, "escalation": route.escalation} if route.has_target else {}
    given = {**own, "route": place, "name": route.name or ""}
    if route.definition is not None:
        given["definition"] = route.definition
    return above.model_copy(update=given)


def _conditions(route: Route) -> str:
    """Why a route matches, in words."""
    said = [
        f"{name} is {' or '.join(allowed)}"
        for name, allowed in (
            ("severity", route.severity),
            ("source", route.source),
            ("environment", route.environment),
        )
        if allowed
    ]
    said += [f"{matcher} holds" for matcher in map(str, route.matchers)]
    said += [f"it is {' or '.join(route.during)}"] if route.during else []
    return " and ".join(said) or "it has no condition"
