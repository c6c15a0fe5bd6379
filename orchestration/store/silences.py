"""Silences: rows with matchers, an end, an author and a comment. What they keep back is decided elsewhere."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, bindparam, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Severity, UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import BadInput
from orchestration.policy.holding import HeldBy, Silence
from orchestration.policy.matchers import Matcher, all_match
from orchestration.redaction import redact_text
from orchestration.states import TIMER_REASONS, RunStatus
from orchestration.store.actions import MAX_NOTE_CHARACTERS, Actor
from orchestration.store.database import read_clock
from orchestration.store.models import OPEN_STATUSES, SilenceRow
from orchestration.store.prepared import Prepared
from orchestration.store.runs import INBOX_CHANNEL
from orchestration.store.table import columns_of

_T = SilenceRow
_COLUMNS = columns_of(_T, Silence)
_ACTIVE: ColumnElement[bool] = _T.ends_at > func.clock_timestamp()
_NEWEST = select(*_COLUMNS).order_by(_T.id.desc()).limit(bindparam("limit"))
_ALL, _NOT_ENDED = Prepared(_NEWEST), Prepared(_NEWEST.where(_ACTIVE))

LONGEST = timedelta(days=366)
"""The longest time for which alerts can be silenced."""

PREVIEW = timedelta(days=7)
"""How far back a preview looks."""

MOST = 10_000
"""How many silences that have not ended there are at most."""


async def add_silence(
    tx: AsyncConnection,
    matchers: tuple[Matcher, ...],
    actor: Actor,
    *,
    until: datetime | timedelta,
    comment: str = "",
    everything: bool = False,
) -> Silence:
    """Silence the alerts that meet these matchers, from now on.

    Args:
        tx: the transaction.
        matchers: at least one, of which one does not match every alert.
        actor: who does it, and from where.
        until: a moment, or a time from now.
        comment: why.
        everything: whether it may keep back every alert.

    Raises:
        BadInput: there are no matchers, the end is not in the future or more than a year away, or there are too many.
    """
    check_matchers(matchers, everything=everything)
    check_comment(comment)
    now = await read_clock(tx)
    ends_at = end_at(now, until)
    if (await tx.execute(select(func.count()).where(_ACTIVE))).scalar_one() >= MOST:
        raise BadInput(f"There are {MOST:,} silences already: let some end first")
    row = {
        "matchers": [str(matcher) for matcher in matchers],
        "starts_at": now,
        "ends_at": ends_at,
        "by": redact_text(actor.by),
        "via": actor.via.value,
        "comment": redact_text(comment.strip()),
    }
    return _silence((await tx.execute(insert(_T).values(row).returning(*_COLUMNS))).mappings().one())


_ANY_ALERT = tuple(
    {"alertname": text, "source": text, "environment": text, "severity": severity.value}
    for text in ("a", "Z9 -./:")
    for severity in Severity
)
"""Labels of alerts that have nothing in common: what holds for all of these holds for every alert."""


def check_matchers(matchers: tuple[Matcher, ...], *, everything: bool = False) -> None:
    """Check that the matchers of a silence do not hold for every alert.

    Raises:
        BadInput: there are none, or they do, and `everything` does not say that this is meant.
    """
    if not matchers:
        raise BadInput("A silence needs a matcher, such as alertname=DiskFull")
    if not everything and (all_match(matchers, {}) or all(all_match(matchers, labels) for labels in _ANY_ALERT)):
        raise BadInput(
            f"{', '.join(map(str, matchers))[:200]} holds for every alert, or for all but a few: nobody would be "
            "notified of them. Add a matcher that does not, such as alertname=DiskFull; if it is meant: --everything"
        )


def check_comment(comment: str) -> None:
    """
    Raises:
        BadInput: the comment is too long.
    """
    if len(comment) > MAX_NOTE_CHARACTERS:
        raise BadInput(f"A comment has at most {MAX_NOTE_CHARACTERS} characters, not {len(comment)}")


def end_at(now: datetime, until: datetime | timedelta) -> datetime:
    """The end of a silence that begins now.

    Raises:
        BadInput: it is not in the future, or more than a year away.
    """
    lasts = until - now if isinstance(until, datetime) else until
    if not timedelta(0) < lasts <= LONGEST:
        said = f"at {until:%Y-%m-%d %H:%M}" if isinstance(until, datetime) else f"after {lasts.days} days"
        raise BadInput(f"A silence ends in the future, after {LONGEST.days} days at most, not {said}")
    return now + lasts


async def end_silence(tx: AsyncConnection, silence_id: int) -> Silence:
    """End a silence now. What it keeps back is told, unless something else keeps it back.

    Raises:
        BadInput: there is no such silence, or it has ended.
    """
    change = update(_T).where(_T.id == silence_id, _ACTIVE).values(ends_at=func.clock_timestamp())
    row = (await tx.execute(change.returning(*_COLUMNS))).mappings().one_or_none()
    if row is None:
        raise BadInput(
            f"There is no silence {silence_id} that has not ended; `alert-pipeline silences list` shows them"
        )
    await tx.execute(_LOOK_AGAIN)
    return _silence(row)


class SilencedIncident(Contract):
    """An incident all of whose alerts meet the matchers of a silence."""

    id: int
    title: str
    severity: Severity
    opened_at: UtcDatetime
    fires: bool
    """Whether it is open."""


_MEMBERS = text(
    f"""
    select incident.id, incident.title, incident.severity, incident.opened_at,
        incident.status in {OPEN_STATUSES!r} as fires,
        jsonb_agg(
            jsonb_build_object(
                'severity', alert.severity, 'source', alert.source, 'environment', alert.environment,
                'alertname', alert.name
            ) || alert.labels
        ) as labels
    from incident
    join membership on membership.incident_id = incident.id
    join alert on alert.id = membership.alert_id
        and (membership.status = 'firing' or incident.status not in {OPEN_STATUSES!r})
    where incident.status in {OPEN_STATUSES!r} or incident.heard_at > clock_timestamp() - cast(:since as interval)
    group by incident.id order by incident.id desc limit :limit
    """
)


async def silenced_incidents(
    tx: AsyncConnection, matchers: tuple[Matcher, ...], *, since: timedelta
) -> list[SilencedIncident]:
    """The open incidents, and those that were heard of since then, that a silence with these matchers keeps back."""
    rows = (await tx.execute(_MEMBERS, {"since": since, "limit": MOST})).mappings()
    return [
        SilencedIncident.model_validate({name: row[name] for name in SilencedIncident.model_fields})
        for row in rows
        if all(all_match(matchers, labels) for labels in row["labels"])
    ]


async def silenced_now(tx: AsyncConnection) -> set[int]:
    """The numbers of the open incidents that silences keep back now: each firing alert is silenced by one of them."""
    active = await list_silences(tx)
    if not active:
        return set()
    rows = (await tx.execute(_MEMBERS, {"since": timedelta(0), "limit": MOST})).mappings()
    return {
        row["id"]
        for row in rows
        if row["fires"]
        and all(any(all_match(silence.matchers, labels) for silence in active) for labels in row["labels"])
    }


async def list_silences(tx: AsyncConnection, *, ended: bool = False, limit: int = MOST) -> list[Silence]:
    """The silences, the newest first: those that have not ended, or all of them."""
    return [_silence(row) for row in await (_ALL if ended else _NOT_ENDED).rows(tx, {"limit": limit})]


# What is kept back is looked at again now, by the run that waits for the end of what keeps it back.
_LOOK_AGAIN = text(
    f"""
    with held as (
        update incident set held = jsonb_set(held, '{{until}}', to_jsonb(clock_timestamp()))
        where held ->> 'by' = '{HeldBy.SILENCED}' and status in {OPEN_STATUSES!r}
        returning id
    ),
    due as (
        update pipeline_run as run set due_at = clock_timestamp()
        from held
        where run.incident_id = held.id and run.reason in {TIMER_REASONS!r} and run.status = '{RunStatus.PENDING}'
            and run.due_at is not null
        returning run.id
    )
    select pg_notify('{INBOX_CHANNEL}', '') from due limit 1
    """
)


def _silence(row: object) -> Silence:
    return Silence.model_validate(row, from_attributes=False)
