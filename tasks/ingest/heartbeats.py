"""What ingest does when a heartbeat is due: it looks, under its lock, whether it is missing, and if so makes the alert.

A beat that could not be accepted is not the absence of its sender. So only the time counts in which beats could be
accepted without a gap (`orchestration/store/heartbeats.py`, "the door"), and only what the database's clock says.
"""

from __future__ import annotations

from orchestration.heartbeat import SOURCE, missing_alert
from orchestration.reasons import Reason
from orchestration.requests import StoredPush
from orchestration.store import heartbeats
from orchestration.store.database import Transaction
from orchestration.store.ingest_order import QueuedRun


async def look(tx: Transaction, run: QueuedRun) -> StoredPush | Reason:
    """The alert of a heartbeat that is missing, or why there is none; then another run waits, if one can be expected.

    The caller has the lock of the incident's key.
    """
    door = await heartbeats.read_door(tx, lock=True)
    name = run.incident_key.removeprefix(f"{SOURCE}:")
    heartbeat = await heartbeats.get_heartbeat(tx, name, run.environment, lock=True)
    if heartbeat is None or heartbeat.missing_since is not None:
        return Reason.NOT_DUE
    if door is None:
        return Reason.DOOR_CLOSED
    late = heartbeat.missing_after(door.open_since)
    if late <= door.seen_at:
        await heartbeats.mark_missing(tx, heartbeat)
        return StoredPush(alerts=[missing_alert(heartbeat, door.open_since)])
    if late <= door.now and not door.is_open:
        return Reason.DOOR_CLOSED  # whoever opens it queues the next run
    await heartbeats.wait(tx, heartbeat, until=max(late, door.now), but=run.run_id)
    return Reason.BEATS
