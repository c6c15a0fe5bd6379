"""What the author of a policy may not have meant: it is no mistake, and somebody is not notified because of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from orchestration.alert import Severity
from orchestration.policy.document import Path
from orchestration.policy.matchers import Matcher, contradiction
from orchestration.policy.model import Policy, Route
from orchestration.problems import path_of
from orchestration.redaction import shown

_MOST_COMPARED = 200
"""Inhibitions, and routes that go on, that are compared with all others: each pair takes some microseconds."""


def doubts_of(policy: Policy) -> Iterator[tuple[Path, str]]:
    """The path and a message of each."""
    yield from _unreachable(policy.routes, ("routes",))
    ends = list(_ends_of(policy.routes, ("routes",), _Above()))
    for end in ends:
        yield from _impossible(end)
        yield from _unheard(policy, end)
    yield from _second_escalations(policy, ends)
    yield from _empty_windows(policy)
    yield from _circles(policy)


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
    return (
        all(matcher in route.matchers for matcher in earlier.matchers if matcher.label != "severity")
        and _takes(earlier, severity)
        and _covers(earlier, route, severity=False)
    )


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


def _impossible(end: _End) -> Iterator[tuple[Path, str]]:
    """A route of which no alert can meet the conditions and those of the routes above it."""
    *above, route = end.routes
    outer = [matcher for each in above for matcher in each.matchers]
    found = contradiction([*outer, *route.matchers]) if route.matchers else None
    if found is not None and contradiction(outer) is None:
        one, other = found
        yield (*end.path, "matchers"), f"no alert reaches this route: {one} and {other} cannot both hold"


def _second_escalations(policy: Policy, ends: Sequence[_End]) -> Iterator[tuple[Path, str]]:
    """Routes whose escalation does not begin for an alert that takes an earlier route with another one, too."""
    earlier = list[tuple[_End, frozenset[Severity]]]()
    goes_on = any(route.continue_ for end in ends for route in end.routes)
    for end in ends if goes_on else ():
        escalation = policy.escalations.get(end.escalation or "")
        if escalation is None:
            continue
        wanted = frozenset(
            each for each in Severity if end.takes(each) and any(step.counts_for(each) for step in escalation.steps)
        )
        for other, theirs in earlier:
            if other.escalation != end.escalation and theirs & wanted and _both_taken(other, end):
                which = f"the escalation {shown(other.escalation)} of {path_of(other.path)}"
                message = f"{shown(end.escalation)} never begins for an alert that takes {which} too"
                yield end.place, f"{message}: an incident follows one escalation, the first"
                break
        if any(route.continue_ for route in end.routes) and len(earlier) < _MOST_COMPARED:
            earlier.append((end, wanted))


def _both_taken(earlier: _End, later: _End) -> bool:
    """Whether one alert may take both routes, as far as that can be seen."""
    pairs = zip(earlier.levels, later.levels, strict=False)
    parting = next(((routes[at], at, other) for (routes, at), (_, other) in pairs if at != other), None)
    if parting is None or not parting[0].continue_ or parting[1] > parting[2]:
        return False
    routes = [*earlier.routes, *later.routes]
    if not _meet([route.source for route in routes]) or not _meet([route.environment for route in routes]):
        return False
    return contradiction([matcher for route in routes for matcher in route.matchers]) is None


def _meet(conditions: Sequence[Sequence[str]]) -> bool:
    """Whether one value is among the names of each condition; an empty one allows every value."""
    said = [set(names) for names in conditions if names]
    return not said or bool(said[0].intersection(*said[1:]))


def _empty_windows(policy: Policy) -> Iterator[tuple[Path, str]]:
    for name, periods in policy.windows.items():
        for at, period in enumerate(periods):
            if not period.has_a_day:
                yield ("windows", name, at, "days_of_month"), "it is never: none of its months has such a day"


def _circles(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Inhibitions by which alerts can keep each other back, so that nobody is told of any of them."""
    rules = policy.inhibitions[:_MOST_COMPARED]
    next_of = {
        at: {
            other
            for other, rule in enumerate(rules)
            if other != at and contradiction([*one.target_matchers, *rule.source_matchers]) is None
        }
        for at, one in enumerate(rules)
    }
    try:
        TopologicalSorter(next_of).prepare()
    except CycleError as error:
        circle = sorted({int(at) for at in error.args[1]})
        named = " and ".join(f"inhibitions[{at}]" for at in circle)
        message = f"by {named} alerts can keep each other back: then nobody is told of any of them"
        yield ("inhibitions", circle[-1]), message


def _unreachable(routes: Sequence[Route], path: Path) -> Iterator[tuple[Path, str]]:
    """The path of each route that an earlier one of its list always comes before, and a message that names that one."""
    # Two thousand routes are two million pairs: sets of numbers are compared first, which is fast.
    numbers: dict[Matcher, int] = {}
    matchers = [frozenset(numbers.setdefault(each, len(numbers)) for each in route.matchers) for route in routes]
    final = list[int]()
    for at, route in enumerate(routes):
        for before in final:
            if matchers[before] <= matchers[at] and _covers(earlier := routes[before], route):
                which = _called(earlier, (*path, before))
                yield (*path, at), f"no alert reaches this route: all that match it match {which} before it"
                break
        if not route.continue_:
            final.append(at)
        yield from _unreachable(route.routes, (*path, at, "routes"))


def _called(route: Route, path: Path) -> str:
    return f"the route {shown(route.name)}" if route.name else path_of(path)


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
