"""Time windows: when a route matches, is active or is muted. Alertmanager's time intervals, with the same fields.

A window is a list of periods, and a moment is in the window if it is in one of them. A moment is in a period if it
agrees with every field that the period has, in the period's time zone.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, cast
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, PlainSerializer

from orchestration.contracts import Contract
from orchestration.redaction import shown

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
"""The days of the week as windows name them, in Alertmanager's order."""

MONTHS = tuple(calendar.month_name[number].lower() for number in range(1, 13))
"""The months as windows name them."""

_MINUTE = re.compile(r"(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_END_OF_DAY = 24 * 60

Range = tuple[int, int]
"""First and last, both included."""


def _minute_of(text: object) -> int:
    """A time of the day in minutes since midnight."""
    if not isinstance(text, str) or (found := _MINUTE.fullmatch(text)) is None:
        raise ValueError(f"expected a time from 00:00 to 24:00, such as 09:00, got {shown(text)}")
    return _END_OF_DAY if found[1] is None else int(found[1]) * 60 + int(found[2])


def _as_times(value: object) -> tuple[Range, ...]:
    return tuple(_as_time(each) for each in _listed(value))


def _as_time(value: object) -> Range:
    if isinstance(value, dict):
        given = cast("dict[str, object]", value)
        if set(given) != {"start_time", "end_time"}:
            raise ValueError('expected start_time and end_time, or a text such as "09:00-17:00"')
        start, end = _minute_of(given["start_time"]), _minute_of(given["end_time"])
    elif isinstance(value, str) and value.count("-") == 1:
        start, end = (_minute_of(part.strip()) for part in value.split("-"))
    else:
        raise ValueError(f'expected a text such as "09:00-17:00", got {shown(value)}')
    if start >= end:
        raise ValueError(
            f"{_clock(start)}-{_clock(end)} ends before it starts: a time over midnight is two, such as "
            '"22:00-24:00" and "00:00-06:00"'
        )
    return start, end


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _listed(value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return cast("Sequence[object]", value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return (value,)
    raise ValueError(f"expected a list, got {shown(value)}")


def _ranges(one: Callable[[str], int], check: Callable[[int, int], bool]) -> Callable[[object], tuple[Range, ...]]:
    """Reads a list of values and ranges `first:last`, whose parts `one` reads."""

    def read(value: object) -> tuple[Range, ...]:
        found = list[Range]()
        for each in _listed(value):
            if isinstance(each, bool) or not isinstance(each, str | int):
                raise ValueError(f"expected a text or a number, got {shown(each)}")
            first, _, last = str(each).strip().lower().partition(":")
            begin, end = one(first.strip()), one((last or first).strip())
            if not check(begin, end):
                raise ValueError(f"the range {shown(each)} ends before it starts")
            found.append((begin, end))
        return tuple(found)

    return read


def _named(names: Sequence[str], what: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text in names:
            return names.index(text) + (1 if names is MONTHS else 0)
        if names is MONTHS and text.isdecimal() and 1 <= int(text[:3]) <= len(MONTHS):
            return int(text)
        raise ValueError(f"there is no {what} {shown(text)} (known: {', '.join(names)})")

    return read


def _number(first: int, last: int, what: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        digits = text.removeprefix("-")
        number = int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= 4 else 0
        if not first <= number <= last or number == 0:
            raise ValueError(f"expected {what}, got {shown(text)}")
        return number

    return read


_LONGEST_MONTH = 31


def _day_of_month(day: int, days: int) -> int:
    """The day, counted from the start of a month of so many days; -1 is its last day."""
    return day if day > 0 else days + day + 1


def _is_range_of_days(begin: int, end: int) -> bool:
    if begin < 0 < end:
        raise ValueError("a range that starts with a negative day ends with one, such as -3:-1")
    return _day_of_month(begin, _LONGEST_MONTH) <= _day_of_month(end, _LONGEST_MONTH)


def _in_order(begin: int, end: int) -> bool:
    return begin <= end


def _in_a_cycle(_begin: int, _end: int) -> bool:
    """Friday to monday is a range, although Alertmanager, whose week starts with sunday, refuses it."""
    return True


def _written(name: Callable[[int], str], separator: str = ":") -> Callable[[tuple[Range, ...]], list[str]]:
    def write(ranges: tuple[Range, ...]) -> list[str]:
        return [
            name(begin) if begin == end and separator == ":" else f"{name(begin)}{separator}{name(end)}"
            for begin, end in ranges
        ]

    return write


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo:
    """A time zone of the IANA database, such as Europe/Lisbon.

    Raises:
        ValueError: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError):
        raise ValueError(f"there is no time zone {shown(name)}: expected one such as Europe/Lisbon or UTC") from None


def _as_location(value: object) -> object:
    if isinstance(value, str):
        zone(value)
    return value


Location = Annotated[str, BeforeValidator(_as_location)]
"""The name of a time zone that there is."""


class Period(Contract, strict=True):
    """One period of a window. A field that is left out allows every moment."""

    times: Annotated[
        tuple[Range, ...], BeforeValidator(_as_times), PlainSerializer(_written(_clock, "-"), return_type=list[str])
    ] = Field(default=(), description="Times of the day; the end does not belong to them.")
    weekdays: Annotated[
        tuple[Range, ...],
        BeforeValidator(_ranges(_named(WEEKDAYS, "day of the week"), _in_a_cycle)),
        PlainSerializer(_written(lambda day: WEEKDAYS[day]), return_type=list[str]),
    ] = ()
    days_of_month: Annotated[
        tuple[Range, ...],
        BeforeValidator(_ranges(_number(-31, 31, "a day from 1 to 31 or -31 to -1"), _is_range_of_days)),
        PlainSerializer(_written(str), return_type=list[str]),
    ] = Field(default=(), description="Days of the month; -1 is its last day.")
    months: Annotated[
        tuple[Range, ...],
        BeforeValidator(_ranges(_named(MONTHS, "month"), _in_a_cycle)),
        PlainSerializer(_written(lambda month: MONTHS[month - 1]), return_type=list[str]),
    ] = ()
    years: Annotated[
        tuple[Range, ...],
        BeforeValidator(_ranges(_number(1, 9999, "a year"), _in_order)),
        PlainSerializer(_written(str), return_type=list[str]),
    ] = ()
    location: Location = Field(default="UTC", description="The time zone in which all fields are meant.")

    def contains(self, moment: datetime) -> bool:
        """Whether the moment, which is aware, is in this period."""
        local = moment.astimezone(zone(self.location))
        weekday = (local.weekday() + 1) % 7
        minute = local.hour * 60 + local.minute
        return (
            (not self.times or any(start <= minute < end for start, end in self.times))
            and _within(self.weekdays, weekday)
            and _within(self.months, local.month)
            and _within(self.years, local.year)
            and (not self.days_of_month or self._has_day(local))
        )

    @property
    def has_a_day(self) -> bool:
        """Whether any of its months has one of its days: there is no 31 February."""
        if not self.days_of_month:
            return True
        years = {year for begin, end in self.years for year in range(begin, min(end, begin + 8) + 1)} or {2023, 2024}
        return any(
            max(_day_of_month(begin, days), 1) <= min(_day_of_month(end, days), days)
            for days in {calendar.monthrange(year, month)[1] for year in years for month in self._months}
            for begin, end in self.days_of_month
        )

    @property
    def _months(self) -> list[int]:
        return [month for month in range(1, len(MONTHS) + 1) if _within(self.months, month)]

    def _has_day(self, local: datetime) -> bool:
        days = calendar.monthrange(local.year, local.month)[1]
        return any(
            _day_of_month(begin, days) <= local.day <= _day_of_month(end, days) for begin, end in self.days_of_month
        )


def _within(ranges: tuple[Range, ...], value: int) -> bool:
    """Whether one of the ranges has the value. One that ends before it starts goes on from the start of its cycle."""
    return not ranges or any(
        begin <= value <= end if begin <= end else value >= begin or value <= end for begin, end in ranges
    )


def is_within(window: Sequence[Period], moment: datetime) -> bool:
    """Whether the moment is in one of the periods of a window."""
    return any(period.contains(moment) for period in window)
