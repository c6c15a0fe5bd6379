"""A system of parts that call each other, whose series are made up, with a fault in one of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestration.changes.series import Name, Point

STEP = 60
BEGIN = 1_790_000_000

Series = dict[Name, list[Point]]


@dataclass
class System:
    """Parts p0, p1, …: p0 is what users call, and each other is called by one or two of those before it."""

    seed: int
    parts: int = 12
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        for number in range(1, self.parts):
            for caller in self.chance.sample(range(number), min(number, self.chance.choice((1, 1, 2)))):
                self.calls.append((f"p{caller}", f"p{number}"))
        self.traffic = {"p0": 1000.0}
        for number in range(1, self.parts):
            asked = sum(self.traffic[caller] for caller, callee in self.calls if callee == f"p{number}")
            self.traffic[f"p{number}"] = asked * self.chance.uniform(0.3, 1.5)

    def series(self, begin: float, steps: int, added: dict[str, Sequence[float]] | None = None) -> Series:
        """Latency, errors and traffic of each part; `added` is what a fault adds to each latency, step by step."""
        found: Series = {}
        for part, traffic in self.traffic.items():
            base = 0.01 * (1 + int(part[1:]))
            more = (added or {}).get(part, [0.0] * steps)
            times = [begin + STEP * step for step in range(steps)]
            found[part, "latency.mean"] = [
                (moment, base * self.chance.gauss(1, 0.05) + extra) for moment, extra in zip(times, more, strict=True)
            ]
            found[part, "requests"] = [(moment, traffic * self.chance.gauss(1, 0.03)) for moment in times]
            found[part, "success.percent"] = [(moment, 100.0) for moment in times]
        return found

    def fault(self, part: str, size: float, steps: int, bad: range) -> dict[str, Sequence[float]]:
        """What a slow part adds to its own latency and to those of all who wait for it."""
        added = {part: size}
        for number in reversed(range(self.parts)):
            caller = f"p{number}"
            waits = sum(
                added.get(callee, 0.0) * self.traffic[callee] / self._asked(callee)
                for one, callee in self.calls
                if one == caller
            )
            if waits:
                added[caller] = added.get(caller, 0.0) + waits
        return {one: [extra if step in bad else 0.0 for step in range(steps)] for one, extra in added.items()}

    def _asked(self, callee: str) -> float:
        return sum(self.traffic[caller] for caller, other in self.calls if other == callee)
