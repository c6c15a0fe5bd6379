"""What the author of a policy may not have meant: it is no mistake, and somebody is not notified because of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestration.alert import Severity
from orchestration.policy.document import Path
from orchestration.policy.matchers import Matcher
from orchestration.policy.model import Policy, Route
from orchestration.redaction import shown


def doubts_of(policy: Policy) -> Iterator[tuple[Path, str]]:
    """The path and a message of each."""
    yield from _unreachable(policy.routes, ("routes",))
    for end in _ends_of(policy.routes, ("routes",), _Above()):
        yield from _unheard(policy, end)


@dataclass(frozen=True)
class _Above:
    """The routes above a list of routes, and what that list inherits from them."""

    levels: tuple[tuple[Sequence[Route], int], ...] = ()
    """Each list of routes on the way, with the number of the route that the way takes."""
    channels: tuple[str, ...] | None = None
    escalation: str | None = None


@dataclass(frozen=True)
class _End:
    """A route at which the way of an alert can end, with all that leads to it."""

    path: Path
    levels: tuple[tuple[Sequence[Route], int], ...]
    channels: tuple[str, ...] | None
    escalation: str | None

    @property
    def routes(self) -> list[Route]:
        """The routes on the way, from the top."""
        return [routes[at] for routes, at in self.levels]

    @property
    def place(self) -> Path:
        """Where the escalation is named, if the route itself does."""
        return (*self.path, "escalation") if self.routes[-1].escalation else self.path

    def takes(self, severity: Severity) -> bool:
        """Whether an alert of this severity can end here: no route before or below always comes first."""
        for routes, at in self.levels:
            route = routes[at]
            final = (earlier for earlier in routes[:at] if not earlier.continue_)
            if not _takes(route, severity) or any(_comes_first(one, route, severity) for one in final):
                return False
        last = self.routes[-1]
        return not any(_comes_first(below, last, severity) for below in last.routes)


def _ends_of(routes: Sequence[Route], path: Path, above: _Above) -> Iterator[_End]:
    for at, route in enumerate(routes):
        given = route if route.has_target else above
        here = _Above(levels=(*above.levels, (routes, at)), channels=given.channels, escalation=given.escalation)
        yield from _ends_of(route.routes, (*path, at, "routes"), here)
        yield _End((*path, at), here.levels, here.channels, here.escalation)


def _takes(route: Route, severity: Severity) -> bool:
    labels = {"severity": severity.value}
    named = (matcher for matcher in route.matchers if matcher.label == "severity")
    return (not route.severity or severity in route.severity) and all(each.matches(labels) for each in named)


def _comes_first(earlier: Route, route: Route, severity: Severity) -> bool:
    """Whether each alert of this severity that the route matches is matched by another one too."""
    others = {matcher for matcher in earlier.matchers if matcher.label != "severity"}
    return others <= set(route.matchers) and _takes(earlier, severity) and _covers(earlier, route, severity=False)


def _unheard(policy: Policy, end: _End) -> Iterator[tuple[Path, str]]:
    """The severities of incidents of which nobody is notified, because no step of the escalation is for them."""
    escalation = policy.escalations.get(end.escalation or "")
    if escalation is None or end.channels:
        return
    without = [each for each in Severity if not any(step.counts_for(each) for step in escalation.steps)]
    if missing := [each.value for each in without if end.takes(each)]:
        instead = "the catch_all channels are" if policy.catch_all else "the default channels are"
        what = f"the escalation {shown(end.escalation)} has no step for {' and '.join(missing)}"
        yield end.place, f"{what}: of such an incident only {instead} notified, at once"


def _unreachable(routes: Sequence[Route], path: Path) -> Iterator[tuple[Path, str]]:
    """The path of each route that an earlier one of its list always comes before, and a message that names that one."""
    # Two thousand routes are two million pairs: sets of numbers are compared first, which is fast.
    numbers: dict[Matcher, int] = {}
    matchers = [frozenset(numbers.setdefault(each, len(numbers)) for each in route.matchers) for route in routes]
    final = list[int]()
    for at, route in enumerate(routes):
        for before in final:
            if matchers[before] <= matchers[at] and _covers(earlier := routes[before], route):
                yield (*path, at), f"no alert reaches this route: all that match it match {_called(earlier, before)}"
                break
        if not route.continue_:
            final.append(at)
        yield from _unreachable(route.routes, (*path, at, "routes"))


def _called(route: Route, at: int) -> str:
    return f"the route {shown(route.name)} before it" if route.name else f"route {at} before it"


def _covers(earlier: Route, later: Route, *, severity: bool = True) -> bool:
    """Whether each alert that meets the later route's conditions meets the earlier one's, apart from matchers."""
    return (
        (not severity or _allows(earlier.severity, later.severity))
        and _allows(earlier.source, later.source)
        and _allows(earlier.environment, later.environment)
        and _allows(earlier.during, later.during)
    )


def _allows(earlier: Sequence[str], later: Sequence[str]) -> bool:
    """Whether a condition that one of these must be met lets through what another such condition lets through."""
    return not earlier or (bool(later) and set(later) <= set(earlier))
