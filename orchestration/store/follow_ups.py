"""Follow-up runs: what happens to an incident without a push waits in the same queue as what senders push."""

from __future__ import annotations

from datetime import datetime

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.states import TIMER_REASONS, RunReason
from orchestration.store.prepared import prepared
from orchestration.store.records import new_id
from orchestration.store.runs import INBOX_CHANNEL

# A timer is no news about an alert, so it does not have the incident's title: who looks for the runs of an alert by its
# title finds only what has happened.
_TITLE = f"""
    case when :reason in {TIMER_REASONS!r} then 'Incident ' || incident.id
        else incident.title end
"""

# The new run copies the trace and the options of the run that it follows, so that it uses and leaves out the same
# channels. The options `follows` and `answer` are not copied: they belong to one run. `created_at` is the moment at
# which the run is due, because lists and waits count from it.
_INSERT = prepared(
    f"""
    insert into pipeline_run (
        run_id, trace_id, reason, due_at, incident_id, title, source, alert_fingerprint, severity, priority,
        environment, payload, options, max_retries, created_at
    )
    select :run_id, followed.trace_id, :reason,
        due.at, incident.id, {_TITLE}, followed.source, followed.alert_fingerprint, incident.severity,
        case incident.severity when 'critical' then 2 when 'warning' then 1 else 0 end,
        followed.environment, '{{}}',
        followed.options - 'follows' - 'answer' || cast(:options as jsonb),
        followed.max_retries,
        coalesce(due.at, clock_timestamp())
    from incident
    cross join (
        select coalesce(
            cast(:due_at as timestamptz), clock_timestamp() + make_interval(secs => cast(:due_in_seconds as float))
        ) as at
    ) as due
    join pipeline_run as followed on followed.id = coalesce(
        (select id from pipeline_run where run_id = :follows),
        (select max(id) from pipeline_run where incident_id = :incident_id)
    )
    where incident.id = :incident_id
    on conflict do nothing
    returning run_id, case when due_at is null then cast(pg_notify(:channel, '') as text) end
    """
)


async def add_follow_up(
    tx: AsyncConnection,
    incident_id: int,
    reason: RunReason,
    *,
    follows: str | None = None,
    due_in_seconds: float | None = None,
    due_at: datetime | None = None,
    options: dict[str, object] | None = None,
) -> str | None:
    """Queue a run for an incident; the id of the run. None means that one of its kind waits already.

    Args:
        incident_id: the incident.
        reason: why there is this run.
        follows: the run whose channels, definition and trace it shares. None means the incident's latest run.
        due_in_seconds: how long it waits before somebody may claim it. None means not at all.
        due_at: until when it waits, instead.
        options: `RunOptions` that differ from those of the run that it follows.
    """
    values = {
        "run_id": new_id(),
        "incident_id": incident_id,
        "reason": reason.value,
        "follows": follows or "",
        "due_in_seconds": due_in_seconds,
        "due_at": due_at,
        "options": orjson.dumps(options or {}).decode(),
        "channel": INBOX_CHANNEL,
    }
    row = await _INSERT.row(tx, values)
    return None if row is None else str(row["run_id"])


_RAISE = text("update incident set version = version + 1, updated_at = clock_timestamp() where id = :incident_id")


async def change_state(tx: AsyncConnection, incident_id: int) -> None:
    """Note that an incident has something new to show where that disturbs nobody."""
    await tx.execute(_RAISE, {"incident_id": incident_id})


_HASTEN = text(
    """
    update pipeline_run set due_at = null, created_at = clock_timestamp()
    where run_id = :run_id and status = 'pending' and due_at > clock_timestamp()
    returning cast(pg_notify(:channel, '') as text)
    """
)


async def hasten(tx: AsyncConnection, run_id: str) -> None:
    """Let a follow-up that waits for its time be due now, if nobody executes it yet."""
    await tx.execute(_HASTEN, {"run_id": run_id, "channel": INBOX_CHANNEL})


# What the run has found that a message says is shown again. A redelivery, and an earlier update, have it from another.
_CHANGE_STATE = text(
    """
    with changed as (
        update incident set version = version + 1, updated_at = clock_timestamp() where id = :incident_id
    )
    select case when run.reason = 'analysis' then run.run_id else coalesce(run.options->>'follows', run.run_id) end
    from incident_channel as known join pipeline_run as run on run.run_id = known.run_id
    where known.incident_id = :incident_id and known.shows_state and known.version > 0
    order by known.sent_at desc nulls last limit 1
    """
)


async def show_state(tx: AsyncConnection, incident_id: int) -> None:
    """Note that an incident is in another state, and queue the run that shows it where that disturbs nobody.

    There is no run if no channel has a message that it can bring up to date. The caller has the lock of the incident's
    key.
    """
    follows = (await tx.execute(_CHANGE_STATE, {"incident_id": incident_id})).scalar_one_or_none()
    if follows is not None:
        await add_follow_up(tx, incident_id, RunReason.STATE, follows=follows, options={"follows": follows})
