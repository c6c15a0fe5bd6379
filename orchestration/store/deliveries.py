"""The delivery ledger: each message with its tries to send it, and how they ended.

A message has one row, however many runs and attempts try to send it. `sent` is final. How a try ends is also written
to the row of the pair of incident and channel, of which `standings.py` reads what the channel knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed, NotSent
from orchestration.json_text import to_json
from orchestration.store import channels, claims
from orchestration.store.database import FLUSHED
from orchestration.store.models import OPEN_STATUSES, DeliveryRow
from orchestration.store.prepared import Row, prepared
from orchestration.store.records import CHANNEL_GIVEN_UP, DeliveryRecord
from orchestration.store.runs import ensure_leased, get_run
from orchestration.store.table import columns_of

TRY_SECONDS = 12.0
"""How much of the run's lease is left at least when a try begins. Longer than any channel's own time limit."""

_T = DeliveryRow
_COLUMNS = columns_of(_T, DeliveryRecord)

SENDING, SENT, FAILED, SUPERSEDED, GIVEN_UP = "sending", "sent", "failed", "superseded", "given_up"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a message goes, and which node of which run sends it."""

    run_id: str
    node_id: str
    channel: str
    driver: str
    target: str
    owner: str
    """The name under which this process has leased the run."""
    lease_seconds: float
    """How long a lease lasts from its renewal."""
    shows_state: bool = False
    """Whether the channel can bring its message up to date without a new one."""
    incident_id: str | None = None
    """The incident whose present state the message says. None means that the message is about the run alone."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One try to send a message. Its number says later whether the row is still its own."""

    delivery_id: int
    number: int
    key: str
    place: Place
    version: int | None
    perhaps_accepted: bool = False
    """Whether an earlier try to send it may have succeeded, although no answer came."""


def run_key(place: Place) -> str:
    """The name of a message about a run alone: the same for every attempt to send it."""
    return f"{place.run_id}/{place.node_id}/{place.channel}"


def incident_key_of(place: Place, version: int) -> str:
    """The name of a message about one version of an incident: the same for every run that sends it."""
    return f"incident-{place.incident_id}/{version}/{place.node_id}/{place.channel}"


ALIVE = "run.lease_owner is not null and run.lease_expires_at > clock_timestamp()"
"""A condition on `run`, a row of `pipeline_run`: the process that executes it is alive."""

PERHAPS_ACCEPTED = "delivery.response->>'perhaps_accepted' is distinct from 'false'"
"""A condition on a row of `delivery` that is not `sent`: the channel has not surely refused each try."""

_OPEN = prepared(
    f"""
    insert into delivery (
        pipeline_run_id, incident_id, version, node_id, channel, driver, target, idempotency_key, status, tries, error,
        response, settled_at
    )
    select id, :incident_id, :version, :node_id, :channel, :driver, :target, :key, :status,
        case when :status = '{SENDING}' then 1 else 0 end, :error, '{{}}',
        case when :status <> '{SENDING}' then clock_timestamp() end
    from pipeline_run
    where run_id = :run_id and lease_owner = :owner
        and (cast(:left_seconds as float) is null
            or lease_expires_at > clock_timestamp() + make_interval(secs => :left_seconds))
    on conflict (idempotency_key) do update
    set status = excluded.status, pipeline_run_id = excluded.pipeline_run_id, driver = excluded.driver,
        target = excluded.target, tries = delivery.tries + excluded.tries, settled_at = excluded.settled_at,
        -- What the channel answered stays while the message only waits.
        error = case when excluded.tries = 0 then coalesce(delivery.error, excluded.error) end,
        response = case when excluded.tries = 0 then delivery.response
            when delivery.tries > 0 and {PERHAPS_ACCEPTED} then '{{"perhaps_accepted": true}}'
            else excluded.response end
    where delivery.status <> '{SENT}'
    returning id, tries, response ? 'perhaps_accepted' as perhaps_accepted, {FLUSHED}
    """
)


async def open_try(tx: AsyncConnection, place: Place, *, version: int | None = None) -> Try | None:
    """Write the ledger's row before sending. None means that the message is sent already.

    A row with the status `sending` comes from a process that died or lost its lease: the message is sent again, under
    the same key. So a process that slept opens no try under a lease that another one has, or may take meanwhile.

    Raises:
        RunBusy: another process has the lease of the run.
    """
    key = run_key(place) if version is None else incident_key_of(place, version)
    row = await _open(tx, place, version, key, status=SENDING, left_seconds=TRY_SECONDS)
    if row is None and await claims.renew(tx, place.run_id, owner=place.owner, seconds=place.lease_seconds):
        row = await _open(tx, place, version, key, status=SENDING)
    if row is None:
        return None
    perhaps = row["perhaps_accepted"]
    return Try(
        delivery_id=row["id"], number=row["tries"], key=key, place=place, version=version, perhaps_accepted=perhaps
    )


