"""`/orchestration/definitions/`: which pipelines there are, whether they can be run, and running one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ValidationError

from orchestration.contracts import PipelineResult
from orchestration.errors import BadInput
from orchestration.graph import BadDefinition
from orchestration.store import definitions as store
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord
from orchestration.store.keys import Scope
from service.api import examples, pushes
from service.api.options import options_of
from service.api.problems import explain, json_response
from service.api.shapes import DefinitionDetail, DefinitionList, DefinitionSummary, Execute, Fault, Verdict
from service.api.state import admit
from tasks.kinds import validate_definition

router = APIRouter(prefix="/orchestration/definitions", tags=["definitions"])

Name = Annotated[str, Path(min_length=1, max_length=64, description="A definition's name.")]
Version = Annotated[int | None, Query(ge=1, le=2_000_000_000, description="A version; without it the current one.")]


@router.get("/", response_model=DefinitionList, **examples.DEFINITIONS)
async def show_list(
    request: Request,
    include_inactive: Annotated[bool, Query(description="Also those that are disabled.")] = False,
) -> Response:
    """The definitions by name, each with the version that is current."""
    admitted = await admit(request, Scope.READ)
    async with admitted.api.database.transaction() as tx:
        found = await store.list_definitions(tx, include_inactive=include_inactive)
    shown = [DefinitionSummary.of(record).model_dump(mode="json") for record in found]
    return json_response({"count": len(shown), "definitions": shown})


@router.get("/{name}/", response_model=DefinitionDetail, **examples.DEFINITION)
async def show(request: Request, name: Name, version: Version = None) -> Response:
    """A definition with what it says."""
    admitted = await admit(request, Scope.READ)
    record = await _get(admitted.api.database, name, version)
    return json_response(DefinitionDetail.of(record).model_dump(mode="json"))


@router.post("/{name}/validate/", response_model=Verdict, **examples.VALIDATE)
async def validate(request: Request, name: Name) -> Response:
    """Whether a definition can be run, with everything that is wrong by node and field; nothing is stored or run.

    Without a body the stored definition is looked at; with `{"config": {…}}` what the body has in its place.
    """
    admitted = await admit(request, Scope.READ)
    body: dict[str, Any] = (await admitted.json_object())[0] if admitted.raw.strip() else {}
    if "config" in body:
        version, config = None, body["config"]
    else:
        record = await _get(admitted.api.database, name, None)
        version, config = record.version, record.config
    faults: list[Fault] = []
    try:
        validate_definition(config)
    except BadDefinition as error:
        faults = [Fault(**problem.model_dump()) for problem in error.problems]
    verdict = Verdict(name=name, version=version, valid=not faults, errors=faults)
    return json_response(verdict.model_dump(mode="json"))


@router.post("/{name}/execute/", response_model=PipelineResult, **examples.EXECUTE)
async def execute(request: Request, name: Name) -> Response:
    """Run a definition and wait for its end. It is validated first; without an ingest node it needs no payload.

    Of several incidents in a payload all are run; shown is the first that failed, or else the first.
    """
    admitted = await admit(request, Scope.TRIGGER)
    body, size = await admitted.json_object() if admitted.raw.strip() else ({}, 0)
    try:
        asked = Execute.model_validate(body)
    except ValidationError as error:
        raise BadInput(explain(error)) from None
    push = await pushes.store(
        request,
        admitted,
        asked.payload,
        size=size,
        source=asked.driver or asked.source,
        environment=asked.environment,
        trace_id=asked.trace_id,
        options=options_of(asked, admitted.api.settings, definition=name, incident_id=asked.incident_id),
    )
    return await pushes.finished(admitted, push)


async def _get(database: Database, name: str, version: int | None) -> DefinitionRecord:
    async with database.transaction() as tx:
        return await store.get_definition(tx, name, version)
