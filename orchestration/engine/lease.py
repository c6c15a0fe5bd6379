"""Leases: which process executes a run, until the run is over, the lease is released, or it expires."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from orchestration.engine.run import ActiveRun, Services
from orchestration.errors import BadInput, RunBusy, RunNotFound, Unavailable
from orchestration.signals import correlated, logger
from orchestration.states import RunStatus
from orchestration.store import attempts, claims, runs
from orchestration.store.database import Transaction
from orchestration.store.records import Node, RunRecord, new_id


@asynccontextmanager
async def lease_run(
    services: Services,
    run_id: str,
    *,
    engine: str,
    prefect_flow_run_id: str | None = None,
    owner: str | None = None,
    claimed: RunRecord | None = None,
    at_once: bool = False,
) -> AsyncGenerator[ActiveRun]:
    """Lease a run while the body works on it. A failed or abandoned run goes on where it stood.

    `owner` is the name under which the caller has leased the run already, by a claim or a reservation. `claimed` is the
    run as it was then. `at_once` says that the body executes the run at once: then the run and its first attempt begin
    in one statement.

    Raises:
        RunNotFound: there is no such run.
        RunBusy: another process executes it.
        BadInput: the run is over.
    """
    run = None
    if claimed is not None and owner is not None:
        run = await _begin_new(services, claimed, owner, engine, prefect_flow_run_id, at_once=at_once)
    if run is None:
        run = await _load_and_claim(services, run_id, owner or new_lease_owner(), engine, prefect_flow_run_id)
    with correlated(trace_id=run.record.trace_id, run_id=run_id):
        keeper = asyncio.create_task(_keep_lease(run, asyncio.current_task()))
        try:
            yield run
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            run.waits.end()
            if not run.over:  # the end of a run releases its lease
                await asyncio.shield(_leave(run))


def lost_owner(record: RunRecord) -> str | None:
    """The owner of the run's lease, if that owner is known to be dead; None if the lease is free.

    Raises:
        BadInput: the run is over.
        RunBusy: somebody holds its lease.
    """
    if record.status in (RunStatus.NOTIFIED, RunStatus.SKIPPED):
        raise BadInput(f"Run {record.run_id} is over: {record.status.value}. Nothing is left to do")
    if record.lease_owner is None or record.lease_expires_at is None or record.lease_expires_at < datetime.now(UTC):
        return None
    if not owner_is_alive(record.lease_owner):
        return record.lease_owner
    raise _busy(record)


async def _leave(run: ActiveRun) -> None:
    """Write what the run has found, and release its lease. What cannot be written is found again."""
    try:
        await run.catch_up()
    except (RunBusy, RunNotFound, Unavailable) as error:
        logger.warning("The last result of run %s could not be written: %s", run.run_id, error)
    await release_lease(run.services, run.run_id, run.owner)


async def release_lease(services: Services, run_id: str, owner: str) -> None:
    """Release a lease, if this owner holds it. If the database does not answer, the lease expires by itself."""
    try:
        async with services.database.transaction() as tx:
            await claims.release(tx, run_id, owner=owner)
    except Unavailable as error:
        logger.warning("The lease of run %s was not released and expires by itself: %s", run_id, error)


def new_lease_owner() -> str:
    """A new name under which this process can own leases."""
    return f"{process_name()}/{new_id()[:8]}"


def process_name() -> str:
    """This process's name: host, process id, and its incarnation: when it started, and where its id is known.

    A lease owner's name is this with a random part, so that each lease of a run has another owner.
    """
    return f"{socket.gethostname()}/{os.getpid()}/{_incarnation(os.getpid())}"


def owner_is_alive(owner: str) -> bool:
    """Whether the owner of a lease may still work.

    A process can be known to be dead only where its id means something: on this host, since this boot, and in this
    PID namespace. Containers may share a host name, and none sees the processes of another. For the rest the lease
    decides, which a dead process does not renew.
    """
    host, process_id, incarnation = owner.split("/", 3)[:3] if owner.count("/") == 3 else ("", "", "")
    if host != socket.gethostname() or incarnation.partition("@")[2] != _whereabouts() or not process_id.isdigit():
        return True
    try:
        return _incarnation(int(process_id)) == incarnation
    except psutil.AccessDenied:
        return True


def _incarnation(process_id: int) -> str:
    """Tells a process from another one that has or had the same id. Of a dead one it has no start."""
    return f"{_started(process_id) or ''}@{_whereabouts()}"


@cache
def _whereabouts() -> str:
    """The boot and the PID namespace of this process, between them a dot. Empty on systems that have neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot.replace('-', '')[:12]}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        # A Linux that hides them may have several namespaces: no other process can be known to be dead.
        return secrets.token_hex(8) if sys.platform == "linux" else ""


