"""`/orchestration/pipeline(s)/`: read runs, and resume them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from orchestration.contracts import Stage
from orchestration.errors import BadInput, RunNotFound
from orchestration.states import parse_run_status
from orchestration.store import runs
from orchestration.store.keys import Scope
from orchestration.store.pushes import WrittenPush
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.story import read_story
from service.api.problems import problems
from service.api.pushes import queued
from service.api.route import ApiRequest, GuardedRoute, requires
from service.api.shapes import Queued, RunDetail, RunList, RunSummary

router = APIRouter(prefix="/orchestration", tags=["pipelines"], route_class=GuardedRoute)

RunId = Annotated[str, Path(min_length=1, max_length=64, description="A run's full id.")]
Text = Annotated[str | None, Query(max_length=256)]


@router.get("/pipeline/{run_id}/", responses=problems(404))
@requires(Scope.READ)
async def show_run(request: ApiRequest, run_id: RunId) -> RunDetail:
    """A run with every attempt at every stage."""
    async with request.api.database.transaction() as tx:
        story = await read_story(tx, _searchable(run_id))
    return RunDetail.of_story(story)


@router.get("/pipelines/")
@requires(Scope.READ)
async def list_runs(
    request: ApiRequest,
    status: Annotated[str | None, Query(max_length=32, description="In any case. completed means notified.")] = None,
    source: Text = None,
    environment: Text = None,
    stage: Annotated[Stage | None, Query(description="The stage that a run is at, or ended with.")] = None,
    trace_id: Text = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(max_length=256, description="next_cursor of the page before.")] = None,
) -> RunList:
    """The newest runs first. `count` is the number of runs on this page; `next_cursor` leads to the next one."""
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
    async with request.api.database.transaction() as tx:
        page = await list_page(tx, wanted, limit=limit, cursor=cursor)
    found = [RunSummary.of(run) for run in page.runs]
    return RunList(count=len(found), next_cursor=page.next_cursor, runs=found)


@router.post("/pipeline/{run_id}/resume/", status_code=202, response_model=Queued, responses=problems(404, 409))
@requires(Scope.RESUME)
async def resume_run(request: ApiRequest, run_id: RunId) -> Response:
    """Resume a run that failed, or that no worker executes any more. No body is needed: the payload is stored.

    The run continues at the first stage that has not succeeded, and nothing that was delivered is sent again.
    """
    async with request.api.database.transaction() as tx:
        run = await runs.request_resume(tx, _searchable(run_id))
    push = WrittenPush(trace_id=run.trace_id, run_ids=[run_id])
    return queued(request, push, "Pipeline queued to go on where it stood")


def _searchable(run_id: str) -> str:
    """The id, if PostgreSQL can search for it.

    Raises:
        RunNotFound: the id has characters that are not printable.
    """
    if not run_id.isprintable():
        raise RunNotFound(f"There is no pipeline run {run_id!r}")
    return run_id
