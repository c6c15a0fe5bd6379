"""What Prometheus says of an alert: its value, its limit, what is normal, and how the host of the alert is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import Field, JsonValue

from orchestration.alert import MOST_IN_A_LINK, Alert, Severity, web_address
from orchestration.contracts import WORST_FIRST, Check, CheckStatus
from orchestration.errors import BadInput, Unavailable
from orchestration.places import read_place
from orchestration.prometheus import Prometheus, Sample, Series
from orchestration.redaction import one_line
from orchestration.series import normal_range, sparkline, value_in_words, written
from tasks.check.checkers.base import Ceilings, CheckerConfig, LeftOut, Subject
from tasks.check.checkers.promql import Condition, condition_of, expression_of, host_pattern, only_with

POINTS = 240
"""How many points of the past are asked for."""

ENOUGH_POINTS = 24
"""With fewer points of the long past, the last minutes are looked at instead."""

_SHORT = timedelta(minutes=20)
_NO_REAL_DISKS = "tmpfs|ramfs|overlay|squashfs|iso9660|devtmpfs|autofs|nsfs"


class PrometheusConfig(CheckerConfig):
    """Options of the prometheus checker."""

    hours: float = Field(24, ge=0.5, le=168, description="The hours of the past that tell what is normal.")


def unfit_for_prometheus(_config: PrometheusConfig, subject: Subject) -> str:
    """The alert needs an expression in its links, or a host that Prometheus may know."""
    if any(expression_of(alert) or _too_long(alert) for alert in subject.alerts):
        return ""
    if subject.target is None or not subject.target.host:
        return "neither an expression nor a host is named"
    is_health_check = not subject.alerts and subject.target.is_own
    return "the other checks look at this host itself" if is_health_check else ""


async def check_prometheus(config: PrometheusConfig, subject: Subject) -> Check:
    """Ask for the alert's own expression now and in the past, and for `up`, CPU, memory and disk of its host."""
    prometheus = await _found(subject)
    alert = _leading(subject.alerts)
    own, host = await asyncio.gather(
        _own_value(prometheus, alert, config) if alert else _none(), _host(prometheus, subject, alert)
    )
    if alert is None and (too_long := next((says for one in subject.alerts if (says := _too_long(one))), "")):
        own = _Part(CheckStatus.UNKNOWN, too_long)
    parts = [part for part in (own, host) if part is not None]
    if not parts:
        name = subject.target.name if subject.target else "it"
        raise LeftOut(f"Prometheus at {prometheus.host} knows nothing of {name}")
    return Check(
        name="prometheus",
        target=host.name if host else "",
        status=next(status for status in WORST_FIRST if any(part.status is status for part in parts)),
        message=one_line("; ".join(part.says for part in parts), 500),
        metrics={name: value for part in parts for name, value in part.metrics.items()},
    )


def _too_long(alert: Alert) -> str:
    """That an alert's expression is not asked, because its link is longer than a link may be; "" if it is not."""
    link: object = alert.raw_payload.get("generatorURL")
    if not isinstance(link, str) or web_address(link) or "expr" not in link or not web_address(link[:MOST_IN_A_LINK]):
        return ""
    read = f"at most {MOST_IN_A_LINK:,} are read"
    return f"the expression of {alert.name} is not asked: its link has {len(link):,} characters, and {read}"


@dataclass(frozen=True)
class _Part:
    """A part of the finding."""

    status: CheckStatus
    says: str
    metrics: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    name: str = ""


async def _none() -> None:
    return None


async def _found(subject: Subject) -> Prometheus:
    try:
        found = await subject.prometheus.find() if subject.prometheus else None
    except Unavailable as error:
        raise LeftOut(str(error)) from None
    if found is None:
        raise LeftOut("no Prometheus source is set up")
    return found


def _leading(alerts: Sequence[Alert]) -> Alert | None:
    """The worst alert with an expression; one that fires first."""
    known = [alert for alert in alerts if expression_of(alert)]
    return max(known, key=lambda alert: (alert.firing, alert.severity.rank), default=None)


# The value of the alert


async def _own_value(prometheus: Prometheus, alert: Alert, config: PrometheusConfig) -> _Part:
    condition = condition_of(expression_of(alert))
    try:
        now = await _now(prometheus, condition, alert)
        if now is None:
            return _Part(CheckStatus.UNKNOWN, f"{alert.name} has no value now", {"expression": condition.value})
        limit, past = await asyncio.gather(
            _limit(prometheus, condition, now.labels), _past(prometheus, condition, now.labels, config)
        )
    except BadInput as error:
        return _Part(CheckStatus.UNKNOWN, str(error), {"expression": condition.value})
    return _judged(alert, condition, now, limit, past)


async def _now(prometheus: Prometheus, condition: Condition, alert: Alert) -> Sample | None:
    """The series of the alert: that which shares the most labels with it, and contradicts none."""
    instance = {"instance": alert.labels["instance"]} if alert.labels.get("instance") else {}
    samples = await prometheus.query(only_with(condition.value, instance))
    if not samples and instance:
        samples = await prometheus.query(condition.value)  # it has no label instance
    fitting = [sample for sample in samples if not _contradicts(sample.labels, alert.labels)]
    return max(fitting, key=lambda sample: len(sample.labels.keys() & alert.labels.keys()), default=None)


def _contradicts(labels: Mapping[str, str], others: Mapping[str, str]) -> bool:
    return any(others.get(name, value) != value for name, value in labels.items())


