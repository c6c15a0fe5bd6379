"""How far each series leaves its own past while the target is in trouble, and no sooner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import median

from orchestration.changes.series import (
    Kind,
    Name,
    Point,
    Range,
    Table,
    between,
    can_fall,
    clean,
    direction_of,
    growth,
    is_counter,
    kind_of,
    range_at,
    range_of,
    step_of,
)

_NOVEL = 1.0
"""The deviation of a series that has no past: it is new, and nobody can say how strange it is."""

_NEARLY = 0.8
"""A target with this part of its largest deviation is at its peak: what remains may be chance."""

_SUDDEN = 1.5
"""How many steps a jump may take: where it lies between two points is not known."""

_GONE, _STEADY_POINTS, _MOST_MISSING = 2, 5, 1000
"""How many points in a row show by their absence that a series has ended, and how many before that it was there."""

_BACK = 2
"""How many points at the end show that a series is normal again."""


@dataclass(frozen=True)
class Trouble:
    """When the target is in trouble, and when it is well, as far as the incident's series show it."""

    bad: tuple[tuple[float, float], ...]
    well: tuple[tuple[float, float], ...]
    step: float

    def earlier(self) -> Trouble:
        """The same one step earlier: where a cause shows first."""
        shift = self.step
        return replace(
            self,
            bad=tuple((begin - shift, end - shift) for begin, end in self.bad),
            well=tuple((begin - shift, end - shift) for begin, end in self.well),
        )


@dataclass(frozen=True)
class Deviation:
    """How a series behaves during the trouble."""

    name: Name
    kind: Kind
    now: float
    normal: Range | None
    excess: float
    """How far it is outside of its normal range because of the trouble, in half-widths of that range."""
    change: float
    """By how much it is worse than without the trouble, in its own unit; 0 if it is not."""
    since: float | None
    """When it left its normal range."""
    until: float | None = None
    """When it came back, if it has stayed there to the end."""

    @property
    def strength(self) -> float:
        """Its excess on a scale on which twice as far is one more: 0 for none."""
        return math.log2(1 + self.excess)


def trouble_of(past: Sequence[Point], during: Sequence[Point], metric: str) -> Trouble:
    """The times at which the target deviates by at least half of its largest deviation, and those when it is well.

    While its deviation only begins to grow, it is neither: the cause may be there already.
    """
    normal = range_at(past, [moment for moment, _ in during])
    middle = normal.middle if normal else median(value for _, value in during)
    shape = [(moment, _signed(value - middle, direction_of(kind_of(metric)))) for moment, value in during]
    worst = max(distance for _, distance in shape)
    step = step_of(during) or step_of(past)
    rises = list(_rises(shape, worst, step))
    bad: list[tuple[float, float]] = []
    well: list[tuple[float, float]] = []
    for moment, distance in shape:
        around = (moment - step / 2, moment + step / 2)
        if worst <= 0 or distance >= worst / 2:
            bad.append(around)
        elif not any(begin < moment < end for begin, end in rises):
            well.append(around)
    return Trouble(tuple(bad), tuple(well), step)


def _rises(shape: Sequence[Point], worst: float, step: float) -> Iterator[tuple[float, float]]:
    """From when on a deviation grows to half of its largest, each time that it takes longer than a step.

    The line through its half and its peak leads back to its begin. A cause can show one step sooner.
    """
    half, most = worst / 2, _NEARLY * worst
    for number, (moment, distance) in enumerate(shape):
        if worst <= 0 or number == 0 or not shape[number - 1][1] < half <= distance:
            continue
        high = takewhile(lambda one: shape[one][1] >= half, range(number, len(shape)))
        peak = next((one for one in high if shape[one][1] >= most), None)
        if peak is None:
            continue
        middle, top = _crossing(shape, number, half), _crossing(shape, peak, most)
        begin = middle - (top - middle) / (2 * _NEARLY - 1)
        if moment - begin > _SUDDEN * step:
            yield begin - step, moment


def _crossing(shape: Sequence[Point], number: int, level: float) -> float:
    """When a deviation that reaches a level at this point has passed it since the point before."""
    (earlier, low), (later, high) = shape[number - 1], shape[number]
    return later - (later - earlier) * (high - level) / (high - low) if low < level else later


