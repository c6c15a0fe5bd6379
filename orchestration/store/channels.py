"""The health of each channel, from its latest answers, so that all workers together obey one Retry-After and one pace.

While a channel fails, one message at a time is sent there, each after a pause. When it works again, the runs that wait
for it become due.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import DeliveryFailed
from orchestration.states import RunReason, RunStatus
from orchestration.store.runs import INBOX_CHANNEL

LONGEST_PAUSE_SECONDS = 10.0
"""The longest pause of a channel that fails, unless it asks for a longer one. The channel may work again right after a
pause has begun, and everything that waits has to be sent within 30 s of that."""

OUTAGE_SECONDS = 30.0
"""A channel that has failed for this long has an outage, which is reported on the other channels."""

PATIENCE_SECONDS = 3.0
"""The longest time that a message waits for its turn within one attempt."""

_PROBE_SECONDS = 12.0
"""How long a channel that fails is reserved for the message that tries it. Longer than any channel's own time limit."""

LONGEST_RETRY_AFTER_SECONDS = 24 * 3600.0
"""The longest pause that a channel can ask for. A longer one counts as this."""

_PENDING_REDELIVERY = f"run.reason = '{RunReason.REDELIVERY}' and run.status = '{RunStatus.PENDING}'"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """When a message may be sent on a channel."""

    granted: bool
    """Whether the moment is this message's own. Otherwise it asks again after `wait_seconds`."""
    wait_seconds: float
    paused: bool = False
    """Whether nothing at all may be sent now: the channel has asked for a pause, or its pause after a failure lasts."""
    reserved_until: datetime | None = None
    """Until when the channel is reserved for this message, if it is the one that tries a channel that fails."""
    failing: bool = False
    """Whether the channel's last answer to anybody was a failure."""
    error: str | None = None
    """That answer, if it was a failure."""

    @property
    def after_probe(self) -> bool:
        """Whether the message waits only for the answer to another message, which tries a channel that fails."""
        return self.failing and not self.granted and not self.paused


_TURN = text(
    """
    with health as (
        -- `now` is read last: the clock moves on, and a channel that is free must not seem to be free later than now.
        select name, failures, last_error, coalesce(not_before > clock_timestamp(), false) as paused,
            greatest(not_before, reserved_until, clock_timestamp()) as free_at, clock_timestamp() as now
        from channel_health where name = :name for update
    ),
    granted as (
        update channel_health
        set reserved_until = case
                when health.failures > 0 then health.now + make_interval(secs => :probe)
                when :pace > 0 then health.free_at + make_interval(secs => :pace)
                else channel_health.reserved_until
            end
        from health
        where channel_health.name = health.name and (
            health.failures > 0 and health.free_at <= health.now
            or health.failures = 0 and health.free_at <= health.now + make_interval(secs => :patience)
        )
        returning channel_health.reserved_until
    )
    select extract(epoch from health.free_at - health.now) as wait_seconds, health.failures > 0 as failing, paused,
        health.last_error, (select reserved_until from granted) as reserved_until,
        exists (select from granted) as granted
    from health
    """
)

_KNOWN = text("insert into channel_health (name) values (:name) on conflict do nothing")


async def reserve_turn(tx: AsyncConnection, name: str, *, pace_seconds: float) -> Turn:
    """Reserve the next moment at which this channel may be sent a message.

    A channel that works, has no pace and has not asked for a pause is free at once. A caller that has waited for its
    turn asks `needs_turn()` whether the turn is still good: the channel may have refused another message meanwhile.

    Args:
        tx: the transaction, which must be short: it locks the row of the channel.
        name: the channel.
        pace_seconds: the time between two messages, in seconds. 0 means that there is no pace.
    """
    values = {"name": name, "probe": _PROBE_SECONDS, "pace": pace_seconds, "patience": PATIENCE_SECONDS}
    row = (await tx.execute(_TURN, values)).mappings().one_or_none()
    if row is None and pace_seconds > 0:
        await tx.execute(_KNOWN, {"name": name})
        row = (await tx.execute(_TURN, values)).mappings().one()
    if row is None:
        return Turn(granted=True, wait_seconds=0.0)
    return Turn(
        granted=row["granted"],
        wait_seconds=float(row["wait_seconds"]),
        paused=row["paused"],
        reserved_until=row["reserved_until"] if row["failing"] else None,
        failing=row["failing"],
        error=row["last_error"] if row["failing"] else None,
    )


