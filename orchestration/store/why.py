"""Finds everything on record about a run, an incident, an alert, or a refused push, so that it can be explained."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, cast, exists, func, literal, not_, or_, select, type_coerce, union_all
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import TOO_LARGE, Incident
from orchestration.contracts import CheckResult, Stage
from orchestration.errors import BadInput, IncidentNotFound
from orchestration.reasons import Reason
from orchestration.states import RunReason
from orchestration.store.database import read_clock
from orchestration.store.definitions import read_policy_timing
from orchestration.store.deliveries import SENT
from orchestration.store.incidents import ID_DIGITS, ChannelRecord, get_incident, readable_incidents
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
from orchestration.store.records import AttemptRecord, DeliveryRecord, HistoryRecord, RunRecord, readable
from orchestration.store.refused import RefusedPush, list_refused
from orchestration.store.runs import RUN_COLUMNS, find_run, readable_run, readable_runs, starts_with
from orchestration.store.story import all_checks, rows_by_run
from orchestration.store.table import columns_of
from orchestration.store.why_facts import NEAR, ChannelHealth, ExplainedRun, Facts, Why
from orchestration.store.why_words import explain
from orchestration.store.workers import list_workers

_A, _H, _I, _R = AlertRow, HistoryRow, IncidentRow, PipelineRunRow

MOST_RUNS = 60
"""How many runs of an incident are looked at: the last ones until the moment that is asked about, and what follows."""

MOST_INCIDENTS = 8

FOLLOWS_WITHIN = timedelta(minutes=15)
"""For how long after the moment that is asked about things are looked at."""

LONGEST_QUERY_MS = 10_000
"""How long one query may take: a regular expression of a caller must not keep a connection for ever."""

NEWEST_ALERTS = 5000
"""Among how many alerts names and labels are looked up: those that were heard of last."""

NEWEST_RUNS = 20_000
"""Among how many runs those are looked up that belong to no incident: the newest until the moment in question."""

_MOST_TITLED, _MOST_MEMBERS = 50, 200
"""How many incidents are looked at that have such a title, and that have such an alert."""

REFUSED_BEFORE = timedelta(days=1)
"""How far back refused pushes are looked up, if no moment is asked about."""

REFUSED_AROUND = timedelta(hours=1)
_REFUSED_SHOWN = 10

Matcher = tuple[str, str, str]
"""A label, an operator and a value."""

FitsName = Callable[[Any, str], ColumnElement[bool]]
"""Whether a name or a title, in a column, is the one that is asked about."""

_RUN_ID = re.compile(r"[0-9a-f]{4,32}")
_REFUSED_ID = re.compile(r"refused-(\d{1,18})")
_MATCHER = re.compile(r"""\s*([A-Za-z_][\w.\-]*)\s*(=~|!~|!=|=)\s*(?:"([^"]*)"|'([^']*)'|([^,"'{}]*))\s*""")
_MATCHER_START = re.compile(r"""\s*\{?\s*[A-Za-z_][\w.\-]*\s*(=~|!~|!=|=)\s*["']""")
_NOT_SHARED = re.compile(r"\\(?![dDwWsS])[0-9A-Za-z]|\(\?|[*+?}]\+")
"""Parts of regular expressions that Prometheus and PostgreSQL do not understand in the same way."""


async def read_why(tx: AsyncConnection, what: str, at: datetime | None = None) -> Why:
    """Explain why somebody was notified of something, or nobody was.

    Args:
        tx: the transaction to read in.
        what: a run's id or its beginning, an incident's number, an alert's name, an incident's title, or the beginning
            of one, matchers of labels such as `instance="db-1"`, or a refused push such as `refused-12`.
        at: the moment that is asked about; None means the latest news.

    Raises:
        Unavailable: the database does not answer, or not in time.
        IncidentNotFound: there is no incident with this number.
        BadInput: the question is empty or too long, a matcher is wrong, several runs have ids that start like this,
            there is no such refused push, or the moment has not come yet.
    """
    asked = what.strip()
    if not asked or len(asked) > 256 or not asked.isprintable():
        raise BadInput("what: expected 1 to 256 printable characters: a run, an incident, an alert, or a matcher")
    await tx.execute(select(func.set_config("statement_timeout", f"{LONGEST_QUERY_MS}", True)))
    now = await read_clock(tx)
    if at is not None and at > now + NEAR:
        raise BadInput(f"at: {at:%Y-%m-%d %H:%M} UTC has not come yet: it is {now:%Y-%m-%d %H:%M} UTC")
    has_worker, timing = bool(await list_workers(tx)), await read_policy_timing(tx)
    facts = Facts(what=asked, now=now, at=at, subject=asked, has_worker=has_worker, timing=timing)
    if (refused := _REFUSED_ID.fullmatch(asked)) is not None:
        return explain(await _of_refused(tx, int(refused[1]), facts))
    if (by_run := await _of_run(tx, facts)) is not None:
        return explain(by_run)
    matchers = [] if _is_number(asked) else _parse_matchers(asked)
    await _check_expressions(tx, matchers)
    incidents, loose = await _named(tx, asked, matchers, at)
    if loose and (not incidents or loose[-1].run.created_at > _order_of(incidents[0], at)):
        facts = facts.model_copy(update={"runs": loose, "subject": loose[-1].run.title or asked, "others": incidents})
    elif incidents:
        facts = (await _of_incident(tx, incidents[0], facts)).model_copy(update={"others": incidents[1:]})
    return explain(await _with_refused(tx, facts, matchers))


