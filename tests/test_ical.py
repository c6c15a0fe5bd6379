"""Calendars that say who is on call: events, repetitions, exceptions, time zones, and texts that mean harm."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.policy.ical import BadCalendar, CalendarContent, read_calendar

BERLIN = "Europe/Berlin"
START, END = datetime(2026, 10, 19, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)

ZONE = """BEGIN:VTIMEZONE
TZID:Our own
BEGIN:STANDARD
DTSTART:19701025T030000
RRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:19700329T020000
RRULE:FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
END:DAYLIGHT
END:VTIMEZONE"""


def calendar(*parts: str, head: str = "") -> bytes:
    text = "\n".join(
        ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:test", *([head] if head else []), *parts, "END:VCALENDAR"]
    )
    return text.replace("\n", "\r\n").encode()


def event(summary: str, *lines: str, uid: str = "") -> str:
    return "\n".join(["BEGIN:VEVENT", f"UID:{uid or summary}", f"SUMMARY:{summary}", *lines, "END:VEVENT"])


def read(content: bytes) -> CalendarContent:
    return read_calendar(content, BERLIN, START, END)


def lines_of(found: CalendarContent) -> list[str]:
    """Entries as lines, in the time of Berlin."""
    here = ZoneInfo(BERLIN)
    return [
        f"{each.starts_at.astimezone(here):%d %H:%M} - {each.ends_at.astimezone(here):%d %H:%M} {each.summary}"
        for each in found.entries
    ]


def test_a_shift_repeats_by_the_wall_clock_over_the_end_of_summer_time() -> None:
    shift = event(
        "ada",
        "DTSTART;TZID=Europe/Berlin:20261022T090000",
        "DTEND;TZID=Europe/Berlin:20261022T170000",
        "RRULE:FREQ=WEEKLY;COUNT=2",
    )
    found = read(calendar(shift))
    assert lines_of(found) == ["22 09:00 - 22 17:00 ada", "29 09:00 - 29 17:00 ada"]
    assert [each.starts_at.hour for each in found.entries] == [7, 8]


def test_a_calendar_may_bring_its_own_time_zone() -> None:
    shift = event("ada", "DTSTART;TZID=Our own:20261030T090000", "DURATION:PT8H")
    assert lines_of(read(calendar(ZONE, shift))) == ["30 09:00 - 30 17:00 ada"]


def test_a_time_without_a_zone_and_a_day_are_meant_in_the_time_zone_of_the_schedule() -> None:
    days = event("ada", "DTSTART;VALUE=DATE:20261024", "DTEND;VALUE=DATE:20261026")
    one_day = event("grace", "DTSTART;VALUE=DATE:20261026")
    times = event("linus", "DTSTART:20261027T090000", "DTEND:20261027T180000")
    assert lines_of(read(calendar(days, one_day, times))) == [
        "24 00:00 - 26 00:00 ada",
        "26 00:00 - 27 00:00 grace",
        "27 09:00 - 27 18:00 linus",
    ]


def test_exceptions_to_a_repetition_count() -> None:
    shifts = event(
        "ada",
        "DTSTART:20261026T080000Z",
        "DTEND:20261026T160000Z",
        "RRULE:FREQ=DAILY;COUNT=4",
        "EXDATE:20261028T080000Z",
        uid="a",
    )
    swapped = event(
        "grace", "RECURRENCE-ID:20261027T080000Z", "DTSTART:20261027T100000Z", "DTEND:20261027T160000Z", uid="a"
    )
    gone = event(
        "ada",
        "STATUS:CANCELLED",
        "RECURRENCE-ID:20261029T080000Z",
        "DTSTART:20261029T080000Z",
        "DTEND:20261029T160000Z",
        uid="a",
    )
    assert lines_of(read(calendar(shifts, swapped, gone))) == ["26 09:00 - 26 17:00 ada", "27 11:00 - 27 17:00 grace"]


def test_a_calendar_of_google_repeats_in_the_time_zone_that_it_names() -> None:
    shifts = event("ada", "DTSTART:20261022T070000Z", "DTEND:20261022T150000Z", "RRULE:FREQ=WEEKLY;COUNT=2")
    found = read(calendar(shifts, head="X-WR-TIMEZONE:Europe/Berlin"))
    assert lines_of(found) == ["22 09:00 - 22 17:00 ada", "29 09:00 - 29 17:00 ada"]


def test_attendees_are_read_with_their_names() -> None:
    shift = event(
        "On call",
        "ATTENDEE;CN=Ada Lovelace:mailto:ada@example.com",
        "ATTENDEE:MAILTO:grace@example.com",
        "DTSTART:20261026T080000Z",
        "DTEND:20261026T160000Z",
    )
    (found,) = read(calendar(shift)).entries
    assert found.attendees == ("Ada Lovelace", "ada@example.com", "grace@example.com")


def test_an_event_without_an_end_in_sight_is_cut_by_the_span_that_is_asked_for() -> None:
    found = read(calendar(event("ada", "DTSTART:20200101T080000Z", "DURATION:PT24H", "RRULE:FREQ=DAILY")))
    assert len(found.entries) == 36  # one began the day before


def test_an_event_that_cannot_be_read_is_named_and_the_others_count() -> None:
    good = event("ada", "DTSTART:20261026T080000Z", "DTEND:20261026T160000Z")
    fast = event("eve", "DTSTART:20261026T080000Z", "DTEND:20261026T080001Z", "RRULE:FREQ=SECONDLY")
    headless = event("mallory", "RRULE:FREQ=DAILY")
    found = read(calendar(fast, good, headless))
    assert lines_of(found) == ["26 09:00 - 26 17:00 ada"]
    assert found.problems[0] == "the event 'eve' cannot be read: it repeats secondly, and nobody changes that often"
    assert [problem.split(" cannot")[0] for problem in found.problems] == ["the event 'eve'", "the event 'mallory'"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no line BEGIN:VCALENDAR"),
        (b"<html>Sign in</html>", "has no line BEGIN:VCALENDAR"),
        (b"\xff\xfe\x00", "has no line BEGIN:VCALENDAR"),
        (b"x" * (4 * 1024 * 1024 + 1), "more than 4,194,304 bytes"),
        (b"BEGIN:VCALENDAR\n" + b"\n" * 200_001, "more than 200,000 lines"),
        (b"BEGIN:VCALENDAR\n" + b"BEGIN:VEVENT\n" * 5_000, "is nested deeper than 8 levels"),
        (calendar(*[event("a")] * 5_001), "more than 5,000 events"),
        (calendar() + b"\n" + calendar(), "expected one calendar, got 2"),
        (
            calendar(event("a", "DTSTART:20261020T000000Z", "DURATION:PT90H", "RRULE:FREQ=HOURLY")),
            "more than 50 events at one",
        ),
        (
            calendar(event("a", "DTSTART:20261018T000000Z", "DURATION:PT1H", "RRULE:FREQ=HOURLY;BYMINUTE=0,15,30,45")),
            "more than 3,000 events in 35 days",
        ),
    ],
    ids=["empty", "a page", "binary", "large", "lines", "deep", "many", "two", "crowded", "endless"],
)
def test_a_text_that_is_no_calendar_or_too_much_of_one_is_refused_in_words(content: bytes, words: str) -> None:
    with pytest.raises(BadCalendar, match=words):
        read(content)


TOKENS = st.sampled_from(
    [
        *("BEGIN:VEVENT", "END:VEVENT", "BEGIN:VTIMEZONE", "END:VTIMEZONE", "UID:a", "SUMMARY:ada", 'SUMMARY;X="'),
        *("DTSTART:20261026T080000Z", "DTSTART;VALUE=DATE:20261026", "DTSTART;TZID=No/Where:20261026T080000"),
        *("DTSTART:99991231T235959Z", "DTEND:00010101T000000Z", "DTEND:20261026T160000", "DURATION:-P1D"),
        *("DURATION:P999999999999D", "RRULE:FREQ=DAILY;COUNT=-1", "RRULE:FREQ=WEEKLY;BYDAY=XX", "RRULE:"),
        *("RRULE:FREQ=DAILY;UNTIL=x", "EXDATE:20261026", "RDATE;VALUE=PERIOD:20261026T080000Z/PT1H", "ATTENDEE:"),
        *("RECURRENCE-ID:20261026T080000Z", "ATTENDEE;CN=:mailto:", "X-WR-TIMEZONE:No/Where", "TZID:Our own"),
        *("SEQUENCE:x", " folded", ":", ";", "\x00"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TOKENS, max_size=14))
def test_whatever_the_text_it_is_read_or_refused(tokens: list[str]) -> None:
    try:
        found = read(calendar(*tokens))
    except BadCalendar:
        return
    assert all(each.starts_at < each.ends_at for each in found.entries)
