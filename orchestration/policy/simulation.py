"""What another policy would have changed: the pages of the past, decided once more by two policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orchestration.contracts import Contract
from orchestration.policy.model import Policy
from orchestration.policy.routing import Decision, Subject, decide, union

DEFAULT = "default channels"
"""How the default channels are called among names of channels."""


class PageChange(StrEnum):
    """How a page differs under the other policy."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, kw_only=True)
class PastPage:
    """A push that somebody was notified of: the alerts that fired in it."""

    title: str
    at: datetime
    subjects: Sequence[Subject]


class ChangedPages(Contract):
    """Pages that the other policy changes in the same way."""

    change: PageChange
    route: str
    """The routes of the other policy that decide, or those of the present one where none does."""
    before: tuple[str, ...]
    """Who was notified: channels, and escalations with the word before their name."""
    after: tuple[str, ...]
    pages: int
    hours: dict[int, int]
    """How many of them there were in each hour of the day, in UTC."""
    example: str
    """The title of the latest."""


class Simulation(Contract):
    """How another policy would have notified of what happened."""

    pages: int
    unchanged: int
    changes: tuple[ChangedPages, ...]
    """The largest groups first."""
    before: dict[str, int]
    """How many pages each channel and escalation got."""
    after: dict[str, int]

    def count(self, change: PageChange) -> int:
        """How many pages are changed in this way."""
        return sum(group.pages for group in self.changes if group.change is change)


def simulate(pages: Iterable[PastPage], present: Policy, other: Policy) -> Simulation:
    """Decide pages by both policies, each at its own moment, the latest page first. Nothing is sent."""
    groups: dict[tuple[str, ...], _Group] = {}
    before, after = Counter[str](), Counter[str]()
    count = unchanged = 0
    for page in pages:
        old, new = (union([decide(policy, each, page.at) for each in page.subjects]) for policy in (present, other))
        was, now = notified(old), notified(new)
        before.update(was)
        after.update(now)
        count += 1
        if set(was) == set(now):
            unchanged += 1
            continue
        route = _routes_of(new) or _routes_of(old)
        key = (route, "/".join(was), "/".join(now))
        group = groups.setdefault(key, _Group(route=route, before=was, after=now, example=page.title))
        group.hours[page.at.hour] += 1
    found = sorted((group.changed() for group in groups.values()), key=lambda group: -group.pages)
    return Simulation(pages=count, unchanged=unchanged, changes=tuple(found), before=before, after=after)


def notified(decision: Decision) -> tuple[str, ...]:
    """Who is notified by a decision, in order; nobody is ()."""
    defaults = (DEFAULT,) if decision.is_default else ()
    return (*defaults, *decision.channels, *(f"escalation {name}" for name in decision.escalations))


def _routes_of(decision: Decision) -> str:
    return ", ".join(dict.fromkeys(target.name or target.route for target in decision.targets if target.route))


class _Group:
    def __init__(self, *, route: str, before: tuple[str, ...], after: tuple[str, ...], example: str) -> None:
        self._route, self._before, self._after, self._example = route, before, after, example
        self.hours = Counter[int]()

    def changed(self) -> ChangedPages:
        change = PageChange.CHANGED if self._before and self._after else PageChange.ADDED
        return ChangedPages(
            change=PageChange.REMOVED if not self._after else change,
            route=self._route,
            before=self._before,
            after=self._after,
            pages=self.hours.total(),
            hours=dict(sorted(self.hours.items())),
            example=self._example,
        )
