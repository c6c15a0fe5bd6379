"""Pushes: all runs of a push are written at once, repeats are told from news, and workers are woken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import Field
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import Contract
from orchestration.errors import KeyReused, Unavailable
from orchestration.store.database import Database
from orchestration.store.models import PushRow
from orchestration.store.runs import INBOX_CHANNEL

DUPLICATE = "duplicate"
"""The reason for which an identical repeat is skipped at the door."""

_T = PushRow


class NewPush(Contract):
    """A push, ready to be written. `rows` are its runs as JSON objects (`RunRow`), separated by commas."""

    trace_id: str
    run_ids: list[str]
    rows: bytes
    sender: str = ""
    idempotency_key: str | None = None
    body_hash: str = ""
    held: int = 0
    """How many of the runs are not for a worker, because the process that writes them runs them itself."""


class RunRow(Contract):
    """One run as `_WRITE` reads it. `payload` and `options` are JSON."""

    run_id: str
    trace_id: str
    source: str
    environment: str
    incident_key: str | None
    title: str
    alert_fingerprint: str | None
    severity: str
    priority: int
    content_hash: str
    firing: bool
    window_seconds: float
    max_retries: int
    lease_owner: str | None = None
    lease_seconds: float = 0.0


class WrittenPush(Contract):
    """What became of a push. `duplicates` are its runs that repeat an earlier one: run id to that one's."""

    trace_id: str
    run_ids: list[str]
    duplicates: dict[str, str] = Field(default_factory=dict[str, str])
    repeated: bool = False
    """The whole push was here before, under the same idempotency key: nothing was written."""


# An incident's latest run that is no duplicate itself says whether an equal push is news. One that failed does not
# make it a duplicate: nobody was told. Nor does one whose incident has moved on since, by whatever way.
_WRITE = text(
    """
    with given as (
        select *
        from rows from (
            jsonb_to_recordset(cast(:runs as jsonb)) as (
                run_id text, trace_id text, source text, environment text, payload jsonb, options jsonb,
                incident_key text, title text, alert_fingerprint text, severity text, priority smallint,
                content_hash text, firing boolean, window_seconds float, max_retries integer,
                lease_owner text, lease_seconds float
            )
        ) with ordinality
    ),
    judged as (
        select given.*, earlier.run_id as duplicate_of
        from given
        left join lateral (
            select latest.*
            from (
                select run.run_id, run.content_hash, run.status, run.skip_reason, run.incident_id, run.created_at
                from pipeline_run as run
                where run.incident_key = given.incident_key and run.duplicate_of is null
                order by run.id desc
                limit 1
            ) as latest
            left join incident on incident.id = latest.incident_id
            where latest.content_hash = given.content_hash
                and latest.created_at > now() - make_interval(secs => given.window_seconds)
                and (
                    latest.status in ('pending', 'ingested', 'checked', 'analyzed', 'retrying')
                    or (latest.status = 'notified' or latest.status = 'skipped' and latest.skip_reason = 'repeat')
                    and (incident.status in ('open', 'acknowledged')) = given.firing
                )
        ) as earlier on given.window_seconds > 0
    ),
    written as (
        insert into pipeline_run (
            run_id, trace_id, source, environment, payload, options, incident_key, title, alert_fingerprint, severity,
            priority, content_hash, max_retries, lease_owner, lease_expires_at,
            duplicate_of, status, skip_reason, completed_at, total_duration_ms
        )
        select
            run_id, trace_id, source, environment, payload, options, incident_key, title, alert_fingerprint, severity,
            priority, content_hash, max_retries, lease_owner,
            case when lease_owner is not null then clock_timestamp() + make_interval(secs => lease_seconds) end,
            duplicate_of,
            case when duplicate_of is null then 'pending' else 'skipped' end,
            case when duplicate_of is not null then :duplicate end,
            case when duplicate_of is not null then now() end,
            case when duplicate_of is not null then 0 end
        from judged
        order by ordinality
        returning run_id, duplicate_of, lease_owner
    )
    select
        run_id, duplicate_of,
        case when duplicate_of is null and lease_owner is null then cast(pg_notify(:channel, '') as text) end
    from written
    """
)


async def write_push(tx: AsyncConnection, push: NewPush) -> WrittenPush:
    """Write a push, or find that it is here already: then it is answered as it was the first time.

    Of several that come with one key at once, one is written; the others wait for it, and find it.

    Raises:
        KeyReused: its key has come with another body; nothing is written.
    """
    if push.idempotency_key is not None and not await _remember(tx, push, push.idempotency_key):
        return await _recall(tx, push, push.idempotency_key)
    (written,) = await write_pushes(tx, [push])
    return written


