"""Refused pushes: what a sender sent and the API did not accept, so that `why` can say that nobody was notified of it.

Anybody can make the API refuse requests, so what is kept is bounded: equal refusals of one sender within a minute are
one row with a count, and so is what it sends beyond `MAX_BODIES_PER_MINUTE` different bodies; a minute has at most
`MAX_ROWS_PER_MINUTE` rows, and rows are written in the background.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from sqlalchemy import BigInteger, bindparam, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import Unavailable
from orchestration.redaction import one_line, redact_text
from orchestration.signals import logger
from orchestration.store.database import Database
from orchestration.store.models import RefusedPushRow
from orchestration.store.table import columns_of

KEPT_CHARACTERS = 2048
"""How much of the beginning of a refused body is kept."""

READ_BYTES = 3 * KEPT_CHARACTERS
"""How much of a body is looked at: beyond what is kept, so that a secret at its end is found."""

HTTP_UNAUTHORIZED = 401
HTTP_ACCEPTED = 202

LOCAL_KEY = "local_key"
"""The detail that the sender had the local key, which has no name."""

MAX_ROWS_PER_MINUTE = 60
"""How many different refusals of a minute one process keeps. The others of that minute are counted in one row."""

MAX_BODIES_PER_MINUTE = 20
"""How many different bodies are kept of what one sender is refused for the same reason in a minute.

A key that was revoked is the end of all alerts of its sender: each of them should be found by its name.
"""

MAX_WAITING = 600
"""How many rows wait while the database does not answer. What comes then is only logged."""

WRITE_EVERY_SECONDS = 1.0

_T = RefusedPushRow
REASON_CHARACTERS, NAME_CHARACTERS = 400, 200
_FURTHER = "further pushes of this minute were refused, more than are kept one by one"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A push that was refused, as it came in."""

    status: int
    """The HTTP status of the answer."""
    reason: str
    sender: str = ""
    """The name of the API key; "" means that none was recognized."""
    address: str = ""
    path: str = ""
    size_bytes: int | None = None
    body: str = ""
    """Its beginning, at most `READ_BYTES`, not redacted."""
    details: dict[str, str] = field(default_factory=dict[str, str], compare=False)
    """What else identifies the sender: its program, the key that it sent, the address before a proxy."""

    @property
    def in_short(self) -> tuple[object, ...]:
        """Equal for refusals that differ only in what was sent."""
        return self.status, self.reason, self.sender, self.address, self.path


class RefusedPush(Contract):
    """A row of `refused_push`: a push that was not accepted, or several equal ones of one minute."""

    id: int
    at: UtcDatetime
    sender: str = ""
    address: str = ""
    path: str
    size_bytes: int | None = None
    status: int
    reason: str
    body: str = ""
    details: dict[str, Any] = Field(default_factory=dict[str, Any])

    @property
    def count(self) -> int:
        """How many pushes of this minute were refused like this."""
        return int(self.details.get("count", 1))

    @property
    def was_kept(self) -> bool:
        """Whether it was accepted, although no source could read it: an alert of its own said so."""
        return self.status == HTTP_ACCEPTED

    @property
    def key(self) -> str:
        """The key that its sender had, as a sentence names it; "" if it had none."""
        return f"the key {self.sender!r}" if self.sender else "the local key" if self.details.get(LOCAL_KEY) else ""

    @property
    def unchecked_key(self) -> str:
        """The key that its sender names, if the push was refused before that could be checked: it was signed."""
        return "" if self.status == HTTP_UNAUTHORIZED else str(self.details.get("key", ""))


@dataclass(kw_only=True)
class _Row:
    """A row that is written or waits to be."""

    refusal: Refusal
    at: datetime
    count: int = 1
    written: int = 0
    """The count in the database; 0 means that there is no row yet."""
    id: int | None = None

    def values(self) -> dict[str, Any]:
        refusal = self.refusal
        details = {name: one_line(text, NAME_CHARACTERS) for name, text in refusal.details.items() if text}
        return {
            "at": self.at,
            "sender": one_line(refusal.sender, NAME_CHARACTERS),
            "address": one_line(refusal.address, NAME_CHARACTERS),
            "path": one_line(refusal.path, NAME_CHARACTERS),
            "size_bytes": refusal.size_bytes,
            "status": refusal.status,
            "reason": one_line(refusal.reason, REASON_CHARACTERS),
            "body": redact_text(refusal.body, limit=KEPT_CHARACTERS)[:KEPT_CHARACTERS],
            "details": {**details, "count": self.count},
        }


