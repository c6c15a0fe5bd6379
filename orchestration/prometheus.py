"""Prometheus as the domain sees it: what it is asked, and what it answers. `blocks/prometheus/` asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

MAX_SERIES = 500
"""How many series of an answer are read."""

MAX_POINTS = 2_000
"""How many points of a series may be asked for."""


@dataclass(frozen=True)
class Sample:
    """The value of a series at a moment. The value may be infinite, but is a number."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Series:
    """The values of a series, oldest first; each moment is in seconds since 1970. Where it has none there is no point.

    Values may be infinite, but are numbers.
    """

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def values(self) -> list[float]:
        """The values without their moments."""
        return [value for _, value in self.points]


class Prometheus(Protocol):
    """A Prometheus server, or what speaks like one: Thanos, Mimir, VictoriaMetrics. Safe for several tasks at once."""

    @property
    def host(self) -> str:
        """Where it is, for people, without a secret."""
        ...

    async def query(self, expression: str, *, at: datetime | None = None) -> list[Sample]:
        """The values of an expression now, or at another moment; at most `MAX_SERIES`. A scalar has no labels.

        Raises:
            BadInput: Prometheus cannot evaluate the expression.
            Unavailable: it does not answer in time, or with something else.
        """
        ...

    async def query_range(
        self, expression: str, *, start: datetime, end: datetime, step_seconds: float
    ) -> list[Series]:
        """The values of an expression within a time, at most `MAX_SERIES` series of at most `MAX_POINTS` points.

        Raises:
            BadInput: Prometheus cannot evaluate the expression, or the step gives too many points.
            Unavailable: it does not answer in time, or with something else.
        """
        ...


class PrometheusFinder(Protocol):
    """Where a process finds its Prometheus."""

    async def find(self) -> Prometheus | None:
        """The Prometheus of this installation. None means that none is set up.

        Raises:
            BadSetting: it is set up wrongly.
            Unavailable: whether one is set up is not known now.
        """
        ...
