"""The target's change, divided among the entities on which it depends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from orchestration.changes.series import Kind
from orchestration.changes.shown import Shown

Dependency = tuple[str, str]
"""A caller, and whom it calls."""

DependencySource = Callable[[], Awaitable[Sequence[Dependency]]]
"""Finds who depends on whom in this installation. It raises nothing: without an answer nothing is known."""

_HOPS = 30
_SMALLEST = 1e-4
_LEAST_KEPT = 0.1
"""What an entity always keeps, so that entities which call each other in a circle share the blame."""
_BY_ANOTHER_KIND = 0.25
"""The largest part of what its callees' same metric leaves to an entity that their other metrics can take from it."""


class Dependencies:
    """Who calls whom. Circles are allowed; who calls itself does not count."""

    def __init__(self, pairs: Iterable[Dependency]) -> None:
        self._callees: dict[str, set[str]] = defaultdict(set)
        self._callers: dict[str, set[str]] = defaultdict(set)
        for caller, callee in pairs:
            if caller != callee:
                self._callees[caller].add(callee)
                self._callers[callee].add(caller)

    def callees(self, entity: str) -> Sequence[str]:
        """Whom an entity calls, in order of name."""
        return sorted(self._callees.get(entity, ()))

    def callers(self, entity: str) -> Sequence[str]:
        """Who calls an entity, in order of name."""
        return sorted(self._callers.get(entity, ()))


def divide_blame(shown: Shown, dependencies: Dependencies) -> Mapping[str, float]:
    """How much of the blame each entity keeps that the target reaches; about 1 in all.

    It begins with the target. An entity hands on to its callees what their changes can make of its own, and keeps the
    rest. If both it and a callee could have done it, the callee has: two that break at one time are rarer than one.
    Traffic goes the other way: who is asked more or less than usual is so because of its callers.
    """
    upward = shown.kind is Kind.TRAFFIC
    kept: dict[str, float] = defaultdict(float)
    moving = {shown.target: 1.0}
    for _ in range(_HOPS):
        arriving: dict[str, float] = defaultdict(float)
        for entity, blame in moving.items():
            causes = dependencies.callers(entity) if upward else dependencies.callees(entity)
            parts = _parts(shown, dependencies, entity, causes)
            for cause in causes:
                kept[cause] += 0.0
                arriving[cause] += blame * parts.get(cause, 0.0)
            kept[entity] += blame * (1 - sum(parts.values()))
        moving = {entity: blame for entity, blame in arriving.items() if blame > _SMALLEST}
        if not moving:
            break
    for entity, blame in moving.items():
        kept[entity] += blame
    return kept


def _parts(shown: Shown, dependencies: Dependencies, entity: str, causes: Sequence[str]) -> dict[str, float]:
    """Which part of an entity's blame goes to which of its causes; what remains to 1 is its own."""
    made = {cause: _share(shown, dependencies, entity, cause) for cause in causes}
    total = sum(made.values())
    own = max(max(1 - total, 0.0) ** 2, _LEAST_KEPT)
    parts = {cause: (1 - own) * share / total for cause, share in made.items() if share > 0}
    others = {cause: shown.strength(cause) for cause in causes if not made[cause]}
    strongest = max(others.values(), default=0.0)
    if not strongest:
        return parts
    taken = own * _BY_ANOTHER_KIND * strongest / (strongest + shown.strength(entity))
    for cause, strength in others.items():
        parts[cause] = taken * strength / sum(others.values())
    return parts


def _share(shown: Shown, dependencies: Dependencies, entity: str, cause: str) -> float:
    """How much of an entity's change in the target's metric a callee's can be, by its size and its calls; 0 to 1.

    The calls of a callee with several callers are divided by how much these have to do. A change that is hardly
    outside of the callee's own normal range counts less.
    """
    mine, its = shown.own(entity), shown.own(cause)
    if not shown.adds_up or not mine or not its or mine.change <= 0 or its.change <= 0:
        return 0.0
    ratio = 1.0
    if shown.per_request:
        traffic = shown.traffic(cause)
        callers = sum(shown.traffic(caller) or 0.0 for caller in dependencies.callers(cause))
        ratio = traffic / callers if traffic and callers else 1.0
    return min(its.change * ratio / mine.change, 1.0) * its.excess / (1 + its.excess)
