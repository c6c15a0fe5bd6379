"""Pushes with a good key that no source can read: rows of `refused_push` that have the body, until a source reads it.

Unlike other refused pushes they are written before the answer, and are not counted together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from pydantic import Field, JsonValue
from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import BadInput
from orchestration.json_text import to_json
from orchestration.redaction import MAX_TEXT, one_line, redact, redact_text
from orchestration.store.database import seconds_ago
from orchestration.store.models import RefusedPushRow
from orchestration.store.refused import HTTP_ACCEPTED, LOCAL_KEY, NAME_CHARACTERS, REASON_CHARACTERS
from orchestration.store.retention import DAY_SECONDS

KEPT_CHARACTERS = 256 * 1024
"""How much of a body is kept. A longer one is cut: people can look at it, and no source can read it again."""

MAX_KEPT_A_DAY = 10_000
"""How many bodies of one sender are kept within a day. Further ones are refused, so that the sender knows."""

MOST_LISTED = 1_000
"""How many pushes are read at once: the bodies of all that are kept may be more than memory has."""

_T = RefusedPushRow
_DETAILS = ("source", "environment", "shape", "is_json", "definition", "run_ids")
_CUT = ("[truncated]", "[too deep]")
"""What the redaction writes for what it leaves out."""


class UnreadPush(Contract):
    """A push that was kept because no source could read it."""

    id: int = 0
    at: UtcDatetime | None = None
    sender: str = ""
    """The name of the API key; "" means the local key."""
    address: str = ""
    path: str
    size_bytes: int | None = None
    reason: str
    """Why no source could read it."""
    body: str
    """The body as JSON without its secrets, or as text if it is no JSON."""
    source: str
    """The source that the address names, or an entry point."""
    environment: str
    shape: str
    """What bodies with the same fields have in common."""
    is_json: bool = True
    """Whether `body` is the JSON of all of it."""
    definition: str | None = None
    run_ids: list[str] = Field(default_factory=list[str])
    """Its runs, if a source could read it later."""

    @property
    def name(self) -> str:
        """How people and commands call it."""
        return f"refused-{self.id}"

    @property
    def sender_in_words(self) -> str:
        """The key with which it was sent, for people."""
        return f"the key {self.sender!r}" if self.sender else "the local key"


def body_to_keep(value: object, *, text: str | None = None) -> tuple[str, bool]:
    """What is kept of a body, and whether that is the JSON of all of it. `text` is that of a body that is no JSON."""
    if text is not None:
        return redact_text(text, limit=KEPT_CHARACTERS), False
    written = to_json(redact(value)).decode()
    if len(written) > KEPT_CHARACTERS:
        return written[:KEPT_CHARACTERS], False
    return written, _is_complete(value, written)


def _is_complete(value: object, written: str) -> bool:
    """Whether redaction has left out nothing but secrets. It also cuts what is very long or deep."""
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str) and len(one) > MAX_TEXT:
            return False
        if isinstance(one, dict):
            rest += cast("dict[str, object]", one).values()
        elif isinstance(one, list):
            rest += cast("list[object]", one)
    said = json.dumps(value, ensure_ascii=False, default=str)
    return all(said.count(mark) == written.count(mark) for mark in _CUT)


async def keep_unread(tx: AsyncConnection, push: UnreadPush) -> int | None:
    """Keep a push. Returns its number; None means that its sender has had too many kept today."""
    recent = (
        select(_T.id)
        .where(_T.at > seconds_ago(DAY_SECONDS), _is_unread(), _T.sender == push.sender)
        .limit(MAX_KEPT_A_DAY)
    )
    if (await tx.execute(select(func.count()).select_from(recent.subquery()))).scalar_one() >= MAX_KEPT_A_DAY:
        return None
    details: dict[str, Any] = {
        "source": push.source,
        "environment": push.environment,
        "shape": push.shape,
        "is_json": push.is_json,
        "definition": push.definition,
        "count": 1,
    } | ({} if push.sender else {LOCAL_KEY: "yes"})
    row = insert(_T).values(
        sender=one_line(push.sender, NAME_CHARACTERS),
        address=one_line(push.address, NAME_CHARACTERS),
        path=one_line(push.path, NAME_CHARACTERS),
        size_bytes=push.size_bytes,
        status=HTTP_ACCEPTED,
        reason=one_line(push.reason, REASON_CHARACTERS),
        body=push.body,
        details=details,
    )
    return (await tx.execute(row.returning(_T.id))).scalar_one()


async def list_unread(tx: AsyncConnection, *, include_read: bool = False, after: int = 0) -> list[UnreadPush]:
    """The next `MOST_LISTED` pushes that are kept, oldest first, of those with a higher number than `after`.

    With `include_read` also those that a source could read later.
    """
    conditions = [_is_unread(), _T.id > after]
    conditions += [] if include_read else [~_T.details.has_key("run_ids")]
    return await _read(tx, conditions, MOST_LISTED)


async def find_unread(tx: AsyncConnection, number: int) -> UnreadPush:
    """The push with this number.

    Raises:
        BadInput: no push with this number is kept.
    """
    found = await _read(tx, [_is_unread(), _T.id == number], 1)
    if not found:
        raise BadInput(f"No push refused-{number} is kept: `alert-pipeline pushes list` shows those that are")
    return found[0]


async def mark_read(tx: AsyncConnection, number: int, run_ids: Sequence[str]) -> None:
    """Note that a source could read the push, and its runs."""
    read: dict[str, JsonValue] = {"run_ids": list[JsonValue](run_ids)}
    await tx.execute(update(_T).where(_T.id == number).values(details=_T.details.op("||")(read)))


async def count_unread_like(tx: AsyncConnection, push: UnreadPush) -> int:
    """How many unread pushes are kept with the same sender, source, environment and shape."""
    same = (
        _T.sender == push.sender,
        _T.details["source"].astext == push.source,
        _T.details["shape"].astext == push.shape,
        _T.details["environment"].astext == push.environment,
    )
    query = select(func.count()).where(_is_unread(), ~_T.details.has_key("run_ids"), *same)
    return (await tx.execute(query)).scalar_one()


def _is_unread() -> ColumnElement[bool]:
    return _T.status == HTTP_ACCEPTED


async def _read(tx: AsyncConnection, conditions: Sequence[ColumnElement[bool]], limit: int) -> list[UnreadPush]:
    columns = (_T.id, _T.at, _T.sender, _T.address, _T.path, _T.size_bytes, _T.reason, _T.body, _T.details)
    rows = await tx.execute(select(*columns).where(*conditions).order_by(_T.id).limit(limit))
    return [_push_of(dict(row)) for row in rows.mappings()]


def _push_of(row: dict[str, Any]) -> UnreadPush:
    details = row.pop("details")
    known = {name: details[name] for name in _DETAILS if name in details}
    return UnreadPush.model_validate({**row, **known})