_COUNT = (
    update(_T)
    .where(_T.id == bindparam("row_id", type_=BigInteger()))
    .values(details=_T.details.op("||")(bindparam("counted", type_=JSONB())))
)


class RefusalLog:
    """Keeps refused pushes, in the background. It belongs to the event loop of its process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[tuple[object, ...], _Row] = {}
        self._minute = ""
        self._in_minute = 0
        self._bodies = Counter[tuple[object, ...]]()
        self._unwritten = False
        self._writing = asyncio.Lock()

    def note(self, refusal: Refusal, at: datetime | None = None) -> None:
        """Remember a refusal until it is written. Never waits and never raises.

        Args:
            refusal: what was refused.
            at: when; None means now.
        """
        moment = at or datetime.now(UTC)
        minute = f"{moment:%Y-%m-%dT%H:%M}"
        if minute != self._minute:
            self._minute, self._in_minute = minute, 0
            self._bodies.clear()
            self._forget_written(minute)
        key = (minute, *refusal.in_short, refusal.body)
        if key not in self._rows and self._bodies[refusal.in_short] >= MAX_BODIES_PER_MINUTE:
            refusal = replace(refusal, body="", size_bytes=None)
            key = (minute, *refusal.in_short, "")
        if key not in self._rows and self._in_minute >= MAX_ROWS_PER_MINUTE:
            key, refusal = (minute,), Refusal(status=refusal.status, reason=_FURTHER)
        if (known := self._rows.get(key)) is not None:
            known.count += 1
        elif len(self._rows) < MAX_WAITING:
            self._in_minute += 1
            self._bodies[refusal.in_short] += 1
            self._rows[key] = _Row(refusal=refusal, at=moment)

    async def write(self) -> None:
        """Write what is not written yet. A failure is logged, and tried again the next time."""
        async with self._writing:
            due = [row for row in self._rows.values() if row.count != row.written]
            if not due:
                return
            try:
                await self._write(due)
                self._unwritten = False
            except Exception as error:  # noqa: BLE001 - keeping a refusal must never disturb the API
                if not self._unwritten or not isinstance(error, Unavailable):
                    logger.warning("Refused pushes could not be written: %s", redact_text(str(error), limit=300))
                self._unwritten = True

    async def run(self) -> None:
        """Write again and again until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_SECONDS)
            await self.write()

    async def _write(self, due: Sequence[_Row]) -> None:
        counts = {id(row): row.count for row in due}
        new = [row for row in due if row.id is None]
        known = [{"row_id": row.id, "counted": {"count": row.count}} for row in due if row.id is not None]
        ids: Sequence[int] = ()
        async with self._database.transaction() as tx:
            if new:
                returning = insert(_T).returning(_T.id, sort_by_parameter_order=True)
                ids = (await tx.execute(returning, [row.values() for row in new])).scalars().all()
            if known:
                await tx.execute(_COUNT, known)
        for row, row_id in zip(new, ids, strict=True):
            row.id = row_id
        for row in due:
            row.written = counts[id(row)]

    def _forget_written(self, minute: str) -> None:
        kept = {key: row for key, row in self._rows.items() if key[0] == minute or row.count != row.written}
        self._rows = kept


async def list_refused(
    tx: AsyncConnection,
    *,
    since: datetime,
    until: datetime,
    words: Sequence[str] = (),
    limit: int = 50,
) -> list[RefusedPush]:
    """The refused pushes of a time span, newest first.

    Args:
        tx: the transaction to read in.
        since: the beginning of the span.
        until: its end.
        words: all of them stand in the body, in any case, as they are or as JSON quotes them. A push without a body
            fits any words, because nobody knows what it said.
        limit: how many at most.
    """
    query = select(*columns_of(_T, RefusedPush)).where(_T.at >= since, _T.at <= until)
    for word in words:
        quoted = json.dumps(word, ensure_ascii=False)[1:-1]
        says = (func.strpos(func.lower(_T.body), func.lower(each)) > 0 for each in {word, quoted})
        query = query.where(or_(_T.body == "", *says))
    rows = await tx.execute(query.order_by(_T.at.desc(), _T.id.desc()).limit(limit))
    return [RefusedPush.model_validate(dict(row)) for row in rows.mappings()]
