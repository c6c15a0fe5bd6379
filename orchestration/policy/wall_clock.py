"""Moments and the clock on the wall of a time zone.

A time of the wall clock, such as a hand-off at 02:30, means the first moment at which the clock of the time zone has
reached it. Where the clock jumps over that time, this is the moment of the jump; where it shows the time twice, the
first of the two. Days and hours are counted on the wall clock: a hand-off at 09:00 is at 09:00 all year.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from orchestration.policy.windows import zone


@lru_cache(maxsize=65_536)
def moment_of(clock: datetime, time_zone: str) -> datetime:
    """The first moment, in UTC, at which the clock of a time zone has reached this time, which has no zone itself."""
    here = zone(time_zone)
    moment = clock.replace(tzinfo=here).astimezone(UTC)
    if moment.astimezone(here).replace(tzinfo=None) == clock:
        return moment
    # The clock jumps over this time. It does so between the moments that the offsets after and before the jump give.
    before, after = clock.replace(tzinfo=here, fold=1).astimezone(UTC), moment
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(here).replace(tzinfo=None) < clock:
            before = middle
        else:
            after = middle
    return after


def clock_at(moment: datetime, time_zone: str) -> datetime:
    """What the clock of a time zone shows at a moment, without the zone."""
    return moment.astimezone(zone(time_zone)).replace(tzinfo=None)
