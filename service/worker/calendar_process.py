"""A process that reads one calendar and ends. What it reads comes from outside, and may cost any time and memory.

It imports little, so that it starts quickly, and has neither settings nor a database.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from datetime import datetime

from orchestration.policy.ical import BadCalendar, read_calendar

CPU_SECONDS = 20
MEMORY_BYTES = 1 << 30

REFUSED = 3
"""The exit code for a text that is no calendar; standard output says why."""


def main() -> None:
    """Write what the calendar on standard input says as JSON: `… TIME_ZONE START END`, moments in ISO 8601."""
    with suppress(ValueError, OSError):  # a system that does not have this limit
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    time_zone, start, end = sys.argv[1:]
    try:
        found = read_calendar(
            sys.stdin.buffer.read(), time_zone, datetime.fromisoformat(start), datetime.fromisoformat(end)
        )
    except BadCalendar as error:
        sys.stdout.write(str(error))
        sys.exit(REFUSED)
    sys.stdout.write(found.model_dump_json())


if __name__ == "__main__":
    main()
