"""`GET /why/`: why somebody was notified of something, or nobody was."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from orchestration.moments import parse_moment
from orchestration.store.database import read_clock
from orchestration.store.keys import Scope
from orchestration.store.why import read_why
from orchestration.store.why_facts import Why
from service.api.problems import problems
from service.api.route import ApiRequest, GuardedRoute, requires

router = APIRouter(tags=["why"], route_class=GuardedRoute)

What = Annotated[
    str,
    Query(
        min_length=1,
        max_length=256,
        description="A run's id or its start, an incident's number, an alert's name, an incident's title, or the start "
        'of one, matchers of labels such as `instance="db-1"`, or a refused push such as refused-12.',
        examples=["DiskFull"],
    ),
]
At = Annotated[
    str | None,
    Query(max_length=40, description="The moment in question, in UTC by default: 03:12, or 2026-11-26T03:12:00Z."),
]


@router.get("/why/", responses=problems(404))
@requires(Scope.READ)
async def explain_why(request: ApiRequest, what: What, at: At = None) -> Why:
    """Why somebody was notified of something, or nobody was: an answer, and the evidence as a timeline."""
    async with request.api.database.transaction() as tx:
        now = await read_clock(tx)
        moment = parse_moment(at, now, clock_time="last", name="at") if at else None
        return await read_why(tx, what, moment)
