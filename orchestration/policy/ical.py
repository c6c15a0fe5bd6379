"""From the text of a calendar (iCalendar, RFC 5545) to entries that say who is on call: plain values, in UTC.

The text comes from outside and is not trusted: its size and what it grows to are bounded here. The time that it takes
is not, since one rule that never matches can take minutes: whoever reads a calendar does so in a process with a limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast

from icalendar import Calendar, Component
from pydantic import Field

from orchestration.contracts import Contract
from orchestration.policy.schedules import Entry
from orchestration.policy.wall_clock import moment_of
from orchestration.policy.windows import zone
from orchestration.redaction import one_line

MAX_BYTES = 4 * 1024 * 1024
"""The size of a calendar."""

MAX_EVENTS = 5_000
"""Events in its text."""

MAX_ENTRIES = 3_000
"""Entries of a calendar in the span that is asked for."""

MAX_AT_ONCE = 50
"""Entries at one moment."""

MAX_PROBLEMS = 20

_MAX_DEPTH = 8
_MAX_LINES = 200_000
_MAX_NAME = 200
_MAX_ATTENDEES = 20
_TOO_OFTEN = {"SECONDLY", "MINUTELY"}
_MARGIN = timedelta(days=2)


class BadCalendar(ValueError):
    """A text that cannot be used as a calendar. The message says why."""


class CalendarContent(Contract):
    """What a calendar says of a span."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = Field(default=(), description="Events that were left out, and why.")


def read_calendar(content: bytes, time_zone: str, start: datetime, end: datetime) -> CalendarContent:
    """The entries of a calendar within a span. An event that cannot be understood is left out and named.

    Args:
        content: the text of the calendar, in UTF-8.
        time_zone: the time zone of days, and of times that name none.
        start: the beginning of the span.
        end: the end of the span.

    Raises:
        BadCalendar: it is no calendar, or too large.
    """
    calendar = _parsed(content)
    found, problems = list[Entry](), list[str]()
    for series in _series(calendar):
        try:
            for event in _occurrences(series, time_zone, start, end):
                found += _entry(event, time_zone, start, end)
                if len(found) > MAX_ENTRIES:
                    raise _TooMany
        except _TooMany:
            raise BadCalendar(f"has more than {MAX_ENTRIES:,} events in {(end - start).days} days") from None
        except Exception as error:  # noqa: BLE001 - the libraries raise anything at a malformed event; the others count
            problems.append(f"the event {_called(series[0])} cannot be read: {one_line(str(error), 150)}")
    found.sort(key=lambda entry: (entry.starts_at, entry.ends_at, entry.summary))
    _check_at_once(found)
    return CalendarContent(entries=tuple(found), problems=tuple(problems[:MAX_PROBLEMS]))


class _TooMany(Exception):
    pass


@dataclass(frozen=True)
class _Event:
    """One event, or one of its repetitions."""

    component: Component
    start: date
    end: date


def _parsed(content: bytes) -> Component:
    """The calendar of a text, with a time zone for the times of its events.

    Raises:
        BadCalendar: it is none, or too large.
    """
    _check_size(content)
    try:
        calendars = Calendar.from_ical(content, multiple=True)
    except Exception as error:  # noqa: BLE001 - the library raises anything at a malformed text
        raise BadCalendar(f"cannot be read: {one_line(str(error), 200)}") from None
    calendars = [each for each in calendars if each.name == "VCALENDAR"]
    if len(calendars) != 1:
        raise BadCalendar(f"expected one calendar, got {len(calendars) or 'none'}")
    return calendars[0]


def _check_size(content: bytes) -> None:
    """Refuse what would cost too much before it is parsed."""
    if len(content) > MAX_BYTES:
        raise BadCalendar(f"has more than {MAX_BYTES:,} bytes")
    lines = content.upper().split(b"\n", _MAX_LINES)
    if len(lines) > _MAX_LINES:
        raise BadCalendar(f"has more than {_MAX_LINES:,} lines")
    if not any(line.strip() == b"BEGIN:VCALENDAR" for line in lines):
        raise BadCalendar("is no calendar: it has no line BEGIN:VCALENDAR")
    depth = events = 0
    for line in lines:
        if line.startswith(b"BEGIN:"):
            depth += 1
            events += line.strip() == b"BEGIN:VEVENT"
        elif line.startswith(b"END:"):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise BadCalendar(f"is nested deeper than {_MAX_DEPTH} levels")
    if events > MAX_EVENTS:
        raise BadCalendar(f"has more than {MAX_EVENTS:,} events")


