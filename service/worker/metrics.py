"""The worker's own `/metrics`, on loopback, for Prometheus or an agent on the same machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prometheus_client import start_http_server

from orchestration.alert import OWN_SOURCE
from orchestration.metrics import Gauges, ProcessMetrics, as_registry
from orchestration.settings import Settings
from orchestration.signals import logger
from service.worker.breaker import Breaker
from service.worker.worker import Worker
from tasks.ingest.sources import SOURCES

LOOPBACK = "127.0.0.1"


def worker_metrics(settings: Settings) -> ProcessMetrics | None:
    """The metrics that a worker counts. None means that it counts nothing, because nobody can ask for it."""
    return None if settings.worker_metrics_port is None else ProcessMetrics([*SOURCES, OWN_SOURCE])


def worker_gauges(worker: Worker, breaker: Breaker) -> Gauges:
    """What is true of a worker now."""
    return Gauges(
        {
            "worker_slots": ("Runs that this worker executes at the same time.", lambda: worker.concurrency),
            "worker_runs_running": (
                "Runs that this worker has, those that only wait included.",
                lambda: worker.running,
            ),
            "worker_runs_working": ("Of these, those that do not only wait.", lambda: worker.working),
            "worker_breaker_open": ("Whether runs are executed without Prefect.", lambda: float(not breaker.closed)),
        }
    )


@asynccontextmanager
async def serve_metrics(settings: Settings, metrics: ProcessMetrics | None, gauges: Gauges) -> AsyncGenerator[None]:
    """Serve the metrics on the port of the settings within the body. None means that there is nothing to serve.

    If the port is in use this is logged: an outage of the monitoring must not keep a page from going out.
    """
    port = settings.worker_metrics_port
    if metrics is None or port is None:
        yield
        return
    try:
        # In a thread of its own, which answers also while the event loop is busy.
        server, thread = start_http_server(port, LOOPBACK, registry=as_registry(metrics, gauges))
    except OSError as error:
        logger.error("WORKER_METRICS_PORT=%d cannot be used (%s): this worker shows no metrics", port, error.strerror)
        yield
        return
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
