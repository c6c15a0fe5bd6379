"""Who is on call by a schedule: what rotations, calendars and overrides say of a moment or of a span of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import count, pairwise

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.policy.rotations import LONGEST_TURN, Hours, Layer, Schedule
from orchestration.policy.wall_clock import clock_at, moment_of

HORIZON = LONGEST_TURN
"""How far `on_call()` looks back and ahead: a turn is not longer."""

LONGEST_SPAN = timedelta(days=1_100)
"""The longest span whose shifts can be asked for."""

_DAY = timedelta(days=1)


# What comes beside a schedule


class Override(Contract):
    """One person is on call instead of everybody else, from one moment until another."""

    person: str
    starts_at: UtcDatetime
    ends_at: UtcDatetime


class Entry(Contract):
    """An event of a calendar, or one repetition of it."""

    summary: str
    attendees: tuple[str, ...] = ()
    """Their names and addresses."""
    starts_at: UtcDatetime
    ends_at: UtcDatetime


@dataclass(frozen=True)
class Roster:
    """All that says who is on call by one schedule.

    Of two overrides at one time the later one of the list counts. `entries` are None while a calendar was never read.
    """

    schedule: Schedule
    overrides: Sequence[Override] = ()
    entries: Sequence[Entry] | None = None
    known_people: frozenset[str] = frozenset()
    """The people of the policy, among whom an event's person is looked for."""


# Answers


class Shift(Contract):
    """The same people are on call from one moment until another. No people means that nobody is."""

    people: tuple[str, ...]
    starts_at: UtcDatetime
    ends_at: UtcDatetime
    by_override: bool = False


class OnCall(Contract):
    """Who is on call at a moment."""

    people: tuple[str, ...]
    """Empty means nobody."""
    by_override: bool = False
    since: UtcDatetime | None = None
    """None means for longer than `HORIZON`."""
    until: UtcDatetime | None = None
    """None means for longer than `HORIZON`."""
    next_people: tuple[str, ...] = ()
    """Who is on call next, at `until` or, after a time without anybody, later. Empty means nobody within `HORIZON`."""
    next_since: UtcDatetime | None = None


def shifts(roster: Roster, start: datetime, end: datetime) -> list[Shift]:
    """Who is on call in a span: shifts without a gap and without an overlap, in order.

    Raises:
        ValueError: the span ends before it starts, or is longer than `LONGEST_SPAN`.
    """
    if not timedelta(0) <= end - start <= LONGEST_SPAN:
        raise ValueError(f"expected a span of at most {LONGEST_SPAN.days} days, got {end - start}")
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    pieces = list[Shift]()
    for layer in roster.schedule.layers:
        pieces = _overlay(pieces, _of_layer(layer, roster.schedule.time_zone, start, end))
    pieces = _overlay(pieces, _of_entries(roster, start, end))
    for override in roster.overrides:
        inside = max(override.starts_at, start), min(override.ends_at, end)
        if inside[0] < inside[1]:
            shift = Shift(people=(override.person,), starts_at=inside[0], ends_at=inside[1], by_override=True)
            pieces = _overlay(pieces, [shift])
    return list(_merged(_filled(pieces, start, end)))


def people_at(roster: Roster, at: datetime) -> tuple[str, ...]:
    """Who is on call at a moment. Empty means nobody."""
    return shifts(roster, at, at + timedelta(microseconds=1))[0].people


def on_call(roster: Roster, at: datetime) -> OnCall:
    """Who is on call at a moment, since when and until when, and who is next."""
    ahead = _ahead(roster, at)
    now = next(ahead)
    until = following = None
    for shift in ahead:
        if until is None and shift.people == now.people:
            continue
        until = until or shift.starts_at
        if shift.people:
            following = shift
            break
    return OnCall(
        people=now.people,
        by_override=now.by_override,
        since=_since(roster, at, now.people),
        until=until,
        next_people=following.people if following else (),
        next_since=following.starts_at if following else None,
    )


def gaps(roster: Roster, start: datetime, end: datetime) -> list[Shift]:
    """The times of a span at which nobody is on call."""
    return [shift for shift in shifts(roster, start, end) if not shift.people]


_STEP = timedelta(days=9)


def _ahead(roster: Roster, at: datetime) -> Iterator[Shift]:
    """The shifts from a moment on, in spans that grow, so that the near ones cost little."""
    begin, end, step = at, at + HORIZON, _STEP
    while begin < end:
        until = min(begin + step, end)
        yield from shifts(roster, begin, until)
        begin, step = until, step * 4


def _since(roster: Roster, at: datetime, people: tuple[str, ...]) -> datetime | None:
    """Since when these people have been on call. None means for longer than `HORIZON`."""
    end, begin, step = at, at - HORIZON, _STEP
    while end > begin:
        start = max(end - step, begin)
        for shift in reversed(shifts(roster, start, end)):
            if shift.people != people:
                return shift.ends_at
        end, step = start, step * 4
    return None


# Turns


def _of_layer(layer: Layer, time_zone: str, start: datetime, end: datetime) -> list[Shift]:
    turns = list(_turns(layer, time_zone, start, end))
    return _within(turns, _allowed(layer.hours, time_zone, start, end)) if layer.hours else turns


