"""Who is on call: rotations over changes of the clock, layers, hours, overrides and calendars."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestration.policy.model import Policy
from orchestration.policy.oncall import roster_of, schedule_warnings
from orchestration.policy.parse import read_policy
from orchestration.policy.rotations import Schedule
from orchestration.policy.schedules import (
    Entry,
    Override,
    Roster,
    Shift,
    gaps,
    on_call,
    people_at,
    shifts,
)
from orchestration.policy.wall_clock import moment_of

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def schedule(*layers: dict[str, Any], zone: str = BERLIN) -> Schedule:
    return Schedule.model_validate({"time_zone": zone, "layers": list(layers)})


def weekly(*people: Any, **more: Any) -> dict[str, Any]:
    """A layer whose first turn begins on Monday 2 November 2026 at 09:00."""
    return {"people": list(people), "start": "2026-11-02"} | more


def at(text: str, zone: str = BERLIN) -> datetime:
    """A moment of the wall clock."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def override(person: str, begin: str, end: str) -> Override:
    return Override(person=person, starts_at=at(begin), ends_at=at(end))


def lines_of(found: list[Shift], zone: str = BERLIN) -> list[str]:
    """Shifts as lines."""
    return [
        f"{shift.starts_at.astimezone(ZoneInfo(zone)):%a %d %H:%M} {'+'.join(shift.people) or '-'}"
        f"{' (override)' if shift.by_override else ''}"
        for shift in found
    ]


# Turns


def test_people_take_weekly_turns_and_the_answer_says_until_when_and_who_is_next() -> None:
    found = on_call(Roster(schedule(weekly("ada", "grace", "linus"))), at("2026-11-11 12:00"))
    assert found.people == ("grace",)
    assert (found.since, found.until) == (at("2026-11-09 09:00"), at("2026-11-16 09:00"))
    assert (found.next_people, found.next_since) == (("linus",), at("2026-11-16 09:00"))


def test_before_its_start_a_layer_says_nothing_so_a_rotation_changes_on_a_day_without_moving_the_old_one() -> None:
    roster = Roster(schedule(weekly("ada", "grace"), weekly("grace", "linus", start="2026-11-16", rotate="daily")))
    assert lines_of(shifts(roster, at("2026-11-09 09:00"), at("2026-11-18 09:00"))) == [
        "Mon 09 09:00 grace",
        "Tue 17 09:00 linus",
    ]
    assert on_call(roster, at("2026-11-01 12:00")).people == ()
    assert on_call(roster, at("2026-11-01 12:00")).next_since == at("2026-11-02 09:00")


def test_two_people_share_a_turn() -> None:
    roster = Roster(schedule(weekly(["ada", "grace"], "linus", rotate="12h")))
    assert lines_of(shifts(roster, at("2026-11-02 09:00"), at("2026-11-03 09:00"))) == [
        "Mon 02 09:00 ada+grace",
        "Mon 02 21:00 linus",
    ]


def test_office_hours_leave_gaps_that_another_layer_can_fill() -> None:
    hours = {"weekdays": ["monday:friday"], "times": ["09:00-18:00"]}
    office = Roster(schedule(weekly("ada", hours=[hours])))
    friday = on_call(office, at("2026-11-06 20:00"))
    assert (friday.people, friday.since, friday.until) == ((), at("2026-11-06 18:00"), at("2026-11-09 09:00"))
    assert friday.next_people == ("ada",)
    assert len(gaps(office, at("2026-11-02 00:00"), at("2026-11-09 00:00"))) == 6
    always = Roster(schedule({"people": "linus"}, weekly("ada", hours=[hours])))
    assert gaps(always, at("2026-11-02 00:00"), at("2026-11-09 00:00")) == []
    assert lines_of(shifts(always, at("2026-11-06 00:00"), at("2026-11-09 12:00"))) == [
        "Fri 06 00:00 linus",
        "Fri 06 09:00 ada",
        "Fri 06 18:00 linus",
        "Mon 09 09:00 ada",
    ]


