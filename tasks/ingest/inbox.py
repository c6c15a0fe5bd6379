"""The inbox: a push becomes runs, committed before anything else happens.

Every way in (command line, HTTP, Prefect) comes through `take_push()`, most of them by `accept_push()`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from orchestration.alert import Alert, Severity
from orchestration.errors import BadInput
from orchestration.settings import Settings
from orchestration.signals import Signal, Signals, Tags
from orchestration.states import RunStatus
from orchestration.store import leases, runs
from orchestration.store.database import Database
from orchestration.store.pushes import DUPLICATE, NewPush, RunRow, WrittenPush, write_alone
from orchestration.store.records import RunOptions, new_id
from orchestration.store.runs import NewRun
from tasks.holders import hold
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import Push, parse_push
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.stage import StoredPush
from tasks.run import Services

_NAME_CHARACTERS = 128
_LARGE_BYTES = 32 * 1024
"""From this size on a push is read in a thread: 10,000 alerts take a second, and other alerts wait meanwhile."""


class Door(Protocol):
    """What of a process's services the inbox needs."""

    @property
    def database(self) -> Database: ...

    @property
    def signals(self) -> Signals: ...

    @property
    def settings(self) -> Settings: ...


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """How a push came in, apart from what it says."""

    sender: str = ""
    """Within whose pushes `idempotency_key` is unique."""
    idempotency_key: str | None = None
    """With the same key and the same content, a push is the same push: its runs are those of the first time."""
    held_by: str | None = None
    """Under which name (`tasks.holders.holder_name()`) this process holds the runs from the start: it runs them."""
    held_runs: int | None = None
    """How many of the runs it holds: the first ones. None: all."""
    skip_duplicates: bool = False
    """Whether runs that repeat what their incident's latest run says are skipped at once."""
    size_bytes: int | None = None
    """Its size as JSON, where whoever read it has measured it already."""


Write = Callable[[NewPush], Awaitable[WrittenPush]]


async def accept_push(
    services: Door,
    payload: object,
    *,
    source: str,
    environment: str,
    trace_id: str | None = None,
    options: RunOptions | None = None,
    idempotency_key: str | None = None,
    held_by: str | None = None,
    held_runs: int | None = None,
) -> list[str]:
    """Write one PENDING run for each incident of a push; their ids, in the order of the push.

    As `take_push()`, for callers inside of this installation.
    """
    arrival = Arrival(idempotency_key=idempotency_key, held_by=held_by, held_runs=held_runs)
    taken = await take_push(
        services, payload, source=source, environment=environment, trace_id=trace_id, options=options, arrival=arrival
    )
    return taken.run_ids


async def take_push(
    services: Door,
    payload: object,
    *,
    source: str,
    environment: str,
    trace_id: str | None = None,
    options: RunOptions | None = None,
    arrival: Arrival | None = None,
    write: Write | None = None,
) -> WrittenPush:
    """Write one run for each incident of a push, PENDING, or SKIPPED where it says nothing new.

    All or none: the runs are committed together. They share `trace_id` (a new one if none is given). At commit
    workers are told, unless the runs are held. `write` is how they are written, by default in a transaction of
    their own.

    Raises:
        BadInput: no alert can be read from the payload, or it is too large; nothing is written.
        KeyReused: the idempotency key came with another push before; nothing is written.
        Unavailable: the database does not answer.
    """
    way_in = arrival or Arrival()
    size = checked_size(payload, way_in, services.settings)
    call = _Call(
        trace_id=checked_name("trace id", trace_id) if trace_id else new_id(),
        source=source,
        environment=checked_name("environment", environment),
        options=storable(options or RunOptions()),
        arrival=way_in,
        settings=services.settings,
    )
    large = size > _LARGE_BYTES
    push, rows = await asyncio.to_thread(_prepare, payload, call) if large else _prepare(payload, call)
    written = await (write_alone(services.database, push) if write is None else write(push))
    if way_in.held_by is not None and not written.repeated:
        hold(push.run_ids[: push.held], way_in.held_by)
    _tell_duplicates(services.signals, written, rows)
    return written


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What `take_push()` was asked, checked."""

    trace_id: str
    source: str
    environment: str
    options: RunOptions
    arrival: Arrival
    settings: Settings


def _prepare(payload: object, call: _Call) -> tuple[NewPush, list[RunRow]]:
    """A push as it is written: everything that takes time and no database."""
    push = parse_push(payload, source=call.source)
    groups = split_by_incident(push.alerts)
    held = 0
    if call.arrival.held_by is not None:
        held = len(groups) if call.arrival.held_runs is None else min(call.arrival.held_runs, len(groups))
    options = call.options.model_dump_json().encode()
    rows = [_row(push, group, call, options, held=index < held) for index, group in enumerate(groups)]
    written = [
        row_as_json(row, StoredPush(alerts=group, errors=list(push.errors)).model_dump_json().encode(), options)
        for row, group in zip(rows, groups, strict=True)
    ]
    key = call.arrival.idempotency_key
    new = NewPush(
        trace_id=call.trace_id,
        run_ids=[row.run_id for row in rows],
        rows=b",".join(written),
        sender=call.arrival.sender,
        idempotency_key=checked_name("idempotency key", key) if key is not None else None,
        body_hash=digest([call.source, call.environment, options.decode(), clean(payload)]) if key is not None else "",
        held=held,
    )
    return new, rows


def _row(push: Push, group: Sequence[Alert], call: _Call, options: bytes, *, held: bool) -> RunRow:
    severity = Severity.worst(*(alert.severity for alert in group))
    said = sorted([alert.fingerprint, alert.status.value, alert.severity.value] for alert in group)
    return RunRow(
        run_id=new_id(),
        trace_id=call.trace_id,
        source=push.source,
        environment=call.environment,
        incident_key=group[0].incident_key,
        title=title_of(group),
        alert_fingerprint=group[0].fingerprint,
        severity=severity.value,
        priority=severity.rank,
        content_hash=digest([push.source, call.environment, options.decode(), said]),
        firing=any(alert.firing for alert in group),
        window_seconds=call.settings.duplicate_window_seconds if call.arrival.skip_duplicates else 0,
        max_retries=call.settings.max_retries_per_stage,
        lease_owner=call.arrival.held_by if held else None,
        lease_seconds=call.settings.lease_seconds,
    )


def row_as_json(row: RunRow, payload: bytes, options: bytes) -> bytes:
    """A run as it is written, with its payload and options, which are JSON already."""
    return orjson.dumps({**row.model_dump(), "payload": orjson.Fragment(payload), "options": orjson.Fragment(options)})


def digest(value: object) -> str:
    """By what equal values are known."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _tell_duplicates(signals: Signals, written: WrittenPush, rows: Sequence[RunRow]) -> None:
    """A run that is over before it began sends its two signals here: no engine ever sees it."""
    for row in rows:
        original = written.duplicates.get(row.run_id)
        if original is None:
            continue
        tags = Tags(
            trace_id=row.trace_id,
            run_id=row.run_id,
            source=row.source,
            alert_fingerprint=row.alert_fingerprint or "",
            environment=row.environment,
        )
        signals.emit(Signal.STARTED, tags)
        skipped = RunStatus.SKIPPED.value
        signals.emit(Signal.COMPLETED, tags, status=skipped, reason=DUPLICATE, duplicate_of=original, duration_ms=0.0)


