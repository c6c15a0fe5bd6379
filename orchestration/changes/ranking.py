"""Which entities probably began it: by their own deviation, and by their place among the dependencies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestration.changes.blame import Dependencies, Dependency, divide_blame
from orchestration.changes.deviations import Deviation, deviation_of, deviations, trouble_of
from orchestration.changes.series import Name, Range, Table, clean
from orchestration.changes.shown import Shown
from orchestration.changes.words import reason
from orchestration.contracts import Change

_TIE = 0.05
"""What an entity's own deviation adds to its blame: enough to order those that take none."""
_OUT_OF_REACH = 0.25
"""The weight of a deviation where the target depends on it neither directly nor indirectly."""


@dataclass(frozen=True)
class Ranked:
    """An entity, and how likely it began the trouble: the larger the score, the likelier."""

    entity: str
    score: float
    why: str
    changes: Sequence[Change] = ()
    """Its series that left their normal ranges, the strangest first."""


def rank(normal: Table, during: Table, target: Name, dependencies: Iterable[Dependency] | None = None) -> list[Ranked]:
    """The entities of an incident, the likeliest cause first; ties by name.

    `target` is the series that shows the trouble. It has to be in `during`, with one point at least that is a number.
    """
    points = clean(during[target])
    if not points:
        raise ValueError(f"{target[0]} has no value of {target[1]} during the incident")
    trouble = trouble_of(clean(normal.get(target, ())), points, target[1])
    shown = Shown(target, list(deviations(normal, during, trouble)))
    if dependencies is None:
        scores = {entity: shown.weighted_strength(entity) for entity in shown.entities}
        blame: Mapping[str, float] = {}
    else:
        blame = divide_blame(shown, Dependencies(dependencies))
        scores = _with_blame(shown, blame)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [
        Ranked(entity, round(score, 4), reason(shown, entity, blame), _changes_of(shown.of(entity)))
        for entity, score in ordered
    ]


def has_trouble(normal: Table, during: Table, target: Name) -> bool:
    """Whether the target leaves its normal range by at least half of its width, or has none to leave."""
    past, points = clean(normal.get(target, ())), clean(during[target])
    found = deviation_of(target, past, points, trouble_of(past, points, target[1]))
    return found is None or found.normal is None or found.excess >= 1.0


def _changes_of(found: Iterable[Deviation]) -> list[Change]:
    """The deviations that lie outside of their normal range, the strangest first."""
    outside = sorted((one for one in found if one.excess > 0), key=lambda one: (-one.strength, one.name))
    return [change_of(one) for one in outside if one.normal]


def change_of(one: Deviation) -> Change:
    """A deviation as the contracts have it."""
    since, until = (None if at is None else datetime.fromtimestamp(at, UTC) for at in (one.since, one.until))
    usual, (entity, metric), score = one.normal or Range(one.now, one.now, one.now), one.name, round(one.strength, 4)
    return Change(
        entity=entity,
        metric=metric,
        now=one.now,
        low=usual.low,
        high=usual.high,
        score=score,
        since=since,
        until=until,
    )


def _with_blame(shown: Shown, blame: Mapping[str, float]) -> dict[str, float]:
    strengths = {entity: shown.strength(entity) for entity in shown.entities}
    strongest = max(strengths.values(), default=0.0) or 1.0
    scores: dict[str, float] = defaultdict(float, blame)
    for entity, strength in strengths.items():
        scores[entity] += _TIE * strength / strongest * (1.0 if entity in blame else _OUT_OF_REACH)
    return scores
