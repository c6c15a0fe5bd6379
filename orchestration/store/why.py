"""Finds everything on record about a run, an incident, an alert, or a refused push, so that it can be explained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident
from orchestration.errors import BadInput, IncidentNotFound
from orchestration.store.database import read_clock
from orchestration.store.incidents import ID_DIGITS, ChannelRecord, get_incident, incident_of
from orchestration.store.models import (
    AlertRow,
    ChannelHealthRow,
    DeliveryRow,
    HistoryRow,
    IncidentChannelRow,
    IncidentRow,
    MembershipRow,
    PipelineRunRow,
    RefusedPushRow,
    StageExecutionRow,
)
from orchestration.store.records import AttemptRecord, DeliveryRecord, HistoryRecord
from orchestration.store.refused import RefusedPush, list_refused
from orchestration.store.runs import RUN_COLUMNS, find_run, run_record, starts_with
from orchestration.store.story import rows_by_run
from orchestration.store.table import columns_of
from orchestration.store.why_words import NEAR, ChannelHealth, ExplainedRun, Facts, Why, explain

_A, _H, _I, _R = AlertRow, HistoryRow, IncidentRow, PipelineRunRow

MOST_RUNS = 60
"""How many runs of an incident are looked at: the last ones until the moment that is asked about, and what follows."""

MOST_INCIDENTS = 8

LONGEST_QUERY_MS = 10_000
"""How long one query may take: a regular expression of a caller must not keep a connection for ever."""

NEWEST_ALERTS = 5000
"""Among how many alerts names and labels are looked up: those that were heard of last."""

REFUSED_BEFORE = timedelta(days=1)
"""How far back refused pushes are looked up, if no moment is asked about."""

REFUSED_AROUND = timedelta(hours=1)
_REFUSED_SHOWN = 10
_RUN_ID = re.compile(r"[0-9a-f]{4,32}")
_REFUSED_ID = re.compile(r"refused-(\d{1,18})")
_MATCHER = re.compile(r"""\s*([A-Za-z_][\w.\-]*)\s*(=~|!~|!=|=)\s*(?:"([^"]*)"|'([^']*)'|([^,"'{}]*))\s*""")
_NOT_SHARED = re.compile(r"\\[0-9A-Za-z]|\(\?|[*+?}]\+")
"""Parts of regular expressions that Python and PostgreSQL do not understand in the same way."""


async def read_why(tx: AsyncConnection, what: str, at: datetime | None = None) -> Why:
    """Explain why somebody was notified of something, or nobody was.

    Args:
        tx: the transaction to read in.
        what: a run's id or its beginning, an incident's number, the beginning of an alert's name or of an incident's
            title, matchers of labels such as `instance="db-1"`, or a refused push such as `refused-12`.
        at: the moment that is asked about; None means the latest news.

    Raises:
        Unavailable: the database does not answer, or not in time.
        IncidentNotFound: there is no incident with this number.
        BadInput: the question is empty or too long, a matcher is no regular expression, several runs have ids that
            start like this, or there is no such refused push.
    """
    asked = what.strip()
    if not asked or len(asked) > 256 or not asked.isprintable():
        raise BadInput("what: expected 1 to 256 printable characters: a run, an incident, an alert, or a matcher")
    await tx.execute(select(func.set_config("statement_timeout", f"{LONGEST_QUERY_MS}", True)))
    now = await read_clock(tx)
    if (refused := _REFUSED_ID.fullmatch(asked)) is not None:
        query = select(*columns_of(RefusedPushRow, RefusedPush)).where(RefusedPushRow.id == int(refused[1]))
        rows = [RefusedPush.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]
        if not rows:
            raise BadInput(f"There is no refused push {asked}: it was never here, or was deleted after its time")
        return explain(Facts(what=asked, now=now, at=at, subject="what the push said", refused=rows))
    if (by_run := await _of_run(tx, asked, now)) is not None:
        return explain(by_run)
    incidents, words, names = await _matching(tx, asked, at)
    facts = Facts(what=asked, now=now, at=at, subject=names or asked)
    if incidents:
        facts = (await _of_incident(tx, incidents[0], facts)).model_copy(update={"others": incidents[1:]})
    since = (at or now) - (REFUSED_AROUND if at else REFUSED_BEFORE)
    until = at + REFUSED_AROUND if at else now
    found = await list_refused(tx, since=since, until=until, words=words, limit=_REFUSED_SHOWN)
    # What said nothing may be about anything, so it counts only near the moment, or where nothing else is known.
    near = [push for push in found if push.body or not incidents or (at is not None and abs(push.at - at) <= NEAR)]
    return explain(facts.model_copy(update={"refused": near}))


