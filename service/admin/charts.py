"""Computes the drawings of the admin: sizes and places, which the templates write as SVG. No script draws anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orchestration.states import RunStatus, StageStatus
from orchestration.store.overview import Hour
from orchestration.store.records import AttemptRecord
from service.admin import formatting

WIDTH, HEIGHT = 480.0, 96.0
"""The size of a chart of 24 hours, in its own units; the page scales it."""

TRACK, LANE = 600.0, 26.0
"""The width and height of one line of a timeline, in its own units; the page scales the width."""

_LEAST_WIDTH = 2.0
_LEAST_LANE_WIDTH = 4.0
_PAUSE_WIDTH = 30.0
_MAX_PIECES = 8

_PERCENT_PER_CHARACTER = 3.7
"""How much of a timeline's width a character of a label needs on a phone, where a timeline is 190 px wide."""

_STACK = (
    ("bad", (RunStatus.FAILED,)),
    ("good", (RunStatus.NOTIFIED,)),
    ("quiet", (RunStatus.SKIPPED,)),
    ("busy", tuple(status for status in RunStatus if not status.final)),
)
"""The colours of an hour's bar and the statuses that they stand for, from below."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle, and the text that hovering shows."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One attempt of a timeline: its name, its bar, and how long it took."""

    label: str
    box: Box
    took: str


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A long wait between attempts, which is not drawn to scale.

    Attributes:
        x: its middle, in units of the timeline.
        text: how long it was.
        row: the row of its label; labels that would overlap are in different rows.
    """

    x: float
    text: str
    row: int

    @property
    def percent(self) -> float:
        """Its middle as a percentage of the timeline's width."""
        return 100 * self.x / TRACK


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The attempts of a run, the long waits between them, and where the run was resumed."""

    lanes: Sequence[Lane]
    pauses: Sequence[Pause]
    resumes: Sequence[float]

    @property
    def rows(self) -> int:
        """How many rows the labels of the pauses need."""
        return max((pause.row + 1 for pause in self.pauses), default=0)


def throughput(hours: Sequence[Hour]) -> tuple[list[Box], int]:
    """A stacked bar for each hour, and the number of runs of the highest bar."""
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
            height = max(count / most * HEIGHT, _LEAST_WIDTH)
            bottom -= height
            title = f"from {begins}: {count} {' or '.join(statuses) if len(statuses) == 1 else 'in progress'}"
            boxes.append(Box(x=place * step + 1, y=bottom, width=step - 2, height=height, tone=tone, title=title))
    return boxes, most


def latency(hours: Sequence[Hour]) -> tuple[dict[str, list[str]], float]:
    """The curves of the 99th percentile and of the median by their colour, and the milliseconds at the top.

    A curve is a list of paths, because it is interrupted where nothing was measured.
    """
    top = max((hour.p99_ms or 0.0 for hour in hours), default=0.0)
    slow, median = [hour.p99_ms for hour in hours], [hour.p50_ms for hour in hours]
    return {"warn": _paths(slow, top), "good": _paths(median, top)}, top


def _paths(values: Sequence[float | None], top: float) -> list[str]:
    step = WIDTH / max(len(values), 1)
    paths: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            paths.append([])
            continue
        y = HEIGHT - (value / top * (HEIGHT - 4) if top else 0) - 2
        # A short stroke, so that a single hour between empty ones is visible.
        paths[-1] += [f"{place * step + step * 0.3:.1f},{y:.1f}", f"{place * step + step * 0.7:.1f},{y:.1f}"]
    return [" ".join(points) for points in paths if points]


def timeline(attempts: Sequence[AttemptRecord], now: datetime, resumed_at: Sequence[datetime] = ()) -> Timeline | None:
    """The timeline of a run; None if no attempt took time.

    Args:
        attempts: all attempts of the run. Skipped ones are left out.
        now: the end of an attempt that still runs.
        resumed_at: when the run was resumed.
    """
    timed = [attempt for attempt in attempts if attempt.started_at and attempt.status is not StageStatus.SKIPPED]
    if not timed:
        return None
    spans = [_span(attempt, now) for attempt in timed]
    scale = _Scale(_pieces(spans))
    return Timeline(
        lanes=[_lane(attempt, span, scale) for attempt, span in zip(timed, spans, strict=True)],
        pauses=scale.pauses(),
        resumes=[scale.place(at.timestamp()) for at in resumed_at],
    )


class _Scale:
    """Maps a moment to its place on a timeline: pieces of time side by side, with a pause between two of them."""

    def __init__(self, pieces: Sequence[tuple[float, float]]) -> None:
        self._pieces = pieces
        active = sum(end - begin for begin, end in pieces)
        self._per_second = (TRACK - _PAUSE_WIDTH * (len(pieces) - 1)) / active if active else 0.0

    def place(self, at: float) -> float:
        """The place of a moment, given in seconds since 1970."""
        x = 0.0
        for begin, end in self._pieces:
            if at <= end:
                return x + max(at - begin, 0.0) * self._per_second
            x += (end - begin) * self._per_second + _PAUSE_WIDTH
        return TRACK

    def pauses(self) -> list[Pause]:
        """The pauses between the pieces, with labels that do not overlap."""
        found: list[Pause] = []
        ends: list[float] = []
        for (_, end), (following, _) in itertools.pairwise(self._pieces):
            pause = Pause(x=self.place(end) + _PAUSE_WIDTH / 2, text=formatting.seconds(following - end), row=0)
            half = (len(pause.text) + 2) * _PERCENT_PER_CHARACTER / 2
            row = next((row for row, taken in enumerate(ends) if taken <= pause.percent - half), len(ends))
            ends[row:] = [pause.percent + half, *ends[row + 1 :]]
            found.append(replace(pause, row=row))
        return found


def _lane(attempt: AttemptRecord, span: tuple[float, float], scale: _Scale) -> Lane:
    begin, end = span
    x = min(scale.place(begin), TRACK - _LEAST_LANE_WIDTH)
    took = formatting.milliseconds(attempt.duration_ms) or f"{formatting.seconds(end - begin)} so far"
    box = Box(
        x=x,
        y=5,
        width=max(scale.place(end) - x, _LEAST_LANE_WIDTH),
        height=LANE - 10,
        tone=formatting.TONES.get(attempt.status.value, formatting.BUSY),
        title=f"{attempt.node_id} {attempt.attempt}: {attempt.status.value}, {took}",
    )
    label = f"{attempt.node_id[:14]} {attempt.attempt}" if attempt.attempt > 1 else attempt.node_id[:16]
    return Lane(label=label, box=box, took=took)


def _span(attempt: AttemptRecord, now: datetime) -> tuple[float, float]:
    begin = attempt.started_at.timestamp() if attempt.started_at else 0.0
    if attempt.duration_ms is not None:
        return begin, begin + attempt.duration_ms / 1000
    return begin, max((attempt.completed_at or now).timestamp(), begin)


def _pieces(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spans of time to draw to scale. A short wait is part of one; a long wait would leave nothing to see."""
    merged = _merge(sorted(spans), 0.0)
    gap = 0.5 * sum(end - begin for begin, end in merged) + 0.05
    waits = sorted(begin - end for (_, end), (begin, _) in itertools.pairwise(merged))
    if len(waits) >= _MAX_PIECES:
        gap = max(gap, waits[-_MAX_PIECES])
    return _merge(merged, gap)


def _merge(spans: Iterable[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """The spans, given in their order; those at most `gap` seconds apart become one."""
    merged: list[tuple[float, float]] = []
    for begin, end in spans:
        if merged and begin - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged
