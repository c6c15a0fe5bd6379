"""A row of the benchmark table: what was measured, its median and its range."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The measurements of one row."""

    what: str
    values: Sequence[float]
    unit: str
    target: str = ""
    floor: Sequence[float] = ()
    """What the same work costs without us, measured in the same run. Empty if there is no such thing."""

    @property
    def ratio(self) -> float | None:
        """The median as a multiple of the median of the floor."""
        return self.median / statistics.median(self.floor) if self.floor else None

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """The 95th percentile of the values."""
        return sorted(self.values)[int(len(self.values) * 0.95)]


def timed(work: Callable[[], object]) -> float:
    """Call `work`, and return the seconds that it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def show(rows: Sequence[Figures]) -> None:
    """Print the rows, and the machine's load below them, since every figure depends on it."""
    table = Table("what", "median", "min to max", "n", "× floor", "target", title_justify="left", box=None)
    for row in rows:
        table.add_row(
            row.what,
            f"{row.median:,.4g} {row.unit}",
            f"{min(row.values):,.4g} to {max(row.values):,.4g}",
            str(len(row.values)),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.target,
        )
    console = Console()
    console.print(table)
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    console.print(f"{os.cpu_count()} cores, load {load}")