def deviations(normal: Table, during: Table, trouble: Trouble) -> Iterator[Deviation]:
    """What each series of the incident shows; a series without a point in the time of the trouble is left out.

    One that ends counts as 0 if its kind is one that falls.
    """
    for name in dict.fromkeys([*during, *normal]):
        if found := deviation_of(name, clean(normal.get(name, ())), clean(during.get(name, ())), trouble):
            yield found


def deviation_of(name: Name, past: Sequence[Point], points: Sequence[Point], trouble: Trouble) -> Deviation | None:
    """What one series shows. The larger of two: at the times of the trouble, and one step earlier."""
    if is_counter(past):
        past, points = growth(past), growth(points)
    points = _ended(kind_of(name[1]), past, points, trouble) or points
    if not points:
        return None
    normal = range_at(past, [moment for moment, _ in points])
    found = [_at(name, normal, past, points, one) for one in (trouble, trouble.earlier())]
    return max((one for one in found if one), key=lambda one: one.excess, default=None)


def _at(
    name: Name, normal: Range | None, past: Sequence[Point], points: Sequence[Point], trouble: Trouble
) -> Deviation | None:
    wider = max(step_of(points) - trouble.step, 0.0) / 2
    bad = _within(points, trouble.bad, wider)
    well = [point for point in _within(points, trouble.well, wider) if point not in bad]
    if not bad:
        return None
    kind, now = kind_of(name[1]), median(value for _, value in bad)
    normal = normal or range_of(value for _, value in (*past, *well))
    if normal is None:
        change = _novel_change(kind, now)
        return Deviation(name, kind, now, None, _NOVEL if change else 0.0, change, bad[0][0])
    before = median(value for _, value in well) if well else normal.middle
    fall = min(normal.fall(now, normal.low), normal.fall(now, before)) if can_fall(kind) else 0.0
    direction = -1 if fall else direction_of(kind) or (1 if now >= normal.middle else -1)
    change = max((now - before) * direction, 0.0)
    excess = max(min(normal.excess(now, direction), normal.in_units(change)), fall)
    since = _left_at(points, bad[-1][0], normal, direction) if excess else None
    return Deviation(name, kind, now, normal, excess, change, since, _back_at(points, normal, direction))


def _ended(kind: Kind, past: Sequence[Point], points: Sequence[Point], trouble: Trouble) -> Sequence[Point]:
    """A series without gaps that ends before or in the trouble, with 0 from its end on; empty if it does not end."""
    known = sorted(dict([*past[-_STEADY_POINTS:], *points]).items())
    if not can_fall(kind) or len(known) < _STEADY_POINTS:
        return []
    recent = known[-_STEADY_POINTS:]
    step, last, end = step_of(recent), recent[-1][0], max(until for _, until in trouble.bad)
    seen_from = min(begin for begin, _ in (*trouble.well, *trouble.bad))
    # What has ended long before, or comes and goes, is no news.
    if last < seen_from - 2 * step or recent[-1][0] - recent[0][0] > _STEADY_POINTS * step:
        return []
    missing = int((end - last) / step)
    if missing < _GONE:
        return []
    zeros = [(last + step * number, 0.0) for number in range(1, min(missing, _MOST_MISSING) + 1)]
    return [*points, *zeros]


def _left_at(points: Sequence[Point], last: float, normal: Range, direction: int) -> float | None:
    """Since when a series has been outside of its normal range without a break, at a moment of the trouble."""
    since = None
    for moment, value in points:
        if normal.excess(value, direction) <= 0:
            since = None
        elif since is None:
            since = moment
        if moment >= last and since is not None:
            return since
    return since


def _back_at(points: Sequence[Point], normal: Range, direction: int) -> float | None:
    """Since when a series has been in its normal range again, to its end. One point alone may be chance."""
    back: list[float] = []
    for moment, value in points:
        back = [*back, moment] if normal.excess(value, direction) <= 0 else []
    return back[0] if _BACK <= len(back) < len(points) else None


def _novel_change(kind: Kind, now: float) -> float:
    if kind is Kind.SUCCESS:
        return max((100.0 if now > 1 else 1.0) - now, 0.0)
    return abs(now)


def _within(points: Sequence[Point], times: Sequence[tuple[float, float]], wider: float) -> list[Point]:
    """The points in some times, each once. A series with fewer points than the target's has wider times."""
    found = (point for begin, end in times for point in between(points, begin - wider, end + wider))
    return list(dict.fromkeys(found))


def _signed(distance: float, direction: int) -> float:
    return distance * direction if direction else abs(distance)
