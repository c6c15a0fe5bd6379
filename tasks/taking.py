"""Taking a run: its lease is held while the body works on it, and given back at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from orchestration.errors import BadInput, RunBusy, Unavailable
from orchestration.signals import Signal, correlated, logger
from orchestration.states import RunStatus
from orchestration.store import attempts, leases, runs
from orchestration.store.records import RunRecord
from tasks.holders import held_as, holder_name, may_live, take_held
from tasks.run import ActiveRun, Services


@asynccontextmanager
async def take_run(
    services: Services, run_id: str, *, engine: str, prefect_flow_run_id: str | None = None, held_as: str | None = None
) -> AsyncGenerator[ActiveRun]:
    """Hold a run's lease while the body works on it. A failed or abandoned run goes on where it stood.

    `held_as` is the name under which the caller holds the lease already, if it does.

    Raises:
        RunNotFound: there is no such run.
        RunBusy: another process is at it.
        BadInput: the run is over.
    """
    owner = held_as or take_held(run_id) or holder_name()
    run = await _open(services, run_id, owner, engine, prefect_flow_run_id)
    with correlated(trace_id=run.record.trace_id, run_id=run_id):
        keeper = asyncio.create_task(_keep_lease(run, asyncio.current_task()))
        try:
            yield run
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            if not run.over:  # the end of a run gives its lease back
                await asyncio.shield(_release(services, run_id, owner))


def ensure_takable(record: RunRecord) -> str | None:
    """Whether a run can be taken up now; the dead holder of its lease, if there is one.

    Raises:
        BadInput: the run is over.
        RunBusy: its lease is held.
    """
    if record.status in (RunStatus.NOTIFIED, RunStatus.SKIPPED):
        raise BadInput(f"Run {record.run_id} is over: {record.status.value}. Nothing is left to do")
    if record.lease_owner is None or record.lease_expires_at is None or record.lease_expires_at < datetime.now(UTC):
        return None
    if record.lease_owner == held_as(record.run_id):
        return None
    if not may_live(record.lease_owner):
        return record.lease_owner
    raise _busy(record)


def _busy(record: RunRecord) -> RunBusy:
    return RunBusy(
        f"Run {record.run_id} is being worked on by {record.lease_owner} (its lease ends {record.lease_expires_at})"
    )


async def _open(services: Services, run_id: str, owner: str, engine: str, prefect_flow_run_id: str | None) -> ActiveRun:
    async with services.database.transaction() as tx:
        record, payload = await runs.get_run_with_payload(tx, run_id)
        lost = None if record.lease_owner == owner else ensure_takable(record)
        resumed = record.started_at is not None
        done = await attempts.list_attempts(tx, run_id) if resumed else []
        run = ActiveRun(services, record, payload, done, engine=engine, owner=owner)
        begun = await leases.begin(
            tx,
            record,
            owner=owner,
            seconds=services.settings.lease_seconds,
            lost=lost,
            standing=run.standing,
            engine=engine,
            prefect_flow_run_id=prefect_flow_run_id,
        )
        if begun is None:
            raise _busy(record)
        run.record = begun
    run.emit(Signal.STARTED, run.tags(), resumed=resumed or None)
    return run


async def _keep_lease(run: ActiveRun, worker: asyncio.Task[Any] | None) -> None:
    """Renew the lease until cancelled; when somebody else holds it, stop the worker: two must not go on."""
    services, run_id = run.services, run.run_id
    seconds = services.settings.lease_seconds
    while True:
        await asyncio.sleep(seconds / 3)
        try:
            async with services.database.transaction() as tx:
                held = await leases.renew(tx, run_id, owner=run.owner, seconds=seconds)
        except Unavailable as error:
            logger.warning("The lease of run %s could not be renewed: %s", run_id, error)
            continue
        if run.over:
            return
        if not held:
            logger.error("The lease of run %s was lost to another process: stopping here", run_id)
            if worker is not None:
                worker.cancel()
            return


async def _release(services: Services, run_id: str, owner: str) -> None:
    try:
        async with services.database.transaction() as tx:
            await leases.release(tx, run_id, owner=owner)
    except Unavailable as error:
        logger.warning("The lease of run %s runs out by itself: %s", run_id, error)