# Both parts are needed: a channel that works can still be paused, if it refused one message with a Retry-After while it
# accepted another that was already on its way.
NEEDS_TURN = "(failures > 0 or not_before > clock_timestamp())"
"""A condition on a row of `channel_health`: a message needs a turn, whatever the channel's pace."""

_NEEDS_TURN = text(f"select exists (select from channel_health where name = :name and {NEEDS_TURN})")


async def needs_turn(tx: AsyncConnection, name: str) -> bool:
    """Whether a message needs a turn on this channel, because the channel fails or has asked for a pause."""
    return bool((await tx.execute(_NEEDS_TURN, {"name": name})).scalar_one())


# A refusal for good says more about the message than about the channel. So a run that waits because of such a refusal
# keeps its own, growing delay when the channel accepts another message; it is woken only at the end of an outage.
_REFUSED_FOR_GOOD = """
    exists (
        select from delivery
        where delivery.incident_id = known.incident_id and delivery.channel = known.channel
            and delivery.status = 'failed' and delivery.response->>'retryable' = 'false'
    )
"""

ACCEPTED = f"""
    health as (
        insert into channel_health as health (name, sent_at) select :channel, clock_timestamp() from settled
        -- A busy channel that works costs a write, and a wait for the others that write it, once a second only.
        where not exists (
            select from channel_health
            where name = :channel and failures = 0 and sent_at > clock_timestamp() - interval '1 s'
                and (reserved_until = cast(:reserved_until as timestamptz)) is not true
        )
        on conflict (name) do update
        set failures = 0, failing_since = null, last_error = null, sent_at = clock_timestamp(),
            reserved_until = case when health.reserved_until = cast(:reserved_until as timestamptz) then null
                else health.reserved_until end
    ),
    waiting as (
        select run.id
        from settled
        join channel_health as before on before.name = :channel and before.failures > 0
        join incident_channel as known on known.channel = before.name
            and known.failing_since is not null and known.given_up_at is null
        join pipeline_run as run on run.incident_id = known.incident_id and {_PENDING_REDELIVERY}
            and run.due_at > clock_timestamp()
        where before.failing_since < clock_timestamp() - make_interval(secs => {OUTAGE_SECONDS})
            or not {_REFUSED_FOR_GOOD}
        for update of run skip locked
    ),
    woken as (
        update pipeline_run set due_at = clock_timestamp() from waiting where pipeline_run.id = waiting.id
        returning cast(pg_notify('{INBOX_CHANNEL}', '') as text) as notified
    )
"""
"""Parts of a statement (`with settled as …`) that settles a message which the channel has accepted: the channel works.
If it failed before, the runs that wait for it become due now. Parameters: channel, reserved_until (the turn's)."""

REFUSED = f"""
    health as (
        insert into channel_health as health (name, failures, failing_since, not_before, last_error)
        select :channel, 1, clock_timestamp(),
            case when :first > 0 then clock_timestamp() + make_interval(secs => :first) end, :error
        from settled
        on conflict (name) do update
        set failures = health.failures + 1, failing_since = coalesce(health.failing_since, clock_timestamp()),
            last_error = excluded.last_error,
            reserved_until = case when health.reserved_until = cast(:reserved_until as timestamptz) then null
                else health.reserved_until end,
            not_before = greatest(
                health.not_before,
                clock_timestamp() + make_interval(secs => case
                    when cast(:asked as float) is not null then cast(:asked as float)
                    when :retryable or health.failures > 0
                        then least(:pause * power(2, least(health.failures, 20)), {LONGEST_PAUSE_SECONDS})
                    else 0
                end)
            )
    )
"""
"""Parts of a statement (`with settled as …`) that settles a message which the channel has not accepted: the channel is
paused for as long as it asks, else for a growing time. Parameters: those of `refusal()`, channel, error, reserved_until
(the turn's)."""

UNASKED = """
    released as (
        update channel_health set reserved_until = null
        where name = :channel and reserved_until = cast(:reserved_until as timestamptz)
            and exists (select from settled)
    )
"""
"""The same for a message that was not sent after all: its turn is free, and the channel has answered nothing."""


