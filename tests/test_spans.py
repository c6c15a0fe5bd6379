"""Spans for OpenTelemetry: one trace for each run, at a collector on loopback, and none that costs a run."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from orchestration import spans as spans_module
from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.settings import Settings, load_settings
from orchestration.signals import Signal, Signals, Tags
from orchestration.spans import SpanBackend, trace_id_of
from orchestration.states import RunStatus
from orchestration.tracing import span_backends
from tests.api_helpers import alert, run_to_end
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push
from tests.receivers import HttpReceiver

STAGES = ["ingest", "check", "analyze", "notify"]


@pytest.fixture
def backend(receiver: HttpReceiver) -> Iterator[SpanBackend]:
    """The backend of a process whose collector is the receiver."""
    (found,) = span_backends(load_settings({"otel_exporter_otlp_endpoint": receiver.url}))
    assert isinstance(found, SpanBackend)
    yield found
    found._sender.shutdown()


@pytest.fixture
def services(services: Services, backend: SpanBackend) -> Services:
    return replace(services, signals=Signals([backend]))


def received(backend: SpanBackend, receiver: HttpReceiver) -> list[Span]:
    """Every span that the collector was sent."""
    backend.flush()
    found: list[Span] = []
    for request in receiver.requests:
        assert request.path == "/v1/traces"
        body = gzip.decompress(request.body) if request.body.startswith(b"\x1f\x8b") else request.body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            assert any(one.value.string_value == "alert-pipeline" for one in resource.resource.attributes)
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found


def attributes(span: Span) -> dict[str, object]:
    return {
        one.key.removeprefix("alert_pipeline."): getattr(one.value, str(one.value.WhichOneof("value")))
        for one in span.attributes
    }


async def test_each_run_is_one_trace_with_its_stages_attempts_and_deliveries(
    services: Services, backend: SpanBackend, receiver: HttpReceiver, channel: MemoryChannel
) -> None:
    channel.failures = [DeliveryFailed("busy", retryable=True)]
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    (first,) = await accept_push(services, alert("Down"), source="generic", environment="production", trace_id=trace)
    await run_to_end(services, first)
    (second,) = await accept_push(services, alert("Disk"), source="generic", environment="production")
    await run_to_end(services, second)

    spans = received(backend, receiver)

    assert len({span.trace_id for span in spans}) == 2
    mine = [span for span in spans if span.trace_id.hex() == trace]
    by_id = {span.span_id: span for span in mine}
    (root,) = [span for span in mine if not span.parent_span_id]
    assert (root.name, attributes(root)["run_id"], attributes(root)["status"]) == ("run", first, "notified")
    assert attributes(root)["incident_id"]
    stages = [span for span in mine if span.parent_span_id == root.span_id]
    assert [span.name for span in stages] == STAGES
    deliveries = [span for span in mine if span.name == "delivery"]
    assert [attributes(span)["outcome"] for span in deliveries] == ["failed", "sent"]
    assert [by_id[span.parent_span_id].name for span in deliveries] == ["notify attempt"] * 2
    tried = Counter(by_id[span.parent_span_id].name for span in mine if span.name.endswith(" attempt"))
    assert tried == {"ingest": 1, "check": 1, "analyze": 1, "notify": 2}
    assert attributes(stages[-1])["retries"] == 1
    assert len(mine) == 1 + 4 + 5 + 2
    for span in mine:
        parent = by_id.get(span.parent_span_id, span)
        assert parent.start_time_unix_nano <= span.start_time_unix_nano + 2_000_000
        assert span.end_time_unix_nano <= parent.end_time_unix_nano


async def test_a_run_that_fails_is_a_trace_that_says_why(
    services: Services, backend: SpanBackend, receiver: HttpReceiver, channel: MemoryChannel
) -> None:
    channel.failures = [DeliveryFailed("no such channel", retryable=False)] * 2
    (run_id,) = await accept_push(services, alert("Down"), source="generic", environment="production")
    record = await run_to_end(services, run_id)
    assert record.status is RunStatus.FAILED

    spans = {span.name: span for span in received(backend, receiver)}

    assert spans["run"].status.code == spans["notify"].status.code == 2
    assert "no such channel" in spans["run"].status.message
    assert spans["ingest"].status.code == 1


async def test_a_collector_that_is_down_costs_no_run(services: Services, channel: MemoryChannel) -> None:
    broken = SpanBackend("http://127.0.0.1:9")
    try:
        (run_id,) = await accept_push(services, alert("Down"), source="generic", environment="production")
        record = await run_to_end(replace(services, signals=Signals([broken])), run_id)
    finally:
        broken._sender.shutdown()

    assert record.status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1


@pytest.mark.parametrize("trace_id", ["", "0" * 32, "our own trace", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", "é" * 99])
def test_any_trace_id_makes_a_valid_one(trace_id: str) -> None:
    assert 0 < trace_id_of(trace_id) < 2**128
    assert trace_id_of(trace_id) == trace_id_of(trace_id)


def test_runs_that_never_end_here_are_forgotten(backend: SpanBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "MOST_RUNS", 3)
    for number in range(10):
        backend.emit(Signal.STARTED, Tags(trace_id="t", run_id=str(number)), {})

    assert list(backend._runs) == ["7", "8", "9"]


def test_without_an_endpoint_there_are_no_spans(settings: Settings) -> None:
    assert span_backends(settings) == []
