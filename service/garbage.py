"""When a process that serves looks for garbage: seldom, and never among what it loaded when it started.

Prefect, SQLAlchemy and pydantic make many small objects for each run, of which reference counting takes nearly all.
Looking for the rest after every 700 of them took an eighth of the work of a run, in Prefect's server as in a worker.
"""

from __future__ import annotations

import gc

ALLOCATIONS = 20_000
"""So many objects more than were freed, and the youngest are looked through; some megabytes at most."""


def look_seldom() -> None:
    """Leave what is loaded now out of every collection, and make them rare."""
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 20, 50)
