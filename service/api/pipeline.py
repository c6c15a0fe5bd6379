"""`/orchestration/`: start pipelines, watch them, resume them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ValidationError

from orchestration.contracts import PipelineResult, Stage
from orchestration.errors import BadInput, RunNotFound
from orchestration.states import parse_run_status
from orchestration.store import runs
from orchestration.store.keys import Scope
from orchestration.store.pushes import WrittenPush
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.story import read_story
from service.api import examples, pushes
from service.api.options import options_of
from service.api.problems import explain, json_response
from service.api.shapes import Queued, RunDetail, RunList, RunSummary, Trigger
from service.api.state import Admitted, admit

router = APIRouter(prefix="/orchestration", tags=["pipelines"])

RunId = Annotated[str, Path(min_length=1, max_length=64, description="A run's id, whole.")]


@router.post("/pipeline/", status_code=202, response_model=Queued, **examples.TRIGGER)
async def trigger(request: Request) -> Response:
    """Start a pipeline and go on.

    When this answers, the alert is stored and will be handled, whatever becomes of this process. With an
    `Idempotency-Key` header the same push may be sent again, and is answered with the same runs.
    """
    return pushes.queued((await _take(request))[1])


@router.post("/pipeline/sync/", response_model=PipelineResult, **examples.TRIGGER_SYNC)
async def trigger_and_wait(request: Request) -> Response:
    """Run a pipeline and wait for its end.

    Of several incidents all are run; shown is the first that failed, or else the first, and the header
    `X-Run-Ids` names all.
    """
    return await pushes.finished(*await _take(request))


@router.get("/pipeline/{run_id}/", response_model=RunDetail, **examples.STATUS)
async def show(request: Request, run_id: RunId) -> Response:
    """A run with every attempt at every stage."""
    admitted = await admit(request, Scope.READ)
    async with admitted.api.database.transaction() as tx:
        story = await read_story(tx, _searchable(run_id))
    return json_response(RunDetail.of_story(story).model_dump(mode="json"))


@router.get("/pipelines/", response_model=RunList, **examples.LIST)
async def show_list(
    request: Request,
    status: Annotated[str | None, Query(max_length=32, description="In any case; completed is notified.")] = None,
    source: Annotated[str | None, Query(max_length=256)] = None,
    environment: Annotated[str | None, Query(max_length=256)] = None,
    stage: Annotated[Stage | None, Query(description="The stage that a run is at, or ended with.")] = None,
    trace_id: Annotated[str | None, Query(max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(max_length=256, description="next_cursor of the page before.")] = None,
) -> Response:
    """The newest runs first. `count` is how many this page has; `next_cursor` leads to the next one."""
    admitted = await admit(request, Scope.READ)
    for name, text in (("source", source), ("environment", environment), ("trace_id", trace_id)):
        if text is not None and "\x00" in text:
            raise BadInput(f"{name}: expected printable characters")
    wanted = RunFilter(
        status=parse_run_status(status) if status is not None else None,
        source=source,
        environment=environment,
        stage=stage.value if stage is not None else None,
        trace_id=trace_id,
    )
    async with admitted.api.database.transaction() as tx:
        page = await list_page(tx, wanted, limit=limit, cursor=cursor)
    shown = [RunSummary.of(run).model_dump(mode="json") for run in page.runs]
    return json_response({"count": len(shown), "next_cursor": page.next_cursor, "runs": shown})


@router.post("/pipeline/{run_id}/resume/", status_code=202, response_model=Queued, **examples.RESUME)
async def resume(request: Request, run_id: RunId) -> Response:
    """Go on with a run that failed, or that nobody goes on with. No body is needed: the payload is stored.

    It goes on at the first stage that has not succeeded, and what was delivered is not sent again.
    """
    admitted = await admit(request, Scope.RESUME)
    async with admitted.api.database.transaction() as tx:
        run = await runs.request_resume(tx, _searchable(run_id))
    content = {
        "status": "queued",
        "task_id": run_id,
        "run_id": run_id,
        "run_ids": [run_id],
        "trace_id": run.trace_id,
        "message": "Pipeline queued to go on where it stood",
    }
    return json_response(content, 202, {"X-Trace-Id": run.trace_id})


def _searchable(run_id: str) -> str:
    """The id, if PostgreSQL can look for it."""
    if not run_id.isprintable():
        raise RunNotFound(f"There is no pipeline run {run_id!r}")
    return run_id


async def _take(request: Request) -> tuple[Admitted, WrittenPush]:
    admitted = await admit(request, Scope.TRIGGER)
    body, size = await admitted.json_object()
    if (defined := body.get("definition") is not None) and body.get("payload") is None:
        body["payload"] = {}  # whether it needs one, its definition says
    try:
        asked = Trigger.model_validate(body)
    except ValidationError as error:
        raise BadInput(explain(error)) from None
    push = await pushes.store(
        request,
        admitted,
        (asked.payload or None) if defined else asked.payload,
        size=size,
        source=asked.driver or asked.source,
        environment=asked.environment,
        trace_id=asked.trace_id,
        options=options_of(asked, admitted.api.settings, definition=asked.definition),
    )
    return admitted, push
