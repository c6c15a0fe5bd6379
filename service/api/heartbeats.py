"""`/heartbeats/`: accept beats, list heartbeats, and remove them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Self

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from orchestration import heartbeat
from orchestration.alert import Severity, UtcDatetime
from orchestration.errors import BadInput, Unavailable
from orchestration.heartbeat import Heartbeat, parse_beat
from orchestration.signals import logger
from orchestration.store import heartbeats as store
from orchestration.store.heartbeats import Beaten
from orchestration.store.keys import Scope
from service.api.body import RAW_BODY
from service.api.decoding import BodyHeaders, read_object
from service.api.problems import HttpProblem, problems
from service.api.route import ApiRequest, GuardedRoute, requires, when_too_large

WRITE_TIMEOUT_SECONDS = 15.0
"""How long the database may take to note a beat, before the sender gets a 503."""

IGNORED = "ignored"
_ALERTMANAGER = ("alerts", "receiver", "groupKey")

router = APIRouter(prefix="/heartbeats", tags=["heartbeats"], route_class=GuardedRoute)

Name = Annotated[str, Path(max_length=256, description="The heartbeat's name: letters, digits, dots, dashes.")]
Every = Annotated[
    str | None,
    Query(max_length=64, description="How often it comes, such as 90s, 5m, 2h or 1d. Needed the first time."),
]
Grace = Annotated[
    str | None, Query(max_length=64, description="How late it may be. By default a fifth of every, 30s to 1h.")
]
Worst = Annotated[str | None, Query(max_length=64, description="How bad its absence is. By default critical.")]
Environment = Annotated[str, Query(max_length=256, description="Where it happens.")]


class HeartbeatShape(BaseModel):
    """A heartbeat as a list has it."""

    name: str
    environment: str
    every_seconds: float
    grace_seconds: float
    severity: Severity
    created_at: UtcDatetime
    last_beat_at: UtcDatetime
    next_due_at: UtcDatetime = Field(description="When the next beat is expected.")
    missing_after: UtcDatetime = Field(description="From when on it is missing, if nothing comes.")
    missing_since: UtcDatetime | None = Field(description="When it was found to be missing. Null means that it is not.")

    @classmethod
    def of(cls, found: Heartbeat) -> Self:
        """The shape of a heartbeat."""
        return cls(**found.model_dump(), next_due_at=found.next_due_at, missing_after=found.missing_after())


class HeartbeatList(BaseModel):
    """All heartbeats: those that are missing first, then by environment and name."""

    count: int
    heartbeats: list[HeartbeatShape]


class BeatShape(BaseModel):
    """What a beat has done."""

    status: str = Field(description="ok, created, returned (its alert ends), or ignored (Alertmanager says resolved).")
    name: str
    environment: str
    next_due_at: UtcDatetime | None = Field(description="When the next beat is expected. Null if this was none.")
    missing_after: UtcDatetime | None = Field(description="From when on it is missing, if nothing comes.")


async def beat_whatever_it_says(request: ApiRequest, _reason: str) -> Response:
    """Accept a beat with a body that is too large to be read: what it says does not matter."""
    known, query = request.path_params["name"], request.query_params
    given = {name: query.get(name) for name in ("every", "grace", "severity")}
    return await _beat(request, known, **given, environment=query.get("environment", "production"))


@router.post("/{name}/", response_model=BeatShape)
@requires(Scope.TRIGGER)
@when_too_large(beat_whatever_it_says)
async def beat(
    request: ApiRequest,
    name: Name,
    every: Every = None,
    grace: Grace = None,
    severity: Worst = None,
    environment: Environment = "production",
) -> Response:
    """Say that the sender lives. If nothing comes for `every` and `grace`, somebody is notified.

    A body is ignored, but for that of an Alertmanager that says `resolved`: that is no beat.
    """
    if await _says_resolved(request):
        said = BeatShape(status=IGNORED, name=name, environment=environment, next_due_at=None, missing_after=None)
        return _answer(said)
    return await _beat(request, name, every=every, grace=grace, severity=severity, environment=environment)


@router.get("/{name}/", response_model=BeatShape)
@requires(Scope.TRIGGER)
async def beat_by_get(
    request: ApiRequest,
    name: Name,
    every: Every = None,
    grace: Grace = None,
    severity: Worst = None,
    environment: Environment = "production",
) -> Response:
    """The same for what can only get an address, such as cron with curl or wget."""
    return await _beat(request, name, every=every, grace=grace, severity=severity, environment=environment)


@router.get("/")
@requires(Scope.READ)
async def list_heartbeats(request: ApiRequest) -> HeartbeatList:
    """All heartbeats: those that are missing first, then by environment and name."""
    async with request.api.database.transaction() as tx:
        found = await store.list_heartbeats(tx)
    return HeartbeatList(count=len(found), heartbeats=[HeartbeatShape.of(one) for one in found])


@router.delete("/{name}/", responses=problems(404))
@requires(Scope.RESPOND)
async def remove_heartbeat(request: ApiRequest, name: Name, environment: Environment = "production") -> HeartbeatShape:
    """Expect it no more. If it is missing, its alert ends."""
    known = heartbeat.checked_name(name)
    by = request.caller.name or ("somebody with the local key" if request.caller.is_local else "somebody")
    async with request.api.database.transaction() as tx:
        removed = await store.remove(tx, known, heartbeat.checked_environment(environment), by=by)
    return HeartbeatShape.of(removed)


async def _beat(
    request: ApiRequest, name: str, *, every: str | None, grace: str | None, severity: str | None, environment: str
) -> Response:
    api = request.api
    wanted = parse_beat(name, every=every, grace=grace, severity=severity, environment=environment)
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
            done, found = await store.beat(api.database, wanted, most=api.settings.heartbeats_max)
    except TimeoutError:
        api.presence.lose()
        raise Unavailable(f"The database did not note the beat within {WRITE_TIMEOUT_SECONDS:g} s") from None
    except Unavailable:
        api.presence.lose()
        raise
    if done is not Beaten.KEPT:
        logger.info("Heartbeat %s (%s): %s, expected %s", found.name, found.environment, done.value, found.rhythm)
    return _answer(
        BeatShape(
            status=done.value,
            name=found.name,
            environment=found.environment,
            next_due_at=found.next_due_at,
            missing_after=found.missing_after(),
        )
    )


def _answer(said: BeatShape) -> Response:
    return Response(said.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})


async def _says_resolved(request: ApiRequest) -> bool:
    """Whether the body is that of an Alertmanager whose alerts have ended. Any other body is no matter."""
    raw: bytes = request.scope.get(RAW_BODY, b"")
    if b"resolved" not in raw and "content-encoding" not in request.headers:
        return False
    try:
        body, _ = await read_object(raw, BodyHeaders.of(request), request.api.settings.max_payload_bytes)
    except (HttpProblem, BadInput):
        return False
    return body.get("status") == "resolved" and any(name in body for name in _ALERTMANAGER)
