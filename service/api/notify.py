"""`/notify/`: send messages of one's own through the channels, and list the channels."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Body, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from orchestration.alert import Severity, UtcDatetime
from orchestration.requests import RunRequest
from orchestration.store.channels import Health, read_health
from orchestration.store.encrypted_cache import read_channel_names, read_default_channels
from orchestration.store.keys import Scope
from service.api import pushes
from service.api.names import check_names
from service.api.problems import problems
from service.api.route import ApiRequest, GuardedRoute, requires
from service.api.shapes import ChannelName, Queued, Short
from tasks.single import message_request

router = APIRouter(prefix="/notify", tags=["notify"], route_class=GuardedRoute)

MAX_BATCH = 100
"""How many messages a batch has at most."""

_NO_SIGN = "\ufffd"
"""What stands for a sign that cannot be stored."""

DRIVERS = ("console", "slack", "email", "generic", "pagerduty", "ntfy", "apprise")
"""The drivers of channels. This process does not import them: they need Prefect."""

_STORES: dict[str, Any] = {"status_code": 202, "responses": problems(409), "openapi_extra": pushes.HEADERS}


def _has_text(title: str) -> str:
    # A line break becomes a space later, and what has no sign is left out.
    if not any(sign.isprintable() and not sign.isspace() and sign != _NO_SIGN for sign in title):
        raise ValueError("expected a title with at least one sign that can be shown")
    return title


class Send(BaseModel):
    """A message, and where it goes. An unknown field is refused: with a typing error, somebody else would get it."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[
        str,
        Field(min_length=1, max_length=300, description="One line; a line break in it becomes a space."),
        AfterValidator(_has_text),
    ]
    message: Annotated[str, Field(max_length=10_000, description="The text. By default the title is all.")] = ""
    severity: Severity = Field(default=Severity.INFO, description="How bad it is. Critical runs come first.")
    channel: ChannelName | None = Field(
        default=None, description="A channel block's name. By default the default channels get it."
    )
    driver: ChannelName | None = Field(default=None, description="A driver, instead of a channel.")
    environment: Short = "production"
    labels: dict[Short, Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=dict[str, str], max_length=64, description="Labels that are kept with the run."
    )
    trace_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    test: bool = Field(default=False, strict=True, description="The message says that this is a test.")

    @model_validator(mode="after")
    def _has_one_destination(self) -> Self:
        if self.channel is not None and self.driver is not None:
            raise ValueError("name a channel or a driver, and not both")
        return self

    @property
    def channel_field(self) -> str:
        """The field that names the channel."""
        return "channel" if self.driver is None else "driver"

    def run_request(self) -> RunRequest:
        """The request for the run that sends it."""
        return message_request(
            title=self.title,
            text=self.message,
            severity=self.severity.value,
            channel=self.channel or self.driver,
            labels=self.labels,
            environment=self.environment,
            trace_id=self.trace_id,
            test=self.test,
        )


class Batch(BaseModel):
    """Several messages. If one of them is wrong, none is sent."""

    model_config = ConfigDict(extra="forbid")

    notifications: Annotated[list[Send], Field(min_length=1, max_length=MAX_BATCH)]


class Sent(BaseModel):
    """A message of a batch, whose run is queued."""

    run_id: str
    trace_id: str
    status_url: str


class BatchQueued(BaseModel):
    """The messages are stored, and their runs are queued."""

    status: Literal["queued"] = "queued"
    count: int
    notifications: list[Sent] = Field(description="In the order of the request.")


class ChannelShape(BaseModel):
    """A channel, as workers know it."""

    name: str
    default: bool = Field(description="Whether it gets the messages that name no channel.")
    status: Literal["works", "failing", "paused", "unused"]
    failing_since: UtcDatetime | None = None
    paused_until: UtcDatetime | None = None
    sent_at: UtcDatetime | None = None
    error: str | None = None


class Drivers(BaseModel):
    """The kinds of channels, and the channels that are set up."""

    count: int
    drivers: list[str] = Field(description="The kinds of channels.")
    channels: list[ChannelShape] = Field(description="What a message can name. Empty while no worker has looked.")
    problem: str | None = Field(description="Why a message that names no channel reaches nobody; null if it does.")


@router.post("/send/", **_STORES, response_model=Queued)
@requires(Scope.TRIGGER)
async def send(request: ApiRequest, asked: Send) -> Response:
    """Send a message that is about no alert.

    It is stored when this answers, and goes out as every message does: by a run of the queue, with retries, paced, and
    on record. With an `Idempotency-Key` header the same request may be sent again, and sends nothing more.
    """
    return pushes.queued(
        request, await pushes.store(request, asked.run_request(), channel_field=asked.channel_field), "Message queued"
    )


@router.post("/batch/", **_STORES)
@requires(Scope.TRIGGER)
async def send_batch(request: ApiRequest, asked: Annotated[Batch, Body()]) -> BatchQueued:
    """Send several messages, each by a run of its own. With an `Idempotency-Key` header none is sent twice."""
    wanted = [one.run_request() for one in asked.notifications]
    for number, (message, one) in enumerate(zip(asked.notifications, wanted, strict=True)):
        await check_names(request.api, one.options, f"notifications.{number}.{message.channel_field}")
    stored = [await pushes.store(request, one, part=number) for number, one in enumerate(wanted)]
    sent = [
        Sent(run_id=push.run_ids[0], trace_id=push.trace_id, status_url=pushes.status_url(request, push.run_ids[0]))
        for push in stored
    ]
    return BatchQueued(count=len(sent), notifications=sent)


@router.get("/drivers/")
@requires(Scope.READ)
async def drivers(request: ApiRequest) -> Drivers:
    """The kinds of channels, and the channels with how they work, as the workers know them."""
    async with request.api.database.transaction() as tx:
        names = await read_channel_names(tx) or []
        defaults = await read_default_channels(tx)
        health = await read_health(tx)
    chosen = defaults.names if defaults else []
    return Drivers(
        count=len(DRIVERS),
        drivers=list(DRIVERS),
        channels=[_shape(name, name in chosen, health.get(name)) for name in dict.fromkeys([*chosen, *names])],
        problem=(defaults.problem or None) if defaults else None,
    )


def _shape(name: str, default: bool, health: Health | None) -> ChannelShape:
    if health is None:
        return ChannelShape(name=name, default=default, status="unused")
    return ChannelShape(
        name=name,
        default=default,
        status=_status(health),
        failing_since=health.failing_since,
        paused_until=health.not_before,
        sent_at=health.sent_at,
        error=health.last_error if health.failures else None,
    )


def _status(health: Health) -> Literal["works", "failing", "paused", "unused"]:
    if health.failures:
        return "failing"
    if health.not_before is not None:
        return "paused"
    return "works" if health.sent_at is not None else "unused"
