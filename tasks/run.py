"""One run in progress: its record, and what its stages have found so far."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from orchestration.alert import Incident
from orchestration.contracts import LINEAR_STAGES, RESULT_TYPES, Contract, Stage, StageContext, StageError
from orchestration.message import ChannelSource
from orchestration.settings import Settings
from orchestration.signals import Signal, Signals, Tags
from orchestration.states import STATUS_AFTER, RunStatus, StageStatus
from orchestration.store import attempts, incidents, runs
from orchestration.store.database import Database
from orchestration.store.records import AttemptRecord, Node, RunRecord
from tasks.whole import ensure_going, whole

if TYPE_CHECKING:
    from tasks.analyze.stage import AnalysisProvider
    from tasks.definitions import DefinitionSource

ResultT = TypeVar("ResultT", bound=Contract)


@dataclass(frozen=True, kw_only=True)
class Services:
    """What every run of a process shares."""

    database: Database
    signals: Signals
    settings: Settings
    channels: ChannelSource
    analysis: AnalysisProvider
    definitions: DefinitionSource | None = None
    """Where stored definitions are found; None: only the linear pipeline is run here."""


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
        self.skipped: dict[str, str] = {}
        """Why nodes were left out."""
        self.failed: dict[str, StageError] = {}
        """Nodes whose last attempt failed for good. Those that the run needs are tried again when it is resumed."""
        self.waiting: set[str] = set()
        """Nodes that wait for their next attempt."""
        self.writing = asyncio.Lock()
        """Held by whoever moves the run on: branches that end at once must not write over each other's status."""
        self._stages: dict[str, Stage] = {}
        for attempt in done:
            self._remember(attempt)

    def _remember(self, attempt: AttemptRecord) -> None:
        if attempt.status is StageStatus.SKIPPED:
            reason = str((attempt.output_snapshot or {}).get("skipped", ""))
            self.note_skipped(Node(id=attempt.node_id, stage=attempt.stage), reason)
        elif attempt.status is StageStatus.FAILED and attempt.error_type not in attempts.CUT_SHORT:
            self.failed[attempt.node_id] = StageError(
                error_type=attempt.error_type or "",
                message=attempt.error_message or "",
                retryable=bool(attempt.error_retryable),
            )
        # A stage whose result cannot be read is done again: each of them can be.
        elif attempt.output_ref and (found := attempt.result(RESULT_TYPES[attempt.stage])) is not None:
            self.note_result(Node(id=attempt.node_id, stage=attempt.stage), found, attempt.output_ref)

    def note_result(self, node: Node, result: Contract, ref: str) -> None:
        """A node is done."""
        self._stages[node.id] = node.stage
        self.results[node.id] = result
        self.refs[node.id] = ref
        self.failed.pop(node.id, None)

    def note_skipped(self, node: Node, reason: str) -> None:
        """A node is left out."""
        self._stages[node.id] = node.stage
        self.skipped[node.id] = reason

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
        """Where the run stands, going by the nodes that are done: what RETRYING goes back to."""
        return _standing(self._stages.values())

    @property
    def status(self) -> RunStatus:
        """What the run's status is while it goes on: RETRYING while one of its nodes waits for another try."""
        return RunStatus.RETRYING if self.waiting else self.standing

    def status_with(self, node: Node) -> RunStatus:
        """The same, once this node is done as well."""
        return RunStatus.RETRYING if self.waiting else _standing([*self._stages.values(), node.stage])

    def input_ref(self, before: Iterable[str] | None = None) -> str:
        """The reference of what a node works on: the output of the last one before it, else the payload.

        `before` are the nodes before it, in order; None: all that are done.
        """
        refs = list(self.refs.values()) if before is None else [self.refs[one] for one in before if one in self.refs]
        return refs[-1] if refs else attempts.payload_ref(self.run_id)

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

    def context(self, attempt: int, before: Iterable[str] | None = None) -> StageContext:
        """What a stage is told. `before` are the nodes before it; None: all that are done."""
        told = self.results.keys() if before is None else [one for one in before if one in self.results]
        return StageContext(
            trace_id=self.record.trace_id,
            run_id=self.record.run_id,
            incident_id=self.record.incident_id,
            attempt=attempt,
            environment=self.record.environment,
            source=self.record.source,
            alert_fingerprint=self.record.alert_fingerprint,
            payload=self.payload,
            previous_results={node: self.results[node].model_dump(mode="json") for node in told},
        )

    def found(self, result_type: type[ResultT], before: Iterable[str] | None = None) -> list[ResultT]:
        """The results of this type of the nodes before one, in their order; `before` None: of all that are done."""
        nodes = list(self.results) if before is None else before
        results = (self.results.get(node) for node in nodes)
        return [result for result in results if isinstance(result, result_type)]

    def has_errors(self, node_id: str) -> bool:
        """Whether a node failed, or names errors in its result: a checker that broke, an analysis that fell back."""
        return node_id in self.failed or bool(getattr(self.results.get(node_id), "errors", None))

    async def incident(self) -> Incident | None:
        """The incident that this run is about, as it stands now."""
        if self.record.incident_id is None:
            return None
        async with self.services.database.statement() as tx:
            return await incidents.get_incident(tx, self.record.incident_id)

    async def skip(self, node: Node, reason: str) -> None:
        """Leave a stage out, with a row that says why."""
        _, cancelled = await whole(self._skip(node, reason))
        ensure_going(cancelled)

    async def _skip(self, node: Node, reason: str) -> None:
        async with self.services.database.transaction() as tx:
            await attempts.skip(tx, self.run_id, node, reason)
        self.note_skipped(node, reason)

    async def finish(
        self, status: RunStatus, *, skip_reason: str | None = None, error: StageError | None = None
    ) -> None:
        """Bring the run to a final status and tell of it. `error`: what it failed of, if not of the last one it met."""
        _, cancelled = await whole(self._finish(status, skip_reason, error))
        ensure_going(cancelled)

    async def _finish(self, status: RunStatus, skip_reason: str | None, error: StageError | None) -> None:
        # A single statement while nobody has touched the run.
        async with self.writing, self.services.database.statement() as tx:
            self.record = await runs.finish(
                tx,
                self.run_id,
                status,
                owner=self.owner,
                known=self.record.status,
                skip_reason=skip_reason,
                error=error,
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


def _standing(done: Iterable[Stage]) -> RunStatus:
    """The furthest status that one of these stages leads to: branches that end in any order only move a run forward."""
    stages = set(done)
    reached = [stage for stage in LINEAR_STAGES if stage in stages and stage is not Stage.NOTIFY]
    return STATUS_AFTER[reached[-1]] if reached else RunStatus.PENDING