async def _limit(prometheus: Prometheus, condition: Condition, labels: Mapping[str, str]) -> float | None:
    if not condition.limit_expression:
        return condition.limit
    samples = await prometheus.query(condition.limit_expression)
    fitting = [sample for sample in samples if not _contradicts(sample.labels, {**sample.labels, **labels})]
    return fitting[0].value if fitting else None


@dataclass(frozen=True)
class _Past:
    points: Sequence[tuple[float, float]]
    start: float
    end: float


async def _past(
    prometheus: Prometheus, condition: Condition, labels: Mapping[str, str], config: PrometheusConfig
) -> _Past:
    """The past of a series: of so many hours, or where Prometheus has not known it for so long, of some minutes."""
    end = datetime.now(UTC)
    expression = only_with(condition.value, labels)

    async def read(span: timedelta) -> _Past:
        step = span.total_seconds() / POINTS
        series = await prometheus.query_range(expression, start=end - span, end=end, step_seconds=step)
        return _Past(_points(series, labels), (end - span).timestamp(), end.timestamp())

    long, short = await asyncio.gather(read(timedelta(hours=config.hours)), read(_SHORT))
    return long if len(long.points) >= ENOUGH_POINTS else short


def _points(series: Sequence[Series], labels: Mapping[str, str]) -> Sequence[tuple[float, float]]:
    return next((one.points for one in series if not _contradicts(one.labels, labels)), ())


def _judged(alert: Alert, condition: Condition, now: Sample, limit: float | None, past: _Past) -> _Part:
    before = [value for moment, value in past.points if not _is_since(alert, moment)]
    # A range that holds the trouble itself would call it normal.
    usual = normal_range(before)
    # The last step of the past may lie before the value that is looked at now.
    line = sparkline([*past.points, (past.end, now.value)], start=past.start, end=past.end)
    metrics: dict[str, JsonValue] = {
        "value": now.value,
        "operator": condition.operator,
        "limit": limit,
        "low": usual[0] if usual else None,
        "high": usual[1] if usual else None,
        "sparkline": line,
        "expression": condition.value,
    }
    holds = condition.holds(now.value, limit) if limit is not None and condition.operator else None
    fires = CheckStatus.CRITICAL if alert.severity is Severity.CRITICAL else CheckStatus.WARNING
    status = {True: fires, False: CheckStatus.OK, None: CheckStatus.UNKNOWN}[holds]
    return _Part(status, f"{alert.name} is {value_in_words(metrics)}", metrics)


def _is_since(alert: Alert, moment: float) -> bool:
    return alert.started_at is not None and moment >= alert.started_at.timestamp()


# The host of the alert

_LIMITS = {
    "cpu_percent": Ceilings(warn=70, crit=90),
    "memory_percent": Ceilings(warn=70, crit=90),
    "disk_percent": Ceilings(warn=80, crit=95),
}
"""As the checkers of this host judge it."""

_CPU = 'avg(100 * (1 - rate(node_cpu_seconds_total{{mode="idle", {by}}}[5m])))'
_MEMORY = "max(100 * (1 - node_memory_MemAvailable_bytes{{{by}}} / node_memory_MemTotal_bytes{{{by}}}))"
_OF_DISKS = f'{{{{fstype!~"{_NO_REAL_DISKS}", {{by}}}}}}'
_SIZE, _FREE, _AVAILABLE = (f"node_filesystem_{figure}_bytes{_OF_DISKS}" for figure in ("size", "free", "avail"))
# As df counts: what only root may use is neither used nor available.
_DISK = (
    f"topk(1, 100 * ({_SIZE} - {_FREE}) / (({_SIZE} - {_FREE} + {_AVAILABLE}) > 0) "
    f"or 100 * (1 - {_AVAILABLE} / ({_SIZE} > 0)))"
)


async def _host(prometheus: Prometheus, subject: Subject, alert: Alert | None) -> _Part | None:
    """`up` and the figures of node_exporter of the host; None if Prometheus does not know it."""
    host = subject.target.host if subject.target else ""
    if not host:
        return None
    instance = alert.labels.get("instance", "") if alert else ""
    place = read_place(instance)
    name = instance if place and place.host == host else host  # it may be an exporter's, that speaks of this host
    by = f"instance=~{host_pattern(host)}"
    up, cpu, memory, disk = await asyncio.gather(
        prometheus.query(f"up{{{by}}}"), *(prometheus.query(query.format(by=by)) for query in (_CPU, _MEMORY, _DISK))
    )
    if not (up or cpu or memory or disk):
        return None
    down = [sample.labels.get("instance", host) for sample in up if sample.value == 0]
    figures = {"cpu_percent": cpu, "memory_percent": memory, "disk_percent": disk}
    metrics: dict[str, JsonValue] = {name: round(found[0].value, 1) for name, found in figures.items() if found}
    statuses = [judge.status_of(found[0].value) for name, judge in _LIMITS.items() if (found := figures[name])]
    statuses += [CheckStatus.CRITICAL] if down else [CheckStatus.OK]
    if up:
        metrics["up"] = not down
    says = [f"{', '.join(down[:3])} is down: Prometheus gets no answer" if down else f"{host} is up"] if up else []
    says += [f"{name.removesuffix('_percent')} {written(found[0].value)} %" for name, found in figures.items() if found]
    if disk:
        says[-1] += f" of {disk[0].labels.get('mountpoint', 'a disk')}"
    status = next(status for status in WORST_FIRST if status in statuses)
    return _Part(status, ", ".join(says), metrics, name)
