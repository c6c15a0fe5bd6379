"""Moments and times as a person types them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal

from orchestration.errors import BadInput
from orchestration.policy.wall_clock import clock_at, moment_of

_CLOCK_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DAY = timedelta(days=1)
_FIRST_YEAR, _END_YEAR = 1970, 3000
_LENGTH = re.compile(r"([0-9]{1,9})\s*([a-z]*)")
_LENGTHS = re.compile(r"(?:[0-9]{1,9}[a-z]{1,3}){1,4}")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_moment(
    text: str, now: datetime, *, clock_time: Literal["last", "next"], name: str, time_zone: str = "UTC"
) -> datetime:
    """The moment that a person types: `03:12`, `2026-11-26 03:12`, or ISO 8601.

    Args:
        text: what is typed; in `time_zone`, unless it names an offset.
        now: the present moment, in UTC.
        clock_time: whether a time of the day is the last one, until now, or the next one, after now.
        name: the parameter or option, for the error.
        time_zone: the time zone in which people type.

    Returns:
        The moment in UTC. Where a clock shows the time twice, the first of the two.

    Raises:
        BadInput: it is no moment.
    """
    typed = text.strip()
    try:
        if (found := _CLOCK_TIME.fullmatch(typed)) is not None:
            hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
            clock = clock_at(now, time_zone)
            today = clock.replace(hour=hour, minute=minute, second=second, microsecond=0)
            if clock_time == "last":
                return moment_of(today if today <= clock else today - _DAY, time_zone)
            return moment_of(today if today > clock else today + _DAY, time_zone)
        moment = datetime.fromisoformat(typed)
        in_utc = moment_of(moment, time_zone) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadInput(
            f"{name}: {typed[:40]!r} is no moment; expected 03:12, or 2026-11-26 03:12, in {time_zone}"
        ) from None
    # Nothing is on record at the ends of the calendar, and a minute before or after them cannot be computed.
    if not _FIRST_YEAR <= in_utc.year < _END_YEAR:
        raise BadInput(f"{name}: {typed[:40]!r} is too far away; expected a year from {_FIRST_YEAR} to {_END_YEAR - 1}")
    return in_utc


def parse_length(text: str, *, name: str) -> timedelta:
    """A length of time such as 90s, 30m, 1h30m, 2h, 1d, or 90 (seconds).

    Args:
        text: what is typed.
        name: the parameter or option, for the error.

    Raises:
        BadInput: the text is no length of time.
    """
    typed = text.strip().lower()
    parts = _LENGTH.findall(typed) if _LENGTHS.fullmatch(typed) or _LENGTH.fullmatch(typed) else []
    units = [_UNITS.get(unit or "s", 0) for _, unit in parts]
    # The largest unit comes first, and each once: 30m1h is more likely a slip than a time.
    if not units or 0 in units or units != sorted(set(units), reverse=True):
        raise BadInput(f"{name}={text[:40]!r}: expected a time such as 90s, 30m, 1h30m, 2h or 1d")
    return timedelta(seconds=sum(int(count) * unit for (count, _), unit in zip(parts, units, strict=True)))


def length_in_words(seconds: float) -> str:
    """A length of time for people, such as `90 s`, `5 min`, `1 h 30 min` or `1 d`: its two largest units."""
    left, words = round(seconds), list[str]()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"
