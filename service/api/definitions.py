"""`/orchestration/definitions/`: list, show, validate and execute pipeline definitions."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Response

from orchestration.contracts import PipelineResult
from orchestration.graph import BadDefinition
from orchestration.store import definitions as store
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord
from orchestration.store.keys import Scope
from service.api import pushes
from service.api.problems import problems
from service.api.route import ApiRequest, GuardedRoute, requires
from service.api.shapes import (
    DefinitionDetail,
    DefinitionList,
    DefinitionSummary,
    Execute,
    Fault,
    Validate,
    Verdict,
)
from tasks.kinds import validate_definition

router = APIRouter(prefix="/orchestration/definitions", tags=["definitions"], route_class=GuardedRoute)

Name = Annotated[str, Path(min_length=1, max_length=64, description="A definition's name.")]
Version = Annotated[int | None, Query(ge=1, le=2_000_000_000, description="By default the current version.")]


@router.get("/")
@requires(Scope.READ)
async def list_definitions(
    request: ApiRequest,
    include_inactive: Annotated[bool, Query(description="Also those that are disabled.")] = False,
) -> DefinitionList:
    """The current version of each definition, by name."""
    async with request.api.database.transaction() as tx:
        found = await store.list_definitions(tx, include_inactive=include_inactive)
    return DefinitionList(count=len(found), definitions=[DefinitionSummary.of(record) for record in found])


@router.get("/{name}/", responses=problems(404))
@requires(Scope.READ)
async def show_definition(request: ApiRequest, name: Name, version: Version = None) -> DefinitionDetail:
    """A definition with its nodes."""
    return DefinitionDetail.of(await _get(request.api.database, name, version))


@router.post("/{name}/validate/", responses=problems(404))
@requires(Scope.READ)
async def validate_named(
    request: ApiRequest, name: Name, asked: Annotated[Validate, Body(default_factory=Validate)]
) -> Verdict:
    """Validate a definition, and list every error by node and field. Nothing is stored or run.

    Without a body the stored definition is validated; with `{"config": {…}}` the definition in the body.
    """
    if "config" in asked.model_fields_set:
        version, config = None, asked.config
    else:
        record = await _get(request.api.database, name, None)
        version, config = record.version, record.config
    faults: list[Fault] = []
    try:
        # A definition of many edges takes half a second, in which the event loop would serve nobody.
        await asyncio.to_thread(validate_definition, config)
    except BadDefinition as error:
        faults = [Fault(**problem.model_dump()) for problem in error.problems]
    return Verdict(name=name, version=version, valid=not faults, errors=faults)


@router.post("/{name}/execute/", responses=pushes.FINISHED, openapi_extra=pushes.HEADERS)
@requires(Scope.TRIGGER)
async def execute_definition(
    request: ApiRequest,
    response: Response,
    name: Name,
    asked: Annotated[Execute, Body(default_factory=Execute)],
) -> PipelineResult:
    """Run a definition and wait for its end. It is validated first; without an ingest node it needs no payload.

    All incidents of the payload are run. The answer is the first run that failed, or else the first run.
    """
    push = await pushes.store(request, asked.run_request(name), channel_field=asked.channel_field)
    return await pushes.finished(request, response, push)


async def _get(database: Database, name: str, version: int | None) -> DefinitionRecord:
    async with database.transaction() as tx:
        return await store.get_definition(tx, name, version)
