"""The canary: a synthetic alert goes the way of every other one, through the door, the queue, the engine and a channel,
and each step is measured by what the store has on record.

It is in an environment of its own and says that it is a test, and it ends itself. It arrived if its run was notified in
time: a message that only another channel accepted (failover) did not arrive.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import Field

from orchestration.alert import AlertStatus, Severity, UtcDatetime
from orchestration.contracts import Contract, Stage
from orchestration.engine.run import NodeKinds
from orchestration.errors import BadInput, BadSetting, PipelineError, RunNotFound, Unavailable, error_in_words
from orchestration.graph import DefinitionSource
from orchestration.local_key import local_key_for
from orchestration.redaction import one_line, redact_text
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings
from orchestration.signals import Signals
from orchestration.states import RunStatus, StageStatus
from orchestration.store.database import Database, read_clock
from orchestration.store.deliveries import SENT
from orchestration.store.event_cursor import CANARY_DELIVERED, CANARY_ENVIRONMENT, CANARY_MISSED, note_canary
from orchestration.store.mappings import StoredMappings
from orchestration.store.records import new_id
from orchestration.store.story import Story, read_story
from tasks.ingest.inbox import accept
from tasks.kinds import KINDS

NAME = "Canary"
DEFAULT_API = "http://127.0.0.1:8000"
"""Where the door is looked for if nothing names it. If it is not there, the alert goes into the queue directly."""

POLL_SECONDS = 0.1
REQUEST_SECONDS = 10.0
"""How long the door, and the address that is pinged, may take to answer."""

_LOOK_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class CanaryOrder:
    """What a canary is asked to prove."""

    channel: str | None
    """The name of a channel block or of a driver. None means the default channels."""
    within_seconds: float
    api_url: str | None = None
    """The door. None means `DEFAULT_API`, or the queue directly if that is not there."""
    api_key: str | None = None
    ping_url: str | None = None
    """What is requested if it arrived in time."""
    severity: Severity = Severity.INFO

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        channel: str | None = None,
        default_channels: bool = False,
        within_seconds: float | None = None,
        api_url: str | None = None,
        ping_url: str | None = None,
        severity: Severity = Severity.INFO,
    ) -> CanaryOrder:
        """The order of the settings, with what is given in its place.

        For a door on this machine, this machine's own key is good.

        Raises:
            BadInput: no channel is named, and the default channels are not asked for; or an address is none.
        """
        named = channel or (None if default_channels else settings.canary_channel)
        if named is None and not default_channels:
            raise BadInput(
                "Name the channel that the canary goes through: --channel NAME or CANARY_CHANNEL, best one that wakes "
                "nobody. --default-channels sends it where every alert goes"
            )
        key, ping = settings.canary_api_key, settings.canary_ping_url
        url = api_url or settings.canary_api_url
        order = cls(
            channel=named,
            within_seconds=settings.canary_within_seconds if within_seconds is None else within_seconds,
            api_url=url,
            api_key=key.get_secret_value() if key is not None else local_key_for(settings, url or DEFAULT_API),
            ping_url=ping_url or (ping.get_secret_value() if ping is not None else None),
            severity=severity,
        )
        for name, address in (("The address of the API", order.api_url), ("The address to ping", order.ping_url)):
            if address is not None and urlsplit(address).scheme not in ("http", "https"):
                raise BadInput(f"{name} is no http or https URL")
        return order


class Step(Contract):
    """A step of the way, and when it was done."""

    name: str
    at: UtcDatetime
    after_ms: float = Field(description="Milliseconds since the canary was sent.")


class CanaryResult(Contract):
    """What a canary has found."""

    arrived: bool
    way: Literal["http", "queue"]
    through: str = Field(description="The door that accepted it, or why there was none.")
    channel: str
    within_seconds: float
    trace_id: str
    run_id: str | None = None
    engine: str | None = None
    steps: list[Step] = Field(default_factory=list[Step])
    problem: str = Field(default="", description="Why it did not arrive in time; empty if it did.")
    ping: str = Field(default="", description="The host that was pinged; empty if none was.")
    ping_problem: str = ""

    @property
    def total_ms(self) -> float | None:
        """Milliseconds until the channel had it. None means that it has not."""
        return next((step.after_ms for step in self.steps if step.name == "sent"), None)

    @property
    def in_words(self) -> str:
        """All of it in a line."""
        steps = ", ".join(f"{step.name} {step.after_ms:.0f} ms" for step in self.steps) or "nothing on record"
        head = f"arrived on {self.channel}" if self.arrived else f"did not arrive on {self.channel}: {self.problem}"
        pinged = f"; pinged {self.ping}" if self.ping and not self.ping_problem else ""
        failed = f"; the ping failed: {self.ping_problem}" if self.ping_problem else ""
        return f"The canary {head} ({steps}; {self.through}){pinged}{failed}"


async def send_canary(database: Database, settings: Settings, signals: Signals, order: CanaryOrder) -> CanaryResult:
    """Send a canary, follow it until it has arrived or its time is over, end it, and ping if it arrived in time.

    Raises:
        Unavailable: the database does not answer, so that nothing can be measured.
    """
    async with httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False, follow_redirects=False) as client:
        canary = _Canary(database, settings, signals, order, client)
        result = await canary.fly()
        try:
            await canary.end()
        except (PipelineError, httpx.HTTPError) as error:
            result = result.model_copy(update={"through": f"{result.through}; it could not be ended: {_said(error)}"})
    await _note(database, result)
    if not result.arrived or order.ping_url is None:
        return result
    host = urlsplit(order.ping_url).hostname or ""
    return result.model_copy(update={"ping": host, "ping_problem": await _ping(order.ping_url)})


async def _note(database: Database, result: CanaryResult) -> None:
    """Write to the history whether the canary arrived.

    Raises:
        Unavailable: the database does not answer.
    """
    said = {"channel": result.channel, "milliseconds": result.total_ms, "problem": result.problem}
    event = CANARY_DELIVERED if result.arrived else CANARY_MISSED
    async with database.transaction() as tx:
        await note_canary(tx, event, {name: value for name, value in said.items() if value}, run_id=result.run_id)


@dataclass(frozen=True)
class _Intake:
    """What the inbox needs where the alert goes into the queue directly."""

    database: Database
    signals: Signals
    settings: Settings
    kinds: NodeKinds = KINDS
    definitions: DefinitionSource | None = None

    async def stored_mappings(self) -> StoredMappings:
        """A canary has the shape of the generic source, which no mapping replaces."""
        return ()

    async def active_policy(self) -> None:
        """A canary is about no incident of somebody else, so no grouping concerns it."""


class _Canary:
    def __init__(
        self, database: Database, settings: Settings, signals: Signals, order: CanaryOrder, client: httpx.AsyncClient
    ) -> None:
        self._database = database
        self._intake = _Intake(database, signals, settings)
        self._order = order
        self._client = client
        self._mark = secrets.token_hex(4)
        self._trace_id = new_id()
        self._way: Literal["http", "queue"] = "http"
        self._through = ""

    async def fly(self) -> CanaryResult:
        """Send it, and follow it."""
        order = self._order
        async with self._database.statement() as tx:
            began = await read_clock(tx)
        self._way, self._through = await self._find_door()
        story, run_id, problem = None, None, ""
        try:
            async with asyncio.timeout(order.within_seconds):
                run_id = await self._push(AlertStatus.FIRING)
                while story is None or not story.run.status.final:
                    story = await self._look(run_id)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            problem = f"not within {order.within_seconds:g} s"
        except (PipelineError, httpx.HTTPError) as error:
            problem = f"it was not accepted: {_said(error)}"
        return self._result(began, story, run_id, problem)

    async def end(self) -> None:
        """Say that it is over, so that nothing of it stays open."""
        await self._push(AlertStatus.RESOLVED)

    async def _find_door(self) -> tuple[Literal["http", "queue"], str]:
        if self._order.api_url is not None:
            return "http", f"through {_shown(self._order.api_url)}"
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                answer = await self._client.get(f"{DEFAULT_API}/")
            is_ours = answer.status_code == HTTPStatus.OK and answer.json().get("service") == "alert-pipeline"
        except (TimeoutError, httpx.HTTPError, ValueError, AttributeError):
            is_ours = False
        if is_ours:
            return "http", f"through {DEFAULT_API}"
        return (
            "queue",
            f"into the queue directly, because no API answers at {DEFAULT_API}: CANARY_API_URL names another",
        )

    async def _push(self, status: AlertStatus) -> str:
        """Send the canary, or its end. Returns its run.

        Raises:
            PipelineError, httpx.HTTPError: it was not accepted.
        """
        order = self._order
        about = f"canary/{self._mark}"
        payload = {
            "name": NAME,
            "fingerprint": about,
            "incident_key": about,
            "severity": order.severity.value,
            "status": status.value,
            "description": "A test of the way of an alert to this channel. It ends itself, and nobody has to act.",
            "labels": {"canary": self._mark},
        }
        if self._way == "queue":
            options = RunOptions(notify_driver=order.channel, test=True)
            request = RunRequest(
                payload=payload,
                source="generic",
                environment=CANARY_ENVIRONMENT,
                trace_id=self._trace_id,
                options=options,
            )
            return (await accept(self._intake, request)).run_ids[0]
        body: dict[str, Any] = {
            "payload": payload,
            "source": "generic",
            "environment": CANARY_ENVIRONMENT,
            "trace_id": self._trace_id,
            "test": True,
        }
        if order.channel is not None:
            body["notify_channel"] = order.channel
        return await self._post(body)

    async def _post(self, body: dict[str, Any]) -> str:
        order = self._order
        headers = {} if order.api_key is None else {"Authorization": f"Bearer {order.api_key}"}
        url = f"{(order.api_url or DEFAULT_API).rstrip('/')}/orchestration/pipeline/"
        answer = await self._client.post(url, json=body, headers=headers)
        try:
            said = answer.json()
            if answer.status_code == HTTPStatus.ACCEPTED:
                return str(said["run_id"])
            reason = str(said["error"])
        except (ValueError, KeyError, TypeError):
            reason = "what answers is no alert-pipeline"
        raise Unavailable(f"the API answered {answer.status_code}: {one_line(redact_text(reason), 300)}")

    async def _look(self, run_id: str) -> Story | None:
        """What is on record of the run now.

        Raises:
            BadSetting: the API writes into another database.
        """
        try:
            async with self._database.transaction() as tx:
                return await read_story(tx, run_id)
        except RunNotFound:
            raise BadSetting("the API writes into another database than this command reads") from None

    def _result(self, began: datetime, story: Story | None, run_id: str | None, problem: str) -> CanaryResult:
        order = self._order
        steps = [] if story is None else _steps(story, began)
        late = began + timedelta(seconds=order.within_seconds)
        if story is not None and not problem:
            problem = _problem_of(story, late)
        elif story is not None:
            problem = f"{problem}; its run is {_standing(story)}"
        return CanaryResult(
            arrived=not problem,
            way=self._way,
            through=self._through,
            channel=order.channel or "the default channels",
            within_seconds=order.within_seconds,
            trace_id=self._trace_id,
            run_id=run_id,
            engine=None if story is None else story.run.engine,
            steps=steps,
            problem=problem,
        )


_STEPS = {Stage.INGEST: "ingested", Stage.CHECK: "checked", Stage.ANALYZE: "analyzed"}


def _steps(story: Story, began: datetime) -> list[Step]:
    run = story.run
    moments: list[tuple[str, datetime | None]] = [("accepted", run.created_at), ("claimed", run.started_at)]
    for attempt in story.attempts:
        if attempt.status is StageStatus.SUCCEEDED and attempt.stage in _STEPS:
            moments.append((_STEPS[attempt.stage], attempt.completed_at))
    sent = [one.settled_at for one in story.deliveries if one.status == SENT and one.settled_at is not None]
    moments.append(("sent", max(sent, default=None)))
    return [
        Step(name=name, at=at, after_ms=round((at - began).total_seconds() * 1000, 1))
        for name, at in moments
        if at is not None
    ]


def _problem_of(story: Story, late: datetime) -> str:
    """Why a run that is over has not brought its message in time; "" if it has."""
    sent = [one.settled_at for one in story.deliveries if one.status == SENT and one.settled_at is not None]
    if story.run.status is not RunStatus.NOTIFIED or not sent:
        return f"its run is {_standing(story)}"
    return "" if max(sent) <= late else "the channel accepted it too late"


def _standing(story: Story) -> str:
    run = story.run
    if run.status is RunStatus.PENDING:
        return "pending: no worker has finished its first stage"
    why = run.last_error_message or run.skip_reason
    return f"{run.status.value} at {run.current_stage}{f': {redact_text(why)}' if why else ''}"


async def _ping(url: str) -> str:
    """Request an outside URL. Returns why that failed; "" if it did not."""
    try:
        # An address outside may only be reached through the proxy that the environment names.
        async with httpx.AsyncClient(timeout=REQUEST_SECONDS, follow_redirects=True) as client:
            answer = await client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{urlsplit(url).hostname} could not be reached: {error_in_words(type(error).__name__, str(error))}"
    return "" if answer.is_success else f"{urlsplit(url).hostname} answered {answer.status_code}"


def _said(error: Exception) -> str:
    words = str(error) if isinstance(error, PipelineError) else error_in_words(type(error).__name__, str(error))
    return one_line(redact_text(words), 300)


def _shown(url: str) -> str:
    """The address without user name, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"