def test_an_override_replaces_everybody_and_the_later_one_counts() -> None:
    overrides = (
        override("linus", "2026-11-03 18:00", "2026-11-04 08:00"),
        override("eve", "2026-11-03 20:00", "2026-11-03 22:00"),
    )
    roster = Roster(schedule(weekly("ada")), overrides)
    assert lines_of(shifts(roster, at("2026-11-03 00:00"), at("2026-11-05 00:00"))) == [
        "Tue 03 00:00 ada",
        "Tue 03 18:00 linus (override)",
        "Tue 03 20:00 eve (override)",
        "Tue 03 22:00 linus (override)",
        "Wed 04 08:00 ada",
    ]


def test_somebody_who_is_always_on_call_has_no_end() -> None:
    found = on_call(Roster(schedule({"people": "ada"})), at("2026-11-11 12:00"))
    assert (found.people, found.since, found.until, found.next_people) == (("ada",), None, None, ())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"time_zone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        ({"layers": []}, "expected layers or ical, one of them"),
        ({"ical": "https://example.com/a.ics"}, "expected layers or ical, one of them"),
        ({"layers": [], "ical": "ftp://example.com/a.ics"}, "expected a URL"),
        ({"layers": [{"people": ["ada", "grace"]}]}, "need a start"),
        ({"layers": [{"people": []}]}, "at least 1 item"),
        ({"layers": [weekly("ada", rotate="0h")]}, "a turn lasts from 1h to 52w"),
        ({"layers": [weekly("ada", rotate="monthly")]}, "expected daily, weekly, or a number of"),
        ({"layers": [weekly("ada", handoff="9:00")]}, "such as 09:00, got '9:00'"),
        ({"layers": [weekly("ada", start="2026-11-31")]}, "expected a day from 1990 to 2199"),
        ({"layers": [weekly("ada", hours=[{"times": ["18:00-09:00"]}])]}, "18:00-09:00 ends before it starts"),
        ({"layers": [weekly("ada", hours=[{"weekdays": ["mon"]}])]}, "there is no day of the week 'mon'"),
    ],
)
def test_a_wrong_schedule_is_refused_in_words(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Schedule.model_validate({"time_zone": BERLIN, "layers": [weekly("ada")]} | wrong)
    assert words in str(refused.value)


def test_a_schedule_survives_being_written_and_read() -> None:
    hours = {"weekdays": ["friday:monday"], "times": ["09:00-18:00"]}
    first = schedule(weekly("ada", ["grace", "linus"], rotate="2w", handoff="17:30", hours=[hours]))
    assert Schedule.model_validate(first.model_dump(mode="json")) == first


# Changes of the clock


def test_a_hand_off_that_the_clock_jumps_over_is_at_the_jump() -> None:
    roster = Roster(schedule(weekly("ada", "grace", rotate="daily", handoff="02:30")))
    found = on_call(roster, at("2027-03-28 12:00"))
    assert found.since == datetime(2027, 3, 28, 1, 0, tzinfo=UTC)  # 02:00 is 03:00 then


def test_of_a_hand_off_that_the_clock_shows_twice_the_first_counts() -> None:
    roster = Roster(schedule(weekly("ada", "grace", rotate="daily", handoff="02:30")))
    found = on_call(roster, at("2027-10-31 12:00"))
    assert found.since == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)
    # In the second 02:15 of the day the clock shows a time before the hand-off, which has been.
    assert on_call(roster, datetime(2027, 10, 31, 1, 15, tzinfo=UTC)).since == found.since


def test_a_day_that_a_time_zone_left_out_has_no_turn() -> None:
    samoa = schedule(weekly("ada", "grace", "linus", rotate="daily", start="2011-12-28"), zone="Pacific/Apia")
    found = shifts(Roster(samoa), at("2011-12-28 09:00", "Pacific/Apia"), at("2012-01-01 00:00", "Pacific/Apia"))
    assert lines_of(found, "Pacific/Apia") == [
        "Wed 28 09:00 ada",
        "Thu 29 09:00 grace",
        "Sat 31 00:00 linus",
        "Sat 31 09:00 ada",
    ]