async def _of_refused(tx: AsyncConnection, number: int, facts: Facts) -> Facts:
    query = select(*columns_of(RefusedPushRow, RefusedPush)).where(RefusedPushRow.id == number)
    rows = [RefusedPush.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]
    if not rows:
        raise BadInput(f"There is no refused push refused-{number}: it was never here, or was deleted after its time")
    return facts.model_copy(update={"subject": "what the push said", "refused": rows, "refused_id": number})


async def _with_refused(tx: AsyncConnection, facts: Facts, matchers: Sequence[Matcher]) -> Facts:
    """The facts with the pushes that were refused near the moment and say what is asked about, or may have said it."""
    at, now = facts.at, facts.now
    since = (at or now) - (REFUSED_AROUND if at else REFUSED_BEFORE)
    until = at + REFUSED_AROUND if at else now
    named = facts.subject if _is_number(facts.what) else facts.what
    words = [value for _, operator, value in matchers if operator == "="] or named.split(" on ")
    found = await list_refused(tx, since=since, until=until, words=words, limit=_REFUSED_SHOWN)
    # What said nothing may be about anything, so it counts only near the moment, or where nothing else is known.
    near = [push for push in found if push.body or not facts.runs or (at is not None and abs(push.at - at) <= NEAR)]
    return facts.model_copy(update={"refused": near, "cut": await _list_cut(tx, since, until)})


async def _list_cut(tx: AsyncConnection, since: datetime, until: datetime) -> list[RunRecord]:
    """The pushes of a time span of which only one message was made, because they were too large; newest first."""
    one_for_all = _R.alert_fingerprint.startswith(f"{TOO_LARGE}/")
    query = select(*RUN_COLUMNS).where(_R.created_at.between(since, until), _R.reason == RunReason.PUSH, one_for_all)
    rows = await tx.execute(query.order_by(_R.created_at.desc()).limit(_REFUSED_SHOWN))
    return readable_runs(rows.mappings())


# Which incidents are meant


async def _of_run(tx: AsyncConnection, facts: Facts) -> Facts | None:
    """The facts about one run. None means that the question names none."""
    asked = facts.what
    if not _RUN_ID.fullmatch(asked):
        return None
    if _is_number(asked) and await _incidents(tx, [int(asked)], None):
        return None
    known = (await tx.execute(select(_R.id).where(starts_with(_R.run_id, asked)).limit(1))).first()
    if known is None:
        return None
    run = await find_run(tx, asked)
    facts = facts.model_copy(update={"at": None, "run_id": run.run_id, "subject": run.title or "the push"})
    if run.incident_id is None:
        return facts.model_copy(update={"runs": await _runs(tx, _R.run_id == run.run_id)})
    incident = await get_incident(tx, run.incident_id)
    facts = await _of_incident(tx, incident, facts.model_copy(update={"at": run.created_at}))
    if all(one.run.run_id != run.run_id for one in facts.runs):
        runs = [*await _runs(tx, _R.run_id == run.run_id), *facts.runs]
        facts = facts.model_copy(update={"runs": runs})
    return facts.model_copy(update={"at": None, "subject": run.title or facts.subject})


def _is_number(asked: str) -> bool:
    """Whether this is the number of an incident."""
    number = asked.removeprefix("#")
    return number.isascii() and number.isdecimal() and len(number) <= ID_DIGITS


