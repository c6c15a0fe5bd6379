"""Spans for OpenTelemetry, made from the signals: one trace for each run, with its stages, attempts and deliveries.

A thread of the library sends the spans in batches. It tries again after a failure, and drops spans if too many wait.
Nothing here waits, and nothing can fail a run.
"""

from __future__ import annotations

import atexit
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import randbits

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from orchestration.signals import DeliveryTried, Fact, Field, Signal, Tags
from orchestration.states import RunStatus

MOST_RUNS = 10_000
"""How many runs are followed at most. A run that breaks off never ends here, so the oldest one is forgotten."""

EXPORT_SECONDS = 5.0
"""How long the collector may take to accept a batch."""

_PREFIX = "alert_pipeline."
_FIELDS = ("engine", "status", "reason", "error_type", "fallback", "retryable")
_HEX = re.compile("(?!0{32})[0-9a-f]{32}")


@dataclass(kw_only=True)
class _Open:
    """A span that has begun."""

    tags: Tags
    id: int = field(default_factory=lambda: randbits(63) + 1)
    began_ns: int = field(default_factory=time.time_ns)


@dataclass(kw_only=True)
class _Stage(_Open):
    """A stage of a run: its attempts, and how the latest of them has ended."""

    attempt: _Open
    ended_ns: int = 0
    failure: str | None = None
    """Why the latest attempt failed. None means that it did not."""
    retries: int = 0


@dataclass(kw_only=True)
class _Run(_Open):
    stages: dict[str, _Stage] = field(default_factory=dict[str, _Stage])


class SpanBackend:
    """A backend of signals that sends spans to a collector, over OTLP/HTTP."""

    def __init__(self, endpoint: str) -> None:
        """Start the thread that sends. What OpenTelemetry's own variables say, such as the headers, holds too."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "alert-pipeline"}))
        self._resource = resource
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._sender = BatchSpanProcessor(exporter)
        self._runs: dict[str, _Run] = {}
        atexit.register(self._sender.shutdown)

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        """Begin or end the span that the signal is about."""
        run = self._runs.get(tags.run_id)
        if run is None:
            run = self._follow(tags)
        node = str(fields.get("node", tags.stage))
        match signal:
            case Signal.STARTED:
                pass
            case Signal.STAGE_STARTED:
                attempt = _Open(tags=tags)
                run.stages.setdefault(node, _Stage(tags=tags, attempt=attempt)).attempt = attempt
            case Signal.STAGE_SUCCEEDED | Signal.STAGE_FAILED:
                self._end_attempt(run, node, signal, fields)
            case Signal.STAGE_RETRYING:
                if (stage := run.stages.get(node)) is not None:
                    stage.retries += 1
            case Signal.COMPLETED:
                self._end_run(self._runs.pop(tags.run_id), tags, fields)

    def note(self, fact: Fact) -> None:
        """Send the span of a delivery."""
        if not isinstance(fact, DeliveryTried) or (run := self._runs.get(fact.tags.run_id)) is None:
            return
        stage = run.stages.get(fact.node)
        span = _Open(tags=fact.tags, began_ns=time.time_ns() - int(fact.duration_ms * 1e6))
        said = {"channel": fact.channel, "driver": fact.driver, "outcome": fact.outcome}
        failure = None if fact.outcome == "sent" else fact.outcome
        parent = run if stage is None else stage.attempt
        self._send("delivery", span, parent, time.time_ns(), said, failure, kind=SpanKind.CLIENT)

    def flush(self) -> None:
        """Send what waits now."""
        self._sender.force_flush()

    def _follow(self, tags: Tags) -> _Run:
        if len(self._runs) >= MOST_RUNS:
            del self._runs[next(iter(self._runs))]
        run = self._runs[tags.run_id] = _Run(tags=tags)
        return run

    def _end_attempt(self, run: _Run, node: str, signal: Signal, fields: Mapping[str, Field]) -> None:
        stage = run.stages.get(node)
        if stage is None:
            return
        stage.ended_ns = time.time_ns()
        stage.failure = str(fields.get("message", "")) if signal is Signal.STAGE_FAILED else None
        self._send(f"{node} attempt", stage.attempt, stage, stage.ended_ns, _named(fields), stage.failure)

    def _end_run(self, run: _Run, tags: Tags, fields: Mapping[str, Field]) -> None:
        now = time.time_ns()
        duration = fields.get("duration_ms")
        if isinstance(duration, int | float):
            run.began_ns = min(run.began_ns, now - int(duration * 1e6))
        for node, stage in run.stages.items():
            said: dict[str, Field] = {"retries": stage.retries}
            self._send(node, stage, run, stage.ended_ns or now, said, stage.failure)
        # Only now the incident is known.
        run.tags = tags
        failed = fields.get("status") == RunStatus.FAILED.value
        said = _named(fields)
        self._send("run", run, None, now, said, str(fields.get("message", "")) if failed else None)

    def _send(
        self,
        name: str,
        span: _Open,
        parent: _Open | None,
        ended_ns: int,
        said: Mapping[str, Field],
        failure: str | None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        """Hand a span that has ended to the thread that sends. `failure` None means that all went well."""
        trace_id = trace_id_of(span.tags.trace_id)
        attributes = {f"{_PREFIX}{key}": value for key, value in {**_attributes(span.tags), **said}.items()}
        self._sender.on_end(
            ReadableSpan(
                name,
                context=_context(trace_id, span.id),
                parent=None if parent is None else _context(trace_id, parent.id),
                resource=self._resource,
                attributes={key: value for key, value in attributes.items() if value is not None and value != ""},
                kind=kind,
                status=Status(StatusCode.OK) if failure is None else Status(StatusCode.ERROR, failure),
                start_time=span.began_ns,
                end_time=max(ended_ns, span.began_ns),
            )
        )


def trace_id_of(trace_id: str) -> int:
    """The id of the trace: the run's trace id if it is one of OpenTelemetry's, else the beginning of its SHA-256."""
    text = trace_id.lower()
    return int(text if _HEX.fullmatch(text) else hashlib.sha256(trace_id.encode()).hexdigest()[:32], 16)


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _attributes(tags: Tags) -> dict[str, Field]:
    return {
        "trace_id": tags.trace_id,
        "run_id": tags.run_id,
        "incident_id": tags.incident_id,
        "stage": tags.stage,
        "source": tags.source,
        "alert_fingerprint": tags.alert_fingerprint,
        "environment": tags.environment,
        "attempt": tags.attempt,
    }


def _named(fields: Mapping[str, Field]) -> dict[str, Field]:
    return {name: fields[name] for name in _FIELDS if name in fields}
