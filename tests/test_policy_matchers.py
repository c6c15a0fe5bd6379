"""Matchers and time windows have Alertmanager's meaning; no pattern and no text makes them slow."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestration.policy.matchers import BadMatcher, Matcher, Operator, all_match, parse_matchers
from orchestration.policy.windows import Period, is_within

# Matchers


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ('team="db"', {"team": "db"}, True),
        ("team=db", {"team": "db"}, True),
        (" team = db ", {"team": "db"}, True),
        ("team!=db", {"team": "web"}, True),
        ("team!=db", {}, True),
        ("team=", {}, True),
        ('team=""', {"team": "db"}, False),
        ("team=~d", {"team": "db"}, False),
        ("team=~d.*", {"team": "db"}, True),
        ("team=~db|web", {"team": "web-1"}, False),
        ("team=~.*", {}, True),
        ("team!~.+", {}, True),
        ("team!~d.", {"team": "db"}, False),
        ("team=~.*", {"team": "a\nb"}, False),
        ("team=~(?s).*", {"team": "a\nb"}, True),
        ("team=~(?i)DB", {"team": "db"}, True),
        (r'path="C:\\temp \"x\""', {"path": 'C:\\temp "x"'}, True),
        (r'text="a\nb"', {"text": "a\nb"}, True),
        (r"text=a\d", {"text": r"a\d"}, True),
        ('{team="db",env=~"a,b|prod"}', {"team": "db", "env": "prod"}, True),
        ('team="db", env="test",', {"team": "db", "env": "test"}, True),
        ("a:b=c", {"a:b": "c"}, True),
        ("text=two words", {"text": "two words"}, True),
        # Since Alertmanager 0.27
        ('"service.name"="web"', {"service.name": "web"}, True),
        ('{"größe"=~"x+", team=db}', {"größe": "xx", "team": "db"}, True),
        ("größe=xx", {"größe": "xx"}, True),
        (r'"a b"="\u00e9\x41"', {"a b": "éA"}, True),
    ],
)
def test_a_matcher_means_what_it_means_in_alertmanager(text: str, labels: dict[str, str], holds: bool) -> None:
    assert all_match(parse_matchers(text), labels) is holds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("team", "expected a label, one of = != =~ !~, and a value"),
        ("a=b,,c=d", "expected a label"),
        ('a="b', 'does not end with a "'),
        ('a="b"c"', 'has a " in it'),
        ('a=~"("', "is no regular expression of RE2: missing )"),
        ("a=~(?=x)", "invalid perl operator"),
        (r"a=~(x)\1", "invalid escape sequence"),
        (r"a=~\C", r"it has no \C"),
        ("a=~((x{100}){100}){100}", "no regular expression"),
        ("a=~" + "x" * 5_000, "has 5,000 characters"),
        ("x" * 10_000, "has 10,000 characters"),
        ('"a b"', "expected one of = != =~ !~, got the end"),
        ('"a b"=', "expected a value, got the end"),
        (r'"a b"="\q"', "there is no escape"),
        ('{"a b"="c"', "expected }"),
    ],
)
def test_a_text_that_is_no_matcher_says_why(text: str, says: str) -> None:
    with pytest.raises(BadMatcher) as refused:
        parse_matchers(text)
    assert says in str(refused.value)


def test_a_pattern_that_hangs_elsewhere_takes_no_time():
    (matcher,) = parse_matchers('a=~"(x+x+)+y"')
    start = time.monotonic()
    assert not matcher.matches({"a": "x" * 20_000})
    assert not matcher.matches({"a": "\ud800"})
    assert time.monotonic() - start < 5


@given(st.text(min_size=1), st.sampled_from(list(Operator)[:2]), st.text())
def test_what_a_matcher_writes_is_read_as_the_same_matcher(label: str, operator: Operator, value: str) -> None:
    matcher = Matcher(label, operator, value)
    try:
        read = parse_matchers(str(matcher))
    except BadMatcher:  # a name with characters that neither syntax has
        assert not label.isidentifier() or not label.isascii()
    else:
        assert read == (matcher,)


@given(st.text(alphabet='ab{}"=~!,\\ \n\u00e9', max_size=30))
def test_any_text_is_matchers_or_is_refused(text: str) -> None:
    with suppress(BadMatcher):
        assert all(isinstance(matcher.matches({"a": "b"}), bool) for matcher in parse_matchers(text))


# Windows


def period(**fields: object) -> Period:
    return Period.model_validate(fields)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("fields", "moment", "inside"),
    [
        ({"times": "09:00-17:00"}, "2026-11-27T09:00Z", True),
        ({"times": "09:00-17:00"}, "2026-11-27T16:59:59Z", True),
        ({"times": "09:00-17:00"}, "2026-11-27T17:00Z", False),
        ({"times": [{"start_time": "22:00", "end_time": "24:00"}, "00:00-06:00"]}, "2026-11-27T23:59Z", True),
        ({"times": "09:00-17:00", "location": "Asia/Kolkata"}, "2026-11-27T04:00Z", True),
        ({"weekdays": ["monday:wednesday", "Saturday"]}, "2026-11-28T00:00Z", True),
        ({"weekdays": ["monday:wednesday"]}, "2026-11-27T00:00Z", False),
        ({"weekdays": "friday:monday"}, "2026-11-29T00:00Z", True),
        ({"weekdays": "friday:monday"}, "2026-12-01T00:00Z", False),
        ({"weekdays": "sunday", "location": "Pacific/Auckland"}, "2026-11-28T12:00Z", True),
        ({"days_of_month": ["-1"]}, "2026-02-28T12:00Z", True),
        ({"days_of_month": ["-1"]}, "2028-02-28T12:00Z", False),
        ({"days_of_month": ["1:5", "-3:-1"]}, "2026-11-28T12:00Z", True),
        ({"days_of_month": "29:31"}, "2026-02-28T12:00Z", False),
        ({"days_of_month": "15:-1"}, "2026-02-28T12:00Z", True),
        ({"days_of_month": 27}, "2026-11-27T12:00Z", True),
        ({"months": ["january:march", 11]}, "2026-11-27T12:00Z", True),
        ({"months": "november:february"}, "2026-01-27T12:00Z", True),
        ({"years": "2020:2025"}, "2026-11-27T12:00Z", False),
        ({"times": "02:00-03:00", "location": "Europe/Lisbon"}, "2026-03-29T01:30Z", True),
        ({}, "2026-11-27T12:00Z", True),
    ],
)
def test_a_moment_is_in_a_period_or_is_not(fields: dict[str, object], moment: str, inside: bool) -> None:
    assert is_within([period(**fields)], at(moment)) is inside


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"times": "22:00-06:00"}, 'a time over midnight is two, such as "22:00-24:00" and "00:00-06:00"'),
        ({"times": "9:00-17:00"}, "such as 09:00, got '9:00'"),
        ({"times": {"start": "09:00"}}, "expected a list"),
        ({"times": [{"start": "09:00"}]}, "expected start_time and end_time"),
        ({"weekdays": "mon"}, "there is no day of the week 'mon' (known: sunday"),
        ({"days_of_month": "0"}, "expected a day from 1 to 31 or -31 to -1"),
        ({"days_of_month": "-3:5"}, "ends with one, such as -3:-1"),
        ({"days_of_month": "5:1"}, "ends before it starts"),
        ({"months": 13}, "there is no month '13'"),
        ({"years": True}, "expected a list"),
        ({"location": "Europe/Atlantis"}, "there is no time zone 'Europe/Atlantis'"),
        ({"location": "../../etc/passwd"}, "there is no time zone"),
    ],
)
def test_a_broken_period_says_why(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        period(**fields)
    assert says in str(refused.value)


@pytest.mark.parametrize("location", ["Europe/Lisbon", "America/New_York", "Australia/Lord_Howe"])
def test_a_window_follows_the_clock_of_its_zone_over_both_changes_of_two_years(location: str) -> None:
    window = [period(times="01:30-02:30", weekdays="sunday", location=location)]
    zone = ZoneInfo(location)
    moment, end = at("2026-01-01T00:00Z"), at("2028-01-01T00:00Z")
    while moment < end:
        local = moment.astimezone(zone)
        clock = f"{local:%a %H:%M}"
        assert is_within(window, moment) is ("Sun 01:30" <= clock < "Sun 02:30"), moment
        moment += timedelta(minutes=60)


@given(st.integers(0, 2**32).map(lambda second: datetime.fromtimestamp(second, UTC)))
def test_a_day_is_in_the_month_from_the_front_and_from_the_back(moment: datetime) -> None:
    assert is_within([period(days_of_month="1:-1")], moment)
    assert is_within([period(days_of_month="-31:-1")], moment)
