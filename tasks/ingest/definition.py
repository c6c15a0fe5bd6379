"""The inbox for definitions: with an ingest node a payload is a push, without one it is taken as it is, or none."""

from __future__ import annotations

from typing import Protocol, cast

from orchestration.alert import Severity
from orchestration.contracts import Stage
from orchestration.errors import BadInput
from orchestration.redaction import one_line
from orchestration.settings import Settings
from orchestration.store import incidents
from orchestration.store.pushes import NewPush, RunRow, WrittenPush, write_alone
from orchestration.store.records import RunOptions, new_id
from tasks.definitions import DefinitionSource, Plan, plan_for
from tasks.holders import hold
from tasks.ingest.inbox import (
    Arrival,
    Door,
    Write,
    checked_name,
    checked_size,
    digest,
    row_as_json,
    storable,
    take_push,
)
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.stage import StoredPush

_TITLE_CHARACTERS = 200


class DefinitionDoor(Door, Protocol):
    """What the inbox needs to take runs of definitions."""

    @property
    def definitions(self) -> DefinitionSource | None: ...


async def accept_definition_run(
    services: DefinitionDoor,
    payload: object,
    *,
    source: str,
    environment: str,
    options: RunOptions,
    trace_id: str | None = None,
    held_by: str | None = None,
    held_runs: int | None = None,
) -> list[str]:
    """Write the runs of a definition; their ids.

    As `take_definition_push()`, for callers inside of this installation.
    """
    arrival = Arrival(held_by=held_by, held_runs=held_runs)
    taken = await take_definition_push(
        services, payload, source=source, environment=environment, trace_id=trace_id, options=options, arrival=arrival
    )
    return taken.run_ids


async def take_definition_push(
    services: DefinitionDoor,
    payload: object,
    *,
    source: str,
    environment: str,
    options: RunOptions,
    trace_id: str | None = None,
    arrival: Arrival | None = None,
    write: Write | None = None,
) -> WrittenPush:
    """Write the runs of the definition that the options name, PENDING.

    With an ingest node it is one for each incident of the payload, as `take_push()` writes them; without one it is
    a single run that starts with the payload as it is, which may be anything that is JSON, or None.

    Raises:
        BadInput: the definition is not there or cannot be run, or the payload is not one for it; nothing is written.
        Unavailable: the database, or where definitions are kept, does not answer.
    """
    plan = await plan_for(options, services.definitions)
    if (incident_id := options.incident_id) is not None:
        async with services.database.transaction() as tx:
            await incidents.find_incident(tx, incident_id)
    way_in = arrival or Arrival()
    if not ingests(plan):
        checked_size(payload, way_in, services.settings)
        push = _push_of(payload, plan, way_in, services.settings, options, (source, environment, trace_id))
        written = await (write_alone(services.database, push) if write is None else write(push))
        if way_in.held_by is not None and not written.repeated:
            hold(push.run_ids, way_in.held_by)
        return written
    if payload is None:
        raise BadInput(f"The definition {plan.name!r} takes in alerts: give it a payload that has one")
    if incident_id is not None:
        raise BadInput(f"The definition {plan.name!r} takes in alerts, which find their incident: give no incident_id")
    return await take_push(
        services,
        payload,
        source=source,
        environment=environment,
        trace_id=trace_id,
        options=options,
        arrival=way_in,
        write=write,
    )


def ingests(plan: Plan) -> bool:
    """Whether a payload has to have alerts."""
    return any(node.stage is Stage.INGEST for node in plan.definition.nodes)


def _push_of(
    payload: object,
    plan: Plan,
    arrival: Arrival,
    settings: Settings,
    options: RunOptions,
    call: tuple[str, str, str | None],
) -> NewPush:
    """A value as it is written: one run, which nothing is a repeat of."""
    source, environment, trace_id = call
    kept, asked = clean(payload), storable(options).model_dump_json().encode()
    held = arrival.held_by is not None
    row = RunRow(
        run_id=new_id(),
        trace_id=checked_name("trace id", trace_id) if trace_id else new_id(),
        source=checked_name("source", source),
        environment=checked_name("environment", environment),
        incident_key=None,
        title=_title(plan, kept),
        alert_fingerprint=None,
        severity=Severity.INFO.value,
        priority=Severity.INFO.rank,
        content_hash="",
        firing=False,
        window_seconds=0,
        max_retries=settings.max_retries_per_stage,
        lease_owner=arrival.held_by,
        lease_seconds=settings.lease_seconds,
    )
    key = arrival.idempotency_key
    return NewPush(
        trace_id=row.trace_id,
        run_ids=[row.run_id],
        rows=row_as_json(row, StoredPush.model_validate({"data": kept}).model_dump_json().encode(), asked),
        sender=arrival.sender,
        idempotency_key=checked_name("idempotency key", key) if key is not None else None,
        body_hash=digest([source, environment, asked.decode(), kept]) if key is not None else "",
        held=int(held),
    )


def _title(plan: Plan, payload: object) -> str:
    """What a run without alerts is called: what its payload says, else its definition."""
    given = cast("dict[str, object]", payload).get("title") if isinstance(payload, dict) else None
    return one_line(given, _TITLE_CHARACTERS) if isinstance(given, str) and given.strip() else str(plan.name)
