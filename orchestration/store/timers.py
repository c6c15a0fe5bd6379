"""Timers: of each open incident one run waits in the queue, for its next reminder or for its expiry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident
from orchestration.policy import model as policy
from orchestration.reasons import Reason
from orchestration.settings import Settings
from orchestration.states import TIMER_REASONS, RunStatus
from orchestration.store.definitions import POLICY_TIMING
from orchestration.store.follow_ups import add_follow_up
from orchestration.store.incidents import get_incident, lock_incident
from orchestration.store.ingest_order import QueuedRun
from orchestration.store.models import CLAIMABLE_STATUSES, OPEN_STATUSES, IncidentRow, PipelineRunRow
from orchestration.store.records import RunRecord
from orchestration.store.runs import HAS_DUE_TIME, RUN_COLUMNS, readable_runs
from orchestration.timing import FollowUp, Timing, next_follow_up

OVERDUE_WAITS = timedelta(hours=1)
"""How long what is overdue waits, if its incident had no timer."""

_R = PipelineRunRow
_TIMER = f"incident_id = :incident_id and reason in {TIMER_REASONS!r} and status = 'pending' and due_at is not null"

# What a run that is about to be claimed is due for is looked at again when it is executed, so it may be moved.
_MOVE = text(
    f"""
    update pipeline_run as run
    set reason = :reason, due_at = :due_at, created_at = :due_at, updated_at = clock_timestamp(),
        severity = incident.severity,
        priority = case incident.severity when 'critical' then 2 when 'warning' then 1 else 0 end
    from incident
    where run.id = (select id from pipeline_run where {_TIMER}) and incident.id = run.incident_id
    returning run.run_id
    """
)

_CANCEL = text(
    f"""
    update pipeline_run
    set status = '{RunStatus.SKIPPED.value}', skip_reason = :why, due_at = null, completed_at = clock_timestamp(),
        created_at = least(created_at, clock_timestamp()), updated_at = clock_timestamp(), total_duration_ms = 0,
        lease_owner = null, lease_expires_at = null
    where {_TIMER}
    returning run_id
    """
)

# The interval of a sender is the wait before a push that said nothing new; the middle one of the latest counts.
_FACTS = text(
    f"""
    select clock_timestamp() as now, known.sent_at, known.version, coalesce(incident.metadata->>'source', '') as source,
        {POLICY_TIMING} as said,
        (
            select cast(options->>'test' as boolean) from pipeline_run as run
            where run.incident_id = incident.id or run.run_id = :run_id
            order by run.run_id = :run_id desc, run.id desc limit 1
        ) as is_test,
        (
            select percentile_disc(0.5) within group (order by wait) filter (where skip_reason = '{Reason.REPEAT}')
            from (
                select skip_reason, extract(epoch from created_at - lag(created_at) over (order by id)) as wait
                from (
                    select id, created_at, skip_reason from pipeline_run as run
                    where run.incident_key = incident.incident_key and run.environment = incident.environment
                        and run.duplicate_of is null
                    order by run.id desc limit 11
                ) as latest
            ) as waits
        ) as repeat_seconds
    from incident
    left join lateral (
        select max(sent_at) as sent_at, max(version) as version from incident_channel
        where incident_channel.incident_id = incident.id
    ) as known on true
    where incident.id = :incident_id
    """
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of an incident besides the incident itself."""

    now: datetime
    """The time on the database's clock."""
    notified_at: datetime | None
    """When somebody was notified of it last: now, if its latest news has not reached anybody yet. None means when it
    was opened."""
    repeat_seconds: float | None
    """How often its sender repeats it. None means that it has not."""
    source: str
    """The source of the alerts that opened it."""
    is_test: bool
    """Whether it comes from a test: nobody has to act on it, so nobody is reminded of it."""
    said: policy.Timing
    """What the policy says of the times."""

    def timing(self, settings: Settings) -> Timing:
        """The times that concern the incident."""
        return Timing.of(settings, self.source, self.said)


async def read_known(tx: AsyncConnection, incident: Incident, run_id: str | None = None) -> Known:
    """What is known of an incident besides the incident itself. `run_id` is the run that has changed it, if any."""
    row = (await tx.execute(_FACTS, {"incident_id": int(incident.id), "run_id": run_id or ""})).one()
    is_known = row.version is not None and row.version >= incident.news_version
    return Known(
        now=row.now,
        notified_at=row.sent_at if is_known else row.now,
        repeat_seconds=None if row.repeat_seconds is None else float(row.repeat_seconds),
        source=row.source,
        is_test=bool(row.is_test),
        said=policy.timing_of(row.said),
    )