async def _named(
    tx: AsyncConnection, asked: str, matchers: Sequence[Matcher], at: datetime | None
) -> tuple[list[Incident], list[ExplainedRun]]:
    """The incidents that are meant, the likeliest first, and the pushes that are meant and belong to none.

    What has the asked name in full is meant before what only begins with it.
    """
    if _is_number(asked):
        number = int(asked.removeprefix("#"))
        if found := await _incidents(tx, [number], None):
            return found, []
        raise IncidentNotFound(f"There is no incident {number}; `alert-pipeline incidents list` shows what there is")
    begun, called = await _members(tx, asked, matchers)
    if not matchers:
        begun, called = [*await _titled(tx, asked, _begins), *begun], [*await _titled(tx, asked, _is_called), *called]
        known = await _incidents(tx, called, at)
        loose = await _loose_runs(tx, asked, matchers, at, _is_called)
        if known or loose:
            known += await _incidents(tx, begun, at)
            return list({one.id: one for one in known}.values())[:MOST_INCIDENTS], loose
    return await _incidents(tx, begun, at), await _loose_runs(tx, asked, matchers, at, _begins)


async def _titled(tx: AsyncConnection, asked: str, fits_name: FitsName) -> list[int]:
    """The newest incidents with such a title."""
    title = select(_I.id).where(fits_name(_I.title, asked)).order_by(_I.id.desc()).limit(_MOST_TITLED)
    return list((await tx.execute(title)).scalars())


async def _members(tx: AsyncConnection, asked: str, matchers: Sequence[Matcher]) -> tuple[list[int], list[int]]:
    """The newest incidents with an alert whose name begins like this or that fits the matchers, and those with an alert
    of this name. The alerts are read once for both."""
    latest = select(_A.id, _A.name, _A.labels).order_by(_A.heard_at.desc()).limit(NEWEST_ALERTS).subquery()
    begins, called = (_fit(latest.c.name, latest.c.labels, asked, matchers, fits) for fits in (_begins, _is_called))
    of_alert = MembershipRow.alert_id == latest.c.id
    fitting = select(MembershipRow.incident_id, called.label("called")).join(latest, of_alert).where(begins).cte()
    newest = select(fitting).order_by(fitting.c.incident_id.desc()).limit(_MOST_MEMBERS)
    rows = (await tx.execute(union_all(newest, newest.where(fitting.c.called)))).all()
    ids = {row.incident_id for row in rows}, {row.incident_id for row in rows if row.called}
    return sorted(ids[0], reverse=True), sorted(ids[1], reverse=True)


async def _loose_runs(
    tx: AsyncConnection,
    asked: str,
    matchers: Sequence[Matcher],
    at: datetime | None,
    fits_name: FitsName,
) -> list[ExplainedRun]:
    """The last pushes that fit and belong to no incident, of one incident key, oldest first.

    They wait for a worker, failed before their alerts were recorded, or said nothing that opens an incident.
    """
    columns = (_R.id, _R.title, _R.payload, _R.incident_key, _R.environment)
    loose = (_R.incident_id.is_(None), _R.reason == RunReason.PUSH)
    latest = select(*columns).where(*loose).order_by(_R.created_at.desc()).limit(NEWEST_RUNS)
    if at is not None:
        latest = latest.where(_R.created_at <= at + timedelta(minutes=1))
    run = latest.subquery().c
    alert = func.jsonb_path_query(run.payload, cast("$.alerts[*]", JSONPATH)).table_valued("value").render_derived()
    value = type_coerce(alert.c.value, JSONB)
    says = _fit(value.op("->>")("name"), value.op("->")("labels"), asked, matchers, fits_name)
    says = exists().select_from(alert).where(says)
    fits = says if matchers else or_(fits_name(run.title, asked), says)
    known = exists().where(_I.incident_key == run.incident_key, _I.environment == run.environment)
    query = select(run.id, run.incident_key, run.environment).where(not_(known), fits)
    found = (await tx.execute(query.order_by(run.id.desc()).limit(MOST_RUNS))).all()
    ids = [
        row.id for row in found if (row.incident_key, row.environment) == (found[0].incident_key, found[0].environment)
    ]
    return await _runs(tx, _R.id.in_(ids)) if ids else []


