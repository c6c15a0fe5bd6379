"""`/alerts/webhook/`: the vendors' own bodies, as they send them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from orchestration.requests import RunOptions
from orchestration.store.keys import Scope
from service.api import examples, pushes
from service.api.problems import json_response
from service.api.shapes import Queued
from service.api.state import admit
from tasks.ingest.sources import SOURCES, source_named

router = APIRouter(prefix="/alerts/webhook", tags=["webhooks"])

SourceName = Annotated[
    str,
    Path(max_length=64, description="Whose body it is: a source's name.", json_schema_extra={"enum": [*SOURCES]}),
]
Environment = Annotated[str, Query(max_length=256, description="Where it happened.")]
DefinitionName = Annotated[
    str | None, Query(max_length=64, description="The stored definition to run instead of the linear pipeline.")
]


@router.post("/", status_code=202, response_model=Queued, **examples.WEBHOOK)
async def take(
    request: Request, environment: Environment = "production", definition: DefinitionName = None
) -> Response:
    """Take a push of any source: its body says whose it is."""
    return await _take(request, "webhook", environment, definition)


@router.post("/{source}/", status_code=202, response_model=Queued, **examples.WEBHOOK)
async def take_of(
    request: Request, source: SourceName, environment: Environment = "production", definition: DefinitionName = None
) -> Response:
    """Take a push of one source, such as alertmanager or grafana."""
    return await _take(request, source, environment, definition)


@router.get("/", **examples.WEBHOOK_HEALTH)
async def health() -> Response:
    """Whether webhooks are taken here, and of which sources."""
    return json_response({"status": "ok", "sources": list(SOURCES)})


@router.get("/{source}/", **examples.WEBHOOK_HEALTH)
async def health_of(source: SourceName) -> Response:
    """Whether webhooks of this source are taken here."""
    return json_response({"status": "ok", "sources": [source_named(source).name]})


async def _take(request: Request, source: str, environment: str, definition: str | None) -> Response:
    admitted = await admit(request, Scope.TRIGGER)
    body, size = await admitted.json_object()
    options = RunOptions(definition=definition)
    push = await pushes.store(
        request, admitted, body, size=size, source=source, environment=environment, options=options
    )
    return pushes.queued(push)