ROTATIONS = [
    ({"rotate": "weekly", "handoff": "09:00"}, timedelta(weeks=1)),
    ({"rotate": "daily", "handoff": "02:30"}, timedelta(days=1)),
    ({"rotate": "daily", "handoff": "01:45"}, timedelta(days=1)),
    ({"rotate": "3d", "handoff": "02:00"}, timedelta(days=3)),
    ({"rotate": "12h", "handoff": "02:15"}, timedelta(hours=12)),
    ({"rotate": "5h", "handoff": "00:00"}, timedelta(hours=5)),
]


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE])
def test_every_hour_of_two_years_agrees_with_somebody_who_looks_at_the_clock_every_quarter_of_an_hour(
    zone: str,
) -> None:
    """The other calculation steps through time, and hands over when the clock on the wall has reached the next time."""
    people, here = ["ada", "grace", "linus"], ZoneInfo(zone)
    begin, end, quarter = at("2026-01-01 00:00", zone), at("2028-01-01 00:00", zone), timedelta(minutes=15)
    clocks = list[tuple[datetime, datetime]]()
    moment = begin - timedelta(days=1)
    while moment < end:
        clocks.append((moment, moment.astimezone(here).replace(tzinfo=None)))
        moment += quarter
    for layer, length in ROTATIONS:
        roster = Roster(schedule(weekly(*people, **layer, start="2026-01-01"), zone=zone))
        computed = iter(shifts(roster, begin, end))
        shift = next(computed)
        due, turn = datetime.fromisoformat(f"2026-01-01 {layer['handoff']}"), -1
        for moment, clock in clocks:
            while clock >= due:
                due, turn = due + length, turn + 1
            if moment < begin or moment.minute:
                continue
            while moment >= shift.ends_at:
                shift = next(computed)
            assert shift.people == ((people[turn % 3],) if turn >= 0 else ()), (layer, moment)


def test_a_moment_alone_says_the_same_as_the_span() -> None:
    roster = Roster(
        schedule(
            weekly("ada", "grace", rotate="5h", hours=[{"times": ["01:30-03:30"]}]),
            weekly("linus", rotate="3d", hours=[{"weekdays": ["sunday"]}]),
        )
    )
    for found in shifts(roster, at("2027-03-20 00:00"), at("2027-04-05 00:00")):
        for moment in (found.starts_at, found.ends_at - timedelta(seconds=1)):
            assert people_at(roster, moment) == found.people
            assert on_call(roster, moment).people == found.people


# Properties

NAMES = st.sampled_from(["ada", "grace", "linus", "eve"])
MOMENTS = st.datetimes(datetime.fromisoformat("2026-01-01"), datetime.fromisoformat("2027-12-31")).map(
    lambda moment: moment.replace(tzinfo=UTC, microsecond=0)
)
LAYERS = st.fixed_dictionaries(
    {
        "people": st.lists(st.one_of(NAMES, st.lists(NAMES, min_size=1, max_size=2)), min_size=1, max_size=4),
        "rotate": st.sampled_from(["daily", "weekly", "1h", "7h", "12h", "3d", "2w"]),
        "handoff": st.sampled_from(["00:00", "02:00", "02:30", "09:00", "23:45"]),
        "start": st.sampled_from(["2020-02-29", "2026-03-29", "2026-10-04", "2027-06-01"]),
        "hours": st.lists(
            st.sampled_from(
                [
                    {"times": ["02:15-03:15"]},
                    {"weekdays": ["friday:monday"]},
                    {"weekdays": ["sunday"], "times": ["00:00-24:00"]},
                ]
            ),
            max_size=2,
        ),
    }
)
ZONES = st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, "America/Havana", "Asia/Kathmandu", "UTC"])


@st.composite
def rosters(draw: st.DrawFn) -> Roster:
    layers = draw(st.lists(LAYERS, min_size=1, max_size=3))
    spans = draw(st.lists(st.tuples(NAMES, MOMENTS, st.integers(1, 10_000)), max_size=4))
    given_overrides = [
        Override(person=person, starts_at=begin, ends_at=begin + timedelta(minutes=minutes))
        for person, begin, minutes in spans
    ]
    return Roster(schedule(*layers, zone=draw(ZONES)), given_overrides)