async def find_sent(tx: AsyncConnection, place: Place) -> DeliveryRecord | None:
    """The row of a message about a run alone, if it is sent already."""
    query = select(*_COLUMNS).where(_T.idempotency_key == run_key(place), _T.status == SENT)
    row = (await tx.execute(query)).mappings().one_or_none()
    return None if row is None else DeliveryRecord.model_validate(dict(row))


async def note_wait(tx: AsyncConnection, place: Place, why: str, *, version: int | None = None) -> None:
    """Record that a message waits for its channel's turn. That does not count as a try."""
    key = run_key(place) if version is None else incident_key_of(place, version)
    await _open(tx, place, version, key, status=FAILED, error=why)
    if version is not None:
        await tx.execute(_NOTE_FAILING, {"incident_id": int(place.incident_id or 0), "channel": place.channel})


async def _open(
    tx: AsyncConnection,
    place: Place,
    version: int | None,
    key: str,
    *,
    status: str,
    error: str | None = None,
    left_seconds: float | None = None,
) -> Row | None:
    values = {
        "run_id": place.run_id,
        "owner": place.owner,
        "left_seconds": left_seconds,
        "incident_id": int(place.incident_id) if place.incident_id and version is not None else None,
        "version": version,
        "node_id": place.node_id,
        "channel": place.channel,
        "driver": place.driver,
        "target": place.target,
        "key": key,
        "status": status,
        "error": error,
    }
    row = await _OPEN.row(tx, values)
    if row is None:
        ensure_leased(await get_run(tx, place.run_id), place.owner)
    return row


# A channel that was given up and fails again has its full time once more.
_FAILING = """
    failing_since = case when given_up_at is null then coalesce(failing_since, clock_timestamp())
        else clock_timestamp() end,
    given_up_at = null
"""
_NOTE_FAILING = text(f"update incident_channel set {_FAILING} where incident_id = :incident_id and channel = :channel")

# A message that another run with a living lease is sending stays as it is: that run marks it when it looks again.
_SUPERSEDE = text(
    f"""
    update delivery set status = '{SUPERSEDED}', settled_at = clock_timestamp()
    from pipeline_run as run
    where run.id = delivery.pipeline_run_id and delivery.incident_id = :incident_id and delivery.channel = :channel
        and delivery.version < :version and (
            delivery.status = '{FAILED}'
            or delivery.status = '{SENDING}'
                and (run.run_id = :run_id and delivery.node_id = :node_id or not coalesce({ALIVE}, false))
        )
    """
)


async def supersede_older(tx: AsyncConnection, place: Place, version: int) -> None:
    """Mark the unsent messages about versions before this one as superseded: they are never sent."""
    values = {"incident_id": int(place.incident_id or 0), "channel": place.channel, "version": version}
    await tx.execute(_SUPERSEDE, {**values, "run_id": place.run_id, "node_id": place.node_id})


_SETTLED = f"""
    with settled as (
        update delivery
        set status = :result, provider_id = :provider_id, response = cast(:response as jsonb), error = :error,
            settled_at = clock_timestamp()
        where id = :id and status <> '{SENT}' and (tries = :number and status = '{SENDING}' or :result = '{SENT}')
        returning incident_id, version
    ),
"""

_SETTLE_SENT = prepared(
    f"""
    {_SETTLED}
    known as (
        update incident_channel as known
        set version = :version, status = :told, severity = :severity, provider_id = :provider_id, run_id = :run_id,
            thread_id = :thread, sent_at = case when :silent then known.sent_at else clock_timestamp() end,
            failing_since = null, given_up_at = null
        from settled
        where known.incident_id = settled.incident_id and known.channel = :channel and known.version <= settled.version
    ),
    {channels.ACCEPTED}
    select (select count(*) from woken) as woken, {FLUSHED} from settled
    """
)

_NOT_ACCEPTED = f"""
    {_SETTLED}
    known as (
        update incident_channel as known set {_FAILING}
        from settled
        where known.incident_id = settled.incident_id and known.channel = :channel
    ),
"""

