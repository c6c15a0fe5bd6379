"""Retention: old rows are deleted in batches, so that no statement lasts long, and none waits for a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Float, String, TextClause, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.store.claims import CLAIMABLE
from orchestration.store.database import UNFLUSHED, in_seconds, seconds_ago
from orchestration.store.models import (
    FINAL_STATUSES,
    HAS_VALUES,
    OPEN_STATUSES,
    PipelineRunRow,
    UsedSignatureRow,
)

DAY_SECONDS = 86400.0
BATCH = 1000
VALUES_DAYS = 2.0
"""How long the payload of a definition without an ingest node is stored after the end of its run."""

_R = PipelineRunRow

_LITERALS = (
    bindparam("age", type_=Float(), literal_execute=True),
    bindparam("since", type_=String(), literal_execute=True),
)
"""In the text of a statement. Of parameters PostgreSQL may guess that few rows are old, and then it sorts them all."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Which rows of a table become too old, and what is deleted with them."""

    moment: str
    """A column with an index, in which the oldest are looked up."""
    condition: str = "true"
    """Which of the old ones can go."""
    parts: Sequence[str] = ()
    """Columns of other tables that refer to a row: what refers to it goes with it."""

    def statement(self, table: str) -> TextClause:
        """Delete the oldest rows. Those that somebody has locked stay until the next time."""
        parts = "\n".join(
            f"of_{other} as (delete from {other} where {column} = any(array(select id from old))),"
            for other, column in (part.split(".") for part in self.parts)
        )
        return text(
            f"""
            with old as (
                select id, {self.moment} as moment from {table}
                where {self.moment} < now() - make_interval(secs => :age)
                    and {self.moment} >= cast(:since as timestamptz) and {self.condition}
                order by {self.moment} limit {BATCH}
                for update of {table} skip locked
            ),
            {parts}
            gone as (delete from {table} where id = any(array(select id from old)))
            select count(*), cast(max(moment) as text), {UNFLUSHED} from old
            """
        ).bindparams(*_LITERALS)


_OPEN = f"select id from incident where status in {OPEN_STATUSES!r}"
_OF_NO_OPEN_INCIDENT = f"(incident_id is null or incident_id not in ({_OPEN}))"
"""`not in`, so that PostgreSQL looks the few open incidents up once for a statement, and not for each row."""

_KINDS: Mapping[str, _Kind] = {
    "pipeline_run": _Kind(
        moment="created_at",
        condition=f"updated_at < now() - make_interval(secs => :age) and status in {FINAL_STATUSES!r} "
        f"and {_OF_NO_OPEN_INCIDENT}",
        parts=("stage_execution.pipeline_run_id", "delivery.pipeline_run_id"),
    ),
    "alert": _Kind(
        moment="heard_at",
        condition=f"id not in (select alert_id from membership where incident_id in ({_OPEN}))",
        parts=("membership.alert_id", "history.alert_id"),
    ),
    "history": _Kind(moment="at", condition=_OF_NO_OPEN_INCIDENT),
    "incident": _Kind(
        moment="opened_at",
        condition=f"updated_at < now() - make_interval(secs => :age) and status not in {OPEN_STATUSES!r} "
        "and not exists (select from pipeline_run where incident_id = incident.id)",
        parts=("membership.incident_id", "incident_channel.incident_id", "history.incident_id"),
    ),
    "push": _Kind(moment="created_at"),
    "refused_push": _Kind(moment="at"),
    "model_question": _Kind(moment="asked_at"),
    "change_event": _Kind(moment="at", condition="received_at < now() - make_interval(secs => :age)"),
}
_STATEMENTS = {table: kind.statement(table) for table, kind in _KINDS.items()}
_SIGNATURES = "used_signature"

TABLES = (*_KINDS, _SIGNATURES)
"""The tables to look at, in this order: rows that refer to another row are deleted before it."""

BEGINNING = "-infinity"
"""The moment before all others."""


async def delete_batch(tx: AsyncConnection, table: str, days: float, since: str = BEGINNING) -> tuple[int, str]:
    """Delete up to `BATCH` rows of one of `TABLES` that are older than so many days, oldest first.

    Returns how many, and the moment of the last one: given as `since`, the next call does not look before it again.
    A run that is not over, an open incident, its alerts, its runs and its history are never deleted.
    """
    if table == _SIGNATURES:
        # A signed request that is older than a day is refused because of its age.
        statement = delete(UsedSignatureRow).where(UsedSignatureRow.used_at < seconds_ago(DAY_SECONDS))
        return (await tx.execute(statement)).rowcount, since
    row = (await tx.execute(_STATEMENTS[table], {"age": days * DAY_SECONDS, "since": since})).one()
    return row[0], row[1] or since


async def forget_values(tx: AsyncConnection) -> int:
    """Remove the payloads of definitions without an ingest node from up to `BATCH` runs. Returns from how many.

    Such a payload is stored as it came, since the run may be resumed with it. A failed run can be as long as it is
    stored; of any other run that is over, it is removed after `VALUES_DAYS`, when no redelivery needs it any more.
    """
    limit = seconds_ago(VALUES_DAYS * DAY_SECONDS)
    old = _R.created_at < limit, _R.updated_at < limit
    batch = select(_R.id).where(text(HAS_VALUES), *old).order_by(_R.created_at).limit(BATCH)
    without = _R.payload.op("-", return_type=JSONB)("data")
    forgotten = update(_R).where(_R.id.in_(batch)).values(payload=without, updated_at=_R.updated_at)
    return (await tx.execute(forgotten)).rowcount


async def count_unfinished(tx: AsyncConnection, older_than_seconds: float) -> int:
    """How many runs are not over although they have not changed for so long."""
    still = func.greatest(_R.updated_at, _R.due_at) < in_seconds(-older_than_seconds)
    return (await tx.execute(select(func.count()).where(CLAIMABLE, still))).scalar_one()