def refusal(error: DeliveryFailed, *, pause_seconds: float) -> dict[str, object]:
    """The parameters of `REFUSED` that follow from the error.

    `pause_seconds` is the first pause. Each further failure in a row doubles the pause, up to `LONGEST_PAUSE_SECONDS`.
    A first refusal for good causes no pause: the fault may be in the message.
    """
    asked = error.retry_after_seconds
    if asked is not None:
        asked = min(max(asked, 0.0), LONGEST_RETRY_AFTER_SECONDS)
    first = asked if asked is not None else pause_seconds if error.retryable else 0.0
    return {"retryable": error.retryable, "pause": pause_seconds, "first": first, "asked": asked}


_FREE_IN = text(
    """
    select min(extract(epoch from not_before - clock_timestamp())) from channel_health where name = any(:names)
    """
)


async def free_in_seconds(tx: AsyncConnection, names: list[str]) -> float:
    """In how many seconds the first of these channels may be sent a message again; 0 if one of them may be now."""
    found = (await tx.execute(_FREE_IN, {"names": names})).scalar_one_or_none()
    return max(float(found or 0.0), 0.0)


class Health(Contract):
    """How a channel has answered lately."""

    name: str
    failures: int
    """In a row."""
    failing_since: UtcDatetime | None
    not_before: UtcDatetime | None
    """Nothing is sent before."""
    last_error: str | None
    sent_at: UtcDatetime | None


_HEALTH = text(
    """
    select name, failures, failing_since, case when not_before > clock_timestamp() then not_before end as not_before,
        last_error, sent_at
    from channel_health
    """
)


async def read_health(tx: AsyncConnection) -> dict[str, Health]:
    """How each channel that was ever sent a message has answered lately, by name."""
    rows = (await tx.execute(_HEALTH)).mappings()
    return {row["name"]: Health.model_validate(dict(row)) for row in rows}


# What waits


_WAKE_PROBES = text(
    f"""
    with first as (
        select distinct on (known.channel) run.id
        from pipeline_run as run
        join incident_channel as known on known.incident_id = run.incident_id
            and known.failing_since is not null and known.given_up_at is null
        join channel_health as health on health.name = known.channel
        where {_PENDING_REDELIVERY} and run.due_at > clock_timestamp()
            and (health.not_before is null or health.not_before <= clock_timestamp())
            and (health.failures = 0 or health.reserved_until is null or health.reserved_until <= clock_timestamp())
            and not {_REFUSED_FOR_GOOD}
        order by known.channel, run.priority desc, run.id
    ),
    woken as (select id from pipeline_run where id in (select id from first) for update skip locked)
    update pipeline_run set due_at = clock_timestamp() from woken where pipeline_run.id = woken.id
    returning cast(pg_notify('{INBOX_CHANNEL}', '') as text)
    """
)


async def wake_probes(tx: AsyncConnection) -> int:
    """For each channel that may be tried again, make the first run that waits for it due: that run tries the channel.

    Returns how many runs became due.
    """
    return len((await tx.execute(_WAKE_PROBES)).all())


class Outage(Contract):
    """A channel that does not accept messages, or does so again."""

    channel: str
    over: bool
    error: str = ""
    since: UtcDatetime | None = None


_REPORT_OUTAGES = text(
    f"""
    update channel_health set reported_at = clock_timestamp()
    where reported_at is null and failures > 1
        and failing_since < clock_timestamp() - make_interval(secs => {OUTAGE_SECONDS})
    returning name as channel, false as over, coalesce(last_error, '') as error, failing_since as since
    """
)

_REPORT_RECOVERIES = text(
    """
    update channel_health set reported_at = null where reported_at is not null and failures = 0
    returning name as channel, true as over
    """
)


async def outages_to_report(tx: AsyncConnection) -> list[Outage]:
    """The outages that nobody has heard of, and the reported ones that are over. Each is returned once."""
    rows = [*(await tx.execute(_REPORT_OUTAGES)).mappings(), *(await tx.execute(_REPORT_RECOVERIES)).mappings()]
    return [Outage.model_validate(dict(row)) for row in rows]
