"""Requests into the inbox, in the words of the tests."""

from __future__ import annotations

from typing import Any

from orchestration.requests import RunOptions, RunRequest
from orchestration.store.pushes import WrittenPush
from tasks.ingest.inbox import IntakeServices, PushMetadata, Write, accept


async def written_push(
    services: IntakeServices,
    payload: object,
    *,
    source: str,
    environment: str,
    trace_id: str | None = None,
    options: RunOptions | None = None,
    metadata: PushMetadata | None = None,
    write: Write | None = None,
) -> WrittenPush:
    """Accept a push; what was written."""
    request = RunRequest(
        payload=payload, source=source, environment=environment, trace_id=trace_id, options=options or RunOptions()
    )
    return await accept(services, request, metadata or PushMetadata(), write=write)


async def accept_push(services: IntakeServices, payload: object, **more: Any) -> list[str]:
    """Accept a push; the ids of its runs. `more` are fields of the request and of the metadata."""
    metadata = {name: more.pop(name) for name in list(more) if name in PushMetadata.__dataclass_fields__}
    return (await written_push(services, payload, metadata=PushMetadata(**metadata), **more)).run_ids


async def accept_health_check(services: IntakeServices, *, options: RunOptions | None = None, **more: Any) -> str:
    """Accept a check of this host's health; the id of its run."""
    asked = (options or RunOptions()).model_copy(update={"checks_only": True})
    (run_id,) = await accept_push(services, None, options=asked, **more)
    return run_id
