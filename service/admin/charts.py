"""What the drawings are made of: places and sizes, which the templates put into SVG. No script draws anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestration.states import RunStatus, StageStatus
from orchestration.store.overview import Hour
from orchestration.store.records import AttemptRecord
from service.admin import words

WIDTH, HEIGHT = 480.0, 96.0
"""Of a chart of 24 hours, in its own units; the page scales it."""

LANE, LABEL, TRACK = 26.0, 112.0, 600.0
"""Of a timeline: the height of an attempt's line, and the widths of its name and of the time beside it."""

FOOT = 16.0
"""Room below, for how long the breaks are."""

_END = 84.0
_BREAK = 30.0
_LEAST = 2.0
_MOST_PIECES = 8

_STACK = (
    ("bad", (RunStatus.FAILED,)),
    ("good", (RunStatus.NOTIFIED,)),
    ("quiet", (RunStatus.SKIPPED,)),
    ("busy", tuple(status for status in RunStatus if not status.final)),
)
"""How an hour's runs are stacked, from below."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle with what it says on hovering."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line through some points, broken where nothing was measured."""

    tone: str
    paths: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One attempt on a timeline."""

    y: float
    label: str
    box: Box
    text: str
    text_x: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A run's attempts in time. `breaks` are where nothing happened for long, which is not drawn to scale."""

    lanes: Sequence[Lane]
    breaks: Sequence[tuple[float, str]]
    width: float
    height: float


def throughput(hours: Sequence[Hour]) -> tuple[list[Box], int]:
    """A stacked bar for each hour, and how many runs the highest stands for."""
    most = max((sum(hour.by_status.values()) for hour in hours), default=0)
    step = WIDTH / max(len(hours), 1)
    boxes: list[Box] = []
    for place, hour in enumerate(hours):
        bottom = HEIGHT
        begins = f"{hour.begins_at.astimezone(UTC):%H:%M}"
        for tone, statuses in _STACK:
            count = sum(hour.by_status.get(status.value, 0) for status in statuses)
            if not count:
                continue
            height = max(count / most * HEIGHT, _LEAST)
            bottom -= height
            title = f"from {begins}: {count} {' or '.join(statuses) if len(statuses) == 1 else 'at work'}"
            boxes.append(Box(x=place * step + 1, y=bottom, width=step - 2, height=height, tone=tone, title=title))
    return boxes, most


def latency(hours: Sequence[Hour]) -> tuple[list[Curve], float]:
    """A curve for the median and one for the 99th percentile, and the milliseconds at the top."""
    top = max((hour.p99_ms or 0.0 for hour in hours), default=0.0)
    slow = [hour.p99_ms for hour in hours]
    middle = [hour.p50_ms for hour in hours]
    return [Curve(tone="warn", paths=_paths(slow, top)), Curve(tone="good", paths=_paths(middle, top))], top


def _paths(values: Sequence[float | None], top: float) -> list[str]:
    step = WIDTH / max(len(values), 1)
    paths: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            paths.append([])
            continue
        y = HEIGHT - (value / top * (HEIGHT - 4) if top else 0) - 2
        # A short stroke, so that an hour between two empty ones is seen too.
        paths[-1] += [f"{place * step + step * 0.3:.1f},{y:.1f}", f"{place * step + step * 0.7:.1f},{y:.1f}"]
    return [" ".join(points) for points in paths if points]


def timeline(attempts: Sequence[AttemptRecord], now: datetime) -> Timeline | None:
    """The attempts that took time, in order; None where there is none."""
    timed = [attempt for attempt in attempts if attempt.started_at and attempt.status is not StageStatus.SKIPPED]
    if not timed:
        return None
    spans = [(_begin(attempt), _end(attempt, now)) for attempt in timed]
    scale = _Scale(_pieces(spans))
    lanes = [_lane(place, attempt, span, scale) for place, (attempt, span) in enumerate(zip(timed, spans, strict=True))]
    breaks = scale.breaks()
    return Timeline(
        lanes=lanes,
        breaks=breaks,
        width=LABEL + TRACK + _END,
        height=LANE * len(lanes) + (FOOT if breaks else 0.0),
    )


class _Scale:
    """Where a moment is on the track: pieces of time side by side, with a break between two."""

    def __init__(self, pieces: Sequence[tuple[float, float]]) -> None:
        self._pieces = pieces
        active = sum(end - begin for begin, end in pieces)
        self._per_second = (TRACK - _BREAK * (len(pieces) - 1)) / active if active else 0.0

    def place(self, at: float) -> float:
        """The place of a moment, seconds since 1970."""
        x = LABEL
        for begin, end in self._pieces:
            if at <= end:
                return x + max(at - begin, 0.0) * self._per_second
            x += (end - begin) * self._per_second + _BREAK
        return LABEL + TRACK

    def breaks(self) -> list[tuple[float, str]]:
        """Where each break is, and how long."""
        return [
            (self.place(end) + _BREAK / 2, words.seconds(following - end))
            for (_, end), (following, _) in itertools.pairwise(self._pieces)
        ]


def _lane(number: int, attempt: AttemptRecord, span: tuple[float, float], scale: _Scale) -> Lane:
    begin, end = span
    x = scale.place(begin)
    width = max(scale.place(end) - x, _LEAST)
    took = words.milliseconds(attempt.duration_ms) or f"{words.seconds(end - begin)} so far"
    name = f"{attempt.node_id[:14]} {attempt.attempt}" if attempt.attempt > 1 else attempt.node_id[:16]
    box = Box(
        x=x,
        y=number * LANE + 5,
        width=width,
        height=LANE - 10,
        tone=words.TONES.get(attempt.status.value, words.BUSY),
        title=f"{attempt.node_id} {attempt.attempt}: {attempt.status.value}, {took}",
    )
    return Lane(y=number * LANE + LANE / 2, label=name, box=box, text=took, text_x=x + width + 6)


def _begin(attempt: AttemptRecord) -> float:
    return attempt.started_at.timestamp() if attempt.started_at else 0.0


def _end(attempt: AttemptRecord, now: datetime) -> float:
    begin = _begin(attempt)
    if attempt.duration_ms is not None:
        return begin + attempt.duration_ms / 1000
    return max((attempt.completed_at or now).timestamp(), begin)


def _pieces(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times in which something happened. Short pauses belong to them, long ones would leave nothing to see."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    longest = 0.5 * sum(end - begin for begin, end in merged) + 0.05
    pieces: list[tuple[float, float]] = []
    for begin, end in merged:
        if pieces and begin - pieces[-1][1] <= longest:
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((begin, end))
    while len(pieces) > _MOST_PIECES:
        shortest = min(range(1, len(pieces)), key=lambda place: pieces[place][0] - pieces[place - 1][1])
        pieces[shortest - 1 : shortest + 1] = [(pieces[shortest - 1][0], pieces[shortest][1])]
    return pieces
