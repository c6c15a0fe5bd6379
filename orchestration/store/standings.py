"""What each channel knows of an incident, beside what is true now.

A pair of incident and channel has one row, which is locked for a moment before a message about the incident is sent
there, so that one run at a time sends.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import AlertStatus, IncidentStatus, Severity
from orchestration.contracts import Contract
from orchestration.errors import Unavailable
from orchestration.store import channels
from orchestration.store.database import Database
from orchestration.store.deliveries import ALIVE, FAILED, PERHAPS_ACCEPTED, SENDING, SENT, Place
from orchestration.store.prepared import prepared

_LOOK_SECONDS = 0.02
"""How often somebody who waits for messages looks whether they are sent."""

ANSWER_SECONDS = 2.0
"""How long a person who acts on an incident waits for messages that are on their way."""


class Standing(Contract):
    """What a channel knows of an incident, beside what is true now."""

    version: int
    """The incident's present version."""
    news_version: int
    """The latest version that somebody should hear of."""
    shows_state: bool = False
    """Whether the channel can bring its message up to date without a new one."""
    over: bool
    """Whether the incident is resolved or closed."""
    severity: Severity
    quiet: bool = False
    """Whether somebody has acknowledged or snoozed the incident."""
    known_version: int = 0
    """The version that the channel was told last; 0 means that it was told nothing."""
    known_status: AlertStatus | None = None
    known_severity: Severity | None = None
    given_up: bool = False
    """Whether the attempts to tell this channel have been given up."""
    provider_id: str | None = None
    """The vendor's id of the last message that was sent there."""
    thread: str | None = None
    """What the channel needs to add to that message."""
    told_by_run: bool = False
    """Whether this run was the last one that told the channel something."""
    sent_by_node: bool = False
    """Whether this node's message about the latest news is out."""
    sent_by_run: bool = False
    """Whether this node of this run has sent the channel a message about the incident."""
    other_run: str | None = None
    """Another run that is sending to the channel now, and whose lease is alive."""
    unfinished: bool = False
    """Whether the ledger has messages that were not sent."""
    needs_turn: bool = False
    """Whether the channel fails, or has asked for a pause: a message has to wait for its turn."""

    @property
    def wanted_version(self) -> int:
        """The version that the channel should know."""
        return self.version if self.shows_state else self.news_version

    @property
    def knows_news(self) -> bool:
        """Whether the channel was told all that somebody should hear of."""
        return self.known_version >= self.news_version


# The incident is locked first, as by whoever changes both. The lock is shared: a person who acts on the incident waits
# for whoever looks, and so sees each message that is sent because of what was true before.
_LOCK = prepared(
    """
    insert into incident_channel as known (incident_id, channel, driver, shows_state)
    select id, :channel, :driver, :shows_state from incident where id = :incident_id for share
    on conflict (incident_id, channel) do update
    set driver = excluded.driver, shows_state = excluded.shows_state,
        thread_id = case when known.driver = excluded.driver then known.thread_id end
    returning version, status, severity, given_up_at is not null as given_up, run_id, provider_id, thread_id
    """
)

# A separate statement, after the lock, so that it sees what the previous owner of the lock has committed.
_LOOK = prepared(
    f"""
    select incident.version, incident.news_version, incident.status, incident.severity,
        coalesce(incident.snoozed_until > clock_timestamp(), false) as snoozed,
        (
            select run.run_id
            from delivery join pipeline_run as run on run.id = delivery.pipeline_run_id
            where delivery.incident_id = incident.id and delivery.channel = :channel
                and delivery.status = '{SENDING}' and run.run_id <> :run_id and {ALIVE}
            limit 1
        ) as other_run,
        exists (
            select from delivery
            where delivery.incident_id = incident.id and delivery.channel = :channel
                and delivery.node_id = :node_id and delivery.version >= incident.news_version
                and delivery.status = '{SENT}'
        ) as sent_by_node,
        exists (
            select from delivery join pipeline_run as run on run.id = delivery.pipeline_run_id
            where run.run_id = :run_id and delivery.channel = :channel and delivery.node_id = :node_id
                and delivery.status = '{SENT}' and delivery.version is not null
        ) as sent_by_run,
        exists (
            select from delivery
            where delivery.incident_id = incident.id and delivery.channel = :channel
                and delivery.status in ('{SENDING}', '{FAILED}')
        ) as unfinished,
        exists (select from channel_health where name = :channel and {channels.NEEDS_TURN}) as needs_turn
    from incident
    where incident.id = :incident_id
    """
)


