"""One run in progress: its lease, its record, and what its stages have found so far."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from orchestration.alert import Incident
from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    Contract,
    IngestResult,
    NotifyResult,
    Stage,
    StageContext,
)
from orchestration.errors import BadInput, RunBusy, Unavailable
from orchestration.message import ChannelSource
from orchestration.settings import Settings
from orchestration.signals import Signal, Signals, Tags, logger
from orchestration.states import STATUS_AFTER, RunStatus, StageStatus
from orchestration.store import alerts as alert_store
from orchestration.store import attempts, runs
from orchestration.store.database import Database
from orchestration.store.records import AttemptRecord, Node, RunRecord, new_id

if TYPE_CHECKING:
    from tasks.analyze.stage import AnalysisProvider

ResultT = TypeVar("ResultT", bound=Contract)

RESULT_TYPES: Mapping[Stage, type[Contract]] = {
    Stage.INGEST: IngestResult,
    Stage.CHECK: CheckResult,
    Stage.ANALYZE: AnalyzeResult,
    Stage.NOTIFY: NotifyResult,
}


@dataclass(frozen=True, kw_only=True)
class Services:
    """What every run of a process shares."""

    database: Database
    signals: Signals
    settings: Settings
    channels: ChannelSource
    analysis: AnalysisProvider


class ActiveRun:
    """A run that this process holds the lease of. Made by `take_run()`."""

    def __init__(
        self,
        services: Services,
        record: RunRecord,
        payload: dict[str, Any],
        done: list[AttemptRecord],
        *,
        engine: str,
        owner: str,
    ) -> None:
        self.services = services
        self.record = record
        self.owner = owner
        self.payload = payload
        self.engine = engine
        self.results: dict[str, Contract] = {}
        self.refs: dict[str, str] = {}
        self.skipped: set[str] = set()
        for attempt in done:
            self._remember(attempt)

    def _remember(self, attempt: AttemptRecord) -> None:
        if attempt.status is StageStatus.SKIPPED:
            self.skipped.add(attempt.node_id)
        # A stage whose result cannot be read is done again: each of them can be.
        elif attempt.output_ref and (found := attempt.result(RESULT_TYPES[attempt.stage])) is not None:
            self.results[attempt.node_id] = found
            self.refs[attempt.node_id] = attempt.output_ref

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    @property
    def over(self) -> bool:
        """Whether this process has brought the run to its end; then it holds no lease any more."""
        return self.record.status.final

    @property
    def standing(self) -> RunStatus:
        """Where the run stands, going by the stages that are done: what RETRYING goes back to."""
        done = self.results.keys() | self.skipped
        stages = [stage for stage in Stage if stage.value in done and stage is not Stage.NOTIFY]
        return STATUS_AFTER[stages[-1]] if stages else RunStatus.PENDING

    @property
    def last_ref(self) -> str:
        """The reference of what the next stage works on."""
        return list(self.refs.values())[-1] if self.refs else attempts.payload_ref(self.run_id)

    def tags(self, stage: str | None = None, attempt: int = 1) -> Tags:
        """The tags of this run's signals."""
        record = self.record
        tags = Tags(
            trace_id=record.trace_id,
            run_id=record.run_id,
            incident_id=record.incident_id or "",
            source=record.source,
            alert_fingerprint=record.alert_fingerprint or "",
            environment=record.environment,
        )
        return tags if stage is None else tags.at(stage, attempt)

    def context(self, attempt: int) -> StageContext:
        """What a stage is told."""
        return StageContext(
            trace_id=self.record.trace_id,
            run_id=self.record.run_id,
            incident_id=self.record.incident_id,
            attempt=attempt,
            environment=self.record.environment,
            source=self.record.source,
            alert_fingerprint=self.record.alert_fingerprint,
            payload=self.payload,
            previous_results={node: result.model_dump(mode="json") for node, result in self.results.items()},
        )

    def result(self, node: Node, result_type: type[ResultT]) -> ResultT | None:
        """What a node has found, if it is done."""
        found = self.results.get(node.id)
        return found if isinstance(found, result_type) else None

    async def incident(self) -> Incident | None:
        """The incident that this run is about, as it stands now."""
        if self.record.incident_id is None:
            return None
        async with self.services.database.statement() as tx:
            return await alert_store.get_incident(tx, self.record.incident_id)

    async def skip(self, node: Node, reason: str) -> None:
        """Leave a stage out, with a row that says why."""
        async with self.services.database.transaction() as tx:
            await attempts.skip(tx, self.run_id, node, reason)
        self.skipped.add(node.id)

    async def finish(self, status: RunStatus, *, skip_reason: str | None = None) -> None:
        """Bring the run to a final status and tell of it."""
        # A single statement while nobody has touched the run.
        async with self.services.database.statement() as tx:
            self.record = await runs.finish(
                tx, self.run_id, status, owner=self.owner, known=self.record.status, skip_reason=skip_reason
            )
        self.emit(
            Signal.COMPLETED,
            self.tags(),
            status=status.value,
            duration_ms=self.record.total_duration_ms,
            reason=skip_reason,
            error_type=self.record.last_error_type,
            message=self.record.last_error_message,
            fallback=self.record.intelligence_fallback_used or None,
        )

    def emit(self, signal: Signal, tags: Tags, **fields: str | int | float | bool | None) -> None:
        """Send a signal that says which engine runs this run."""
        self.services.signals.emit(signal, tags, engine=self.engine, **fields)


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
    owner = held_as or _held.pop(run_id, None) or holder_name()
    run = await _open(services, run_id, owner, engine, prefect_flow_run_id)
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
    if record.lease_owner == _held.get(record.run_id):
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
        begun = await runs.begin(
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
                held = await runs.renew(tx, run_id, owner=run.owner, seconds=seconds)
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
            await runs.release(tx, run_id, owner=owner)
    except Unavailable as error:
        logger.warning("The lease of run %s runs out by itself: %s", run_id, error)


_held: dict[str, str] = {}


def hold(run_ids: Iterable[str], owner: str) -> None:
    """Runs whose lease this process holds from the moment they were written: the next `take_run()` of each has it."""
    _held.update(dict.fromkeys(run_ids, owner))


def holder_name() -> str:
    """A name under which this process can hold leases; another one each time."""
    return f"{process_name()}/{new_id()[:8]}"


def process_name() -> str:
    """Who this process is among all that hold leases: host, id, and when it started, since ids come again.

    The name of a lease's holder is this with something random behind it, another one each time.
    """
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def may_live(owner: str) -> bool:
    """Whether the holder of a lease may still be at work. Only a process of this host can be known dead."""
    host, process_id, started, _ = owner.rsplit("/", 3)
    if host != socket.gethostname():
        return True
    try:
        return _started(int(process_id)) == started
    except psutil.AccessDenied:
        return True


def _started(process_id: int) -> str | None:
    """When a process started, on a clock that nobody sets; None: it has ended, whether or not its parent knows."""
    try:
        process = psutil.Process(process_id)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError):
            # Field 22, in ticks since boot. psutil adds the moment of the boot, which moves with the wall clock,
            # and a holder that lives would be taken for dead.
            return Path(f"/proc/{process_id}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
