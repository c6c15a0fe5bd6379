"""Incidents, listed page by page, and found by what a person types: a number, or the start of a title."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Incident, IncidentStatus, Severity, UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import BadInput, IncidentNotFound
from orchestration.states import RunReason
from orchestration.store.incidents import ID_DIGITS, find_incident, readable_incidents
from orchestration.store.models import OPEN_STATUSES, IncidentRow
from orchestration.store.table import columns_of

_I = IncidentRow

NEWEST = 1000
"""Among how many incidents a title is looked up: the newest. An open incident is always among them."""

_NAMED = 8  # titles that an error names


class IncidentFilter(Contract):
    """Which incidents to list. None matches any."""

    statuses: frozenset[IncidentStatus] | None = None
    severity: Severity | None = None
    environment: str | None = None
    source: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a query that lists these incidents."""
        where: list[ColumnElement[bool]] = []
        if self.statuses is not None:
            where.append(_I.status.in_([status.value for status in self.statuses]))
        if self.severity is not None:
            where.append(_I.severity == self.severity.value)
        if self.environment is not None:
            where.append(_I.environment == self.environment)
        if self.source is not None:
            where.append(_I.details["source"].as_string() == self.source)
        return where


def parse_statuses(words: str) -> frozenset[IncidentStatus] | None:
    """The statuses that a person asks for: `open` (those that have not ended), `all`, or one status.

    Raises:
        BadInput: there is no such status; the message lists all.
    """
    word = words.strip().lower()
    if word in ("open", "all"):
        return frozenset(status for status in IncidentStatus if not status.ended) if word == "open" else None
    try:
        return frozenset({IncidentStatus(word)})
    except ValueError:
        known = ", ".join(["open", "all", *(status.value for status in IncidentStatus if status.value != "open")])
        raise BadInput(f"There is no status {words!r} of an incident. Known: {known}") from None


class IncidentSummary(Contract):
    """An incident in a list."""

    incident: Incident
    source: str
    firing: int
    """How many of its alerts fire in it."""
    alerts: int
    """How many alerts it has, or had."""
    next_reason: RunReason | None = None
    """What comes next for it by itself: a reminder, an expiry, another try to deliver a message."""
    next_due_at: UtcDatetime | None = None


class IncidentPage(Contract):
    """Some incidents, newest first, and the cursor of the next page; None means that there is no next page."""

    incidents: list[IncidentSummary]
    next_cursor: str | None = None


_WITH_FACTS = text(
    """
    select listed.id, listed.metadata->>'source' as source, members.firing, members.alerts, upcoming.reason,
        upcoming.due_at
    from unnest(cast(:ids as bigint[])) as wanted (id)
    join incident as listed on listed.id = wanted.id
    cross join lateral (
        select count(*) as alerts, count(*) filter (where membership.status = 'firing') as firing
        from membership where membership.incident_id = listed.id
    ) as members
    left join lateral (
        select reason, due_at from pipeline_run as run
        where run.incident_id = listed.id and run.status in ('pending', 'retrying') and run.due_at is not null
        order by due_at limit 1
    ) as upcoming on true
    """
)


async def list_incidents(
    tx: AsyncConnection, wanted: IncidentFilter, *, limit: int, cursor: str | None = None
) -> IncidentPage:
    """The newest incidents, or those after an earlier page.

    Raises:
        BadInput: the cursor does not come from an earlier page.
    """
    where = wanted.conditions()
    if cursor is not None:
        where.append(_I.id < _decoded(cursor))
    query = select(*columns_of(_I, Incident)).where(*where).order_by(_I.id.desc()).limit(limit + 1)
    rows = (await tx.execute(query)).mappings().all()
    shown = rows[:limit]
    return IncidentPage(
        incidents=await _summaries(tx, shown), next_cursor=str(shown[-1]["id"]) if len(rows) > limit else None
    )


async def summarize(tx: AsyncConnection, incident: Incident) -> IncidentSummary:
    """An incident as a list has it."""
    (summary,) = await _summaries(tx, [incident.model_dump()])
    return summary


async def _summaries(tx: AsyncConnection, rows: Sequence[Mapping[Any, Any]]) -> list[IncidentSummary]:
    found = await tx.execute(_WITH_FACTS, {"ids": [int(row["id"]) for row in rows]})
    facts = {row["id"]: row for row in found.mappings()}
    return [
        IncidentSummary(
            incident=incident,
            source=facts[int(incident.id)]["source"] or "",
            firing=facts[int(incident.id)]["firing"],
            alerts=facts[int(incident.id)]["alerts"],
            next_reason=facts[int(incident.id)]["reason"],
            next_due_at=facts[int(incident.id)]["due_at"],
        )
        for incident in readable_incidents(rows)
    ]


def _decoded(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= ID_DIGITS):
        raise BadInput(f"{cursor[:80]!r} is no cursor: use next_cursor of the page before")
    return int(cursor)


async def find_by_words(tx: AsyncConnection, words: str) -> Incident:
    """The incident that a person means: its number, with or without `#`, or its title or the start of it in any case.

    A title that is typed in full comes first, then incidents that have not ended: somebody who acts on `DiskFull on
    db-1` does not mean db-10. Of several with one key, the newest is meant.

    Raises:
        IncidentNotFound: there is none, or the title fits several; the message names the nearest titles.
    """
    typed = words.strip()
    number = typed.removeprefix("#")
    if number.isascii() and number.isdecimal():
        return await find_incident(tx, number)
    is_open = _I.status.in_(OPEN_STATUSES)
    query = (
        select(_I.id, _I.title, _I.incident_key, _I.environment, is_open.label("open"))
        .order_by(is_open.desc(), _I.id.desc())
        .limit(NEWEST)
    )
    known = (await tx.execute(query)).mappings().all()
    fitting = [row for row in known if typed and row["title"].casefold().startswith(typed.casefold())]
    fitting = [row for row in fitting if row["title"].casefold() == typed.casefold()] or fitting
    fitting = [row for row in fitting if row["open"]] or fitting
    by_key = {(row["environment"], row["incident_key"]): row for row in reversed(fitting)}
    if len(by_key) == 1:
        return await find_incident(tx, str(next(iter(by_key.values()))["id"]))
    raise IncidentNotFound(_unclear(typed, list(by_key.values())[::-1]) if by_key else _unknown(typed, known))


def _unclear(typed: str, fitting: Sequence[Mapping[Any, Any]]) -> str:
    return f"Several incidents start with {typed[:80]!r}: {_listed(fitting)}. Name one by its number"


def _unknown(typed: str, known: Sequence[Mapping[Any, Any]]) -> str:
    titles = list(dict.fromkeys(row["title"].casefold() for row in known))
    near = difflib.get_close_matches(typed.casefold(), titles, n=3, cutoff=0.4)
    near += [title for title in titles if typed and typed.casefold() in title and title not in near]
    rows = [next(row for row in known if row["title"].casefold() == title) for title in near]
    hint = f"; the nearest: {_listed(rows)}" if rows else "; `alert-pipeline incidents list` shows what there is"
    return f"There is no incident {typed[:80]!r}{hint}"


def _listed(rows: Sequence[Mapping[Any, Any]]) -> str:
    named = ", ".join(f"#{row['id']} {row['title'][:80]} ({row['environment']})" for row in rows[:_NAMED])
    return f"{named} and {len(rows) - _NAMED} more" if len(rows) > _NAMED else named
