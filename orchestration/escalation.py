"""An escalation of an incident: who has been notified in which step, and which step comes when. Pure.

An incident keeps its escalation as it was when it began, so that an edit of the policy never moves a step that somebody
waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from pydantic import Field, ValidationError

from orchestration.alert import Incident, UtcDatetime
from orchestration.contracts import Contract
from orchestration.signals import logger


class EscalationStep(Contract):
    """Who is notified, and how long after that the next step comes."""

    channels: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    """Whoever is on call there at that moment."""
    people: tuple[str, ...] = ()
    wait_seconds: float = Field(ge=0)


class TakenStep(Contract):
    """A step, and whom it has notified."""

    number: int
    """From 1, over all repetitions."""
    at: UtcDatetime
    people: tuple[str, ...] = ()
    until: UtcDatetime | None = None
    """Until when those of its schedules are on call. None means that it has none, or for longer than is known."""
    time_zone: str = ""
    """That of its schedules."""
    channels: tuple[str | None, ...] = ()
    """None among them stands for the default channels."""
    note: str = ""
    """What went wrong, such as that nobody was on call."""


class EscalationProgress(Contract):
    """The escalation of one incident."""

    name: str
    began_at: UtcDatetime
    steps: tuple[EscalationStep, ...]
    """None at all means that it has none for the severity of the incident: its end comes at once."""
    repeat: int = 0
    """How often all steps are repeated."""
    catch_all: tuple[str, ...] = ()
    """The channels that hear of the end of the chain."""
    taken: int = 0
    """How many steps have been taken. One more than there are means that the end of the chain was told."""
    last: tuple[TakenStep, ...] = ()
    """The latest step, with those that had to be taken at the same moment."""
    told: tuple[str | None, ...] = ()
    """The channels of all steps that have been taken. None among them stands for the default channels."""

    @property
    def count(self) -> int:
        """How many steps there are, with their repetitions and without the end of the chain."""
        return len(self.steps) * (self.repeat + 1)

    @property
    def is_over(self) -> bool:
        """Whether nobody is left to be notified, and that was told."""
        return self.taken > self.count

    @property
    def next_step(self) -> EscalationStep | None:
        """The step that comes next. None means the end of the chain, or nothing."""
        return self.steps[self.taken % len(self.steps)] if self.taken < self.count else None

    @property
    def due_at(self) -> datetime | None:
        """When what comes next is due. None means that nothing does."""
        return None if self.is_over else self.began_at + timedelta(seconds=self._seconds_before(self.taken))

    def _seconds_before(self, number: int) -> float:
        """How long after the beginning this step is due, counted from 0."""
        rounds, rest = divmod(number, max(len(self.steps), 1))
        each = [step.wait_seconds for step in self.steps]
        return rounds * sum(each) + sum(each[:rest])

    @property
    def people(self) -> tuple[str, ...]:
        """Who was notified last."""
        return tuple(dict.fromkeys(person for step in self.last for person in step.people))

    @property
    def on_call_until(self) -> datetime | None:
        """Until when the people of the latest step are on call."""
        return min((step.until for step in self.last if step.until is not None), default=None)

    @property
    def time_zone(self) -> str:
        """The time zone of the latest schedule; "" if no step had one."""
        return next((step.time_zone for step in self.last if step.time_zone), "")

    def take_due(self, at: datetime, notifies: Callable[[EscalationStep | None, int], TakenStep]) -> EscalationProgress:
        """The escalation after what is due has been done; the same if nothing is.

        After a step that comes late the later ones come as long after it as they were meant to: nobody is notified
        earlier because a worker was away.

        Args:
            at: the present moment.
            notifies: whom a step notifies, from the step (None means the end of the chain) and its number.
        """
        due_at = self.due_at
        if due_at is None or due_at > at:
            return self
        progress = self.model_copy(update={"began_at": self.began_at + (at - due_at), "last": ()})
        while progress.due_at is not None and progress.due_at <= at:
            taken = notifies(progress.next_step, progress.taken + 1)
            told = tuple(dict.fromkeys((*progress.told, *taken.channels)))
            changed = {"taken": progress.taken + 1, "last": (*progress.last, taken), "told": told}
            progress = progress.model_copy(update=changed)
        return progress

    def restarted(self, at: datetime) -> EscalationProgress:
        """The same escalation from its beginning. Whoever was notified hears of the end all the same."""
        return self.model_copy(update={"began_at": at, "taken": 0, "last": ()})


def progress_of(incident: Incident) -> EscalationProgress | None:
    """How far the escalation of an incident is. None means that it has none, or one that this version cannot read."""
    if incident.escalation is None:
        return None
    try:
        return EscalationProgress.model_validate(incident.escalation)
    except ValidationError as error:
        logger.error("The escalation of incident %s cannot be read: %d problems", incident.id, error.error_count())
        return None
