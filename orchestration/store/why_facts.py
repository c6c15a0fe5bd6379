"""What is on record about a run, an incident, an alert or a refused push: the evidence, and the answer made of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import Field

from orchestration.alert import Incident, UtcDatetime
from orchestration.contracts import Contract
from orchestration.policy.model import Timing
from orchestration.reasons import Reason, meaning_of
from orchestration.states import RunReason, RunStatus
from orchestration.store.deliveries import SENT
from orchestration.store.incidents import ChannelRecord
from orchestration.store.records import AttemptRecord, DeliveryRecord, HistoryRecord, RunRecord
from orchestration.store.refused import RefusedPush

NEAR = timedelta(minutes=5)
"""How far from the moment that is asked about a push may lie and still be the one that is meant."""

CLOSED_TIMERS = frozenset({Reason.HEARD_OF, Reason.NOT_DUE, Reason.ALREADY_RESOLVED, Reason.BEATS, Reason.DOOR_CLOSED})
"""Why a timer did nothing when it was due: nobody asks about those."""


class Event(Contract):
    """One line of the timeline."""

    at: UtcDatetime
    mark: str
    """✓ somebody was notified, ✗ something failed or was refused, - nothing was to be done, · anything else."""
    text: str
    run_id: str | None = None


class ExplainedRun(Contract):
    """A run with what was decided, what was sent, and what went wrong."""

    run: RunRecord
    alerts: list[str] = Field(default_factory=list[str])
    """The statuses of the alerts in its push."""
    tell: bool | None = None
    reason: str | None = None
    """The rule that decided in ingest. None means that ingest has not decided."""
    errors: list[str] = Field(default_factory=list[str])
    """What of the push could not be used."""
    deliveries: list[DeliveryRecord] = Field(default_factory=list[DeliveryRecord])
    failures: list[AttemptRecord] = Field(default_factory=list[AttemptRecord])
    """The attempts at its stages that failed."""
    not_checked: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    """The checkers that did not look, by the reason."""

    def sent(self, status: str = SENT) -> list[DeliveryRecord]:
        """Its messages with this status, without what only brought an earlier one up to date."""
        return [delivery for delivery in self.deliveries if delivery.status == status and not delivery.silent]

    @property
    def moment(self) -> datetime:
        """When it spoke: a push when it arrived, a follow-up when it was executed."""
        run = self.run
        return run.created_at if run.reason is RunReason.PUSH else run.completed_at or run.updated_at


class ChannelHealth(Contract):
    """A channel that fails now."""

    name: str
    failures: int = 0
    failing_since: UtcDatetime | None = None
    not_before: UtcDatetime | None = None
    last_error: str | None = None


class Facts(Contract):
    """What is on record about the thing that somebody asks about."""

    what: str
    now: UtcDatetime
    at: UtcDatetime | None = None
    run_id: str | None = None
    """The run that is asked about, if it is a single one."""
    subject: str
    incident: Incident | None = None
    others: list[Incident] = Field(default_factory=list[Incident])
    """Further incidents that fit the question."""
    runs: list[ExplainedRun] = Field(default_factory=list[ExplainedRun])
    """Oldest first."""
    sent: list[DeliveryRecord] = Field(default_factory=list[DeliveryRecord])
    """The last messages about the incident that a channel accepted, also those of runs that are not looked at."""
    channels: list[ChannelRecord] = Field(default_factory=list[ChannelRecord])
    failing: list[ChannelHealth] = Field(default_factory=list[ChannelHealth])
    history: list[HistoryRecord] = Field(default_factory=list[HistoryRecord])
    refused: list[RefusedPush] = Field(default_factory=list[RefusedPush])
    """Newest first. One without a body may have been about anything."""
    cut: list[RunRecord] = Field(default_factory=list[RunRecord])
    """Newest first: pushes of which only one message was made, whose alerts are not on record."""
    timing: Timing = Timing()
    """What the policy says of reminders and expiry."""
    has_worker: bool = True
    """Whether a worker is alive."""
    refused_id: int | None = None
    """The refused push that is asked about, if it is a single one."""


class Why(Contract):
    """Why somebody was notified of something, or nobody was."""

    what: str = Field(description="What was asked about.")
    at: UtcDatetime | None = Field(description="The moment that was asked about. Null means the latest news.")
    answer: str = Field(description="The answer, in a sentence or a few.")
    incident: Incident | None
    run_id: str | None = Field(description="The run that decided.")
    timeline: list[Event] = Field(description="What happened, oldest first.")
    upcoming: list[Event] = Field(description="What happens next by itself, and when.")
    other_incidents: list[Incident] = Field(description="Further incidents that fit the question.")


def clock(moment: datetime, now: datetime) -> str:
    """A moment in UTC as a sentence names it: `at 03:12`, or with its day if that is not today."""
    return f"at {moment:%H:%M}" if moment.date() == now.date() else f"on {moment:%Y-%m-%d} at {moment:%H:%M}"


def since(moment: datetime, now: datetime) -> str:
    """The same for something that goes on: `since 03:12`, or with its day if that is not today."""
    return f"since {moment:%H:%M}" if moment.date() == now.date() else f"since {moment:%Y-%m-%d %H:%M}"


def waits(run: RunRecord) -> bool:
    """Whether the run waits in the queue."""
    return run.status in (RunStatus.PENDING, RunStatus.RETRYING)


def meaning(reason: str | None) -> str:
    """What a reason means, with its name."""
    words = meaning_of(reason)
    return f"{words} ({reason})" if words else reason or "no reason is on record"


def fails(health: ChannelHealth, now: datetime) -> str:
    """Since when a channel fails, how often, and its last error."""
    begun = f" {since(health.failing_since, now)}" if health.failing_since else ""
    error = f": {health.last_error}" if health.last_error else ""
    times = f", {health.failures} times in a row" if health.failures > 1 else ""
    return f"fails{begun}{times}{error}"
