"""Pushes: the runs of a push are written by one statement, which also finds duplicates and wakes the workers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Severity
from orchestration.errors import KeyReused, Unavailable
from orchestration.reasons import Reason
from orchestration.states import RunStatus
from orchestration.store.database import FLUSHED, Database
from orchestration.store.models import CLAIMABLE_STATUSES, OPEN_STATUSES, PipelineRunRow, PushRow
from orchestration.store.prepared import prepared
from orchestration.store.runs import INBOX_CHANNEL
from orchestration.store.table import types_of

_T = PushRow


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """A run to be written. It starts PENDING, or is SKIPPED at once when it is a duplicate.

    A field that has the name of a column of `pipeline_run` fills that column.
    """

    run_id: str
    trace_id: str
    source: str
    environment: str
    payload: bytes
    """JSON: the alerts, or the value, that the run starts with. A resume reads it again."""
    options: bytes = b"{}"
    """JSON: the run's `RunOptions`."""
    incident_key: str | None = None
    title: str = ""
    alert_fingerprint: str | None = None
    severity: Severity = Severity.INFO
    content_hash: str | None = None
    """Equal for runs that say the same about the same incident."""
    max_retries: int = 3
    lease_owner: str | None = None
    """Under which name the writing process leases the run, to execute it itself. None means a worker executes it."""
    lease_seconds: float = 0.0
    firing: bool = False
    """Whether an alert of the run fires."""
    skip_reason: str | None = None
    """Why nothing is to be done for this run: it is over at once. None means that it is to be executed."""
    awaits_ingest: bool = False
    """Whether its alerts are recorded in the order of acceptance: they are what the run begins with."""
    duplicate_window_seconds: float = 0.0
    """How old the earlier run of a duplicate may be; 0 means that the run is never a duplicate."""

    def as_json_object(self) -> dict[str, object]:
        """The run as `_WRITE` reads it, for orjson; `payload` and `options` are not parsed again."""
        return {
            **self.__dict__,
            "priority": self.severity.rank,
            "payload": orjson.Fragment(self.payload),
            "options": orjson.Fragment(self.options),
        }