async def write_pushes(tx: AsyncConnection, pushes: Sequence[NewPush]) -> list[WrittenPush]:
    """Write several pushes that have no idempotency key, and wake a worker at commit if there is work for it."""
    rows = b"[" + b",".join(push.rows for push in pushes) + b"]"
    written = await tx.execute(_WRITE, {"runs": rows.decode(), "duplicate": DUPLICATE, "channel": INBOX_CHANNEL})
    duplicates = {row[0]: row[1] for row in written if row[1] is not None}
    return [
        WrittenPush(
            trace_id=push.trace_id,
            run_ids=push.run_ids,
            duplicates={run_id: duplicates[run_id] for run_id in push.run_ids if run_id in duplicates},
        )
        for push in pushes
    ]


class PushWriter:
    """Writes the pushes of a busy process, those that come while a transaction goes on together in the next one.

    A push is answered when the transaction that holds it is committed, as if it had one of its own.
    """

    AT_ONCE = 1
    """Transactions side by side. With one, more pushes share it, and each costs less."""

    MOST = 64
    """Pushes in one transaction."""

    MOST_BYTES = 4 * 1024 * 1024

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[NewPush, asyncio.Future[WrittenPush]]] = []
        self._writing = 0
        self._writers: set[asyncio.Task[None]] = set()

    async def write(self, push: NewPush) -> WrittenPush:
        """Write a push; as `write_push()`.

        Raises:
            KeyReused: its key has come with another body.
            Unavailable: the database does not answer: the push may or may not be written.
        """
        if push.idempotency_key is not None:
            return await write_alone(self._database, push)
        future: asyncio.Future[WrittenPush] = asyncio.get_running_loop().create_future()
        self._waiting.append((push, future))
        if self._writing < self.AT_ONCE:
            self._writing += 1
            writer = asyncio.create_task(self._write_waiting())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await future

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                await self._write_some(self._take())
        finally:
            # In the same step in which nothing waited: a task counts as running for some time after its end, and
            # a push that came in that time would find a writer that writes no more.
            self._writing -= 1

    async def _write_some(self, batch: Sequence[tuple[NewPush, asyncio.Future[WrittenPush]]]) -> None:
        try:
            async with self._database.transaction() as tx:
                written = await write_pushes(tx, [push for push, _ in batch])
        except Unavailable as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 - it is raised where the push came from
            await self._one_by_one(batch, error)
        else:
            for (_, future), answer in zip(batch, written, strict=True):
                _settle(future, answer)

    def _take(self) -> list[tuple[NewPush, asyncio.Future[WrittenPush]]]:
        size, count = 0, 0
        for push, _ in self._waiting[: self.MOST]:
            size += len(push.rows)
            if count and size > self.MOST_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _one_by_one(self, batch: Sequence[tuple[NewPush, asyncio.Future[WrittenPush]]], error: Exception) -> None:
        """What the database refused must not take its neighbours along."""
        if len(batch) == 1:
            _fail(batch, error)
            return
        for push, future in batch:
            try:
                _settle(future, await write_alone(self._database, push))
            except Exception as own:  # noqa: BLE001 - it is raised where the push came from
                _fail([(push, future)], own)


async def write_alone(database: Database, push: NewPush) -> WrittenPush:
    """Write a push in a transaction of its own; as `write_push()`.

    Raises:
        KeyReused: its key has come with another body.
        Unavailable: the database does not answer.
    """
    async with database.transaction() as tx:
        return await write_push(tx, push)


def _settle(future: asyncio.Future[WrittenPush], answer: WrittenPush) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(batch: Sequence[tuple[NewPush, asyncio.Future[WrittenPush]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


async def _remember(tx: AsyncConnection, push: NewPush, key: str) -> bool:
    """Keep the push under its key. False: the key is taken."""
    row = insert(_T).values(
        sender=push.sender,
        idempotency_key=key,
        body_hash=push.body_hash,
        trace_id=push.trace_id,
        run_ids=push.run_ids,
    )
    added = await tx.execute(row.on_conflict_do_nothing().returning(_T.id))
    return added.first() is not None


async def _recall(tx: AsyncConnection, push: NewPush, key: str) -> WrittenPush:
    query = select(_T.body_hash, _T.trace_id, _T.run_ids).where(_T.sender == push.sender, _T.idempotency_key == key)
    found = (await tx.execute(query)).mappings().one()
    if found["body_hash"] != push.body_hash:
        raise KeyReused(f"The idempotency key {key[:64]!r} was used for another push: take a new key for each push")
    return WrittenPush(trace_id=found["trace_id"], run_ids=found["run_ids"], repeated=True)
