"""`/incidents/`: list and show incidents, and act on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Self

from fastapi import APIRouter, Body, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from orchestration.alert import IncidentStatus, Severity, UtcDatetime
from orchestration.errors import BadInput, IncidentNotFound
from orchestration.redaction import redact_text
from orchestration.states import RunReason, RunStatus
from orchestration.store import actions
from orchestration.store.actions import MAX_NAME_CHARACTERS, MAX_NOTE_CHARACTERS, MAX_SNOOZE, Actor, Done, Via
from orchestration.store.database import AsyncConnection
from orchestration.store.incident_list import (
    IncidentFilter,
    IncidentSummary,
    list_incidents,
    parse_statuses,
    summarize,
)
from orchestration.store.incidents import IncidentStory, find_incident, read_incident
from orchestration.store.keys import Scope
from orchestration.store.standings import wait_for_messages
from service.api.problems import problems
from service.api.route import ApiRequest, GuardedRoute, requires

router = APIRouter(prefix="/incidents", tags=["incidents"], route_class=GuardedRoute)

Id = Annotated[str, Path(min_length=1, max_length=32, description="An incident's number.")]
Text = Annotated[str | None, Query(max_length=256)]


# What callers get


class IncidentShape(BaseModel):
    """An incident as a list has it."""

    id: str = Field(examples=["17"])
    title: str
    status: IncidentStatus
    severity: Severity
    environment: str
    source: str
    incident_key: Annotated[str, AfterValidator(redact_text)]
    firing: int = Field(description="How many of its alerts fire in it.")
    alerts: int = Field(description="How many alerts it has, or had.")
    opened_at: UtcDatetime
    heard_at: UtcDatetime | None = Field(description="When a push spoke of it last.")
    acknowledged_at: UtcDatetime | None
    acknowledged_by: str | None
    snoozed_until: UtcDatetime | None
    resolved_at: UtcDatetime | None
    closed_at: UtcDatetime | None
    next_reason: RunReason | None = Field(
        description="What comes next for it by itself, such as reminder or expiry. Null means nothing."
    )
    next_due_at: UtcDatetime | None

    @classmethod
    def of(cls, summary: IncidentSummary) -> IncidentShape:
        """The shape of an incident in a list."""
        own = {name for name in IncidentShape.model_fields if name in IncidentSummary.model_fields}
        found = {name: getattr(summary, name) for name in own}
        return cls(**found, **summary.incident.model_dump(include=IncidentShape.model_fields.keys() - own))


class IncidentListShape(BaseModel):
    """A page of incidents."""

    count: int = Field(description="How many incidents this page has.")
    next_cursor: str | None = Field(description="Where the next page begins. Null means that this is the last.")
    incidents: list[IncidentShape]


class MemberShape(BaseModel):
    """An alert of an incident."""

    name: str
    status: str = Field(description="In this incident: firing, resolved, dismissed (by a person) or expired.")
    severity: Severity
    source: str
    fingerprint: str
    description: str
    labels: dict[str, object]
    started_at: UtcDatetime | None
    ended_at: UtcDatetime | None


class ChannelShape(BaseModel):
    """What a channel was last sent of an incident."""

    channel: str
    driver: str
    status: str | None
    severity: str | None
    is_current: bool = Field(description="Whether it knows what is true now.")
    sent_at: UtcDatetime | None
    failing_since: UtcDatetime | None
    given_up_at: UtcDatetime | None


class EventShape(BaseModel):
    """A line of the history."""

    at: UtcDatetime
    event: str
    by: str | None = Field(description="Who did it. Null means that it happened by itself.")
    via: str | None = Field(description="From where: cli, http, admin, slack, link or pagerduty.")
    text: str | None = Field(description="The text of a note.")
    run_id: str | None
    old_status: str | None
    new_status: str | None


class UpcomingShape(BaseModel):
    """A run that waits for its time."""

    run_id: str
    reason: RunReason
    status: RunStatus
    due_at: UtcDatetime | None


class IncidentDetail(IncidentShape):
    """An incident with all that belongs to it. Lists are newest first, at most 200 of each."""

    members: list[MemberShape]
    channels: list[ChannelShape]
    upcoming: list[UpcomingShape] = Field(description="What comes next, the next one first.")
    run_ids: list[str]
    history: list[EventShape]

    @classmethod
    def of_story(cls, summary: IncidentSummary, story: IncidentStory) -> IncidentDetail:
        """The shape of an incident with all that belongs to it."""
        channels = [
            ChannelShape(
                **one.model_dump(include=set(ChannelShape.model_fields)), is_current=one.is_current(story.incident)
            )
            for one in story.channels
        ]
        return cls(
            **IncidentShape.of(summary).model_dump(),
            members=[MemberShape.model_validate(one.model_dump()) for one in story.alerts],
            channels=channels,
            upcoming=[UpcomingShape.model_validate(one.model_dump()) for one in story.upcoming],
            run_ids=[run.run_id for run in story.runs],
            history=[
                EventShape.model_validate(
                    {"by": None, "via": None, "text": None, **_strings(line.details), **line.model_dump()}
                )
                for line in story.history
            ],
        )


class DoneShape(BaseModel):
    """What an action has done."""

    changed: bool = Field(description="False means that it was so already.")
    message: str = Field(examples=["Incident 17 (DiskFull on db-1) is resolved by ada"])
    incident: IncidentShape


# What callers send


class Action(BaseModel):
    """Who acts."""

    model_config = ConfigDict(extra="ignore")

    by: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
        description="The name of the person. It is recorded next to the name of the API key, and is that by default.",
        examples=["ada"],
    )


class Snooze(Action):
    """Until when nothing is sent: a moment, or a time from now."""

    until: UtcDatetime | None = Field(default=None, examples=["2026-12-01T08:00:00Z"])
    for_seconds: float | None = Field(
        default=None, ge=0, le=MAX_SNOOZE.total_seconds(), allow_inf_nan=False, description="0 ends a snooze."
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.until is None) == (self.for_seconds is None):
            raise ValueError("expected until or for_seconds, one of them")
        return self

    @property
    def ends(self) -> datetime | timedelta:
        """When the snooze ends."""
        return self.until or timedelta(seconds=self.for_seconds or 0)


class Note(Action):
    """A note."""

    text: str = Field(min_length=1, max_length=MAX_NOTE_CHARACTERS, examples=["The disk was replaced."])


Given = Annotated[Action, Body(default_factory=Action)]


# The endpoints


@router.get("/")
@requires(Scope.READ)
async def list_all(
    request: ApiRequest,
    status: Annotated[
        str, Query(max_length=32, description="open (not ended), all, acknowledged, resolved or closed.")
    ] = "open",
    severity: Severity | None = None,
    environment: Text = None,
    source: Text = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(max_length=32, description="next_cursor of the page before.")] = None,
) -> IncidentListShape:
    """The newest incidents first; by default those that have not ended."""
    for name, text in (("environment", environment), ("source", source)):
        if text is not None and "\x00" in text:
            raise BadInput(f"{name}: expected printable characters")
    wanted = IncidentFilter(statuses=parse_statuses(status), severity=severity, environment=environment, source=source)
    async with request.api.database.transaction() as tx:
        page = await list_incidents(tx, wanted, limit=limit, cursor=cursor)
    found = [IncidentShape.of(summary) for summary in page.incidents]
    return IncidentListShape(count=len(found), next_cursor=page.next_cursor, incidents=found)


@router.get("/{incident_id}/", responses=problems(404))
@requires(Scope.READ)
async def show(request: ApiRequest, incident_id: Id) -> IncidentDetail:
    """An incident: its alerts, who was notified on which channel, what comes next, and who did what."""
    async with request.api.database.transaction() as tx:
        incident = await find_incident(tx, incident_id)
        story = await read_incident(tx, int(incident.id))
        if story is None:
            raise IncidentNotFound(f"Incident {incident.id} was deleted just now")
        return IncidentDetail.of_story(await summarize(tx, incident), story)


@router.post("/{incident_id}/acknowledge/", responses=problems(404, 409))
@requires(Scope.RESPOND)
async def acknowledge(request: ApiRequest, incident_id: Id, given: Given) -> DoneShape:
    """Stop the reminders of an incident, until it begins anew, gets worse, or INCIDENT_ACKNOWLEDGE_SECONDS are over."""
    actor, settings = _actor(request, given), request.api.settings
    return await _act(request, lambda tx: actions.acknowledge(tx, incident_id, actor, settings))


@router.post("/{incident_id}/unacknowledge/", responses=problems(404, 409))
@requires(Scope.RESPOND)
async def unacknowledge(request: ApiRequest, incident_id: Id, given: Given) -> DoneShape:
    """Undo an acknowledgement."""
    actor, settings = _actor(request, given), request.api.settings
    return await _act(request, lambda tx: actions.unacknowledge(tx, incident_id, actor, settings))


@router.post("/{incident_id}/resolve/", responses=problems(404))
@requires(Scope.RESPOND)
async def resolve(request: ApiRequest, incident_id: Id, given: Given) -> DoneShape:
    """End an incident, whatever its alerts say. Everybody who knows of it is notified."""
    actor = _actor(request, given)
    return await _act(request, lambda tx: actions.resolve(tx, incident_id, actor))


@router.post("/{incident_id}/close/", responses=problems(404, 409))
@requires(Scope.RESPOND)
async def close(request: ApiRequest, incident_id: Id, given: Given) -> DoneShape:
    """Close a resolved incident for good: its alerts open a new one when they fire again. Nobody is notified."""
    actor = _actor(request, given)
    return await _act(request, lambda tx: actions.close(tx, incident_id, actor))


@router.post("/{incident_id}/snooze/", responses=problems(404, 409))
@requires(Scope.RESPOND)
async def snooze(request: ApiRequest, incident_id: Id, given: Snooze) -> DoneShape:
    """Send nothing about an incident until then, unless it gets worse or ends. Then it is spoken of again."""
    actor, settings = _actor(request, given), request.api.settings
    return await _act(request, lambda tx: actions.snooze(tx, incident_id, actor, settings, until=given.ends))


@router.post("/{incident_id}/notes/", responses=problems(404))
@requires(Scope.RESPOND)
async def add_note(request: ApiRequest, incident_id: Id, given: Note) -> DoneShape:
    """Add a note to the history of an incident."""
    actor = _actor(request, given)
    return await _act(request, lambda tx: actions.note(tx, incident_id, actor, given.text))


def _actor(request: ApiRequest, given: Action) -> Actor:
    key = request.caller.name
    somebody = "somebody with the local key" if request.caller.is_local else "somebody without a key"
    return Actor(by=given.by or key or somebody, via=Via.HTTP, key=key)


async def _act(request: ApiRequest, action: Callable[[AsyncConnection], Awaitable[Done]]) -> DoneShape:
    async with request.api.database.transaction() as tx:
        done = await action(tx)
        incident = IncidentShape.of(await summarize(tx, done.incident))
    await wait_for_messages(request.api.database, incident.id)
    return DoneShape(changed=done.changed, message=done.message, incident=incident)


def _strings(details: dict[str, object]) -> dict[str, str]:
    return {name: value for name, value in details.items() if isinstance(value, str)}