@settings(max_examples=60, deadline=None)
@given(rosters(), MOMENTS, st.integers(1, 60 * 24 * 40))
def test_shifts_tile_the_span_without_a_gap_or_an_overlap(roster: Roster, start: datetime, minutes: int) -> None:
    end = start + timedelta(minutes=minutes)
    found = shifts(roster, start, end)
    assert (found[0].starts_at, found[-1].ends_at) == (start, end)
    assert all(shift.starts_at < shift.ends_at for shift in found)
    assert all(one.ends_at == following.starts_at for one, following in pairwise(found))
    middle = found[len(found) // 2]
    there = middle.starts_at + (middle.ends_at - middle.starts_at) / 2
    now = on_call(roster, there)
    assert now.people == middle.people
    assert now.until is None or now.until >= middle.ends_at or end == middle.ends_at
    # Whoever asks for another span gets the same people.
    assert people_at(roster, there) == shifts(roster, there, end)[0].people == middle.people


@settings(max_examples=200, deadline=None)
@given(
    st.datetimes(datetime.fromisoformat("2010-01-01"), datetime.fromisoformat("2030-01-01")).map(
        lambda clock: clock.replace(second=0, microsecond=0)
    ),
    ZONES,
)
def test_a_moment_of_the_wall_clock_is_the_first_at_which_the_clock_has_reached_it(clock: datetime, zone: str) -> None:
    moment = moment_of(clock, zone)
    assert moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) >= clock
    for seconds in (1, 60, 1_800):
        assert (moment - timedelta(seconds=seconds)).astimezone(ZoneInfo(zone)).replace(tzinfo=None) < clock


# Events of a calendar


def entry(summary: str, begin: str, end: str, *attendees: str) -> Entry:
    return Entry(summary=summary, attendees=attendees, starts_at=at(begin), ends_at=at(end))


def test_events_name_people_by_their_summary_or_their_attendees() -> None:
    events = [
        entry("ADA ", "2026-11-02 00:00", "2026-11-03 00:00"),
        entry("On call", "2026-11-03 00:00", "2026-11-04 00:00", "Grace Hopper", "grace"),
        entry("Somebody", "2026-11-04 00:00", "2026-11-05 00:00", "nobody@example.com"),
        entry("linus", "2026-11-04 12:00", "2026-11-06 00:00"),
    ]
    source = Schedule.model_validate({"time_zone": BERLIN, "ical": "https://example.com/a.ics"})
    roster = Roster(source, (), events, frozenset({"ada", "grace", "linus"}))
    assert lines_of(shifts(roster, at("2026-11-02 00:00"), at("2026-11-07 00:00"))) == [
        "Mon 02 00:00 ada",
        "Tue 03 00:00 grace",
        "Wed 04 00:00 Somebody",
        "Wed 04 12:00 Somebody+linus",
        "Thu 05 00:00 linus",
        "Fri 06 00:00 -",
    ]


# Warnings


def test_warnings_say_when_nobody_is_on_call_and_whom_nothing_reaches() -> None:
    office = weekly("ada", "eve", hours=[{"weekdays": ["monday:friday"]}])
    policy = Policy.model_validate(
        {
            "people": {"ada": {"contacts": ["ada-mail"]}, "grace": {"contacts": "slack"}},
            "schedules": {
                "office": {"time_zone": BERLIN, "layers": [office]},
                "always": {"time_zone": BERLIN, "layers": [{"people": "grace"}]},
                "outside": {"time_zone": BERLIN, "ical": "https://example.com/a.ics"},
            },
        }
    )
    now = at("2026-11-11 12:00")
    found = [
        str(warning)
        for name in policy.schedules
        for warning in schedule_warnings(policy, name, roster_of(policy, name), now, channels=["slack"])
    ]
    assert found == [
        "schedule 'office': nobody is on call from 2026-11-14 00:00 to 2026-11-16 00:00 (Europe/Berlin), and at 1 "
        "other time in the next 14 days",
        "schedule 'office': 'ada' is on call, and there is no channel that is one of the contacts: 'ada-mail'",
        "schedule 'office': 'eve' is on call, and `people` does not say how to reach a person of this name",
        "schedule 'outside': nobody is on call, but for overrides, until a worker has read its calendar",
    ]


# Its page


def test_the_examples_of_the_page_are_policies() -> None:
    page = (Path(__file__).parent.parent / "docs" / "oncall.md").read_text()
    examples = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        assert read_policy(example).policy.schedules, example
