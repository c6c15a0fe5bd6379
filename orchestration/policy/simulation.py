"""What another policy would have changed: the pages of the past, decided once more by two policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum

from orchestration.contracts import Contract
from orchestration.policy.replay import PastPage, Replay, ReplayedPage
from orchestration.policy.routing import Decision


class PageChange(StrEnum):
    """How a page differs under the other policy."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    LATER = "later"
    """Whoever is notified hears of it later: a mute window keeps it back."""


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
    later_minutes: int = 0
    """By how much the page is later that is delayed most."""
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
    people_before: dict[str, dict[int, int]]
    """How often each person was notified, by the hour of the day in UTC."""
    people_after: dict[str, dict[int, int]]

    def count(self, change: PageChange) -> int:
        """How many pages are changed in this way."""
        return sum(group.pages for group in self.changes if group.change is change)


def simulate(pages: Iterable[PastPage], present: Replay, other: Replay) -> Simulation:
    """Decide pages by both policies, each at its own moment, the latest page first. Nothing is sent."""
    groups: dict[tuple[str, ...], _Group] = {}
    before, after = _Tally(), _Tally()
    count = unchanged = 0
    for page in pages:
        was, now = present.page(page), other.page(page)
        before.add(was)
        after.add(now)
        count += 1
        if (change := _change_of(was, now)) is None:
            unchanged += 1
            continue
        route = _routes_of(other.decide(page)) or _routes_of(present.decide(page))
        names = was.names if was else (), now.names if now else ()
        key = (change, route, "/".join(names[0]), "/".join(names[1]))
        group = groups.setdefault(key, _Group(change, route, *names, page.title))
        group.hours[page.at.hour] += 1
        if was is not None and now is not None:
            group.later = max(group.later, now.at - was.at)
    found = sorted((group.changed() for group in groups.values()), key=lambda group: -group.pages)
    return Simulation(
        pages=count,
        unchanged=unchanged,
        changes=tuple(found),
        before=before.names,
        after=after.names,
        people_before=before.by_person(),
        people_after=after.by_person(),
    )


def _change_of(was: ReplayedPage | None, now: ReplayedPage | None) -> PageChange | None:
    """How a page differs. None means not at all. One that reaches others, and later, is later."""
    if was is None or now is None:
        if was is now:
            return None
        return PageChange.ADDED if was is None else PageChange.REMOVED
    if now.at > was.at:
        return PageChange.LATER
    return None if set(was.names) == set(now.names) and was.at == now.at else PageChange.CHANGED


def _routes_of(decision: Decision) -> str:
    return ", ".join(dict.fromkeys(target.name or target.route for target in decision.targets if target.route))


class _Tally:
    """How many pages each channel, escalation and person gets."""

    def __init__(self) -> None:
        self.names = Counter[str]()
        self._people: dict[str, Counter[int]] = {}

    def add(self, page: ReplayedPage | None) -> None:
        if page is None:
            return
        self.names.update(page.names)
        for person, at in page.people:
            self._people.setdefault(person, Counter())[at.hour] += 1

    def by_person(self) -> dict[str, dict[int, int]]:
        return {person: dict(sorted(hours.items())) for person, hours in sorted(self._people.items())}


class _Group:
    def __init__(
        self, change: PageChange, route: str, before: tuple[str, ...], after: tuple[str, ...], example: str
    ) -> None:
        self._change, self._route, self._before, self._after, self._example = change, route, before, after, example
        self.hours = Counter[int]()
        self.later = timedelta(0)

    def changed(self) -> ChangedPages:
        return ChangedPages(
            change=self._change,
            route=self._route,
            before=self._before,
            after=self._after,
            pages=self.hours.total(),
            hours=dict(sorted(self.hours.items())),
            later_minutes=round(self.later.total_seconds() / 60),
            example=self._example,
        )
