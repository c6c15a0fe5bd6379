"""The inbox: a push becomes runs, committed before anything else happens.

Every way in (command line, HTTP, Prefect) comes through `accept_push()`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from orchestration.alert import Alert, Severity
from orchestration.errors import BadInput
from orchestration.store import runs
from orchestration.store.records import RunOptions, new_id
from orchestration.store.runs import NewRun
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import parse_push
from tasks.ingest.stage import StoredPush
from tasks.run import Services

_NAME_CHARACTERS = 128


async def accept_push(
    services: Services,
    payload: object,
    *,
    source: str,
    environment: str,
    trace_id: str | None = None,
    options: RunOptions | None = None,
) -> list[str]:
    """Write one PENDING run for each incident of a push; their ids, in the order of the push.

    All or none: the runs are committed together. They share `trace_id` (a new one if none is given).

    Raises:
        BadInput: no alert can be read from the payload, or it is too large; nothing is written.
        Unavailable: the database does not answer; nothing is written.
    """
    _check_size(payload, services.settings.max_payload_bytes)
    # Reading 10,000 alerts takes a second, in which this process has other alerts to look after.
    push = await asyncio.to_thread(parse_push, payload, source=source)
    trace = checked_name("trace id", trace_id) if trace_id else new_id()
    place = checked_name("environment", environment)
    settings = services.settings
    new = [
        NewRun(
            run_id=new_id(),
            trace_id=trace,
            source=push.source,
            environment=place,
            payload=StoredPush(alerts=list(group), errors=list(push.errors)).model_dump(mode="json"),
            options=options or RunOptions(),
            incident_key=group[0].incident_key,
            title=title_of(group),
            alert_fingerprint=group[0].fingerprint,
            severity=Severity.worst(*(alert.severity for alert in group)),
            max_retries=settings.max_retries_per_stage,
        )
        for group in split_by_incident(push.alerts)
    ]
    async with services.database.transaction() as tx:
        await runs.add_runs(tx, new)
    return [run.run_id for run in new]


async def accept_health_check(
    services: Services, *, source: str, environment: str, trace_id: str | None, options: RunOptions
) -> str:
    """Write a PENDING run without an alert, about the health of the host that runs it; its id."""
    run = NewRun(
        run_id=new_id(),
        trace_id=checked_name("trace id", trace_id) if trace_id else new_id(),
        source=checked_name("source", source),
        environment=checked_name("environment", environment),
        payload=StoredPush().model_dump(mode="json"),
        options=options.model_copy(update={"checks_only": True}),
        title="Host health",
        max_retries=services.settings.max_retries_per_stage,
    )
    async with services.database.transaction() as tx:
        await runs.add_runs(tx, [run])
    return run.run_id


def title_of(alerts: Sequence[Alert]) -> str:
    """What a run is called in lists: the incident's title, or the alert's name with its host."""
    lead = alerts[0]
    more = f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    place = lead.labels.get("instance") or lead.labels.get("host")
    return lead.title or f"{lead.name}{f' on {place}' if place else ''}{more}"


def checked_name(what: str, text: str) -> str:
    """A short printable text.

    Raises:
        BadInput: it is empty, too long, or has characters that are not printable.
    """
    if not text or len(text) > _NAME_CHARACTERS or not text.isprintable():
        raise BadInput(f"The {what} {text[:40]!r} is not 1 to {_NAME_CHARACTERS} printable characters")
    return text


def _check_size(payload: object, limit: int) -> None:
    try:
        size = len(json.dumps(payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"The payload is not JSON: {error}") from None
    if size > limit:
        raise BadInput(
            f"The payload has {size:,} bytes, more than ORCHESTRATION_MAX_PAYLOAD_BYTES={limit}: send smaller pushes"
        )