async def accept_health_check(
    services: Services,
    *,
    source: str,
    environment: str,
    trace_id: str | None,
    options: RunOptions,
    held_by: str | None = None,
) -> str:
    """Write a PENDING run without an alert, about the health of the host that runs it; its id.

    `held_by` is the name under which this process holds the run from the start, to run it itself.
    """
    run = NewRun(
        run_id=new_id(),
        trace_id=checked_name("trace id", trace_id) if trace_id else new_id(),
        source=checked_name("source", source),
        environment=checked_name("environment", environment),
        payload=StoredPush().model_dump(mode="json"),
        options=storable(options).model_copy(update={"checks_only": True}),
        title="Host health",
        max_retries=services.settings.max_retries_per_stage,
    )
    async with services.database.transaction() as tx:
        await runs.add_runs(tx, [run])
        if held_by is None:
            await runs.notify(tx, runs.INBOX_CHANNEL)
        else:
            await leases.claim(tx, run.run_id, owner=held_by, seconds=services.settings.lease_seconds)
            hold([run.run_id], held_by)
    return run.run_id


def title_of(alerts: Sequence[Alert]) -> str:
    """What a run is called in lists: the incident's title, or the alert's name with its host."""
    lead = alerts[0]
    more = f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    place = lead.labels.get("instance") or lead.labels.get("host")
    return lead.title or f"{lead.name}{f' on {place}' if place else ''}{more}"


def checked_name(what: str, text: str) -> str:
    """A short printable text.

    Raises:
        BadInput: it is empty, too long, or has characters that are not printable.
    """
    if not text or len(text) > _NAME_CHARACTERS or not text.isprintable():
        raise BadInput(f"The {what} {text[:40]!r} is not 1 to {_NAME_CHARACTERS} printable characters")
    return text


def storable(options: RunOptions) -> RunOptions:
    """The options without what PostgreSQL refuses."""
    return RunOptions.model_validate(clean(options.model_dump()))


def checked_size(payload: object, arrival: Arrival, settings: Settings) -> int:
    """The payload's size in bytes of JSON.

    Raises:
        BadInput: it is more than is read.
    """
    limit = settings.max_payload_bytes
    size = arrival.size_bytes if arrival.size_bytes is not None else size_of(payload)
    if size > limit:
        raise BadInput(
            f"The payload has {size:,} bytes, more than ORCHESTRATION_MAX_PAYLOAD_BYTES={limit}: send smaller pushes"
        )
    return size


def size_of(payload: object) -> int:
    """The bytes of a value as JSON.

    Raises:
        BadInput: JSON cannot hold it.
    """
    try:
        # Values that only Python knows become text when the payload is read.
        return len(json.dumps(payload, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"The payload is not JSON: {error}") from None
