"""Monitoring signals: six names, eight tags on each, sent to the log or to StatsD.

A backend that fails never disturbs a run: the failure is logged once and the alert goes on.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, cast

from statsd import StatsClient  # pyright: ignore[reportMissingTypeStubs]

from orchestration.redaction import redact_text
from orchestration.settings import MetricsBackend, Settings

LOGGER_NAME = "alert_pipeline"
PIPELINE_STAGE = "pipeline"
"""The `stage` tag of the run's own signals."""

logger = logging.getLogger(LOGGER_NAME)
signal_logger = logging.getLogger(f"{LOGGER_NAME}.signals")


class Signal(StrEnum):
    """What is told at every boundary."""

    STAGE_STARTED = "pipeline.stage.started"
    STAGE_SUCCEEDED = "pipeline.stage.succeeded"
    STAGE_FAILED = "pipeline.stage.failed"
    STAGE_RETRYING = "pipeline.stage.retrying"
    STARTED = "pipeline.started"
    COMPLETED = "pipeline.completed"


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The eight tags that every signal carries. Empty: not known yet."""

    trace_id: str
    run_id: str
    incident_id: str = ""
    stage: str = PIPELINE_STAGE
    source: str = "unknown"
    alert_fingerprint: str = ""
    environment: str = "production"
    attempt: int = 1

    def at(self, stage: str, attempt: int) -> Tags:
        """The same run, seen at one attempt of one stage."""
        return replace(self, stage=stage, attempt=attempt)


Field = str | int | float | bool | None


class SignalBackend(Protocol):
    """Where signals go."""

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Send one signal. `fields` may hold duration_ms, status, error_type, message, retryable, engine, …"""
        ...


class LoggingBackend:
    """One structured line a signal (logfmt: key=value), on the logger `alert_pipeline.signals`."""

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Log the signal; a failure is a warning, all others are information."""
        level = logging.WARNING if signal in (Signal.STAGE_FAILED, Signal.STAGE_RETRYING) else logging.INFO
        if signal_logger.isEnabledFor(level):
            signal_logger.log(level, "%s", logfmt({"signal": signal.value, **asdict(tags), **fields}))


class _Statsd(Protocol):
    def incr(self, stat: str) -> None: ...

    def timing(self, stat: str, delta: float) -> None: ...


class StatsdBackend:
    """Counters and timings over UDP.

    `PREFIX.stage.<what>.<stage>.<source>` and `PREFIX.stage.duration.<stage>.<source>` for stages,
    `PREFIX.started.<source>`, `PREFIX.completed.<source>`, `PREFIX.completed.<status>.<source>` and
    `PREFIX.duration.<source>` for runs; durations in milliseconds.
    """

    def __init__(self, host: str, port: int, prefix: str) -> None:
        # The package ships no types.
        self._client: _Statsd = cast("_Statsd", StatsClient(host=host, port=port, prefix=prefix))

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Count the signal; with `duration_ms` also time it."""
        source = _metric_part(tags.source)
        duration = fields.get("duration_ms")
        name = signal.value.removeprefix("pipeline.")
        if tags.stage == PIPELINE_STAGE:
            self._client.incr(f"{name}.{source}")
            if status := fields.get("status"):
                self._client.incr(f"{name}.{_metric_part(str(status))}.{source}")
            timing = f"duration.{source}"
        else:
            stage = _metric_part(tags.stage)
            self._client.incr(f"{name}.{stage}.{source}")
            timing = f"stage.duration.{stage}.{source}"
        if isinstance(duration, int | float):
            self._client.timing(timing, duration)


class Signals:
    """Sends each signal to every backend."""

    def __init__(self, backends: Sequence[SignalBackend]) -> None:
        self._backends = list(backends)

    def emit(self, signal: Signal, tags: Tags, **fields: Field) -> None:
        """Send one signal. Never raises: a broken backend must not cost an alert."""
        clean = {name: value for name, value in fields.items() if value is not None}
        for backend in self._backends:
            try:
                backend.emit(signal, tags, clean)
            except Exception as error:  # noqa: BLE001 - whatever a backend does, the run goes on
                logger.error("A signal could not be sent by %s: %s", type(backend).__name__, redact_text(str(error)))


def make_signals(settings: Settings) -> Signals:
    """The signals of a process, on the backend that the settings name.

    A StatsD host that cannot be resolved is logged, and the signals go to the log instead: monitoring
    that is down must not keep a page from going out.
    """
    make_visible(settings.log_level)
    if settings.metrics_backend is MetricsBackend.STATSD:
        try:
            return Signals([StatsdBackend(settings.statsd_host, settings.statsd_port, settings.statsd_prefix)])
        except OSError as error:
            logger.error(
                "STATSD_HOST=%r cannot be reached (%s): signals go to the log instead", settings.statsd_host, error
            )
    return Signals([LoggingBackend()])


def make_visible(level: str) -> None:
    """Give our logger a handler on stderr unless the program has configured logging itself."""
    logger.setLevel(level)
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def logfmt(fields: Mapping[str, Field]) -> str:
    """`key=value` pairs, quoted where a value has spaces, quotes or control characters; redacted.

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
    # A run's signals say the same eight tags again and again.
    text = redact_text(value)
    if text.isprintable() and _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _metric_part(text: str) -> str:
    """A name that StatsD takes as one part of a metric's path."""
    return re.sub(r"[^A-Za-z0-9_\-]", "_", text) or "unknown"
