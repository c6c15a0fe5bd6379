"""Monitoring signals: six names, eight tags each, sent to the log or to StatsD, and counted for `/metrics`.

A backend that fails never disturbs a run: the error is logged, and the run goes on.
"""

from __future__ import annotations

import logging
import re
import socket
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, runtime_checkable

from orchestration.redaction import redact_text
from orchestration.settings import MetricsBackend, Settings, StatsdTags
from orchestration.states import RunStatus

LOGGER_NAME = "alert_pipeline"
PIPELINE_STAGE = "pipeline"
"""The `stage` tag of the run's own signals."""

logger = logging.getLogger(LOGGER_NAME)
signal_logger = logging.getLogger(f"{LOGGER_NAME}.signals")


class Signal(StrEnum):
    """The signals. Each marks one boundary of a run or of an attempt."""

    STAGE_STARTED = "pipeline.stage.started"
    STAGE_SUCCEEDED = "pipeline.stage.succeeded"
    STAGE_FAILED = "pipeline.stage.failed"
    STAGE_RETRYING = "pipeline.stage.retrying"
    STARTED = "pipeline.started"
    COMPLETED = "pipeline.completed"


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The eight tags of every signal. An empty tag is not known yet."""

    trace_id: str
    run_id: str
    incident_id: str = ""
    stage: str = PIPELINE_STAGE
    source: str = "unknown"
    alert_fingerprint: str = ""
    environment: str = "production"
    attempt: int = 1

    def at(self, stage: str, attempt: int) -> Tags:
        """The tags of one attempt at one stage of the same run."""
        return replace(self, stage=stage, attempt=attempt)


Field = str | int | float | bool | None


class SignalBackend(Protocol):
    """Sends signals to one monitoring system."""

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Send one signal. `fields` may contain duration_ms, status, error_type, message, retryable, engine, …"""
        ...


@dataclass(frozen=True, kw_only=True)
class PushAccepted:
    """A push is stored."""

    source: str
    outcome: str
    """queued, or why none of its runs is executed: duplicate, repeated (under its idempotency key) or ignored."""


@dataclass(frozen=True, kw_only=True)
class PushRefused:
    """A push is answered with an error."""

    source: str
    """The source that its address names; "" if that names none."""
    status: int
    """The HTTP status of the answer."""


@dataclass(frozen=True, kw_only=True)
class RunsClaimed:
    """A worker has claimed runs."""

    count: int
    overdue: int
    """How many of them are critical and have waited longer than their deadline."""


@dataclass(frozen=True, kw_only=True)
class DeliveryTried:
    """A message was sent to a channel, or was about to be."""

    tags: Tags
    """The attempt that sent it."""
    node: str
    """The node of the run that sent it."""
    channel: str
    driver: str
    outcome: str
    """sent, failed (worth a retry), refused (for good), or postponed (the channel asked to wait)."""
    duration_ms: float


Fact = PushAccepted | PushRefused | RunsClaimed | DeliveryTried


@runtime_checkable
class FactBackend(Protocol):
    """A signal backend that also wants to know what is no signal."""

    def note(self, fact: Fact) -> None:
        """Count one fact."""
        ...


