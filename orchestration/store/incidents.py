"""Incidents: found, locked, changed, and read with everything that belongs to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement, and_, bindparam, false, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident, IncidentStatus, UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import IncidentNotFound
from orchestration.policy.model import Timing
from orchestration.store.definitions import read_policy_timing
from orchestration.store.models import (
    CLAIMABLE_STATUSES,
    OPEN_STATUSES,
    AlertRow,
    HistoryRow,
    IncidentChannelRow,
    IncidentRow,
    MembershipRow,
    PipelineRunRow,
)
from orchestration.store.prepared import Prepared, prepared
from orchestration.store.records import HistoryRecord, RunRecord, readable
from orchestration.store.runs import HAS_DUE_TIME, RUN_COLUMNS, readable_runs
from orchestration.store.table import as_json, columns_of, one_of

_A = AlertRow
_C = IncidentChannelRow
_I = IncidentRow
_M = MembershipRow
_H = HistoryRow
_R = PipelineRunRow
INCIDENT_COLUMNS = columns_of(_I, Incident)
"""The columns of an `Incident`, for a `select()`."""

ID_DIGITS = 18
"""How many digits a number of a row can have: as many as a bigint has at least."""

MOST = 200
"""How many alerts, runs and lines of history of an incident are read at most: the newest of each."""

UNACKNOWLEDGED: dict[str, Any] = {
    "status": IncidentStatus.OPEN.value,
    "acknowledged_at": None,
    "acknowledged_by": None,
}
"""The columns of an open incident that nobody has acknowledged, or whose acknowledgement has ended."""

NEXT_VERSION: dict[str, Any] = {"version": _I.version + 1, "news_version": _I.version + 1}
"""The columns of an incident that has changed in a way that somebody should hear of."""


NEXT_STATE: dict[str, Any] = {"version": _I.version + 1}
"""The columns of an incident that has changed in a way that is only shown where that disturbs nobody."""


_BY_ID = Prepared(select(*INCIDENT_COLUMNS).where(_I.id == bindparam("wanted")))


async def get_incident(tx: AsyncConnection, incident_id: str) -> Incident:
    """The incident with this id, which must exist."""
    return incident_of(await _BY_ID.one(tx, {"wanted": int(incident_id)}))


_SHOWN_ID = 40
"""How many characters of a wrong id a message repeats."""


async def find_incident(tx: AsyncConnection, incident_id: str) -> Incident:
    """The incident with an id that a user typed.

    Raises:
        IncidentNotFound: there is no such incident.
    """
    known = incident_id.isdecimal() and len(incident_id) <= ID_DIGITS
    query = select(*INCIDENT_COLUMNS).where(_I.id == int(incident_id) if known else false())
    row = (await tx.execute(query)).mappings().first()
    if row is None:
        shown = incident_id if len(incident_id) <= _SHOWN_ID else f"{incident_id[:_SHOWN_ID]}…"
        raise IncidentNotFound(f"There is no incident {shown!r}; `alert-pipeline incidents list` shows what there is")
    return incident_of(row)


async def find_incident_of(tx: AsyncConnection, public_key: str) -> Incident:
    """The incident that a vendor names by the key that it was given (`Incident.public_key`).

    Raises:
        IncidentNotFound: there is no such incident, or it is one of another installation.
    """
    incident = await find_incident(tx, public_key.partition("-")[0])
    if incident.public_key != public_key:
        raise IncidentNotFound(f"Incident {incident.id} is not the one that is meant")
    return incident


async def open_keys(tx: AsyncConnection, start: str) -> list[str]:
    """The keys of the open incidents whose key begins so, in any environment."""
    query = select(_I.incident_key).where(_I.status.in_(OPEN_STATUSES), _I.incident_key.startswith(start))
    return list((await tx.execute(query)).scalars())


_LIVE_KEYS = text(
    f"""
    select incident_key from incident
    where status in {OPEN_STATUSES!r} and environment = :environment and incident_key in {one_of("keys")}
    union
    select incident_key from pipeline_run
    where awaits_ingest and environment = :environment and incident_key in {one_of("keys")}
    """
)


async def live_keys(tx: AsyncConnection, environment: str, keys: Collection[str]) -> set[str]:
    """Those of these keys under which an incident is open, or a push waits to be recorded."""
    return set((await tx.execute(_LIVE_KEYS, {"environment": environment, "keys": as_json([*keys])})).scalars())


_FIRING = text(
    f"""
    select fingerprint from alert
    where source = :source and environment = :environment and status = 'firing'
        and fingerprint in {one_of("fingerprints")}
    """
)


async def list_firing(tx: AsyncConnection, source: str, environment: str, fingerprints: Collection[str]) -> set[str]:
    """Those of these fingerprints of a source whose alerts fire."""
    known = {"source": source, "environment": environment, "fingerprints": as_json([*fingerprints])}
    return set((await tx.execute(_FIRING, known)).scalars())


_FIRING_LABELS = text(
    """
    select jsonb_build_object('severity', severity, 'source', source, 'environment', environment, 'alertname', name)
        || labels
    from alert where status = 'firing' and environment = :environment order by id desc limit :limit
    """
)

MOST_FIRING = 10_000
"""How many firing alerts are looked at for one that explains another."""


async def firing_labels(tx: AsyncConnection, environment: str) -> list[dict[str, str]]:
    """The labels of the alerts that fire in an environment, as matchers see them; the newest, `MOST_FIRING` at most."""
    found = await tx.execute(_FIRING_LABELS, {"environment": environment, "limit": MOST_FIRING})
    return list(found.scalars())


_LOCK_KEY = prepared("select pg_advisory_xact_lock(hashtextextended(:key, 0))")


async def lock_incident(tx: AsyncConnection, environment: str, key: str) -> None:
    """Lock the incidents of this key until the transaction ends; wait for another process that has the lock."""
    await _LOCK_KEY.run(tx, {"key": f"{environment}\n{key}"})


_IS_NOTIFIED = text(
    f"""
    select
        exists (
            select from pipeline_run as run
            where run.incident_id = :incident_id and run.run_id <> :run_id and run.status in {CLAIMABLE_STATUSES!r}
                and run.reason not in ('state', 'analysis')
                and (run.reason in ('redelivery', 'action') or (run.ingest_result->>'tell')::boolean)
        )
        or (
            select count(*) > 0 and bool_and(known.version >= incident.news_version)
            from incident_channel as known join incident on incident.id = known.incident_id
            where incident.id = :incident_id
        )
    """
)


async def is_notified(tx: AsyncConnection, incident_id: int, run_id: str = "") -> bool:
    """Whether every channel knows the news of the incident, or a run other than this one is about to say it.

    `run_id` is this run; "" means that there is none. False means that a message failed for good, that a snooze kept it
    back, or that there never was one.
    """
    return (await tx.execute(_IS_NOTIFIED, {"incident_id": incident_id, "run_id": run_id})).scalar_one()


async def update_incident(tx: AsyncConnection, incident_id: int, **values: Any) -> Incident:
    """Set columns of an incident, which must exist. Returns it after that."""
    changed = update(_I).where(_I.id == incident_id).values(**values, updated_at=func.clock_timestamp())
    return incident_of((await tx.execute(changed.returning(*INCIDENT_COLUMNS))).mappings().one())


async def raise_version(tx: AsyncConnection, incident_id: str) -> None:
    """Note that an incident has changed in a way that somebody should hear of."""
    await update_incident(tx, int(incident_id), **NEXT_VERSION)


# Two versions: a channel that knew the news, and not the present state, knows the first of them, and still has to show
# the state.
_RAISE_FOR = text(
    """
    with before as (select id, version, news_version from incident where id = :incident_id for no key update),
    raised as (
        update incident set version = version + 2, news_version = version + 1, updated_at = clock_timestamp()
        where id = :incident_id
    )
    update incident_channel as known
    set version = case when known.version < before.version then before.version + 1 else before.version + 2 end
    from before
    where known.incident_id = before.id and known.channel <> all(:channels) and known.version >= before.news_version
    """
)


async def raise_version_for(tx: AsyncConnection, incident_id: str, channels: Sequence[str]) -> None:
    """Note that these channels should hear of an incident again. Those that knew everything still do."""
    await tx.execute(_RAISE_FOR, {"incident_id": int(incident_id), "channels": list(channels)})


def incident_of(row: Mapping[Any, Any]) -> Incident:
    """The incident of a row that has at least its columns."""
    return Incident.model_validate({**row, "id": str(row["id"])})


def readable_incidents(rows: Iterable[Mapping[Any, Any]]) -> list[Incident]:
    """The incidents of those rows that this version can read."""
    return readable(Incident, ({**row, "id": str(row["id"])} for row in rows))


# An incident with everything that belongs to it


class AlertRecord(Contract):
    """A row of `alert`, without the payload."""

    id: int
    source: str
    fingerprint: str
    name: str
    severity: str
    status: str
    description: str = ""
    labels: dict[str, Any] = Field(default_factory=dict[str, Any])
    annotations: dict[str, Any] = Field(default_factory=dict[str, Any])
    started_at: UtcDatetime | None = None
    ended_at: UtcDatetime | None = None
    received_at: UtcDatetime
    updated_at: UtcDatetime


class ChannelRecord(Contract):
    """A row of `incident_channel`: what a channel was last sent of an incident."""

    channel: str
    driver: str
    shows_state: bool = False
    version: int
    status: str | None = None
    severity: str | None = None
    provider_id: str | None = None
    run_id: str | None = None
    sent_at: UtcDatetime | None = None
    failing_since: UtcDatetime | None = None
    given_up_at: UtcDatetime | None = None

    def is_current(self, incident: Incident) -> bool:
        """Whether the channel knows what it should know of its incident."""
        return self.version >= (incident.version if self.shows_state else incident.news_version)


class IncidentStory(Contract):
    """An incident and its rows. Lists are newest first, at most `MOST` of each."""

    incident: Incident
    source: str = ""
    """The source of the alerts that opened it."""
    alerts: list[AlertRecord]
    channels: list[ChannelRecord] = Field(default_factory=list[ChannelRecord])
    history: list[HistoryRecord]
    upcoming: list[RunRecord] = Field(default_factory=list[RunRecord])
    """The runs that wait for their time, the next one first: a reminder, an expiry, another try to deliver."""
    timing: Timing = Timing()
    """What the policy says of reminders and expiry."""
    runs: list[RunRecord]
    duplicates: list[RunRecord]
    """The pushes that repeated one of `runs`, and were skipped."""

    @property
    def last_duplicate_at(self) -> UtcDatetime | None:
        """When the latest duplicate came in."""
        return self.duplicates[0].created_at if self.duplicates else None


async def read_incident(tx: AsyncConnection, incident_id: int) -> IncidentStory | None:
    """An incident, its alerts, its history and its runs. None means that there is no incident with this id."""
    query = select(*INCIDENT_COLUMNS, _I.details["source"].as_string().label("source")).where(_I.id == incident_id)
    row = (await tx.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    history = select(*columns_of(_H, HistoryRecord)).where(_H.incident_id == incident_id).order_by(_H.id.desc())
    mine = select(*RUN_COLUMNS).where(_R.incident_id == incident_id)
    latest = mine.where(~HAS_DUE_TIME).order_by(_R.id.desc())
    upcoming = mine.where(HAS_DUE_TIME).order_by(_R.due_at, _R.id)
    channels = select(*columns_of(_C, ChannelRecord)).where(_C.incident_id == incident_id).order_by(_C.channel)
    runs = readable_runs((await tx.execute(latest.limit(MOST))).mappings())
    repeats = _repeats([incident_id], [run.run_id for run in runs])
    duplicates = select(*RUN_COLUMNS).where(repeats).order_by(_R.id.desc())
    return IncidentStory(
        incident=incident_of(row),
        source=row["source"] or "",
        alerts=await _alerts_of(tx, incident_id),
        channels=readable(ChannelRecord, (await tx.execute(channels)).mappings()),
        history=readable(HistoryRecord, (await tx.execute(history.limit(MOST))).mappings()),
        upcoming=readable_runs((await tx.execute(upcoming.limit(MOST))).mappings()),
        timing=await read_policy_timing(tx),
        runs=runs,
        duplicates=readable_runs((await tx.execute(duplicates.limit(MOST))).mappings()),
    )


async def _alerts_of(tx: AsyncConnection, incident_id: int) -> list[AlertRecord]:
    """The alerts of an incident, each with the status that it has there."""
    columns = [column for column in columns_of(_A, AlertRecord) if column.name != "status"]
    query = (
        select(*columns, _M.status)
        .join(_M, _M.alert_id == _A.id)
        .where(_M.incident_id == incident_id)
        .order_by(_A.id.desc())
        .limit(MOST)
    )
    return readable(AlertRecord, (await tx.execute(query)).mappings())


async def read_alert_times(tx: AsyncConnection, alert: AlertRecord) -> tuple[datetime | None, datetime]:
    """When this alert was received first, and last, be it by a push that was skipped as a duplicate.

    The first moment is None if the history of that time is deleted. Of its incidents and of their runs the newest
    `MOST` count.
    """
    created = select(func.min(_H.at)).where(_H.alert_id == alert.id, _H.event == "alert_created")
    newest = select(_M.incident_id).where(_M.alert_id == alert.id).order_by(_M.incident_id.desc()).limit(MOST)
    incident_ids = (await tx.execute(newest)).scalars().all()
    runs = select(_R.run_id).where(_R.incident_id.in_(incident_ids))
    run_ids = (await tx.execute(runs.order_by(_R.id.desc()).limit(MOST))).scalars().all()
    contained = _R.payload.contains({"alerts": [{"fingerprint": alert.fingerprint}]})
    repeated = select(func.max(_R.created_at)).where(_repeats(incident_ids, run_ids), contained)
    last = (await tx.execute(repeated)).scalar_one() or alert.updated_at
    return (await tx.execute(created)).scalar_one(), max(alert.updated_at, last)


def _repeats(incident_ids: Sequence[int], run_ids: Sequence[str]) -> ColumnElement[bool]:
    """Whether a run is a duplicate of one of these runs of these incidents."""
    # There is no index of `duplicate_of`. A duplicate has the same alerts as the run that it repeats, in any order,
    # and there is an index of the fingerprint of a run's first alert.
    alerts = select(_A.fingerprint).join(_M, _M.alert_id == _A.id).where(_M.incident_id.in_(incident_ids))
    leads = select(_R.alert_fingerprint).where(_R.incident_id.in_(incident_ids))
    same_alerts = _R.alert_fingerprint.in_(alerts.union(leads))
    return and_(same_alerts, _R.duplicate_of.in_(run_ids))