async def _incidents(tx: AsyncConnection, ids: Sequence[int], at: datetime | None) -> list[Incident]:
    """These incidents, those that were heard of last until the moment first."""
    query = select(*columns_of(_I, Incident)).where(_I.id.in_(ids))
    if at is not None:
        query = query.where(_I.opened_at <= at + timedelta(minutes=1))
    newest = query.order_by((_I.opened_at if at else _I.heard_at).desc(), _I.id.desc()).limit(MOST_INCIDENTS)
    return readable_incidents((await tx.execute(newest)).mappings())


def _order_of(incident: Incident, at: datetime | None) -> datetime:
    """By what incidents are ordered: what was heard of last, or what opened last until the moment."""
    return incident.opened_at if at is not None else incident.heard_at or incident.opened_at


def _parse_matchers(asked: str) -> list[Matcher]:
    """The matchers of a question, as `instance="db-1", team=~"shop.*"`. Empty means that it has none.

    Raises:
        BadInput: it begins with a matcher, and goes on with what is none; or no matcher has a value, as when a script
            asks with a variable that is empty.
    """
    found: list[Matcher] = []
    rest = asked.strip().removeprefix("{").removesuffix("}")
    while rest:
        matcher = _MATCHER.match(rest)
        if matcher is None or (matcher.end() < len(rest) and rest[matcher.end()] != ","):
            if _MATCHER_START.match(asked):
                raise BadInput(
                    f'what: {rest[:80]!r} is no matcher; expected label="value", or =~, != or !~, with commas'
                )
            return []
        value = next((group for group in matcher.groups()[2:] if group is not None), "").strip()
        if matcher[2].endswith("~") and (found_part := _NOT_SHARED.search(value)):
            raise BadInput(
                f"what: the regular expression {value[:80]!r} has {found_part[0]!r}, which matchers do not know"
            )
        found.append((matcher[1], matcher[2], value))
        rest = rest[matcher.end() :].lstrip(", ")
    if found and all(operator == "=" and not value for _, operator, value in found):
        raise BadInput(
            f'what: {asked[:80]!r} has no value, so it fits all that has no such label; expected label="value"'
        )
    return found


async def _check_expressions(tx: AsyncConnection, matchers: Sequence[Matcher]) -> None:
    """Let PostgreSQL compile the regular expressions.

    Raises:
        BadInput: one of them is wrong.
    """
    for _, operator, value in matchers:
        if not operator.endswith("~"):
            continue
        try:
            await tx.execute(select(literal("").op("~")(value), literal("").op("~")(_entire(value))))
        except DataError as error:
            reason = str(error.orig).splitlines()[0].removeprefix("invalid regular expression: ")
            raise BadInput(f"what: {value[:80]!r} is no regular expression: {reason}") from None


def _entire(value: str) -> str:
    return f"^(?:{value})$"


def _fit(name: Any, labels: Any, asked: str, matchers: Sequence[Matcher], fits_name: FitsName) -> ColumnElement[bool]:
    """Whether an alert of the query has such labels or, without matchers, such a name."""
    if matchers:
        return and_(*(_fits(name, labels, *matcher) for matcher in matchers))
    called, _, place = asked.partition(" on ")
    if not place:
        return fits_name(name, asked)
    # As the title of an incident of its own would be.
    path = cast("$.* ? (@ == $place || @ starts with $with_port)", JSONPATH)
    places = func.jsonb_build_object("place", place, "with_port", f"{place}:")
    there = func.jsonb_path_exists(labels, path, places)
    return or_(fits_name(name, asked), and_(_is_called(name, called), there))


def _begins(text: Any, asked: str) -> ColumnElement[bool]:
    return func.starts_with(func.lower(text), func.lower(asked))


def _is_called(text: Any, asked: str) -> ColumnElement[bool]:
    return func.lower(text) == func.lower(asked)


def _fits(alert_name: Any, labels: Any, name: str, operator: str, value: str) -> ColumnElement[bool]:
    """Whether an alert has such a label. A label that it does not have is empty."""
    label = alert_name if name == "alertname" else func.coalesce(labels.op("->>")(name), "")
    # PostgreSQL's regular expressions, unlike Python's, do not take for ever if somebody wants them to.
    is_same = label.op("~")(_entire(value)) if operator.endswith("~") else label == value
    return not_(is_same) if operator.startswith("!") else is_same


# What is on record about an incident


