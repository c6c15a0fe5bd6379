"""`/oncall/`: who is on call."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from orchestration.alert import UtcDatetime
from orchestration.moments import parse_moment
from orchestration.policy.oncall import state_of
from orchestration.store.database import read_clock
from orchestration.store.keys import Scope
from orchestration.store.oncall import read_schedules, warnings_of
from service.api.problems import problems
from service.api.route import ApiRequest, GuardedRoute, requires

router = APIRouter(prefix="/oncall", tags=["oncall"], route_class=GuardedRoute)


class ShiftShape(BaseModel):
    """The same people are on call from one moment until another."""

    people: list[str] = Field(description="Empty means that nobody is on call.")
    starts_at: UtcDatetime
    ends_at: UtcDatetime
    by_override: bool


class ScheduleShape(BaseModel):
    """Who is on call by a schedule."""

    schedule: str = Field(examples=["backend"])
    time_zone: str = Field(examples=["Europe/Lisbon"])
    people: list[str] = Field(description="Who is on call. Empty means nobody.", examples=[["ada"]])
    by_override: bool = Field(description="Whether an override says so.")
    since: UtcDatetime | None = Field(description="Null means for more than a year.")
    until: UtcDatetime | None = Field(description="Null means for more than a year.")
    next_people: list[str] = Field(description="Who is next. Empty means nobody within a year.")
    next_since: UtcDatetime | None
    shifts: list[ShiftShape] = Field(description="The shifts from then on, as many days as were asked for.")
    warnings: list[str] = Field(description="What leaves somebody without a page.")


class OnCallShape(BaseModel):
    """Who is on call at a moment, by each schedule of the policy."""

    at: UtcDatetime
    count: int
    schedules: list[ScheduleShape]


@router.get("/", responses=problems(404))
@requires(Scope.READ)
async def show(
    request: ApiRequest,
    schedule: Annotated[str | None, Query(max_length=100, description="By default all schedules.")] = None,
    at: Annotated[
        str | None,
        Query(max_length=40, description="The moment in question, in UTC by default: 03:12, or 2026-12-24T18:00:00Z."),
    ] = None,
    days: Annotated[int, Query(ge=0, le=366, description="How many days of shifts to list.")] = 0,
) -> OnCallShape:
    """Who is on call, since when, until when, and who is next."""
    async with request.api.database.transaction() as tx:
        now = await read_clock(tx)
        moment = parse_moment(at, now, clock_time="next", name="at") if at is not None else now
        found = await read_schedules(tx, moment)
    shapes = list[ScheduleShape]()
    for name in found.rosters if schedule is None else [schedule]:
        roster = found.get(name)
        warnings = [warning.message for warning in warnings_of(found, moment, schedule=name)]
        state = state_of(name, roster, moment, timedelta(days=days))
        shapes.append(ScheduleShape(**state.model_dump(), warnings=warnings))
    return OnCallShape(at=moment, count=len(shapes), schedules=shapes)
