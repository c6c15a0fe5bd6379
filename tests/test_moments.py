"""Moments as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from orchestration.errors import BadInput
from orchestration.moments import length_in_words, parse_length, parse_moment

NOW = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)


def day(number: int, hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2026, 11, number, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "last", "following"),
    [
        ("03:12", day(26, 3, 12), day(27, 3, 12)),
        ("22:05:30", day(25, 22, 5, 30), day(26, 22, 5, 30)),
        ("9:30", day(26, 9, 30), day(27, 9, 30)),
        (" 2026-11-24 03:12 ", day(24, 3, 12), day(24, 3, 12)),
        ("2026-11-24T04:12:00+01:00", day(24, 3, 12), day(24, 3, 12)),
        ("2026-11-28", day(28, 0, 0), day(28, 0, 0)),
    ],
)
def test_a_time_of_the_day_is_the_last_or_the_next_and_a_date_is_itself(
    typed: str, last: datetime, following: datetime
) -> None:
    assert parse_moment(typed, NOW, clock_time="last", name="at") == last
    assert parse_moment(typed, NOW, clock_time="next", name="at") == following


@pytest.mark.parametrize("typed", ["noon", "25:00", "3:61", ""])
@pytest.mark.parametrize("clock_time", ["last", "next"])
def test_what_is_no_moment_is_refused_by_its_name(typed: str, clock_time: Literal["last", "next"]) -> None:
    with pytest.raises(BadInput, match=f"--until: '{typed}' is no moment"):
        parse_moment(typed, NOW, clock_time=clock_time, name="--until")


@pytest.mark.parametrize(
    ("typed", "seconds", "words"),
    [
        ("90", 90, "1 min 30 s"),
        ("5m", 300, "5 min"),
        (" 2 H ", 7200, "2 h"),
        ("1d", 86400, "1 d"),
        ("0s", 0, "0 s"),
        ("1h30m", 5400, "1 h 30 min"),
    ],
)
def test_a_length_of_time_is_a_number_with_a_unit(typed: str, seconds: int, words: str) -> None:
    assert parse_length(typed, name="every") == timedelta(seconds=seconds)
    assert length_in_words(seconds) == words


@pytest.mark.parametrize("typed", ["", "m", "5 weeks", "-5m", "1.5h", "٥m", "9" * 30, "30m1h", "1h1h", "1h30"])
def test_what_is_no_length_of_time_is_refused_by_its_name(typed: str) -> None:
    with pytest.raises(BadInput, match="every="):
        parse_length(typed, name="every")
