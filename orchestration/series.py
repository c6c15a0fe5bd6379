"""Series of numbers for people: their normal range, a line of block characters, and how a number is written. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

MIN_POINTS = 10
"""With fewer values there is no normal range."""

SPARKLINE_CHARACTERS = 24

_BLOCKS = "▁▂▃▄▅▆▇█"
_LOW, _HIGH = 0.05, 0.95
_SUFFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def normal_range(values: Sequence[float]) -> tuple[float, float] | None:
    """Between which values it normally is: nine of ten past ones. None means that there are too few to say.

    A few extreme values do not widen it, as they do the average and the standard deviation.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if len(ordered) < MIN_POINTS:
        return None
    return _quantile(ordered, _LOW), _quantile(ordered, _HIGH)


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def sparkline(points: Sequence[tuple[float, float]], *, start: float, end: float) -> str:
    """The values between two moments as block characters, oldest first; a dot where there is no value.

    Each character is the value of its part of the time that is the farthest from the middle of them all, so that a
    short peak is seen. "" means that there are fewer than two finite values, which show no course.
    """
    finite = [(moment, value) for moment, value in points if math.isfinite(value) and start <= moment <= end]
    if len(finite) < 2 or end <= start:
        return ""
    lowest, highest = min(value for _, value in finite), max(value for _, value in finite)
    middle = sorted(value for _, value in finite)[len(finite) // 2]
    parts: list[list[float]] = [[] for _ in range(SPARKLINE_CHARACTERS)]
    for moment, value in finite:
        parts[min(int((moment - start) / (end - start) * SPARKLINE_CHARACTERS), SPARKLINE_CHARACTERS - 1)].append(value)
    span = (highest - lowest) or 1.0

    def block(values: list[float]) -> str:
        if not values:
            return "·"
        value = max(values, key=lambda one: abs(one - middle))
        return _BLOCKS[min(int((value - lowest) / span * len(_BLOCKS)), len(_BLOCKS) - 1)]

    return "".join(map(block, parts))


def written(value: float) -> str:
    """A number for people, with about four digits: 97.25, 0.0012, 12,346, 3.2 G."""
    if not math.isfinite(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    for size, suffix in _SUFFIXES:
        if abs(value) >= size:
            return f"{written(value / size)} {suffix}" if abs(value) < 1e18 else f"{value:.3g}"
    if value == 0:
        return "0"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    if decimals > 9:
        return f"{value:.3g}"
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def value_in_words(metrics: Mapping[str, JsonValue]) -> str:
    """Value, limit, normal range and sparkline of what a check has measured; "" if it has no value."""
    value, limit, low, high = (metrics.get(name) for name in ("value", "limit", "low", "high"))
    if not isinstance(value, int | float):
        return ""
    says = [written(value)]
    if isinstance(limit, int | float):
        says.append(f"limit {metrics.get('operator', '')} {written(limit)}")
    if isinstance(low, int | float) and isinstance(high, int | float):
        says.append(f"normally {written(low)} to {written(high)}")
    return f"{', '.join(says)} {metrics.get('sparkline') or ''}".strip()