@dataclass(frozen=True, kw_only=True)
class NewPush:
    """A push, ready to be written: at least one run, all with the same trace id."""

    runs: tuple[NewRun, ...]
    sender: str = ""
    """The sender within whose pushes `idempotency_key` is unique."""
    idempotency_key: str | None = None
    body_hash: str = ""

    @property
    def trace_id(self) -> str:
        """The trace id that its runs share."""
        return self.runs[0].trace_id

    @property
    def run_ids(self) -> list[str]:
        """The ids of its runs, in order."""
        return [run.run_id for run in self.runs]

    @property
    def size_bytes(self) -> int:
        """About how much it adds to a statement."""
        return sum(len(run.payload) + len(run.options) for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class WrittenPush:
    """A push that is stored."""

    trace_id: str
    run_ids: list[str]
    duplicates: Mapping[str, str] = field(default_factory=dict[str, str])
    """Its runs that were skipped as duplicates: run id to the id of the earlier run."""
    ignored: str = ""
    """The event of the push, if it says nothing about the state of an alert; "" if it does."""
    repeated: bool = False
    """The same push was stored before, under the same idempotency key: nothing was written."""


_FIELDS = {one.name for one in dataclasses.fields(NewRun)} | {"priority"}
_COLUMNS = [column for name, column in PipelineRunRow.__table__.columns.items() if name in _FIELDS]
_TYPES = types_of(_COLUMNS)

_DECIDED = {
    "priority": "coalesce(known_priority, priority)",
    "skip_reason": "why",
    "duplicate_of": "original",
    "status": f"case when why is null then '{RunStatus.PENDING.value}' else '{RunStatus.SKIPPED.value}' end",
    "completed_at": "case when why is not null then now() end",
    "total_duration_ms": "case when why is not null then 0 end",
    "awaits_ingest": "awaits_ingest and why is null",
    "lease_expires_at": "case when lease_owner is not null then now() + make_interval(secs => lease_seconds) end",
}
"""The columns of a new run that depend on the incident's latest run, and on whether the run is over at once."""

_GIVEN = [column.name for column in _COLUMNS if column.name not in _DECIDED]

# A push is a duplicate if the incident's latest run that is no duplicate itself has the same content hash, did not
# fail, is not older than the window, and the incident is still in the same state. So is the end of an alert of which
# nothing is open: some senders say regularly that all is well, as Prefect does with each good run of a flow.
# An end has the priority of its beginning, so that the person hears of both equally soon.
_WRITE = prepared(
    f"""
    with given as (
        select *
        from rows from (
            jsonb_to_recordset(cast(:runs as jsonb)) as (
                {_TYPES}, firing boolean, duplicate_window_seconds float, lease_seconds float
            )
        ) with ordinality
    ),
    decided as (
        select given.*, original, coalesce(case when original is not null then '{Reason.DUPLICATE}' end, skip_reason)
            as why, case when not firing then latest.priority end as known_priority
        from given
        left join lateral (
            select run.run_id, run.content_hash, run.status, run.skip_reason as why, run.incident_id, run.created_at,
                run.priority
            from pipeline_run as run
            where run.incident_key = given.incident_key and run.environment = given.environment
                and run.duplicate_of is null
            order by run.id desc
            limit 1
        ) as latest on true
        left join lateral (
            select latest.run_id as original
            from (select) as one
            left join incident on incident.id = latest.incident_id
            where latest.content_hash = given.content_hash
                and latest.created_at > now() - make_interval(secs => given.duplicate_window_seconds)
                and (
                    latest.status in {CLAIMABLE_STATUSES!r}
                    or (
                        latest.status = '{RunStatus.NOTIFIED.value}'
                        or latest.status = '{RunStatus.SKIPPED.value}'
                            and latest.why in ('{Reason.REPEAT}', '{Reason.COALESCED}')
                    )
                    and (incident.status in {OPEN_STATUSES!r}) = given.firing
                    or not given.firing and latest.status = '{RunStatus.SKIPPED.value}'
                        and latest.why = '{Reason.NOTHING_OPEN}'
                        and jsonb_array_length(given.payload -> 'alerts') = 1
                        and not exists (
                            select from alert
                            where alert.fingerprint = given.alert_fingerprint
                                and alert.environment = given.environment and alert.status = 'firing'
                        )
                )
        ) as same on given.duplicate_window_seconds > 0
    )
    insert into pipeline_run ({", ".join([*_GIVEN, *_DECIDED])})
    select {", ".join([*_GIVEN, *_DECIDED.values()])}
    from decided
    order by ordinality
    returning
        run_id, duplicate_of,
        case when skip_reason is null and lease_owner is null then cast(pg_notify(:channel, '') as text) end,
        {FLUSHED}
    """
)


async def write_push(tx: AsyncConnection, push: NewPush) -> WrittenPush:
    """Write a push. If its idempotency key is known, write nothing and return the push as it was stored.

    Of several pushes that come with one key at the same time, the first is written; the others wait for its commit.

    Raises:
        KeyReused: its key came with another body before; nothing is written.
    """
    if push.idempotency_key is not None:
        row = insert(_T).values(
            sender=push.sender,
            idempotency_key=push.idempotency_key,
            body_hash=push.body_hash,
            trace_id=push.trace_id,
            run_ids=push.run_ids,
        )
        saved = await tx.execute(row.on_conflict_do_nothing().returning(_T.id))
        if saved.first() is None:
            return await _stored_push(tx, push, push.idempotency_key)
    (written,) = await write_pushes(tx, [push])
    return written


async def write_pushes(tx: AsyncConnection, pushes: Sequence[NewPush]) -> list[WrittenPush]:
    """Write several pushes that have no idempotency key, and wake a worker at commit if it has runs to execute."""
    runs = orjson.dumps([run.as_json_object() for push in pushes for run in push.runs])
    written = await _WRITE.rows(tx, {"runs": runs.decode(), "channel": INBOX_CHANNEL})
    duplicates = {row["run_id"]: row["duplicate_of"] for row in written if row["duplicate_of"] is not None}
    return [
        WrittenPush(
            trace_id=push.trace_id,
            run_ids=push.run_ids,
            duplicates={run_id: duplicates[run_id] for run_id in push.run_ids if run_id in duplicates},
            ignored=next((run.title for run in push.runs if run.skip_reason == Reason.IGNORED), ""),
        )
        for push in pushes
    ]


async def write_alone(database: Database, push: NewPush) -> WrittenPush:
    """Write a push in a transaction of its own. If its idempotency key is known, return the push as it was stored.

    Raises:
        KeyReused: its key came with another body before; nothing is written.
        Unavailable: the database does not answer.
    """
    async with database.transaction() as tx:
        return await write_push(tx, push)


class PushWriter:
    """Writes the pushes of a busy process. Pushes that arrive during a transaction are written together in the next.

    A push is answered when the transaction that contains it is committed.
    """

    MAX_CONCURRENT_TRANSACTIONS = 1
    """With one transaction at a time, more pushes share it, and each costs less."""

    MAX_PUSHES = 64
    """Pushes in one transaction."""

    MAX_WAITING = 512
    """Pushes that wait for their transaction. More are refused at once: their senders send them again when the database
    has caught up, and need not wait for an answer that may come too late."""

    MAX_BYTES = 4 * 1024 * 1024
    """Size of the pushes in one transaction. A larger push has a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[NewPush, asyncio.Future[WrittenPush]]] = []
        self._writing = 0
        self._writers: set[asyncio.Task[None]] = set()

    async def write(self, push: NewPush) -> WrittenPush:
        """Write a push. If its idempotency key is known, return the push as it was stored.

        Raises:
            KeyReused: its key came with another body before; nothing is written.
            Unavailable: the database does not answer, and the push may or may not be written; or too many pushes wait.
        """
        if len(self._waiting) >= self.MAX_WAITING:
            raise Unavailable(f"{self.MAX_WAITING} pushes wait to be stored already: send this one again")
        if push.idempotency_key is not None:
            return await write_alone(self._database, push)
        future: asyncio.Future[WrittenPush] = asyncio.get_running_loop().create_future()
        self._waiting.append((push, future))
        if self._writing < self.MAX_CONCURRENT_TRANSACTIONS:
            self._writing += 1
            writer = asyncio.create_task(self._write_waiting())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await future

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                await self._write_batch(self._next_batch())
        finally:
            # Counted down in the same step in which nothing waits. A task counts as running for some time after its
            # end, and a push that arrives in that time would wait for a writer that writes nothing more.
            self._writing -= 1

    def _next_batch(self) -> list[tuple[NewPush, asyncio.Future[WrittenPush]]]:
        size, count = 0, 0
        for push, _ in self._waiting[: self.MAX_PUSHES]:
            size += push.size_bytes
            if count and size > self.MAX_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _write_batch(self, batch: Sequence[tuple[NewPush, asyncio.Future[WrittenPush]]]) -> None:
        try:
            async with self._database.statement() as tx:  # one statement: it is a transaction of its own
                written = await write_pushes(tx, [push for push, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised where the push came from
            if len(batch) > 1 and not isinstance(error, Unavailable):
                # Each push alone, so that only the one that the database refuses fails.
                for waiting in batch:
                    await self._write_batch([waiting])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, written, strict=True):
                if not future.done():
                    future.set_result(answer)


async def _stored_push(tx: AsyncConnection, push: NewPush, key: str) -> WrittenPush:
    query = select(_T.body_hash, _T.trace_id, _T.run_ids).where(_T.sender == push.sender, _T.idempotency_key == key)
    found = (await tx.execute(query)).mappings().one()
    if found["body_hash"] != push.body_hash:
        raise KeyReused(f"The idempotency key {key[:64]!r} was used for another push: use a new key for each push")
    return WrittenPush(trace_id=found["trace_id"], run_ids=found["run_ids"], repeated=True)
