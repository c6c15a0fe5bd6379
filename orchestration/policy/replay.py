"""Whom a page of the past would reach by a policy, and when: at once, after a mute window, or by an escalation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orchestration.alert import Severity
from orchestration.policy.active import ActivePolicy
from orchestration.policy.escalating import plan
from orchestration.policy.holding import marks_after
from orchestration.policy.routing import Decision, Subject, decide, union
from orchestration.policy.schedules import people_at

DEFAULT = "default channels"
"""How the default channels are called among names of channels."""

_MUTED_AHEAD = timedelta(days=7)
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class PastPage:
    """A push that somebody was notified of, or that a mute window kept back: the alerts that fired in it."""

    title: str
    at: datetime
    subjects: Sequence[Subject]
    over_at: datetime | None = None
    """When somebody acknowledged its incident, or it ended, whichever came first. None means not yet."""

    def is_over(self, at: datetime) -> bool:
        """Whether nobody has to hear of it any more."""
        return self.over_at is not None and self.over_at <= at


@dataclass(frozen=True, kw_only=True)
class ReplayedPage:
    """Whom a page reaches."""

    names: tuple[str, ...]
    """Channels, the default ones among them, and escalations with that word before their name; in order."""
    at: datetime
    """When the first of them is notified."""
    people: tuple[tuple[str, datetime], ...]
    """The people of the policy who are notified, each with the moment."""


def notified(decision: Decision) -> tuple[str, ...]:
    """Who is notified by a decision, in order; nobody is ()."""
    defaults = (DEFAULT,) if decision.is_default else ()
    return (*defaults, *decision.channels, *(f"escalation {name}" for name in decision.escalations))


class Replay:
    """Decides pages of the past by one policy, each at its own moment."""

    def __init__(self, active: ActivePolicy, now: datetime) -> None:
        self._active = active
        self._now = now
        self._ends: dict[tuple[tuple[str, ...], datetime], datetime] = {}
        self._on_call: dict[tuple[str, datetime], tuple[str, ...]] = {}
        self._people: dict[str, list[str]] = {}
        for person, known in active.policy.people.items():
            for contact in known.contacts:
                self._people.setdefault(contact, []).append(person)

    def decide(self, page: PastPage, at: datetime | None = None) -> Decision:
        """The way of a page through the routes at a moment; None is its own."""
        policy = self._active.policy
        return union([decide(policy, each, at or page.at, explain=False) for each in page.subjects])

    def page(self, page: PastPage) -> ReplayedPage | None:
        """Whom a page reaches. None means nobody: no route says so, or it is over before a mute window ends."""
        decision, at = self.decide(page), page.at
        if decision.muted_by:
            at = self._end_of_mute(page, decision)
            if at == _NEVER or page.is_over(at):
                return None
            decision = self.decide(page, at)
        names = notified(decision)
        if not names:
            return None
        return ReplayedPage(names=names, at=at, people=tuple(self._reached(page, decision, at)))

    def _end_of_mute(self, page: PastPage, decision: Decision) -> datetime:
        """When the routes of a page are not muted any more. Pages on the same routes are not looked at twice."""
        routes = tuple(target.route for target in decision.targets)
        passed, end = list[tuple[tuple[str, ...], datetime]](), _NEVER
        for at in marks_after(page.at, page.at + _MUTED_AHEAD):
            if (known := self._ends.get((routes, at))) is not None:
                end = known
                break
            passed.append((routes, at))
            if not self.decide(page, at).muted_by:
                end = at
                break
        self._ends |= dict.fromkeys(passed, end)
        return end

    def _reached(self, page: PastPage, decision: Decision, at: datetime) -> Iterator[tuple[str, datetime]]:
        yield from ((person, at) for person in self._with_contact(decision.channels))
        severity = Severity.worst(*(subject.severity for subject in page.subjects))
        progress = plan(self._active.policy, decision, severity, at)
        if progress is None:
            return
        due = at
        for number in range(progress.count):
            if number and (due > self._now or page.is_over(due)):
                return
            step = progress.steps[number % len(progress.steps)]
            on_call = [person for schedule in step.schedules for person in self._on_call_at(schedule, due)]
            for person in dict.fromkeys([*step.people, *on_call, *self._with_contact(step.channels)]):
                yield person, due
            due += timedelta(seconds=step.wait_seconds)

    def _with_contact(self, channels: Sequence[str]) -> list[str]:
        """The people whom these channels reach."""
        return list(dict.fromkeys(person for name in channels for person in self._people.get(name, ())))

    def _on_call_at(self, schedule: str, at: datetime) -> tuple[str, ...]:
        key = schedule, at.replace(second=0, microsecond=0)  # shifts begin with a minute
        if key not in self._on_call:
            roster = self._active.rosters.get(schedule)
            self._on_call[key] = () if roster is None else people_at(roster, at)
        return self._on_call[key]
