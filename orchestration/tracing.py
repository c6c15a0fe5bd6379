"""Whether runs are traced with OpenTelemetry. Off unless an endpoint is set; then `spans.py` makes the spans."""

from __future__ import annotations

from functools import lru_cache

from orchestration.settings import Settings
from orchestration.signals import SignalBackend, logger


def span_backends(settings: Settings) -> list[SignalBackend]:
    """The backend that makes spans of the signals of this process; none if no endpoint is set."""
    endpoint = settings.otel_exporter_otlp_endpoint
    found = None if endpoint is None else _backend(endpoint)
    return [] if found is None else [found]


@lru_cache
def _backend(endpoint: str) -> SignalBackend | None:
    """One for the process. None means that the packages are missing: that must not keep a page from going out."""
    try:
        # They are optional, and cost nothing where nobody traces.
        from orchestration.spans import SpanBackend
    except ImportError as error:
        logger.error(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but runs are not traced (%s): install alert-pipeline[otel]", error
        )
        return None
    return SpanBackend(endpoint)