async def _of_incident(tx: AsyncConnection, incident: Incident, facts: Facts) -> Facts:
    number = int(incident.id)
    alerts = select(_A.fingerprint).join(MembershipRow, MembershipRow.alert_id == _A.id)
    same_alerts = _R.alert_fingerprint.in_(alerts.where(MembershipRow.incident_id == number))
    same_key = and_(_R.incident_key == incident.incident_key, _R.environment == incident.environment)
    # A duplicate, and a run that has not reached ingest, has no incident yet.
    early = and_(same_key, _R.incident_id.is_(None), or_(same_alerts, _R.awaits_ingest))
    mine = or_(_R.incident_id == number, early)
    if facts.at is not None:
        mine = and_(mine, _R.created_at <= facts.at + FOLLOWS_WITHIN)
    runs = await _runs(tx, mine)
    since = min((one.run.created_at for one in runs), default=incident.opened_at)
    history = select(*columns_of(_H, HistoryRecord)).where(
        _H.incident_id == number, _H.alert_id.is_(None), _H.at >= since
    )
    sent = select(*columns_of(DeliveryRow, DeliveryRecord)).where(
        DeliveryRow.incident_id == number, DeliveryRow.status == SENT
    )
    if facts.at is not None:
        sent = sent.where(DeliveryRow.created_at <= facts.at + FOLLOWS_WITHIN)
    channels = select(*columns_of(IncidentChannelRow, ChannelRecord)).where(IncidentChannelRow.incident_id == number)
    told = readable(ChannelRecord, (await tx.execute(channels)).mappings())
    names = {channel.channel for channel in told}
    failing = select(*columns_of(ChannelHealthRow, ChannelHealth)).where(
        ChannelHealthRow.name.in_(names), ChannelHealthRow.failures > 0
    )
    messages = (await tx.execute(sent.order_by(DeliveryRow.id.desc()).limit(MOST_RUNS))).mappings()
    return facts.model_copy(
        update={
            "incident": incident,
            "subject": incident.title,
            "runs": runs,
            "sent": [message for message in readable(DeliveryRecord, messages) if not message.silent],
            "channels": told,
            "failing": readable(ChannelHealth, (await tx.execute(failing)).mappings()),
            "history": readable(
                HistoryRecord, (await tx.execute(history.order_by(_H.id.desc()).limit(MOST_RUNS))).mappings()
            ),
        }
    )


async def _runs(tx: AsyncConnection, mine: Any) -> list[ExplainedRun]:
    """The last of these runs with what they decided, sent, and failed at; oldest first."""
    decision = (_R.ingest_result["tell"].label("tell"), _R.ingest_result["reason"].label("decided"))
    errors = _R.ingest_result["errors"].label("errors")
    alerts = func.jsonb_path_query_array(_R.payload, cast("$.alerts[*].status", JSONPATH)).label("alerts")
    # The first message must not be hidden behind the repeats that came since.
    newest = select(_R.id).where(mine).order_by(_R.id.desc()).limit(MOST_RUNS).subquery()
    telling = func.coalesce(_R.skip_reason, "").not_in((Reason.REPEAT, Reason.DUPLICATE))
    others = select(_R.id).where(mine, telling).order_by(_R.id.desc()).limit(MOST_RUNS).subquery()
    query = select(*RUN_COLUMNS, _R.id.label("row_id"), *decision, errors, alerts)
    either = select(newest.c.id).union(select(others.c.id))
    rows = (await tx.execute(query.where(_R.id.in_(either)).order_by(_R.id))).mappings().all()
    keys = [row["row_id"] for row in rows]
    deliveries = await rows_by_run(tx, DeliveryRecord, DeliveryRow, keys)
    failed = StageExecutionRow.error_type.is_not(None)
    failures = await rows_by_run(tx, AttemptRecord, StageExecutionRow, keys, failed)
    checked = await rows_by_run(tx, AttemptRecord, StageExecutionRow, keys, StageExecutionRow.stage == Stage.CHECK)
    return [
        ExplainedRun(
            run=run,
            alerts=row["alerts"] or [],
            tell=row["tell"],
            reason=row["decided"],
            errors=row["errors"] or [],
            deliveries=deliveries[row["row_id"]],
            failures=failures[row["row_id"]],
            not_checked=_left_out(checked[row["row_id"]]),
        )
        for row in rows
        if (run := readable_run(row)) is not None
    ]


def _left_out(attempts: Sequence[AttemptRecord]) -> dict[str, list[str]]:
    found = all_checks([result for attempt in attempts if (result := attempt.result(CheckResult)) is not None])
    return found.reasons_to_leave_out if found else {}