class LoggingBackend:
    """Logs each signal as one line (logfmt: key=value) on the logger `alert_pipeline.signals`."""

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Log the signal: as a warning if it is a failure or a retry, else as information."""
        level = logging.WARNING if signal in (Signal.STAGE_FAILED, Signal.STAGE_RETRYING) else logging.INFO
        if signal_logger.isEnabledFor(level):
            signal_logger.log(level, "%s", logfmt({"signal": signal.value, **asdict(tags), **fields}))


class StatsdBackend:
    """Sends counters and timings (in milliseconds) over UDP; `docs/signals.md` lists the metrics.

    Plain StatsD has no tags: stage and source are parts of a metric's name, and the other tags are not sent. In the
    DogStatsD format a metric has the name of its signal, and all tags.
    """

    def __init__(self, host: str, port: int, prefix: str, tags: StatsdTags = StatsdTags.NONE) -> None:
        """Resolve the address once.

        Raises:
            OSError: the host cannot be resolved.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        # IPv4 first: a server on "localhost" seldom listens on ::1.
        family, _, _, _, self._address = min(found, key=lambda address: address[0] is not socket.AF_INET)
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._prefix = prefix
        self._tagged = tags is StatsdTags.DOGSTATSD

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Count the signal, its status, engine and fallback, and time it if it has a duration."""
        for name, value in _tagged(signal, tags, fields) if self._tagged else _untagged(signal, tags, fields):
            # Like the network between: a packet that cannot be sent is lost.
            with suppress(OSError):
                self._socket.sendto(f"{self._prefix}.{name}:{value}".encode(), self._address)


_COUNT = "1|c"


def _untagged(signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> list[tuple[str, str]]:
    """The metrics of a signal in plain StatsD: name and value."""
    source, stage = _metric_part(tags.source), _metric_part(tags.stage)
    of_run = tags.stage == PIPELINE_STAGE
    what = source if of_run else f"{stage}.{source}"
    name = signal.value.removeprefix("pipeline.")
    metrics = [(f"{name}.{what}", _COUNT)]
    if of_run and (status := fields.get("status")):
        metrics.append((f"{name}.{_metric_part(str(status))}.{source}", _COUNT))
    if signal is Signal.COMPLETED and (engine := fields.get("engine")):
        metrics.append((f"engine.{_metric_part(str(engine))}.{source}", _COUNT))
    if signal is Signal.STAGE_SUCCEEDED and fields.get("fallback"):
        metrics.append((f"stage.fallback.{what}", _COUNT))
    return [*metrics, *_timing(f"duration.{what}" if of_run else f"stage.duration.{what}", fields)]


def _tagged(signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> list[tuple[str, str]]:
    """The metrics of a signal in the DogStatsD format: name, and value with tags."""
    pairs = {**asdict(tags), **{name: fields[name] for name in _FIELDS_AS_TAGS if name in fields}}
    listed = ",".join(f"{name}:{_tag_value(value)}" for name, value in pairs.items() if value != "")
    name = signal.value.removeprefix("pipeline.")
    duration = "duration" if tags.stage == PIPELINE_STAGE else "stage.duration"
    return [(name, f"{value}|#{listed}") for name, value in [(name, _COUNT), *_timing(duration, fields)]]


_FIELDS_AS_TAGS = ("status", "engine", "fallback", "error_type", "node", "reason")


def _timing(name: str, fields: Mapping[str, Field]) -> list[tuple[str, str]]:
    duration = fields.get("duration_ms")
    return [(name, f"{duration:.6f}|ms")] if isinstance(duration, int | float) else []


class Signals:
    """Sends each signal to all backends."""

    def __init__(self, backends: Sequence[SignalBackend]) -> None:
        self._backends = list(backends)
        self._noting = [backend for backend in backends if isinstance(backend, FactBackend)]

    def emit(self, signal: Signal, tags: Tags, **fields: Field) -> None:
        """Send one signal. Never raises: an error of a backend is logged, so that it cannot cost an alert."""
        clean = {name: value for name, value in fields.items() if value is not None}
        for backend in self._backends:
            try:
                backend.emit(signal, tags, clean)
            except Exception as error:  # noqa: BLE001 - an error of any kind in a backend must not stop the run
                _log_failure(backend, error)

    def emit_skipped(self, tags: Tags, reason: str, **fields: Field) -> None:
        """Send the two signals of a run that is over before it began: no engine ever executes it."""
        self.emit(Signal.STARTED, tags)
        self.emit(Signal.COMPLETED, tags, status=RunStatus.SKIPPED.value, duration_ms=0.0, reason=reason, **fields)

    def note(self, fact: Fact) -> None:
        """Hand a fact to the backends that want to know it. Never raises."""
        for backend in self._noting:
            try:
                backend.note(fact)
            except Exception as error:  # noqa: BLE001 - as above
                _log_failure(backend, error)


def _log_failure(backend: object, error: Exception) -> None:
    logger.error("%s could not send a signal: %s", type(backend).__name__, redact_text(str(error)))


def make_signals(settings: Settings, *more: SignalBackend) -> Signals:
    """The signals of a process, with the backend that the settings name, and `more`.

    If the StatsD host cannot be resolved, this is logged and the signals go to the log: an outage of the
    monitoring must not keep a page from going out.
    """
    make_visible(settings.log_level)
    if settings.metrics_backend is MetricsBackend.STATSD:
        host, port = settings.statsd_host, settings.statsd_port
        try:
            return Signals([StatsdBackend(host, port, settings.statsd_prefix, settings.statsd_tags), *more])
        except OSError as error:
            logger.error("STATSD_HOST=%r cannot be resolved (%s): signals go to the log instead", host, error)
    return Signals([LoggingBackend(), *more])


def make_visible(level: str) -> None:
    """Give our logger a handler on stderr, unless the program has configured logging itself."""
    logger.setLevel(level)
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


_correlation_ids: ContextVar[dict[str, str] | None] = ContextVar("correlation_ids", default=None)


@contextmanager
def correlated(*, trace_id: str, run_id: str) -> Generator[None]:
    """Append both ids to each line that the body, its tasks and its threads log.

    Signals are not changed: they have the ids among their tags, and a logger of their own.
    """
    token = _correlation_ids.set({"trace_id": trace_id, "run_id": run_id})
    try:
        yield
    finally:
        _correlation_ids.reset(token)


def _add_ids(record: logging.LogRecord) -> bool:
    ids = _correlation_ids.get()
    if ids is not None:
        record.__dict__.update(ids)  # for formatters that write JSON
        record.msg, record.args = f"{record.getMessage()} {logfmt(ids)}", None
    return True


logger.addFilter(_add_ids)


def logfmt(fields: Mapping[str, Field]) -> str:
    """`key=value` pairs, redacted; a value with spaces, quotes or control characters is quoted.

    >>> logfmt({"stage": "check", "message": "took 5 s"})
    'stage=check message="took 5 s"'
    """
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in fields.items())


_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")


def _logfmt_value(value: Field) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.1f}"
    return _logfmt_text(str(value))


@lru_cache(maxsize=1024)
def _logfmt_text(value: str) -> str:
    # Cached, because all signals of a run have the same tags.
    text = redact_text(value)
    if text.isprintable() and _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _metric_part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-]", "_", text) or "unknown"


def _tag_value(value: Field) -> str:
    """The value as a DogStatsD tag: at most 200 characters, without the marks that separate tags and metrics."""
    text = str(value).lower() if isinstance(value, bool) else redact_text(str(value))
    return re.sub(r"[^\w.:/\-]", "_", text)[:200]
