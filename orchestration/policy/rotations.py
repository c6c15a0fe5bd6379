"""What a policy says of a schedule: layers of people who take turns within hours of the week, or a calendar."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from typing import Annotated, Self, cast

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from orchestration.contracts import Contract
from orchestration.policy.windows import Location, Period, Range
from orchestration.redaction import shown

LONGEST_TURN = timedelta(days=366)
"""The longest time for which the same people have a turn."""

_DAY = timedelta(days=1)
_FIRST_YEAR, _END_YEAR = 1990, 2200


def _as_rotation(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    found = _ROTATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            f"expected daily, weekly, or a number of hours, days or weeks such as 12h, 3d or 2w, got {shown(value)}"
        )
    length = _NAMED_ROTATIONS.get(found[0]) or int(found[1] or 0) * _UNITS[found[2]]
    if not timedelta(hours=1) <= length <= LONGEST_TURN:
        raise ValueError(f"a turn lasts from 1h to 52w, got {shown(value)}")
    return length


_ROTATION = re.compile(r"daily|weekly|([0-9]{1,4})([hdw])")
_NAMED_ROTATIONS = {"daily": _DAY, "weekly": timedelta(weeks=1)}
_UNITS = {"h": timedelta(hours=1), "d": _DAY, "w": timedelta(weeks=1)}


def _written_rotation(length: timedelta) -> str:
    unit = next(unit for unit in ("w", "d", "h") if not length % _UNITS[unit])
    return f"{length // _UNITS[unit]}{unit}"


def _as_clock_time(value: object) -> time:
    if isinstance(value, time):
        return value
    if not isinstance(value, str) or (found := _CLOCK_TIME.fullmatch(value)) is None:
        raise ValueError(f"expected a time of the day such as 09:00, got {shown(value)}")
    return time(int(found[1]), int(found[2]))


_CLOCK_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


def _as_day(value: object) -> date | None:
    if value is None or isinstance(value, date):
        return value
    try:
        day = date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        day = None
    if day is None or not _FIRST_YEAR <= day.year < _END_YEAR:
        raise ValueError(f"expected a day from {_FIRST_YEAR} to {_END_YEAR - 1} such as 2026-11-30, got {shown(value)}")
    return day


def _as_turns(value: object) -> object:
    turns = cast("Sequence[object]", value) if isinstance(value, list | tuple) else (value,)
    return tuple((turn,) if isinstance(turn, str) else turn for turn in turns)


def _read_by_period(field: str) -> Callable[[object], object]:
    """Reads a field as windows read it."""

    def read(value: object) -> object:
        try:
            return getattr(Period.model_validate({field: value}), field)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    return read


def _write_by_period(field: str) -> Callable[[tuple[Range, ...]], list[str]]:
    def write(ranges: tuple[Range, ...]) -> list[str]:
        return Period.model_construct(set(), **{field: ranges}).model_dump(include={field})[field]

    return write


_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Turn = Annotated[tuple[_Name, ...], Field(strict=False, min_length=1, max_length=20)]


class Hours(Contract, strict=True):
    """Times of the week. A field that is left out allows every time."""

    weekdays: Annotated[
        tuple[Range, ...],
        BeforeValidator(_read_by_period("weekdays")),
        PlainSerializer(_write_by_period("weekdays"), return_type=list[str]),
    ] = Field(default=(), description="Days of the week, such as monday:friday.")
    times: Annotated[
        tuple[Range, ...],
        BeforeValidator(_read_by_period("times")),
        PlainSerializer(_write_by_period("times"), return_type=list[str]),
    ] = Field(default=(), description="Times of the day, such as 09:00-18:00; the end does not belong to them.")

    def on(self, day: date) -> list[Range]:
        """The minutes of this day that belong to them."""
        weekday = (day.weekday() + 1) % 7
        within = not self.weekdays or any(
            begin <= weekday <= end if begin <= end else weekday >= begin or weekday <= end
            for begin, end in self.weekdays
        )
        return [*(self.times or ((0, 24 * 60),))] if within else []


class Layer(Contract, strict=True):
    """People who take turns."""

    people: Annotated[
        tuple[_Turn, ...], BeforeValidator(_as_turns), Field(strict=False, min_length=1, max_length=200)
    ] = Field(description="Who takes turns, in this order. Several people in one turn are a list in the list.")
    rotate: Annotated[timedelta, BeforeValidator(_as_rotation), PlainSerializer(_written_rotation, return_type=str)] = (
        Field(default=timedelta(weeks=1), description="How long a turn lasts: daily, weekly, 12h, 3d or 2w.")
    )
    handoff: Annotated[
        time, BeforeValidator(_as_clock_time), PlainSerializer(lambda at: f"{at:%H:%M}", return_type=str)
    ] = Field(default=time(9), description="The time of the day at which turns begin.")
    start: Annotated[
        date | None,
        BeforeValidator(_as_day),
        PlainSerializer(lambda day: day.isoformat() if day else None, return_type=str | None),
    ] = Field(default=None, description="The day on which the first turn begins. Before it the layer says nothing.")
    hours: Annotated[tuple[Hours, ...], Field(strict=False, max_length=50)] = Field(
        default=(), description="Times of the week to which the layer is restricted. None of them means always."
    )

    @model_validator(mode="after")
    def _has_a_start(self) -> Self:
        if self.start is None and len(self.people) > 1:
            raise ValueError("people who take turns need a start: the day on which the first one begins")
        return self


def _as_source(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, str) and len(value) <= _MAX_SOURCE and (_URL.match(value) or value.startswith("/")):
        return value
    raise ValueError(f"expected a URL (https, http or webcal) or the absolute path of a file, got {shown(value)}")


_MAX_SOURCE = 2_000
_URL = re.compile(r"(?:https?|webcal)://[^\s/?#]", re.IGNORECASE)


class Schedule(Contract, strict=True):
    """Who is on call when: layers, of which a later one wins over those before it, or a calendar."""

    time_zone: Location = Field(description="The time zone of all its times, such as Europe/Lisbon.")
    layers: Annotated[tuple[Layer, ...], Field(strict=False, max_length=50)] = ()
    ical: Annotated[str | None, BeforeValidator(_as_source)] = Field(
        default=None, description="The URL or the path of a calendar (iCalendar) whose events name who is on call."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if bool(self.layers) == bool(self.ical):
            raise ValueError("expected layers or ical, one of them")
        return self
