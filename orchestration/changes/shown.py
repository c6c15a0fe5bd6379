"""What the series of all entities show together: how strange each entity is, and how much of the target it can make."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from orchestration.changes.deviations import Deviation
from orchestration.changes.series import Kind, Name, kind_of

_OTHER_KIND, _TRAFFIC = 0.5, 0.25
"""What a deviation counts whose kind is not the target's. Traffic mostly follows trouble."""
_RATIO = re.compile(r"ratio|percent|pct|share", re.IGNORECASE)


class Shown:
    """The deviations of an incident, by entity."""

    def __init__(self, target: Name, found: Iterable[Deviation]) -> None:
        self.target, self.metric = target
        self.kind = kind_of(self.metric)
        self._by_entity: dict[str, dict[str, Deviation]] = defaultdict(dict)
        for one in found:
            self._by_entity[one.name[0]][one.name[1]] = one
        self._traffic_metric = self._metric_of_traffic()

    @property
    def entities(self) -> Sequence[str]:
        """The entities with a value during the trouble."""
        return list(self._by_entity)

    def of(self, entity: str) -> Sequence[Deviation]:
        """What the series of an entity show."""
        return list(self._by_entity[entity].values()) if entity in self._by_entity else []

    def own(self, entity: str) -> Deviation | None:
        """What the entity shows in the target's metric."""
        return self._by_entity[entity].get(self.metric) if entity in self._by_entity else None

    def traffic(self, entity: str) -> float | None:
        """How much an entity has to do, if its series say so."""
        one = self._by_entity[entity].get(self._traffic_metric) if entity in self._by_entity else None
        return one.now if one and one.now > 0 else None

    def strength(self, entity: str) -> float:
        """How strange an entity is: its strangest kind of metric, by the mean of the two that deviate most.

        The mean of two, since one of several statistics of the same thing is easily far off by chance.
        """
        by_kind: dict[Kind, list[float]] = defaultdict(list)
        for one in self.of(entity):
            by_kind[one.kind].append(one.strength)
        return max((self._weight(kind) * _mean_of_two(found) for kind, found in by_kind.items()), default=0.0)

    def weighted_strength(self, entity: str) -> float:
        """How strange an entity is, less if even all of its change makes only a part of the target's."""
        share = self.share_of_target(entity)
        return self.strength(entity) * (1.0 if share is None else (1 + share) / 2)

    def share_of_target(self, entity: str) -> float | None:
        """How much of the target's change the entity's could be, by its size and its traffic; at most 1."""
        mine, its = self.own(entity), self.own(self.target)
        if not self.adds_up or not mine or not its or its.change <= 0:
            return None
        traffic, all_traffic = self.traffic(entity), self.traffic(self.target)
        ratio = traffic / all_traffic if self.per_request and traffic and all_traffic else 1.0
        return min(mine.change * ratio / its.change, 1.0)

    @property
    def adds_up(self) -> bool:
        """Whether a caller's value of the target's metric contains those of its callees, as latency and failures do."""
        return self.kind in (Kind.LATENCY, Kind.SUCCESS, Kind.FAILURES)

    @property
    def per_request(self) -> bool:
        """Whether the target's metric is a mean over requests, not a count of them."""
        return self.kind is not Kind.FAILURES or bool(_RATIO.search(self.metric))

    def _weight(self, kind: Kind) -> float:
        if kind is self.kind or {kind, self.kind} == {Kind.FAILURES, Kind.SUCCESS}:
            return 1.0
        return _TRAFFIC if kind is Kind.TRAFFIC else _OTHER_KIND

    def _metric_of_traffic(self) -> str:
        counts: dict[str, int] = defaultdict(int)
        for series in self._by_entity.values():
            for metric, one in series.items():
                if one.kind is Kind.TRAFFIC:
                    counts[metric] += 1
        return max(sorted(counts), key=lambda metric: counts[metric], default="")


def _mean_of_two(strengths: Sequence[float]) -> float:
    largest = sorted(strengths, reverse=True)[:2]
    return sum(largest) / len(largest)
