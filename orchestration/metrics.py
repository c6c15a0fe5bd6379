"""What one process counts for Prometheus: what happens in it, from its signals. `docs/metrics.md` lists the metrics.

Each process has numbers of its own and is scraped by itself, so nothing is counted twice. Label values come from fixed
sets, or from the first few names that were seen: what a sender writes makes no new time series.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from orchestration.signals import (
    DeliveryTried,
    Fact,
    Field,
    PushAccepted,
    PushRefused,
    RunsClaimed,
    Signal,
    Tags,
)
from orchestration.states import RunStatus

PREFIX = "alert_pipeline_"
OTHER = "other"
MOST_NAMES = 100
"""How many different values a label has at most that operators name, such as channels. The others are `other`."""

_STAGE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RUN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_DELIVERY_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "unreadable",
    HTTPStatus.UNAUTHORIZED: "no_key",
    HTTPStatus.FORBIDDEN: "not_allowed",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "not_found",
    HTTPStatus.REQUEST_TIMEOUT: "too_slow",
    HTTPStatus.CONFLICT: "conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "encoding",
    HTTPStatus.UNPROCESSABLE_ENTITY: "invalid",
    HTTPStatus.TOO_MANY_REQUESTS: "too_many",
    HTTPStatus.INTERNAL_SERVER_ERROR: "error",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
"""Why a push is refused, by the status of the answer."""


class Collects(Protocol):
    """Something that has metrics to show."""

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        ...


class FirstNames:
    """Bounds the values of a label: the first `MOST_NAMES` stay themselves, all later ones are `other`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._seen:
            if len(self._seen) >= MOST_NAMES:
                return OTHER
            self._seen.add(name)
        return name


class ProcessMetrics:
    """The metrics of one process: a backend of its signals. Never waits; it can be read from any thread."""

    def __init__(self, sources: Collection[str]) -> None:
        """`sources` are the sources that have a time series of their own."""
        # A second series for each counter, with the moment at which it was made, says nothing that a rule needs.
        disable_created_metrics()
        self._sources = frozenset(sources)
        self._name = FirstNames()
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._accepted = Counter(
            f"{PREFIX}pushes_accepted", "Pushes that are stored.", ["source", "outcome"], registry=registry
        )
        self._refused = Counter(
            f"{PREFIX}pushes_refused",
            "Pushes that were answered with an error.",
            ["source", "reason"],
            registry=registry,
        )
        self._claims = Counter(
            f"{PREFIX}runs_claimed", "Runs that this worker has claimed.", ["overdue"], registry=registry
        )
        self._started = Counter(
            f"{PREFIX}runs_started", "Runs that this process has begun to execute.", ["source"], registry=registry
        )
        self._completed = Counter(
            f"{PREFIX}runs_completed",
            "Runs that have ended in this process.",
            ["source", "status", "engine"],
            registry=registry,
        )
        self._run_seconds = Histogram(
            f"{PREFIX}run_duration_seconds",
            "Time from the start of a run to its end.",
            ["status"],
            buckets=_RUN_SECONDS,
            registry=registry,
        )
        for status in RunStatus:
            if status.final:  # from 0 on, so that the first one that fails is an increase
                self._run_seconds.labels(status.value)
        self._stage_seconds = Histogram(
            f"{PREFIX}stage_duration_seconds",
            "Time of one attempt at a stage.",
            ["stage", "outcome"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._retries = Counter(
            f"{PREFIX}stage_retries", "Failed attempts at a stage that are tried again.", ["stage"], registry=registry
        )
        self._fallbacks = Counter(
            f"{PREFIX}stage_fallbacks", "Stages whose fallback stood in for their result.", ["stage"], registry=registry
        )
        self._deliveries = Counter(
            f"{PREFIX}deliveries",
            "Messages that were sent to a channel, or were about to be.",
            ["channel", "outcome"],
            registry=registry,
        )
        self._delivery_seconds = Histogram(
            f"{PREFIX}delivery_duration_seconds",
            "Time in which a channel accepted or refused a message.",
            ["driver", "outcome"],
            buckets=_DELIVERY_SECONDS,
            registry=registry,
        )

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Count one signal."""
        match signal:
            case Signal.STARTED:
                self._started.labels(self._source(tags.source)).inc()
            case Signal.COMPLETED:
                status, engine = str(fields.get("status", "")), str(fields.get("engine", "none"))
                self._completed.labels(self._source(tags.source), status, engine).inc()
                self._run_seconds.labels(status).observe(_seconds(fields))
            case Signal.STAGE_SUCCEEDED:
                fallback = bool(fields.get("fallback"))
                self._stage_seconds.labels(tags.stage, "fallback" if fallback else "succeeded").observe(
                    _seconds(fields)
                )
                if fallback:
                    self._fallbacks.labels(tags.stage).inc()
            case Signal.STAGE_FAILED:
                self._stage_seconds.labels(tags.stage, "failed").observe(_seconds(fields))
            case Signal.STAGE_RETRYING:
                self._retries.labels(tags.stage).inc()
            case Signal.STAGE_STARTED:
                pass

    def note(self, fact: Fact) -> None:
        """Count one fact that is no signal."""
        match fact:
            case PushAccepted():
                self._accepted.labels(self._source(fact.source), fact.outcome).inc()
            case PushRefused():
                reason = _REFUSALS.get(HTTPStatus(fact.status), OTHER)
                self._refused.labels(self._source(fact.source), reason).inc()
            case RunsClaimed():
                self._claims.labels("true").inc(fact.overdue)
                self._claims.labels("false").inc(fact.count - fact.overdue)
            case DeliveryTried():
                self._deliveries.labels(self._name(fact.channel), fact.outcome).inc()
                self._delivery_seconds.labels(self._name(fact.driver), fact.outcome).observe(fact.duration_ms / 1000)

    def collect(self) -> Iterable[Metric]:
        """The metrics of this process."""
        return self._registry.collect()

    def _source(self, source: str) -> str:
        return source if source in self._sources else OTHER


def exposition(accept: str, *parts: Collects) -> tuple[bytes, str]:
    """All metrics of these parts as Prometheus reads them, and their content type. `accept` is the request's header."""
    encode, content_type = choose_encoder(accept)
    return encode(as_registry(*parts)), content_type


def as_registry(*parts: Collects) -> CollectorRegistry:
    """These parts as one registry of Prometheus' library."""
    registry = CollectorRegistry()
    registry.register(_Together(parts))
    return registry


class _Together(Collector):
    def __init__(self, parts: Iterable[Collects]) -> None:
        self._parts = parts

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names of the parts are different, and a registry need not collect to know that."""
        return ()

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part.collect()


class Gauges:
    """Gauges of one process that are read when somebody asks."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """`gauges` has the help and the value of each, by name without the prefix."""
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """The gauges as they are now."""
        for name, (help_text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"{PREFIX}{name}", help_text, value=value())


def _seconds(fields: Mapping[str, Field]) -> float:
    duration = fields.get("duration_ms")
    return duration / 1000 if isinstance(duration, int | float) else 0.0
