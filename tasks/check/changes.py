"""Which series of a target and its neighbours leave their own past, by what a Prometheus knows of them.

First Prometheus is asked which metrics there are, then for a day and for the last minutes of the most telling ones: of
counters their rate, of histograms and summaries their mean, of everything else the sum, for each instance.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orchestration.alert import Alert, first_start
from orchestration.changes.blame import Dependencies, Dependency
from orchestration.changes.deviations import Deviation, Trouble, deviations
from orchestration.changes.ranking import change_of, rank
from orchestration.changes.series import Kind, Name, Point, kind_of
from orchestration.contracts import Change, Target
from orchestration.prometheus import Prometheus
from orchestration.prometheus import Series as RangeOfSeries
from orchestration.threads import in_own_thread
from tasks.check.checkers.base import Subject
from tasks.check.checkers.promql import host_pattern

MAX_CHANGES = 10
_MOST_METRICS, _MOST_OF_ONE, _MOST_PARTS, _MOST_PAIRS = 40, 2, 20, 10_000
_CLEAR = 1.5
"""About twice the half-width of its range beyond it: of hundreds of series some are always a little outside."""

_DAY, _DAY_STEP = timedelta(days=1), 600.0
_LATELY, _STEP = timedelta(minutes=30), 60.0
_LONGEST_TROUBLE = timedelta(minutes=10)
"""The part of a long trouble that is looked at: how it is now."""
_RATE = "5m"

_NEVER = re.compile(
    r"(go|scrape|promhttp|prometheus|python|net_conntrack|node_scrape|node_cooling)_.*"
    r"|.*_(bucket|created|info|timestamp_seconds|time_seconds|start_time_seconds|boot_time_seconds)|ALERTS.*|.*:.*"
)
"""Metrics that say nothing of a trouble, or that are part of another; and recorded rules, which repeat others."""

_METRIC = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_COUNTER = re.compile(r".+_(total|sum|count)")
_TELLING = (Kind.FAILURES, Kind.LATENCY, Kind.SUCCESS, Kind.TRAFFIC, Kind.USE, Kind.OTHER)
"""The kinds of metrics in the order in which they are asked for, of which there is a limit."""
_WEIGHTS = {Kind.TRAFFIC: 0.5, Kind.OTHER: 0.5}

Series = dict[Name, list[Point]]


async def find_changes(prometheus: Prometheus, subject: Subject) -> list[Change]:
    """What behaves unlike its own past since the alerts began, the strangest first; at most `MAX_CHANGES`.

    Raises:
        BadInput: Prometheus cannot evaluate what it is asked.
        Unavailable: it does not answer in time.
    """
    now = datetime.now(UTC)
    began, target = _began_at(subject.alerts, now), subject.target
    shows = max(began, now - _LONGEST_TROUBLE)
    if target is None:
        return []
    read = await asyncio.gather(*(_read(prometheus, one, now, began) for one in _selectors(target, subject.calls)))
    known = _Known({}, {}, {})
    for one in read:
        known.past.update(one.past)
        known.lately.update(one.lately)
        known.jobs.update(one.jobs)
    times = (began.timestamp(), shows.timestamp(), now.timestamp())
    return await in_own_thread(_strangest, known, target, subject.calls, times)


@dataclass(frozen=True)
class _Known:
    """What Prometheus knows: series before the trouble, those of the last minutes, and the job of each entity."""

    past: Series
    lately: Series
    jobs: dict[str, str]


def _began_at(alerts: Sequence[Alert], now: datetime) -> datetime:
    """Since when there is trouble: since the alerts began, within the last day, and for two steps at least."""
    earliest = first_start(alert for alert in alerts if alert.firing) or now
    return min(max(earliest, now - _DAY), now - timedelta(seconds=2 * _STEP))


def _selectors(target: Target, calls: Sequence[Dependency]) -> list[str]:
    """What is looked at, as labels in braces: all of the host, and all of the job with what it depends on."""
    found: list[str] = []
    if target.host:
        found.append(f"instance=~{host_pattern(target.host)}")
    if job := target.labels.get("job", ""):
        jobs = [job, *_needed_by(job, calls)]
        namespace = target.labels.get("namespace", "") if len(jobs) == 1 else ""
        named = f"job=~{_quoted('|'.join(map(re.escape, jobs)))}"
        found.append(f"{named},namespace={_quoted(namespace)}" if namespace else named)
    return found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _needed_by(job: str, calls: Sequence[Dependency]) -> list[str]:
    """The jobs on which a job depends, the nearest first."""
    found, dependencies = [job], Dependencies(calls)
    for caller in found:
        found += [callee for callee in dependencies.callees(caller) if callee not in found]
        if len(found) >= _MOST_PARTS:
            break
    return found[1:_MOST_PARTS]


async def _read(prometheus: Prometheus, selector: str, now: datetime, began: datetime) -> _Known:
    names = await prometheus.query(f"group by (__name__) ({{{selector}}})")
    asked = _expression([sample.labels.get("__name__", "") for sample in names], selector)
    if not asked:
        return _Known({}, {}, {})
    before = began - timedelta(seconds=_STEP)
    past, lately = await asyncio.gather(
        prometheus.query_range(asked, start=before - _DAY, end=before, step_seconds=_DAY_STEP),
        prometheus.query_range(asked, start=now - _LATELY, end=now, step_seconds=_STEP),
    )
    long, recent = _named(past), _named(lately)
    # The minutes before the trouble are past too: a young Prometheus has no other.
    end = before.timestamp()
    before_it = {
        name: [*long.get(name, ()), *(one for one in recent.get(name, ()) if one[0] < end)]
        for name in dict.fromkeys([*recent, *long])
    }
    return _Known(before_it, recent, {_entity(one.labels): one.labels.get("job", "") for one in (*past, *lately)})


def _named(found: Sequence[RangeOfSeries]) -> Series:
    return {(_entity(one.labels), one.labels.get("metric", "")): list(one.points) for one in found}


def _entity(labels: Mapping[str, str]) -> str:
    return labels.get("instance") or labels.get("job", "")


def _expression(names: Sequence[str], selector: str) -> str:
    """One expression for the most telling metrics of a selector, each with its name in the label `metric`."""
    parts = _parts([name for name in names if _METRIC.fullmatch(name) and not _NEVER.fullmatch(name)], selector)
    telling = sorted(parts, key=lambda name: (_TELLING.index(kind_of(name)), name))[:_MOST_METRICS]
    return " or ".join(f'label_replace({parts[name]}, "metric", "{name}", "", "")' for name in telling)


def _parts(names: Sequence[str], selector: str) -> dict[str, str]:
    """What is asked for each metric, for each instance."""

    def rate(name: str) -> str:
        return f"sum by (instance, job) (rate({name}{{{selector}}}[{_RATE}]))"

    parts: dict[str, str] = {}
    for name in names:
        base = name.removesuffix("_sum")
        if base != name and f"{base}_count" in names:
            parts[f"{base}_mean"] = f"{rate(name)} / {rate(f'{base}_count')}"
        elif _COUNTER.fullmatch(name):
            parts[name] = rate(name)
        else:
            parts[name] = f"sum by (instance, job) ({name}{{{selector}}})"
    return parts


def _strangest(
    known: _Known, target: Target, calls: Sequence[Dependency], trouble: tuple[float, float, float]
) -> list[Change]:
    """The changes of a trouble: since when there is trouble, since when it is looked at, and now."""
    began, shows, now = trouble
    first = min((points[0][0] for points in known.lately.values() if points), default=began)
    # Of an old trouble the last half hour has no minute that was well.
    well = ((first, began - _STEP),) if first < began - _STEP else ()
    times = Trouble(((shows, now),), well, _STEP)
    replaced = _replaced(known, first)
    found = [
        one
        for one in deviations(known.past, known.lately, times)
        if one.strength >= _CLEAR and one.normal and one.name[0] not in replaced
    ]
    found.sort(key=lambda one: (-one.strength * _WEIGHTS.get(kind_of(one.name[1]), 1.0), one.name))
    order = _causes_first(known, target, calls, found)
    found.sort(key=lambda one: order.get(one.name[0], len(order)))
    taken = Counter[str]()
    chosen: list[Deviation] = []
    for one in found:
        taken[one.name[0]] += 1
        if taken[one.name[0]] <= _MOST_OF_ONE:
            chosen.append(one)
    return [change_of(one) for one in chosen[:MAX_CHANGES]]


def _replaced(known: _Known, first: float) -> set[str]:
    """The entities that have ended, of jobs that have a new one: a rollout replaces instances all the time."""
    ends: dict[str, float] = {}
    begins: dict[str, float] = {}
    for (entity, _), points in (*known.past.items(), *known.lately.items()):
        if points:
            ends[entity] = max(ends.get(entity, points[-1][0]), points[-1][0])
            begins[entity] = min(begins.get(entity, points[0][0]), points[0][0])
    latest = max(ends.values(), default=first)
    new = {known.jobs.get(entity) for entity, begin in begins.items() if begin > first + _STEP}
    return {entity for entity, end in ends.items() if end < latest - 2 * _STEP and known.jobs.get(entity) in new}


def _causes_first(
    known: _Known, target: Target, calls: Sequence[Dependency], found: Sequence[Deviation]
) -> Mapping[str, int]:
    """The places of the entities in the ranking with dependencies; empty if these do not help."""
    job = target.labels.get("job", "")
    shows = next((one.name for one in found if known.jobs.get(one.name[0]) == job), None)
    if shows is None or not calls:
        return {}
    entities: dict[str, list[str]] = defaultdict(list)
    for entity, name in known.jobs.items():
        entities[name].append(entity)
    pairs = [(one, other) for caller, callee in calls for one in entities[caller] for other in entities[callee]]
    ranked = rank(known.past, known.lately, shows, pairs[:_MOST_PAIRS])
    return {one.entity: place for place, one in enumerate(ranked)}
