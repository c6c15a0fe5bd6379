"""Series of numbers, their kinds, and the range in which each normally is."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from math import copysign, inf, isfinite, log
from statistics import median

Point = tuple[float, float]
"""A moment, in Unix seconds, and a value."""

Name = tuple[str, str]
"""The entity and the metric of a series."""

Table = Mapping[Name, Sequence[Point]]
"""Series by name."""

_DAY, _HOUR = 86_400, 3_600
_MIN_PAST = 5
_MIN_OF_HOURS = 8
_LARGEST = 1e100
"""What is larger counts as this: its square would be no number any more."""
_SMALLEST_SHARE = 0.01
"""A change of less than a hundredth of the usual value is none, however steady the series has been."""
_FAR = 10.0
"""The deviation of a series that has always been 0 and is not, and of one that falls to nothing."""
_NOTHING = 0.1
"""A fall ends at this part of the half-width: of a series that varies as much as it is large, 0 may be chance."""


class Kind(StrEnum):
    """What a metric counts, which says in which direction it is bad."""

    LATENCY = "latency"
    FAILURES = "failures"
    SUCCESS = "success"
    TRAFFIC = "traffic"
    USE = "use"
    OTHER = "other"


_WORDS = {
    Kind.FAILURES: re.compile(
        r"(err(or)?|fail(ed|ure)?|fault|exception|timeout|drop(ped)?|reject(ed)?|refused|retr(y|ie)|retransmit|restart|"
        r"unavailable|[45]xx|oom)s?"
    ),
    Kind.SUCCESS: re.compile(r"availab(le|ility)|success(es|ful)?|health(y)?|up|ready"),
    Kind.LATENCY: re.compile(r"latenc(y|ies)|durations?|delays?|lag|waits?|response|rtt|elapsed"),
    Kind.TRAFFIC: re.compile(r"requests?|traffic|throughput|rps|qps|calls?|hits|invocations?|messages?|packets?|bytes"),
    Kind.USE: re.compile(r"cpu|mem(ory)?|heap|disk|us(ed|age)|utili[sz]ation|saturation|queued?|backlog|load|threads"),
}
"""The words of a metric's name that tell its kind, the first kind that fits."""
_WORD = re.compile(r"[0-9]+xx|[A-Z]*[a-z]+|[A-Z]+|[0-9]+")


@cache
def kind_of(metric: str) -> Kind:
    """What a metric counts, by the words of its name; the order of the kinds decides between several."""
    words = {word.lower() for word in _WORD.findall(metric[:200])}
    fitting = (kind for kind, named in _WORDS.items() if any(map(named.fullmatch, words)))
    return next(fitting, Kind.OTHER)


def direction_of(kind: Kind) -> int:
    """Where the trouble lies: 1 above the normal range, -1 below, 0 on either side."""
    return {Kind.LATENCY: 1, Kind.FAILURES: 1, Kind.USE: 1, Kind.SUCCESS: -1}.get(kind, 0)


def can_fall(kind: Kind) -> bool:
    """Whether a series that falls to a fraction of its usual values is news, as of traffic: it is not used any more."""
    return kind in (Kind.TRAFFIC, Kind.USE, Kind.OTHER)


def clean(points: Sequence[Point]) -> Sequence[Point]:
    """The points in order of time, without what is no finite number; of several at one moment the last."""
    finite = [
        point if -_LARGEST < point[1] < _LARGEST else (point[0], copysign(_LARGEST, point[1]))
        for point in points
        if isfinite(point[0]) and isfinite(point[1])
    ]
    if all(earlier[0] < later[0] for earlier, later in pairwise(finite)):
        return finite
    return sorted(dict(finite).items())


def is_counter(points: Sequence[Point]) -> bool:
    """Whether a series only grows, but for resets, so that not its value but its growth says something."""
    allowed, steps = len(points) // 20, len(points) - 1
    if steps < 2 * _MIN_PAST:
        return False
    grown = 0
    for (_, before), (_, after) in pairwise(points):
        grown += after > before
        if after < before:
            allowed -= 1
            if allowed < 0 or after > before / 2:
                return False
    return grown > steps // 2


def growth(points: Sequence[Point]) -> list[Point]:
    """How much a counter grows in a second, at each point but the first; it begins at 0 again after a reset."""
    rates: list[Point] = []
    for (earlier, before), (later, after) in pairwise(points):
        rates.append((later, (after - before if after >= before else after) / (later - earlier)))
    return rates


@dataclass(frozen=True)
class Range:
    """Where a series normally is: nine of ten values lie between `low` and `high`."""

    low: float
    middle: float
    high: float

    @property
    def unit(self) -> float:
        """Half the width of the range, the measure of its deviations; never less than a hundredth of the value."""
        return max((self.high - self.low) / 2, _SMALLEST_SHARE * abs(self.middle))

    def excess(self, value: float, direction: int) -> float:
        """How far a value lies outside, in units, in the direction that is bad; 0 inside."""
        above = max(value - self.high, 0.0) if direction >= 0 else 0.0
        below = max(self.low - value, 0.0) if direction <= 0 else 0.0
        return self.in_units(max(above, below))

    def in_units(self, distance: float) -> float:
        """A distance in units. Of a series that has always been 0, any distance is far."""
        return distance / self.unit if self.unit else (_FAR if distance else 0.0)

    def fall(self, value: float, before: float) -> float:
        """How far a value has fallen below `before`, in units of a logarithmic scale; 0 unless it has halved.

        What is never below 0 can fall no further than its own size, which may be few of the usual units.
        """
        left = max(value, _NOTHING * self.unit)
        if self.low <= 0 or left <= 0 or value * 2 > before or before <= left:
            return 0.0
        width = max((log(self.high) - log(self.low)) / 2, _SMALLEST_SHARE)
        return min((log(before) - log(left)) / width, _FAR)


def range_of(values: Iterable[float]) -> Range | None:
    """The normal range of some values; None if there are too few to tell."""
    ordered = sorted(values)
    if len(ordered) < _MIN_PAST:
        return None
    return Range(_quantile(ordered, 0.05), _quantile(ordered, 0.5), _quantile(ordered, 0.95))


def range_at(past: Sequence[Point], moments: Sequence[float]) -> Range | None:
    """The normal range of a series at some moments.

    Where the load follows the time of day (the hours around these moments have a range of their own, less than half as
    wide, on two days or more) it is the range of these hours.
    """
    overall = range_of(value for _, value in past)
    if overall is None or not moments or past[-1][0] - past[0][0] < 2 * _DAY - _HOUR:
        return overall
    around = median(moments)
    back = round((around - past[-1][0]) / _DAY)
    count = int((past[-1][0] - past[0][0]) // _DAY) + 2
    centers = [around - day * _DAY for day in range(back - 1, back + count)]
    days = [found for center in centers if (found := between(past, center - _HOUR, center + _HOUR))]
    if len(days) < 2 or sum(map(len, days)) < _MIN_OF_HOURS:
        return overall
    same_hours = [value for day in days for _, value in day]
    usual = range_of(same_hours)
    return usual if usual and usual.high - usual.low < (overall.high - overall.low) / 2 else overall


def between(points: Sequence[Point], begin: float, end: float) -> Sequence[Point]:
    """The points of a time, both ends included."""
    return points[bisect_left(points, (begin, -inf)) : bisect_right(points, (end, inf))]


def step_of(points: Sequence[Point]) -> float:
    """The usual time between two points, in seconds; 0 for fewer than two."""
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(points)]
    return median(gaps) if gaps else 0.0


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
