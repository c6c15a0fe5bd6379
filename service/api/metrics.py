"""`GET /metrics/`: what this process counts, and the state of the service, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Response
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from orchestration.alert import OWN_SOURCE, IncidentStatus, Severity
from orchestration.metrics import PREFIX, ProcessMetrics, exposition
from orchestration.store.gauges import PipelineState, Queue
from orchestration.store.keys import Scope
from service.api.documentation import VERSION
from service.api.route import ApiRequest, GuardedRoute, requires
from tasks.ingest.sources import SOURCES

router = APIRouter(tags=["health"], route_class=GuardedRoute)


@router.get(
    "/metrics/",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "The metrics, in Prometheus' text format."}},
)
@requires(Scope.READ)
async def show_metrics(request: ApiRequest) -> Response:
    """What this process has counted, and the state of the service, as Prometheus reads them."""
    api = request.api
    state = StateMetrics(await api.state_reader.read())
    content, content_type = exposition(request.headers.get("accept", ""), api.metrics, state)
    return Response(content, headers={"Content-Type": content_type})


def api_metrics() -> ProcessMetrics:
    """The metrics that a process of the API counts."""
    return ProcessMetrics([*SOURCES, OWN_SOURCE])


class StateMetrics:
    """The state of the service as Prometheus' metrics. None means that the database does not answer."""

    def __init__(self, state: PipelineState | None) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """The metrics of the state."""
        yield InfoMetricFamily(f"{PREFIX}build", "The version of alert-pipeline.", {"version": VERSION})
        answers = float(self._state is not None)
        yield GaugeMetricFamily(f"{PREFIX}database_up", "Whether the database answers.", value=answers)
        if self._state is not None:
            yield from _of_runs(self._state)
            yield from _of_incidents(self._state)
            yield from _of_workers(self._state)


def _of_runs(state: PipelineState) -> Iterable[Metric]:
    waiting = GaugeMetricFamily(f"{PREFIX}runs_waiting", "Runs that wait for a worker.", labels=["priority"])
    running = GaugeMetricFamily(f"{PREFIX}runs_running", "Runs that a process executes.", labels=["priority"])
    oldest = GaugeMetricFamily(
        f"{PREFIX}oldest_waiting_seconds",
        "How long the oldest waiting run has waited; 0 if none waits.",
        labels=["priority"],
    )
    for severity in Severity:
        queue = state.queues.get(severity, Queue())
        waiting.add_metric([severity.value], queue.waiting)
        running.add_metric([severity.value], queue.running)
        oldest.add_metric([severity.value], queue.oldest_waiting_seconds)
    return waiting, running, oldest


def _of_incidents(state: PipelineState) -> Iterable[Metric]:
    found = GaugeMetricFamily(
        f"{PREFIX}incidents_open", "Incidents that have not ended.", labels=["severity", "status"]
    )
    for severity in Severity:
        for status in (IncidentStatus.OPEN, IncidentStatus.ACKNOWLEDGED):
            found.add_metric([severity.value, status.value], state.incidents.get((severity.value, status.value), 0))
    yield found
    yield GaugeMetricFamily(f"{PREFIX}storms_open", "Storms that have not ended.", value=state.storms)
    yield GaugeMetricFamily(f"{PREFIX}storm_members", "Alerts that fire in a storm.", value=state.storm_members)


def _of_workers(state: PipelineState) -> Iterable[Metric]:
    alive = len(state.workers)
    with_prefect = sum(worker.prefect_ok for worker in state.workers)
    yield GaugeMetricFamily(f"{PREFIX}workers_alive", "Workers with a fresh heartbeat.", value=alive)
    yield GaugeMetricFamily(f"{PREFIX}workers_with_prefect", "Of these, those that reach Prefect.", value=with_prefect)
    failing = GaugeMetricFamily(
        f"{PREFIX}channel_failing_seconds", "For how long a channel has not worked.", labels=["channel"]
    )
    for channel, seconds in state.failing_channels.items():
        failing.add_metric([channel], seconds)
    yield failing