# Which incidents are meant


async def _of_run(tx: AsyncConnection, asked: str, now: datetime) -> Facts | None:
    """The facts about one run. None means that the question names none."""
    if not _RUN_ID.fullmatch(asked):
        return None
    if asked.isdecimal() and len(asked) <= ID_DIGITS and await _incidents(tx, [int(asked)], None):
        return None
    known = (await tx.execute(select(_R.id).where(starts_with(_R.run_id, asked)).limit(1))).first()
    if known is None:
        return None
    run = await find_run(tx, asked)
    facts = Facts(what=asked, now=now, at=None, run_id=run.run_id, subject=run.title or "the push")
    if run.incident_id is None:
        return facts.model_copy(update={"runs": await _runs(tx, _R.run_id == run.run_id)})
    incident = await get_incident(tx, run.incident_id)
    facts = await _of_incident(tx, incident, facts.model_copy(update={"at": run.created_at}))
    if all(one.run.run_id != run.run_id for one in facts.runs):
        runs = [*await _runs(tx, _R.run_id == run.run_id), *facts.runs]
        facts = facts.model_copy(update={"runs": runs})
    return facts.model_copy(update={"at": None, "subject": run.title or facts.subject})


async def _matching(
    tx: AsyncConnection, asked: str, at: datetime | None
) -> tuple[list[Incident], Sequence[str], str | None]:
    """The incidents that are meant, the likeliest first; the words by which a refused push is found; and a title."""
    number = asked.removeprefix("#")
    if number.isascii() and number.isdecimal() and len(number) <= ID_DIGITS:
        found = await _incidents(tx, [int(number)], None)
        if not found:
            raise IncidentNotFound(
                f"There is no incident {number}; `alert-pipeline incidents list` shows what there is"
            )
        return found, found[0].title.split(" on ")[:1], found[0].title
    matchers = _parse_matchers(asked)
    latest = select(_A.id, _A.name, _A.labels).order_by(_A.heard_at.desc()).limit(NEWEST_ALERTS).subquery()
    if matchers:
        fits = and_(*(_fits(latest.c, *matcher) for matcher in matchers))
        words = [value for _, operator, value in matchers if operator == "="]
        by_title: list[int] = []
    else:
        start = asked.lower()
        fits = func.left(func.lower(latest.c.name), len(start)) == start
        title = func.left(func.lower(_I.title), len(start)) == start
        by_title = list((await tx.execute(select(_I.id).where(title).order_by(_I.id.desc()).limit(50))).scalars())
        words = [asked.split(" on ")[0]]
    members = select(MembershipRow.incident_id).where(MembershipRow.alert_id.in_(select(latest.c.id).where(fits)))
    ids = [*by_title, *(await tx.execute(members.order_by(MembershipRow.incident_id.desc()).limit(200))).scalars()]
    incidents = await _incidents(tx, ids, at)
    return incidents, words or [asked], incidents[0].title if incidents else None


async def _incidents(tx: AsyncConnection, ids: Sequence[int], at: datetime | None) -> list[Incident]:
    """These incidents, those that were heard of last until the moment first."""
    query = select(*columns_of(_I, Incident)).where(_I.id.in_(ids))
    if at is not None:
        query = query.where(_I.opened_at <= at + timedelta(minutes=1))
    newest = query.order_by((_I.opened_at if at else _I.heard_at).desc(), _I.id.desc()).limit(MOST_INCIDENTS)
    return [incident_of(row) for row in (await tx.execute(newest)).mappings()]


