"""When a process that serves looks for garbage: seldom, and never among what it loaded when it started.

Prefect, SQLAlchemy and pydantic make many small objects for each run, of which reference counting takes nearly all.
Looking for the rest after every 700 of them took an eighth of the work of a run, in Prefect's server as in a worker.
"""

from __future__ import annotations

import gc

THRESHOLDS = (20_000, 10, 5)
"""So many objects more than were freed, and the youngest are looked through. What outlives that waits for a tenth such
look, and then for a fifth of those: runs that were under way at the time, and nothing of them is kept for long."""


def look_seldom() -> None:
    """Leave what is loaded now out of every collection, and make them rare."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
