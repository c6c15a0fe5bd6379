"""`/intelligence/`: who analyzes, whether that works, and an analysis anew."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from orchestration.alert import UtcDatetime
from orchestration.analysis import LOCAL, MODEL
from orchestration.contracts import AnalyzeResult, Claim, Evidence, Recommendation
from orchestration.errors import BadInput, IncidentNotFound
from orchestration.store import incidents
from orchestration.store.encrypted_cache import read_models
from orchestration.store.keys import Scope
from orchestration.store.model_questions import ModelRecord, read_records
from service.api import pushes
from service.api.names import DEFAULT, SETTINGS, usual_provider
from service.api.problems import HttpProblem
from service.api.route import ApiRequest, GuardedRoute, requires
from service.api.shapes import Short
from tasks.single import analysis_request

router = APIRouter(prefix="/intelligence", tags=["intelligence"], route_class=GuardedRoute)


class ProviderShape(BaseModel):
    """Who can analyze."""

    name: str = Field(description="As a run names it.", examples=["local", "model", "model/careful"])
    default: bool = Field(description="Whether it analyzes what names no provider.")
    enabled: bool = True
    api: str = Field(default="", description="The kind of API of a model: openai, anthropic or ollama.")
    model: str = Field(default="", description="The name of the model.")


class ProviderList(BaseModel):
    """All providers."""

    count: int
    default: str = Field(description="Who analyzes what names no provider.")
    providers: list[ProviderShape]


class ModelHealth(BaseModel):
    """How a model has answered lately."""

    name: str = Field(description="The block, or settings.")
    status: Literal["ok", "failing", "unused"]
    questions_last_hour: int
    tokens_last_hour: int
    cost_last_hour: float = Field(description="In the currency of the block's prices.")
    answered_at: UtcDatetime | None
    failed_at: UtcDatetime | None
    error: str | None = Field(description="Of the last question, if it failed.")


class IntelligenceHealth(BaseModel):
    """Whether incidents are analyzed. `degraded`: by a model that did not answer last; pages go out all the same."""

    status: Literal["ok", "degraded"]
    provider: str = Field(description="Who analyzes what names no provider.")
    models: list[ModelHealth]


class Ask(BaseModel):
    """What to analyze. An unknown field is refused."""

    model_config = ConfigDict(extra="forbid")

    incident_id: Short | None = Field(
        default=None, description="The incident. By default the health of the worker's host is analyzed."
    )
    provider: Short | None = Field(default=None, description="Who analyzes: local, model, or model/NAME.")


class Recommended(BaseModel):
    """An analysis: what is wrong, what that rests on, and what to do."""

    run_id: str
    trace_id: str
    incident_id: str | None
    provider: str
    summary: str
    probable_cause: str
    confidence: float
    recommendations: list[Recommendation]
    actions: list[str]
    claims: list[Claim]
    evidence: list[Evidence]
    dropped: list[str] = Field(description="Claims that their evidence does not support, and why.")
    fallback_used: bool = Field(description="Whether there was no analysis to be had.")
    errors: list[str]
    model_info: dict[str, JsonValue]


@router.get("/health/")
@requires(Scope.READ)
async def health(request: ApiRequest) -> IntelligenceHealth:
    """Who analyzes, how the models have answered lately, and what they cost in the last hour. No model is asked."""
    async with request.api.database.transaction() as tx:
        records = await read_records(tx)
        models = await read_models(tx)
    found = [_health(record) for record in records]
    usual = usual_provider(request.api, models or [])
    used = SETTINGS if usual == SETTINGS else DEFAULT
    failing = usual != LOCAL and any(one.name == used and one.status == "failing" for one in found)
    return IntelligenceHealth(
        status="degraded" if failing else "ok", provider=LOCAL if usual == LOCAL else MODEL, models=found
    )


def _health(record: ModelRecord) -> ModelHealth:
    failing = record.failed_at is not None and (record.answered_at is None or record.failed_at > record.answered_at)
    unused = record.failed_at is None and record.answered_at is None
    return ModelHealth(
        name=record.name,
        status="failing" if failing else "unused" if unused else "ok",
        questions_last_hour=record.questions,
        tokens_last_hour=record.tokens,
        cost_last_hour=round(record.cost, 6),
        answered_at=record.answered_at,
        failed_at=record.failed_at,
        error=record.error if failing else None,
    )


@router.get("/providers/")
@requires(Scope.READ)
async def providers(request: ApiRequest) -> ProviderList:
    """Who can analyze: the rules, and the models that blocks and settings name. Workers write down their blocks."""
    async with request.api.database.transaction() as tx:
        models = await read_models(tx) or []
    usual = usual_provider(request.api, models)
    shapes = [ProviderShape(name=LOCAL, default=usual == LOCAL)]
    if usual == SETTINGS:
        settings = request.api.settings
        named = settings.analysis_model or ""
        shapes.append(ProviderShape(name=MODEL, default=True, api=settings.analysis_model_api, model=named))
    for one in models:
        known = ProviderShape(
            name=f"{MODEL}/{one.name}", default=False, enabled=one.enabled, api=one.api, model=one.model
        )
        if one.name == DEFAULT:
            shapes.append(known.model_copy(update={"name": MODEL, "default": True}))
        shapes.append(known)
    return ProviderList(count=len(shapes), default=LOCAL if usual == LOCAL else MODEL, providers=shapes)


@router.post("/recommendations/", responses=pushes.FINISHED_OTHERWISE, openapi_extra=pushes.HEADERS)
@requires(Scope.TRIGGER)
async def recommend(request: ApiRequest, response: Response, asked: Annotated[Ask, Body()]) -> Recommended:
    """Look at an incident again, analyze it, and wait for the result. Nobody is notified.

    This is a run of the queue, which a worker executes: it is on record, and costs what an analysis costs.
    """
    environment = "production"
    if asked.incident_id is not None:
        async with request.api.database.transaction() as tx:
            try:
                environment = (await incidents.find_incident(tx, asked.incident_id)).environment
            except IncidentNotFound as error:
                raise BadInput(f"incident_id: {error}") from None
    wanted = analysis_request(incident_id=asked.incident_id, environment=environment, provider=asked.provider)
    result = await pushes.finished(request, response, await pushes.store(request, wanted))
    if result.analyze is None:
        why = result.final_error.message if result.final_error else result.skip_reason or "the run ended without one"
        raise HttpProblem(502, f"There is no analysis: {why}", details={"run_id": result.run_id})
    return _recommended(result.run_id, result.trace_id, result.incident_id, result.analyze)


def _recommended(run_id: str, trace_id: str, incident_id: str | None, found: AnalyzeResult) -> Recommended:
    shared: dict[str, Any] = {
        name: getattr(found, name) for name in Recommended.model_fields if name in AnalyzeResult.model_fields
    }
    provider = str(found.model_info.get("provider", "none"))
    return Recommended(run_id=run_id, trace_id=trace_id, incident_id=incident_id, provider=provider, **shared)