async def schedule_first(
    tx: AsyncConnection, incident: Incident, settings: Settings, run: QueuedRun, *, source: str, said: policy.Timing
) -> None:
    """Schedule what comes next for an incident that this run has opened, for alerts of this source.

    `said` is what the policy says of the times.
    """
    known = Known(
        now=incident.opened_at,
        notified_at=None,
        repeat_seconds=None,
        source=source,
        is_test=bool(run.options.get("test")),
        said=said,
    )
    if (follow_up := following(incident, known.timing(settings), known)) is not None:
        await add_follow_up(tx, int(incident.id), follow_up.reason, follows=run.run_id, due_at=follow_up.due_at)


async def reschedule(
    tx: AsyncConnection, incident: Incident, settings: Settings, *, run_id: str | None = None
) -> FollowUp | None:
    """Schedule what comes next for an incident that has changed, and return it. The caller has the lock of its key.

    `run_id` is the run that has changed it, whose channels and trace the timer shares. None means its latest run.
    """
    known = await read_known(tx, incident, run_id)
    follow_up = following(incident, known.timing(settings), known)
    await schedule(tx, incident, follow_up, follows=run_id)
    return follow_up


def following(incident: Incident, timing: Timing, known: Known) -> FollowUp | None:
    """What comes next for an incident. None means nothing."""
    if known.is_test:
        return None
    return next_follow_up(
        incident, timing, notified_at=known.notified_at, repeat_seconds=known.repeat_seconds, now=known.now
    )


async def schedule(
    tx: AsyncConnection, incident: Incident, follow_up: FollowUp | None, *, follows: str | None = None
) -> None:
    """Make this what comes next for an incident: its timer is moved, or a new one is queued.

    Args:
        incident: as it is now.
        follow_up: None means that nothing comes next: its timer is cancelled.
        follows: the run whose channels and trace a new timer shares. None means the incident's latest run.
    """
    if follow_up is None:
        await cancel(tx, incident.id, Reason.NOT_DUE)
        return
    values = {"incident_id": int(incident.id), "reason": follow_up.reason.value, "due_at": follow_up.due_at}
    if (await tx.execute(_MOVE, values)).first() is None:
        await add_follow_up(tx, int(incident.id), follow_up.reason, follows=follows, due_at=follow_up.due_at)


_WITHOUT = text(
    f"""
    select id from incident
    where status in {OPEN_STATUSES!r} and not exists (
        select from pipeline_run as run
        where run.incident_id = incident.id and run.reason in {TIMER_REASONS!r}
            and run.status in {CLAIMABLE_STATUSES!r}
    )
    order by id
    """
)


async def list_without(tx: AsyncConnection) -> list[str]:
    """The open incidents that have no timer, be it waiting or being executed, oldest first."""
    return [str(incident_id) for incident_id in (await tx.execute(_WITHOUT)).scalars()]


async def start(tx: AsyncConnection, incident_id: str, settings: Settings) -> None:
    """Schedule what comes next for an incident without a timer, as if it had been heard of and notified of now.

    So what is overdue by its old moments is not said at once: nobody hears of an incident because of an upgrade.
    """
    incident = await get_incident(tx, incident_id)
    await lock_incident(tx, incident.environment, incident.incident_key)
    known = await read_known(tx, incident)
    incident = (await get_incident(tx, incident_id)).model_copy(update={"heard_at": known.now})
    follow_up = following(incident, known.timing(settings), replace(known, notified_at=known.now))
    if follow_up is not None:
        due_at = max(follow_up.due_at, known.now + OVERDUE_WAITS)
        await schedule(tx, incident, FollowUp(reason=follow_up.reason, due_at=due_at))


async def cancel(tx: AsyncConnection, incident_id: str, why: Reason) -> bool:
    """End the timer of an incident as SKIPPED, with this reason. False means that it has none."""
    return (await tx.execute(_CANCEL, {"incident_id": int(incident_id), "why": why.value})).first() is not None


async def awaits_ingest(tx: AsyncConnection, incident: Incident) -> bool:
    """Whether a push about this incident is accepted, and not recorded yet."""
    query = select(_R.id).where(
        _R.incident_key == incident.incident_key, _R.environment == incident.environment, _R.awaits_ingest
    )
    return (await tx.execute(query.limit(1))).first() is not None


async def list_upcoming(tx: AsyncConnection, *, incident_id: str | None = None, limit: int = 100) -> list[RunRecord]:
    """The runs that wait for their time, the next one first: of all incidents, or of one."""
    title = func.coalesce(IncidentRow.title, _R.title).label("incident_title")
    query = select(*RUN_COLUMNS, title).outerjoin(IncidentRow, IncidentRow.id == _R.incident_id).where(HAS_DUE_TIME)
    if incident_id is not None:
        query = query.where(_R.incident_id == int(incident_id))
    found = (await tx.execute(query.order_by(_R.due_at, _R.id).limit(limit))).mappings()
    return readable_runs({**row, "title": row["incident_title"]} for row in found)