def _series(calendar: Component) -> Iterator[Sequence[Component]]:
    """The events of a calendar: each with the exceptions to its repetitions, which have the same UID."""
    found = defaultdict[str, list[Component]](list)
    for number, event in enumerate(_events(_in_its_time_zone(calendar))):
        found[str(event.get("UID") or number)].append(event)
    yield from found.values()


def _events(calendar: Component) -> list[Component]:
    return cast(Any, calendar).walk("VEVENT")


def _in_its_time_zone(calendar: Component) -> Component:
    """Google gives times in UTC, and names beside them the time zone in which they repeat."""
    import x_wr_timezone  # pyright: ignore[reportMissingTypeStubs]

    try:
        return cast(Any, x_wr_timezone).to_standard(calendar)
    except Exception as error:  # noqa: BLE001 - as above
        raise BadCalendar(f"cannot be read: {one_line(str(error), 200)}") from None


def _occurrences(series: Sequence[Component], time_zone: str, start: datetime, end: datetime) -> Iterator[_Event]:
    from recurring_ical_events import CalendarQuery  # pyright: ignore[reportMissingTypeStubs]

    for event in series:
        _check_rules(event)
    alone = Calendar()
    for event in series:
        alone.add_component(event)
    # A time without a zone is compared without zones, so that the span is a little too long, and is cut later.
    here = zone(time_zone)
    query: Any = CalendarQuery(alone)
    for found in query.between((start - _MARGIN).astimezone(here), (end + _MARGIN).astimezone(here)):
        begin, until = found.get("DTSTART"), found.get("DTEND")
        yield _Event(found, begin.dt, until.dt if until is not None else begin.dt)


def _check_rules(event: Component) -> None:
    given = cast("Mapping[str, Any] | list[Mapping[str, Any]] | None", event.get("RRULE"))
    for rule in given if isinstance(given, list) else [given] if given else []:
        for frequency in cast("Sequence[object]", rule.get("FREQ", ())):
            if str(frequency).upper() in _TOO_OFTEN:
                raise ValueError(f"it repeats {str(frequency).lower()}, and nobody changes that often")


def _entry(event: _Event, time_zone: str, start: datetime, end: datetime) -> list[Entry]:
    """The entry of an event, unless it is outside the span, has no duration, or was cancelled."""
    component = event.component
    begins, ends = _moment(event.start, time_zone), _moment(event.end, time_zone)
    if str(component.get("STATUS", "")).upper() == "CANCELLED" or begins >= ends or begins >= end or ends <= start:
        return []
    given: Any = component.get("ATTENDEE", [])
    attendees = cast("list[Any]", given if isinstance(given, list) else [given])
    names = [name for each in attendees[:_MAX_ATTENDEES] for name in _names_of(each)]
    summary = one_line(str(component.get("SUMMARY", "")), _MAX_NAME) or "an event without a summary"
    return [Entry(summary=summary, attendees=tuple(names), starts_at=begins, ends_at=ends)]


def _names_of(attendee: Any) -> Iterator[str]:
    """An attendee's name, if it is given, and address."""
    if name := attendee.params.get("CN"):
        yield str(name)[:_MAX_NAME]
    address = str(attendee)
    yield (address[len("mailto:") :] if address.lower().startswith("mailto:") else address)[:_MAX_NAME]


def _moment(given: date, time_zone: str) -> datetime:
    """A moment in UTC. Days, and times without a time zone, are meant in that of the schedule."""
    if not isinstance(given, datetime):
        return moment_of(datetime.combine(given, time()), time_zone)
    return moment_of(given, time_zone) if given.tzinfo is None else given.astimezone(UTC)


def _check_at_once(entries: Sequence[Entry]) -> None:
    edges = sorted([(each.starts_at, 1) for each in entries] + [(each.ends_at, -1) for each in entries])
    running = 0
    for _, change in edges:
        running += change
        if running > MAX_AT_ONCE:
            raise BadCalendar(f"has more than {MAX_AT_ONCE} events at one time")


def _called(event: Component) -> str:
    return repr(one_line(str(event.get("SUMMARY", "without a summary")), 60))