def _turns(layer: Layer, time_zone: str, start: datetime, end: datetime) -> Iterator[Shift]:
    """The turns within a span. One to which the clock leaves no time, because it jumps over it, does not take place."""
    if layer.start is None:
        yield Shift(people=_once(layer.people[0]), starts_at=start, ends_at=end)
        return
    first = datetime.combine(layer.start, layer.handoff)

    def begin_of(turn: int) -> datetime:
        return moment_of(first + turn * layer.rotate, time_zone)

    turn = (clock_at(start, time_zone) - first) // layer.rotate
    while begin_of(turn + 1) <= start:  # the clock was turned back, and the next turn has begun already
        turn += 1
    for number in count(max(turn, 0)):
        begins, ends = begin_of(number), begin_of(number + 1)
        if begins >= end:
            return
        if max(begins, start) < min(ends, end):
            people = _once(layer.people[number % len(layer.people)])
            yield Shift(people=people, starts_at=max(begins, start), ends_at=min(ends, end))


def _allowed(hours: Sequence[Hours], time_zone: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """The times within a span that belong to these hours, in order."""
    day, last = clock_at(start, time_zone).date() - _DAY, clock_at(end, time_zone).date() + _DAY
    found = list[tuple[datetime, datetime]]()
    while day <= last:
        midnight = datetime.combine(day, time())
        for begin, until in sorted({minutes for each in hours for minutes in each.on(day)}):
            found.append(
                (
                    moment_of(midnight + timedelta(minutes=begin), time_zone),
                    moment_of(midnight + timedelta(minutes=until), time_zone),
                )
            )
        day += _DAY
    merged = list[tuple[datetime, datetime]]()
    for begin, until in found:
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(until, merged[-1][1])
        else:
            merged.append((begin, until))
    return merged


# Pieces of time: sorted, without overlaps


def _part(piece: Shift, start: datetime, end: datetime) -> Shift:
    return piece.model_copy(update={"starts_at": start, "ends_at": end})


def _within(pieces: Sequence[Shift], allowed: Sequence[tuple[datetime, datetime]]) -> list[Shift]:
    """The parts of the pieces within the allowed times."""
    found, at = list[Shift](), 0
    for piece in pieces:
        while at < len(allowed) and allowed[at][1] <= piece.starts_at:
            at += 1
        look = at
        while look < len(allowed) and allowed[look][0] < piece.ends_at:
            begin, until = max(allowed[look][0], piece.starts_at), min(allowed[look][1], piece.ends_at)
            if begin < until:
                found.append(_part(piece, begin, until))
            look += 1
    return found


def _overlay(under: list[Shift], over: list[Shift]) -> list[Shift]:
    """Both together; where both say something, what lies over the other counts."""
    kept, at = list[Shift](), 0
    for piece in under if over else ():
        begin = piece.starts_at
        while at < len(over) and over[at].ends_at <= begin:
            at += 1
        look = at
        while look < len(over) and over[look].starts_at < piece.ends_at:
            if begin < over[look].starts_at:
                kept.append(_part(piece, begin, over[look].starts_at))
            begin = max(begin, over[look].ends_at)
            look += 1
        if begin < piece.ends_at:
            kept.append(_part(piece, begin, piece.ends_at))
    return sorted([*kept, *over], key=lambda piece: piece.starts_at) if over else under


def _filled(pieces: Iterable[Shift], start: datetime, end: datetime) -> Iterator[Shift]:
    """The pieces, and between them shifts in which nobody is on call."""
    at = start
    for piece in pieces:
        if at < piece.starts_at:
            yield Shift(people=(), starts_at=at, ends_at=piece.starts_at)
        yield piece
        at = piece.ends_at
    if at < end:
        yield Shift(people=(), starts_at=at, ends_at=end)


def _merged(pieces: Iterable[Shift]) -> Iterator[Shift]:
    """Pieces one after the other that say the same are one shift."""
    last: Shift | None = None
    for piece in pieces:
        if last is None:
            last = piece
        elif (last.people, last.by_override) == (piece.people, piece.by_override):
            last = _part(last, last.starts_at, piece.ends_at)
        else:
            yield last
            last = piece
    if last is not None:
        yield last


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


# Events of calendars


def _of_entries(roster: Roster, start: datetime, end: datetime) -> list[Shift]:
    """The events within a span. Those of all events at one moment are on call together."""
    inside = [entry for entry in roster.entries or () if entry.starts_at < end and entry.ends_at > start]
    inside.sort(key=lambda entry: (entry.starts_at, entry.summary))
    edges = {moment for entry in inside for moment in (entry.starts_at, entry.ends_at) if start < moment < end}
    moments = sorted(edges | {start, end})
    found, running, at = list[Shift](), list[Entry](), 0
    known = {_folded(name): name for name in sorted(roster.known_people)}
    for begin, until in pairwise(moments):
        running = [entry for entry in running if entry.ends_at > begin]
        while at < len(inside) and inside[at].starts_at <= begin:
            running.append(inside[at])
            at += 1
        people = _once(name for entry in running for name in _people_of(entry, known))
        if people:
            found.append(Shift(people=people, starts_at=begin, ends_at=until))
    return found


def _people_of(entry: Entry, known: Mapping[str, str]) -> Sequence[str]:
    """The person that an event's summary names, else the known ones among its attendees, else its summary as it is."""
    if (person := known.get(_folded(entry.summary))) is not None:
        return [person]
    attending = [known[_folded(name)] for name in entry.attendees if _folded(name) in known]
    return attending or [entry.summary]


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