_SETTLE_FAILED = text(f"{_NOT_ACCEPTED} {channels.REFUSED} select {FLUSHED} from settled")

_SETTLE_UNSENT = text(f"{_NOT_ACCEPTED} {channels.UNASKED} select {FLUSHED} from settled")


async def settle_sent(
    tx: AsyncConnection,
    tried: Try,
    delivery: Delivery,
    *,
    told: AlertStatus,
    severity: Severity,
    silent: bool = False,
    reserved_until: datetime | None = None,
) -> None:
    """Write that the channel has accepted the message, and what it knows now. `sent` is final, whoever reports it.

    `silent` says that nobody was notified: an earlier message was brought up to date.
    """
    told_now = {
        "silent": silent,
        "told": told.value,
        "severity": severity.value,
        "run_id": tried.place.run_id,
        "version": tried.version,
    }
    thread = delivery.thread and delivery.thread.replace("\x00", "")
    if silent:
        delivery = delivery.model_copy(update={"response": {**delivery.response, "silent": True}})
    values = {**_result_of(tried, delivery), "thread": thread, "reserved_until": reserved_until}
    await _SETTLE_SENT.run(tx, {**values, **told_now})


async def settle_failed(
    tx: AsyncConnection,
    tried: Try,
    delivery: Delivery,
    failure: DeliveryFailed,
    *,
    pause_seconds: float,
    reserved_until: datetime | None = None,
) -> None:
    """Write that the channel has not accepted the message, and for how long it is left alone.

    It counts only while nobody else has begun another try: a process that was asleep must not write over the work of
    the one that continued for it.
    """
    values = {**_result_of(tried, delivery), "reserved_until": reserved_until}
    perhaps = failure.perhaps_accepted or tried.perhaps_accepted
    values["response"] = to_json({"retryable": failure.retryable, "perhaps_accepted": perhaps}).decode()
    if isinstance(failure, NotSent):
        await tx.execute(_SETTLE_UNSENT, values)
        return
    await tx.execute(_SETTLE_FAILED, {**values, **channels.refusal(failure, pause_seconds=pause_seconds)})


def _result_of(tried: Try, delivery: Delivery) -> dict[str, object]:
    return {
        "id": tried.delivery_id,
        "number": tried.number,
        "channel": tried.place.channel,
        "result": delivery.status,
        "provider_id": delivery.provider_id,
        "error": delivery.error,
        "response": to_json(delivery.response).decode(),
    }


LAST_ERROR = """
    coalesce(
        (select health.last_error from channel_health as health where health.name = known.channel),
        (
            select delivery.error from delivery
            where delivery.incident_id = known.incident_id and delivery.channel = known.channel
            order by delivery.id desc limit 1
        )
    )
"""
"""What the channel of `known`, a row of `incident_channel`, answered last, if it failed."""

# While the incident is open, its version grows, so that the other channels are told that one was given up. After the
# end that is not worth a message: the history says it, and so does the next message about the incident.
# The incident is locked first, as by whoever looks at a channel.
_GIVE_UP = text(
    f"""
    with locked as (select id from incident where id = :incident_id for no key update),
    given_up as (
        update incident_channel as known set given_up_at = clock_timestamp()
        from locked
        where known.incident_id = locked.id and known.channel = any(:channels)
        returning known.channel, {LAST_ERROR} as error
    ),
    ledger as (
        update delivery set status = '{GIVEN_UP}', settled_at = clock_timestamp()
        from given_up
        where delivery.incident_id = :incident_id and delivery.channel = given_up.channel
            and delivery.status = '{FAILED}'
    ),
    noted as (
        insert into history (incident_id, run_id, event, details)
        select :incident_id, :run_id, '{CHANNEL_GIVEN_UP}',
            jsonb_strip_nulls(jsonb_build_object('channel', channel, 'why', error))
        from given_up
    )
    update incident set version = version + 1, news_version = version + 1, updated_at = clock_timestamp()
    where id = :incident_id and status in {OPEN_STATUSES!r} and exists (select from given_up)
    """
)


async def give_up(tx: AsyncConnection, incident_id: str, channels: list[str], *, run_id: str) -> bool:
    """Stop trying to tell these channels of an incident, until a sender or a person speaks of it again.

    Returns whether the other channels should hear of that: the incident still fires.
    """
    values = {"incident_id": int(incident_id), "channels": channels, "run_id": run_id}
    return (await tx.execute(_GIVE_UP, values)).rowcount > 0
