"""How often the true cause of an incident is ranked first, on data like PetShop's: scenarios whose faults are known.

A scenario is a folder with `normal.csv.gz`, `dependencies.csv`, and for each issue a folder with `during.csv.gz` and
`answer.json`. The naive score of the same data stands beside it as the floor.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.figures import Figures, timed
from orchestration.changes.blame import Dependencies, Dependency
from orchestration.changes.csv_input import read_dependencies, read_series
from orchestration.changes.ranking import rank
from orchestration.changes.series import Name, Point, Range, Table, range_of

_FIRST, _FIRST_THREE = "≥ 50 %", "≥ 80 %"
_DISTURBED_TIMES = 5

Ranking = Callable[[Table, Table, Name, Sequence[Dependency] | None], Sequence[str]]


@dataclass(frozen=True)
class Issue:
    """An incident, and which entity caused it."""

    scenario: str
    normal: Table
    during: Table
    dependencies: Sequence[Dependency]
    target: Name
    cause: str


def measure_petshop(folder: Path) -> list[Figures]:
    """Hit rates in percent by scenario, with and without dependencies, and seconds an issue."""
    issues = list(read_issues(folder))
    if not issues:
        raise SystemExit(f"{folder} has no folder with normal.csv.gz, dependencies.csv and issue_…/answer.json")
    rows: list[Figures] = []
    for scenario in sorted({issue.scenario for issue in issues}):
        own = [issue for issue in issues if issue.scenario == scenario]
        rows += _rows(scenario, own)
    rows += _rows("all", issues)
    rows += _disturbed(issues)
    seconds = [timed(lambda issue=issue: _place(ranked, issue, True)) for issue in issues]
    files = sorted(folder.glob("*/normal.csv.gz"))
    reading = [timed(lambda path=path: read_series(path.read_bytes(), path.name)) for path in files]
    return [
        *rows,
        Figures(what="ranking an issue", values=seconds, unit="s", target="≤ 0.3 s"),
        Figures(what="reading a scenario's normal times", values=reading, unit="s"),
    ]


def read_issues(folder: Path) -> Iterator[Issue]:
    """The issues of all scenarios below a folder."""
    for scenario in sorted(path.parent for path in folder.glob("*/normal.csv.gz")):
        normal = read_series((scenario / "normal.csv.gz").read_bytes(), scenario.name)
        dependencies = read_dependencies((scenario / "dependencies.csv").read_bytes(), scenario.name)
        for place in sorted(scenario.glob("issue_*")):
            answer = json.loads((place / "answer.json").read_text())
            during = read_series((place / "during.csv.gz").read_bytes(), place.name)
            target = answer["target"]["entity"], answer["target"]["metric"]
            yield Issue(scenario.name, normal, during, dependencies, target, answer["root_cause"])


def ranked(normal: Table, during: Table, target: Name, dependencies: Sequence[Dependency] | None) -> Sequence[str]:
    """The entities as this project ranks them."""
    return [one.entity for one in rank(normal, during, target, dependencies)]


def naive(normal: Table, during: Table, target: Name, dependencies: Sequence[Dependency] | None) -> Sequence[str]:
    """By the largest distance from the median in interquartile ranges; what the target depends on first."""
    scores: dict[str, float] = {}
    for (entity, metric), points in during.items():
        past = [value for _, value in normal.get((entity, metric), ())]
        if metric == target[1] and len(past) > 1:
            low, middle, high = statistics.quantiles(past, n=4)
            scores[entity] = max(abs(value - middle) for _, value in points) / ((high - low) or 1e-9)
    reached = set(scores) if dependencies is None else _reached(target[0], Dependencies(dependencies))
    return sorted(scores, key=lambda entity: (entity not in reached, -scores[entity]))


def _reached(entity: str, dependencies: Dependencies) -> set[str]:
    found, waiting = {entity}, [entity]
    while waiting:
        new = set(dependencies.callees(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def _rows(called: str, issues: Sequence[Issue]) -> list[Figures]:
    rows: list[Figures] = []
    for with_whom in ("dependencies", "none"):
        for name, ranking in (("", ranked), (", naive", naive)):
            places = [_place(ranking, issue, with_whom == "dependencies") for issue in issues]
            is_goal = not name and with_whom == "dependencies"
            for words, most, target in (("first", 1, _FIRST), ("first three", 3, _FIRST_THREE)):
                hits = 100 * sum(place < most for place in places) / len(places)
                what = f"{called}, {with_whom}: {words}{name}"
                rows.append(Figures(what=what, values=[hits], unit="%", target=target if is_goal else ""))
    return rows


def _place(ranking: Ranking, issue: Issue, with_dependencies: bool) -> int:
    names = ranking(
        issue.normal, issue.during, issue.target, issue.dependencies if with_dependencies else None
    )  # fmt: skip
    return names.index(issue.cause) if issue.cause in names else len(names)


def _disturbed(issues: Sequence[Issue]) -> list[Figures]:
    """Cause first, with dependencies, where the data are worse than they are."""
    rows: list[Figures] = []
    for called, disturb in _DISTURBANCES.items():
        rates: list[float] = []
        for seed in range(_DISTURBED_TIMES):
            hits = [_place(ranked, _changed(issue, disturb, random.Random(seed)), True) == 0 for issue in issues]
            rates.append(100 * sum(hits) / len(hits))
        rows.append(Figures(what=f"all, dependencies, {called}: first", values=rates, unit="%"))
    return rows


Disturbance = Callable[[random.Random, Sequence[Point], Range | None], list[Point]]


def _changed(issue: Issue, disturb: Disturbance, chance: random.Random) -> Issue:
    during: dict[Name, Sequence[Point]] = {}
    for name, points in issue.during.items():
        usual = range_of(value for _, value in issue.normal.get(name, ()))
        during[name] = points if name == issue.target else disturb(chance, points, usual)
    return replace(issue, during=during)


def _with_noise(chance: random.Random, points: Sequence[Point], usual: Range | None) -> list[Point]:
    width = (usual.high - usual.low) / 3 if usual else 0.0
    return [(moment, value + chance.gauss(0, width)) for moment, value in points]


def _with_gaps(chance: random.Random, points: Sequence[Point], _usual: Range | None) -> list[Point]:
    return [point for point in points if chance.random() > 0.2]


def _shifted(chance: random.Random, points: Sequence[Point], _usual: Range | None) -> list[Point]:
    shift = chance.uniform(-120, 120)
    return [(moment + shift, value) for moment, value in points]


_DISTURBANCES: Mapping[str, Disturbance] = {
    "twice the usual noise": _with_noise,
    "a fifth of the points missing": _with_gaps,
    "each clock off by up to 2 min": _shifted,
}
