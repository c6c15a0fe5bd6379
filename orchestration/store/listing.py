"""Runs page by page, the newest first, however many there are and come meanwhile."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import Contract
from orchestration.errors import BadInput, RunNotFound
from orchestration.states import RunStatus
from orchestration.store.models import PipelineRunRow
from orchestration.store.records import RunRecord
from orchestration.store.runs import RUN_COLUMNS, find_runs, run_record, starts_with

_T = PipelineRunRow
_ROW_ID = "row_id"
_LATEST = 2000


class RunFilter(Contract):
    """Which runs. None: whatever."""

    status: RunStatus | None = None
    source: str | None = None
    environment: str | None = None
    stage: str | None = None
    trace_id: str | None = None
    run_ids: frozenset[str] | None = None
    search: str | None = None
    """A run's id or its beginning, a trace id, or the fingerprint of an alert."""


class RunPage(Contract):
    """Some runs, and where the next ones begin; None: these are the last."""

    runs: list[RunRecord]
    next_cursor: str | None = None


async def list_page(tx: AsyncConnection, wanted: RunFilter, *, limit: int, cursor: str | None = None) -> RunPage:
    """The newest runs, or those after a page before. Runs that come meanwhile shift nothing.

    Raises:
        BadInput: the cursor is none that a page gave.
    """
    where: list[ColumnElement[bool]] = []
    if wanted.status is not None:
        where.append(_T.status == wanted.status.value)
    if wanted.source is not None:
        where.append(_T.source == wanted.source)
    if wanted.environment is not None:
        where.append(_T.environment == wanted.environment)
    if wanted.stage is not None:
        where.append(_T.current_stage == wanted.stage)
    if wanted.trace_id is not None:
        where.append(_T.trace_id == wanted.trace_id)
    if wanted.run_ids is not None:
        where.append(_T.run_id.in_(wanted.run_ids))
    if wanted.search is not None:
        where.append(_found_by(wanted.search))
    if cursor is not None:
        where.append(tuple_(_T.created_at, _T.id) < tuple_(*map(literal, _decoded(cursor))))
    query = select(*RUN_COLUMNS, _T.id.label(_ROW_ID)).where(*where)
    newest = query.order_by(_T.created_at.desc(), _T.id.desc()).limit(limit + 1)
    rows = (await tx.execute(newest)).mappings().all()
    shown = rows[:limit]
    last = shown[-1] if len(rows) > limit else None
    return RunPage(
        runs=[run_record({name: row[name] for name in row if name != _ROW_ID}) for row in shown],
        next_cursor=_encoded(last["created_at"], last[_ROW_ID]) if last is not None else None,
    )


def _found_by(words: str) -> ColumnElement[bool]:
    """Equality, and for ids a range: with each of them the index serves, whatever the database's collation."""
    named = [_T.run_id == words, _T.trace_id == words, _T.alert_fingerprint == words]
    if re.fullmatch("[0-9a-f]{4,31}", words):
        named += [starts_with(column, words) for column in (_T.run_id, _T.trace_id)]
    return or_(*named)


async def find_run(tx: AsyncConnection, id_prefix: str) -> RunRecord:
    """The run whose id is, or starts with, what somebody typed.

    Raises:
        RunNotFound: none does.
        BadInput: several do.
    """
    found = await find_runs(tx, id_prefix, limit=3)
    exact = [run for run in found if run.run_id == id_prefix]
    if not found:
        raise RunNotFound(f"There is no pipeline run {id_prefix!r}; monitor_pipeline lists the latest ones")
    if len(found) > 1 and not exact:
        raise BadInput(f"Several runs start with {id_prefix!r}: " + ", ".join(run.run_id for run in found) + ", …")
    return (exact or found)[0]


async def seen_lately(tx: AsyncConnection, column: Literal["source", "environment"]) -> list[str]:
    """The values that this column has in the latest runs, in order: what one may want to filter by."""
    latest = select(getattr(_T, column).label("value")).order_by(_T.created_at.desc()).limit(_LATEST).subquery()
    return list((await tx.execute(select(latest.c.value).distinct().order_by(latest.c.value).limit(100))).scalars())


async def list_final(tx: AsyncConnection, run_ids: Sequence[str]) -> list[str]:
    """Which of these runs are over."""
    final = [status.value for status in RunStatus if status.final]
    query = select(_T.run_id).where(_T.run_id.in_(run_ids), _T.status.in_(final))
    return list((await tx.execute(query)).scalars())


def _encoded(created_at: datetime, row_id: int) -> str:
    return base64.urlsafe_b64encode(f"{created_at.isoformat()}/{row_id}".encode()).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[datetime, int]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        moment, _, row_id = text.partition("/")
        created_at, number = datetime.fromisoformat(moment), int(row_id)
    except (ValueError, binascii.Error):
        raise BadInput(f"{cursor[:80]!r} is no cursor: take next_cursor of the page before") from None
    if created_at.tzinfo is None or not 0 <= number < 2**63:
        raise BadInput(f"{cursor[:80]!r} is no cursor: take next_cursor of the page before")
    return created_at, number