def _started(process_id: int) -> str | None:
    """When a process started, on a clock that nobody sets. None means that it has ended, also as a zombie."""
    try:
        process = psutil.Process(process_id)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError):
            # Field 22, in ticks since boot. psutil adds the time of the boot, which moves with the wall clock, so that
            # a living owner would be taken for dead.
            return Path(f"/proc/{process_id}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def _busy(record: RunRecord) -> RunBusy:
    return RunBusy(
        f"Run {record.run_id} is being executed by {record.lease_owner} (its lease ends {record.lease_expires_at})"
    )


async def _begin_new(
    services: Services,
    claimed: RunRecord,
    owner: str,
    engine: str,
    prefect_flow_run_id: str | None,
    *,
    at_once: bool,
) -> ActiveRun | None:
    """Begin a run that nobody has executed yet, in one statement. None means that somebody has."""
    if claimed.started_at is not None:
        return None
    run = ActiveRun(services, claimed, engine=engine, owner=owner)
    first = run.sure_first_node() if at_once else None
    async with services.database.statement() as tx:
        return run if await _start(tx, run, prefect_flow_run_id, first=first) else None


async def _load_and_claim(
    services: Services, run_id: str, owner: str, engine: str, prefect_flow_run_id: str | None
) -> ActiveRun:
    """Read the run with its earlier attempts and claim it for `owner`, in one transaction.

    An error rolls the transaction back, so that the history has no note of a resume that did not happen.

    Raises:
        RunNotFound: there is no such run.
        RunBusy: another process executes it.
        BadInput: the run is over.
    """
    async with services.database.transaction() as tx:
        record = await runs.get_run(tx, run_id, lock=True)
        dead_owner = None if record.lease_owner == owner else lost_owner(record)
        earlier_attempts = await attempts.list_attempts(tx, run_id) if record.started_at is not None else []
        run = ActiveRun(services, record, engine=engine, owner=owner, earlier_attempts=earlier_attempts)
        if record.status is RunStatus.FAILED:
            await runs.note_resume(tx, record, by=owner)
        if not await _start(tx, run, prefect_flow_run_id, lost=dead_owner):
            raise _busy(record)
    return run


async def _start(
    tx: Transaction,
    run: ActiveRun,
    prefect_flow_run_id: str | None,
    *,
    lost: str | None = None,
    first: Node | None = None,
) -> bool:
    """Start a run for its owner, and give it what it was started with. False means that another owner has the lease."""
    begun = await claims.begin(
        tx,
        run.record,
        owner=run.owner,
        seconds=run.services.settings.lease_seconds,
        lost=lost,
        standing=run.standing,
        engine=run.engine,
        prefect_flow_run_id=prefect_flow_run_id,
        first=first,
    )
    if begun is None:
        return False
    run.record = begun.record
    run.restate(begun.payload)
    if first is not None and begun.attempt is not None:
        run.opened[first.id] = begun.attempt
    return True


async def _keep_lease(run: ActiveRun, worker: asyncio.Task[Any] | None) -> None:
    """Renew the lease until cancelled; if somebody else owns it, cancel `worker`: two must not execute one run."""
    services, run_id = run.services, run.run_id
    seconds = services.settings.lease_seconds
    while True:
        await asyncio.sleep(seconds / 3)
        try:
            async with services.database.transaction() as tx:
                held = await claims.renew(tx, run_id, owner=run.owner, seconds=seconds)
                # A suspect is executed in a process of its own, which ends it under this same lease.
                ended = not held and (await runs.get_run(tx, run_id)).status.final
        except Unavailable as error:
            logger.warning("The lease of run %s could not be renewed: %s", run_id, error)
            continue
        if run.over or ended:
            return
        if not held:
            logger.error(
                "Run %s: another process has its lease now and continues it; this process stops executing it", run_id
            )
            if worker is not None:
                worker.cancel()
            return
