"""Runs that are asked to do one thing: analyze an incident anew, or send a message. They go through the one queue."""

from __future__ import annotations

from pydantic import JsonValue

from orchestration.requests import RunOptions, RunRequest
from tasks.analyze.stage import ANALYZE
from tasks.check.stage import CHECK
from tasks.notify.stage import NOTIFY

ANALYSIS_NAME = "analysis"
"""The name on record of the definition of a run that only analyzes."""

MESSAGE_NAME = "message"
"""The name on record of the definition of a run that only sends a message."""


def analysis_request(
    *, incident_id: str | None, environment: str, provider: str | None, source: str = "api"
) -> RunRequest:
    """A request for a run that looks at an incident again and analyzes it, and notifies nobody.

    `incident_id` None means the health of the host of the worker.
    """
    nodes: list[JsonValue] = [
        {"id": "check", "type": CHECK.name, "required": False, "next": "analyze"},
        {"id": "analyze", "type": ANALYZE.name},
    ]
    options = RunOptions(
        definition=ANALYSIS_NAME, definition_config={"nodes": nodes}, incident_id=incident_id, provider=provider
    )
    return RunRequest(source=source, environment=environment, options=options)


def message_request(
    *,
    title: str,
    text: str = "",
    severity: str = "info",
    channel: str | None = None,
    labels: dict[str, str] | None = None,
    environment: str = "production",
    trace_id: str | None = None,
    test: bool = False,
) -> RunRequest:
    """A request for a run that sends a message, with retries and on record as every message.

    `channel` None means the default channels.
    """
    return RunRequest(
        payload={"title": title, "message": text, "severity": severity},
        source="api",
        environment=environment,
        trace_id=trace_id,
        options=RunOptions(
            definition=MESSAGE_NAME,
            definition_config={"nodes": [{"id": "notify", "type": NOTIFY.name}]},
            notify_driver=channel,
            labels=labels or {},
            test=test,
        ),
    )