def _parse_matchers(asked: str) -> list[tuple[str, str, str]]:
    """The matchers of a question, as `instance="db-1", team=~"shop.*"`. Empty means that it has none.

    Raises:
        BadInput: a regular expression is wrong.
    """
    found: list[tuple[str, str, str]] = []
    rest = asked.strip().removeprefix("{").removesuffix("}")
    while rest:
        matcher = _MATCHER.match(rest)
        if matcher is None:
            return []
        value = next((group for group in matcher.groups()[2:] if group is not None), "").strip()
        if matcher[2].endswith("~"):
            try:
                re.compile(value)
            except re.error as error:
                raise BadInput(f"what: {value[:80]!r} is no regular expression: {error}") from None
            if _NOT_SHARED.search(value):
                raise BadInput(f"what: {value[:80]!r} has a group `(?…)` or a reference, which matchers do not know")
        found.append((matcher[1], matcher[2], value))
        rest = rest[matcher.end() :].lstrip(", ")
    return found


def _fits(alert: Any, name: str, operator: str, value: str) -> ColumnElement[bool]:
    """Whether an alert of the query has such a label. A label that it does not have is empty."""
    label = alert.name if name == "alertname" else func.coalesce(alert.labels.op("->>")(name), "")
    # PostgreSQL's regular expressions, unlike Python's, do not take for ever if somebody wants them to.
    is_same = label.op("~")(f"^(?:{value})$") if operator.endswith("~") else label == value
    return not_(is_same) if operator.startswith("!") else is_same


# What is on record about an incident


async def _of_incident(tx: AsyncConnection, incident: Incident, facts: Facts) -> Facts:
    number = int(incident.id)
    alerts = select(_A.fingerprint).join(MembershipRow, MembershipRow.alert_id == _A.id)
    same_alerts = _R.alert_fingerprint.in_(alerts.where(MembershipRow.incident_id == number))
    same_key = and_(_R.incident_key == incident.incident_key, _R.environment == incident.environment)
    # A duplicate, and a run that has not reached ingest, has no incident yet.
    mine = or_(_R.incident_id == number, and_(same_alerts, same_key, _R.incident_id.is_(None)))
    if facts.at is not None:
        mine = and_(mine, _R.created_at <= facts.at + timedelta(minutes=15))
    runs = await _runs(tx, mine)
    since = min((one.run.created_at for one in runs), default=incident.opened_at)
    history = select(*columns_of(_H, HistoryRecord)).where(
        _H.incident_id == number, _H.alert_id.is_(None), _H.at >= since
    )
    channels = select(*columns_of(IncidentChannelRow, ChannelRecord)).where(IncidentChannelRow.incident_id == number)
    told = [ChannelRecord.model_validate(dict(row)) for row in (await tx.execute(channels)).mappings()]
    names = {channel.channel for channel in told}
    failing = select(*columns_of(ChannelHealthRow, ChannelHealth)).where(
        ChannelHealthRow.name.in_(names), ChannelHealthRow.failures > 0
    )
    return facts.model_copy(
        update={
            "incident": incident,
            "subject": incident.title,
            "runs": runs,
            "channels": told,
            "failing": [ChannelHealth.model_validate(dict(row)) for row in (await tx.execute(failing)).mappings()],
            "history": [
                HistoryRecord.model_validate(dict(row))
                for row in (await tx.execute(history.order_by(_H.id.desc()).limit(MOST_RUNS))).mappings()
            ],
        }
    )


async def _runs(tx: AsyncConnection, mine: Any) -> list[ExplainedRun]:
    """The last of these runs with what they decided, sent, and failed at; oldest first."""
    decision = (_R.ingest_result["tell"].label("tell"), _R.ingest_result["reason"].label("decided"))
    errors = _R.ingest_result["errors"].label("errors")
    query = select(*RUN_COLUMNS, _R.id.label("row_id"), *decision, errors).where(mine)
    rows = (await tx.execute(query.order_by(_R.id.desc()).limit(MOST_RUNS))).mappings().all()[::-1]
    keys = [row["row_id"] for row in rows]
    deliveries = await rows_by_run(tx, DeliveryRecord, DeliveryRow, keys)
    failed = StageExecutionRow.error_type.is_not(None)
    failures = await rows_by_run(tx, AttemptRecord, StageExecutionRow, keys, failed)
    return [
        ExplainedRun(
            run=run_record(row),
            tell=row["tell"],
            reason=row["decided"],
            errors=row["errors"] or [],
            deliveries=deliveries[row["row_id"]],
            failures=failures[row["row_id"]],
        )
        for row in rows
    ]