async def lock_and_look(tx: AsyncConnection, place: Place) -> Standing:
    """What the channel knows of the incident, and what is true now. The pair is locked until the transaction ends."""
    keys = {"incident_id": int(place.incident_id or 0), "channel": place.channel}
    channel = {"driver": place.driver, "shows_state": place.shows_state}
    known = await _LOCK.one(tx, {**keys, **channel})
    mine = {"run_id": place.run_id, "node_id": place.node_id}
    now = await _LOOK.one(tx, {**keys, **mine})
    return Standing(
        version=now["version"],
        news_version=now["news_version"],
        shows_state=place.shows_state,
        over=IncidentStatus(now["status"]).ended,
        severity=now["severity"],
        quiet=now["status"] == IncidentStatus.ACKNOWLEDGED or now["snoozed"],
        known_version=known["version"],
        known_status=known["status"],
        known_severity=known["severity"],
        given_up=known["given_up"],
        provider_id=known["provider_id"],
        thread=known["thread_id"],
        told_by_run=known["run_id"] == place.run_id,
        **{name: now[name] for name in ("other_run", "sent_by_node", "sent_by_run", "unfinished", "needs_turn")},
    )


_IS_BEHIND = prepared(
    """
    select case when known.shows_state then incident.version else incident.news_version end > known.version
    from incident join incident_channel as known on known.incident_id = incident.id and known.channel = :channel
    where incident.id = :incident_id
    """
)


async def is_behind(tx: AsyncConnection, place: Place) -> bool:
    """Whether there is something that the channel should know and was not told."""
    keys = {"incident_id": int(place.incident_id or 0), "channel": place.channel}
    return bool(await _IS_BEHIND.value(tx, keys))


# The ledger counts a try whose process died as perhaps accepted: no answer to it is on record.
_FIRING_ON = text(
    f"""
    select known.channel
    from incident_channel as known join incident on incident.id = known.incident_id
    where incident.id = :incident_id and (
        known.status = '{AlertStatus.FIRING}'
        or exists (
            select from delivery
            where delivery.incident_id = incident.id and delivery.channel = known.channel
                and delivery.version > known.version and delivery.version < incident.version
                and delivery.tries > 0 and {PERHAPS_ACCEPTED}
        )
    )
    """
)


async def channels_told_firing(tx: AsyncConnection, incident_id: str) -> list[str]:
    """The channels that may still show that an incident fires, although it is over now.

    The last message that they accepted said that it fires, or they may have accepted such a message without an answer.
    """
    return list((await tx.execute(_FIRING_ON, {"incident_id": int(incident_id)})).scalars())


_SHOWING = text("select channel from incident_channel where incident_id = :incident_id and shows_state and version > 0")


async def channels_showing(tx: AsyncConnection, incident_id: str) -> list[str]:
    """The channels with a message about an incident that they can bring up to date."""
    return list((await tx.execute(_SHOWING, {"incident_id": int(incident_id)})).scalars())


_TOLD = text("select channel from incident_channel where incident_id = :incident_id and version > 0")


async def channels_told(tx: AsyncConnection, incident_id: str) -> list[str]:
    """The channels that were told anything of an incident."""
    return list((await tx.execute(_TOLD, {"incident_id": int(incident_id)})).scalars())


_WAITING = text(
    """
    select channel, extract(epoch from clock_timestamp() - failing_since) as seconds
    from incident_channel
    where incident_id = :incident_id and failing_since is not null and given_up_at is null
    """
)


async def failing_channels(tx: AsyncConnection, incident_id: str) -> dict[str, float]:
    """The channels that refuse the messages about an incident, each with the seconds since the first refusal."""
    rows = (await tx.execute(_WAITING, {"incident_id": int(incident_id)})).all()
    return {row[0]: float(row[1]) for row in rows}


_ON_THEIR_WAY = text(
    f"""
    select exists (
        select from incident
        join delivery on delivery.incident_id = incident.id and delivery.version < incident.version
        join pipeline_run as run on run.id = delivery.pipeline_run_id
        where incident.id = :incident_id and delivery.status = '{SENDING}' and {ALIVE}
    )
    """
)


async def wait_for_messages(database: Database, incident_id: str) -> bool:
    """Wait until no message is on its way that says what was true of an incident before a person's action.

    None begins after the action is committed. For those that have begun the person waits, for a moment: after the
    answer no page arrives. Returns whether all have ended; False after `ANSWER_SECONDS`, or without the database.
    """
    with suppress(TimeoutError, Unavailable):
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                async with database.statement() as tx:
                    if not (await tx.execute(_ON_THEIR_WAY, {"incident_id": int(incident_id)})).scalar_one():
                        return True
                await asyncio.sleep(_LOOK_SECONDS)
    return False
