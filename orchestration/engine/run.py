"""One run in progress: what it executes, what it is about, and what its nodes have found so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import JsonValue

from orchestration.alert import Alert, Incident
from orchestration.analysis import AnalysisProvider, ModelSource, PendingAnswers, ReadOnlyTools
from orchestration.changes.blame import DependencySource
from orchestration.contracts import Contract, StageContext, StageError
from orchestration.engine.shield import raise_if_cancelled, shielded_write
from orchestration.engine.waits import Waits
from orchestration.errors import PipelineError
from orchestration.graph import (
    Definition,
    DefinitionProblem,
    DefinitionSource,
    Graph,
    NodeConfig,
    NodeDefinition,
    NodeType,
)
from orchestration.message import AskedPauses, ChannelSource
from orchestration.policy.active import ActivePolicy, PolicySource
from orchestration.prometheus import PrometheusFinder
from orchestration.requests import StoredPush
from orchestration.settings import Settings
from orchestration.signals import Signal, Signals, Tags
from orchestration.states import RunReason, RunStatus, StageStatus, furthest
from orchestration.store import attempts, incidents, runs
from orchestration.store.database import Database
from orchestration.store.endings import Ending
from orchestration.store.mappings import MappingReader, StoredMappings
from orchestration.store.records import AttemptRecord, Node, RunRecord

ResultT = TypeVar("ResultT", bound=Contract)
SetupT = TypeVar("SetupT")

MAX_WAIT_SECONDS = 60.0
"""The longest wait that a stage grants to a channel that asks for one. After a longer one a later run tries again."""


@dataclass(frozen=True, kw_only=True)
class NodeKind(NodeType, Generic[SetupT]):
    """One kind of node: what a definition says of it, what it does, and the rules that are its own."""

    function: Callable[[StageContext, SetupT], Awaitable[Contract]]
    """The stage itself: a plain async function of its context and its setup."""
    set_up: Callable[[ActiveRun, Step], Awaitable[SetupT]]
    """Prepares a node for one run: from the settings, the run's options, the node's config and earlier results."""
    result_ref: str
    """The field of the result that names its own record."""
    run_ref: str | None = None
    """The column of `pipeline_run` that names the output of a node of this kind. None means that no column does."""
    reason_to_skip: Callable[[ActiveRun, Step], Awaitable[str | None]] | None = None
    """A rule of this kind by which a node is left out: the reason's name, or None if the node runs."""
    silences: Callable[[Contract], str | None] | None = None
    """Why a result makes all later nodes unnecessary; None if it does not."""
    after_failure: Callable[[ActiveRun, StageFailed], Awaitable[None]] | None = None
    """What is done before a run ends FAILED at a node of this kind."""
    holds: Callable[[Contract], bool] | None = None
    """Which branch a result takes. None means that nodes of this kind do not branch."""
    notifies: bool = False
    """Whether a node of this kind that succeeded has notified somebody."""
    fallback: Callable[[ActiveRun, Step, StageError], Awaitable[Contract | None]] | None = None
    """The result that stands in for one that failed for good; None if the failure stays one."""
    problems: Callable[[NodeDefinition], Iterator[DefinitionProblem]] | None = None
    """What is wrong with a node's config beyond the types of its fields."""


@dataclass(frozen=True, kw_only=True)
class NodeKinds:
    """The node kinds of an installation, by the type that a definition names, and its linear pipeline."""

    by_type: Mapping[str, NodeKind[Any]]
    linear: Definition

    @cached_property
    def linear_plan(self) -> Plan:
        """The plan of the linear pipeline: one for all runs, as to make it takes a moment."""
        return Plan(self.linear, self)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node of a definition, ready to be tried."""

    node: Node
    definition: NodeDefinition
    kind: NodeKind[Any]
    config: NodeConfig
    before: tuple[str, ...]
    """The nodes before it, in order: its input comes from these."""
    max_retries: int | None = None
    """None means as many as the settings say."""
    timeout_seconds: float | None = None
    """The time limit of one attempt. None means the limit of the settings."""

    def retries(self, settings: Settings) -> int:
        """How often it is tried again."""
        return settings.max_retries_per_stage if self.max_retries is None else self.max_retries

    def retry_in_seconds(self, settings: Settings, error: StageError, *, retries_left: int) -> float | None:
        """The time after which the node is tried again after this error; None if it is not.

        That is the delay of the settings, or the wait that the other side has asked for if that is longer.
        """
        asked = error.retry_after_seconds or 0.0
        if not error.retryable or retries_left <= 0 or asked > MAX_WAIT_SECONDS:
            return None
        retries = max(self.retries(settings), retries_left)
        return max(settings.delays(retries)[retries - retries_left], asked)


@dataclass(frozen=True)
class Plan:
    """A definition, ready to be executed."""

    definition: Definition
    kinds: NodeKinds
    name: str | None = None
    """The definition's name. None means the linear pipeline."""
    version: int | None = None
    note: str = ""
    """What whoever reads the run's message should know of the definition."""

    @cached_property
    def graph(self) -> Graph:
        """The order of the nodes."""
        return Graph(self.definition)

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """The nodes by id."""
        return {node.id: self._step(node) for node in self.graph.nodes.values()}

    def _step(self, node: NodeDefinition) -> Step:
        defaults = self.definition.defaults
        kind = self.kinds.by_type[node.type]
        return Step(
            node=Node(id=node.id, stage=kind.stage),
            definition=node,
            kind=kind,
            config=kind.config.model_validate(node.config),
            before=tuple(self.graph.ancestors_in_order(node.id)),
            max_retries=defaults.max_retries if node.max_retries is None else node.max_retries,
            timeout_seconds=node.timeout_seconds or defaults.timeout_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Services:
    """What all runs of a process share."""

    database: Database
    signals: Signals
    settings: Settings
    channels: ChannelSource
    analysis: AnalysisProvider
    kinds: NodeKinds
    definitions: DefinitionSource | None = None
    """Finds stored definitions. None means that only the linear pipeline is executed here."""
    mappings: MappingReader | None = None
    """Finds the mappings of senders. None means that only those that ship are used here."""
    policies: PolicySource | None = None
    """Finds the policy. None means that the default channels are notified here."""
    prometheus: PrometheusFinder | None = None
    """Finds the Prometheus that alerts are checked with. None means that there is none here."""
    dependencies: DependencySource | None = None
    """Finds who depends on whom, where no file says it. None means that nothing does."""
    models: ModelSource | None = None
    """Finds the models that analyze. None means that only `analysis` does."""
    tools: ReadOnlyTools | None = None
    """What a model may look at by itself. None means nothing."""
    pending_answers: PendingAnswers = field(default_factory=PendingAnswers)
    asked_pauses: AskedPauses = field(default_factory=AskedPauses)

    async def stored_mappings(self) -> StoredMappings:
        """The mappings of senders that people have stored."""
        return () if self.mappings is None else await self.mappings.active()

    async def active_policy(self) -> ActivePolicy | None:
        """The policy that counts now. None means that there is none."""
        return None if self.policies is None else await self.policies.active()


@dataclass
class Tries:
    """How this process has tried a node."""

    began_at: float = field(default_factory=time.monotonic)
    """When the first attempt began, as `time.monotonic()` counts."""
    count: int = 0
    number: int = 1
    """The number of the latest attempt, those of earlier processes counted."""


@dataclass(frozen=True, kw_only=True)
class Unwritten:
    """The end of an attempt that is written together with what the run does next."""

    ending: Ending
    signal: Callable[[], None]
    """Sends its signal, once it is written."""


class ActiveRun:
    """A run whose lease this process holds. Made by `lease_run()`; `adopt()` gives it its plan."""

    def __init__(
        self,
        services: Services,
        record: RunRecord,
        *,
        engine: str,
        owner: str,
        earlier_attempts: Sequence[AttemptRecord] = (),
    ) -> None:
        self.services = services
        self.record = record
        self.owner = owner
        self.payload: dict[str, Any] = {}
        self.engine = engine
        self.resumed = record.started_at is not None
        self.plan = services.kinds.linear_plan
        self.results: dict[str, Contract] = {}
        self.refs: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        """Why nodes were left out."""
        self.failed: dict[str, StageError] = {}
        """Nodes whose last attempt failed for good. A resume tries those again that the run needs."""
        self.followed: ActiveRun | None = None
        """The run whose message this one sends again, or brings up to date: its results count as this run's."""
        self.suspect = False
        """Whether processes have ended during this run: then what its message does not need is left out."""
        self.waits = Waits()
        """What its nodes wait for."""
        self.failure: StageFailed | None = None
        """The failure that ends the run: the first one of a node that the run needs."""
        self.writing = asyncio.Lock()
        """Locked while the run's status is written: branches that end at once must not overwrite each other's."""
        self.tries: dict[str, Tries] = {}
        """How this process has tried its nodes."""
        self.in_a_row = False
        """Whether what follows the present node follows at once. Then its success is written together with that."""
        self.unwritten: Unwritten | None = None
        """The end of the latest attempt, if it is not written yet."""
        self.opened: dict[str, int] = {}
        """The number of the attempt that began together with the run, by its node."""
        self._earlier_attempts = earlier_attempts
        self._stages = {attempt.node_id: attempt.stage for attempt in earlier_attempts if _is_done(attempt)}

    def sure_first_node(self) -> Node | None:
        """The node with which the run begins, whatever happens; None if that has to be found out first."""
        options = self.record.options
        if options.defined or options.checks_only or options.follows or options.incident_id:
            return None
        return self.plan.steps[self.plan.graph.order[0]].node

    def adopt(self, plan: Plan) -> None:
        """Execute this plan. Results of earlier attempts at its nodes are kept; unreadable ones are recomputed."""
        self.plan = plan
        for attempt in self._earlier_attempts:
            step = plan.steps.get(attempt.node_id)
            if step is not None:
                self._recall(attempt, step)

    def follow(self, followed: ActiveRun) -> None:
        """Work on what another run was started with, and with what its nodes have found."""
        self.followed = followed
        self.restate(followed.payload)

    def restate(self, payload: dict[str, Any]) -> None:
        """Set what the run is about."""
        self.payload = payload
        self.__dict__.pop("push", None)

    def recall_followed(self, node: Node) -> str | None:
        """Let the node's result in the followed run count as this run's.

        Returns why the node was left out there; None if it was not.
        """
        followed = self.followed
        if followed is None:
            return None
        if (found := followed.results.get(node.id)) is not None:
            self.note_result(node, found, followed.refs[node.id])
        if (error := followed.failed.get(node.id)) is not None:
            self.failed[node.id] = error
        return followed.skipped.get(node.id)

    def _recall(self, attempt: AttemptRecord, step: Step) -> None:
        if attempt.status is StageStatus.SKIPPED:
            self.note_skipped(step.node, str((attempt.output_snapshot or {}).get("skipped", "")))
        elif attempt.status is StageStatus.FAILED and attempt.error_type not in attempts.CUT_SHORT:
            self.failed[attempt.node_id] = StageError(
                error_type=attempt.error_type or "",
                message=attempt.error_message or "",
                retryable=bool(attempt.error_retryable),
            )
        elif attempt.output_ref and (found := attempt.result(step.kind.result)) is not None:
            self.note_result(step.node, found, attempt.output_ref)

    def note_result(self, node: Node, result: Contract, ref: str) -> None:
        """Keep a node's result."""
        self._stages[node.id] = node.stage
        self.results[node.id] = result
        self.refs[node.id] = ref
        self.failed.pop(node.id, None)

    def note_skipped(self, node: Node, reason: str) -> None:
        """Keep why a node is left out."""
        self._stages[node.id] = node.stage
        self.skipped[node.id] = reason

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    @property
    def over(self) -> bool:
        """Whether the run has a final status; then this process holds no lease any more."""
        return self.record.status.final

    @property
    def standing(self) -> RunStatus:
        """The status by the nodes that are done: what RETRYING goes back to."""
        return furthest(self._stages.values())

    @property
    def status(self) -> RunStatus:
        """The status while the run goes on: RETRYING while one of its nodes waits for another attempt."""
        return RunStatus.RETRYING if self.waits.for_retry else self.standing

    def status_with(self, node: Node) -> RunStatus:
        """The status once this node is done too."""
        return RunStatus.RETRYING if self.waits.for_retry else furthest([*self._stages.values(), node.stage])

    @cached_property
    def push(self) -> StoredPush:
        """What the run was started with."""
        return StoredPush.model_validate(self.payload)

    @property
    def alerts(self) -> list[Alert]:
        """The alerts that the run was started with."""
        return self.push.alerts

    @property
    def start_value(self) -> JsonValue:
        """What expressions and transforms see as `payload`: the value itself, or the alerts that were read from it."""
        push = self.push
        return push.data if push.data is not None else push.model_dump(mode="json", include={"alerts", "errors"})

    def input_ref(self, before: Iterable[str]) -> str:
        """The reference of a node's input: the output of the last one before it, else the payload."""
        refs = [self.refs[one] for one in before if one in self.refs]
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

    def context(self, step: Step, attempt: int) -> StageContext:
        """The context of one attempt at a node."""
        return StageContext(
            trace_id=self.record.trace_id,
            run_id=self.record.run_id,
            incident_id=self.record.incident_id,
            attempt=attempt,
            environment=self.record.environment,
            source=self.record.source,
            alert_fingerprint=self.record.alert_fingerprint,
            payload=self.payload,
            previous_results=_ResultsAsJson({one: self.results[one] for one in step.before if one in self.results}),
        )

    def found(self, result_type: type[ResultT], before: Iterable[str]) -> list[ResultT]:
        """The results of this type among these nodes, in their order."""
        results = (self.results.get(node) for node in before)
        return [result for result in results if isinstance(result, result_type)]

    def has_errors(self, node_id: str) -> bool:
        """Whether a node failed, or its result names errors: a checker that broke, an analysis that fell back."""
        return node_id in self.failed or bool(getattr(self.results.get(node_id), "errors", None))

    async def catch_up(self) -> None:
        """Write the end of the latest attempt, if it is not written yet. From then on `record` has what it changed."""
        async with self.writing:
            if self.unwritten is not None:
                database, ending = self.services.database, self.unwritten.ending
                self.record = await attempts.close_attempt(database, self.record, ending, owner=self.owner)
                self.note_written()

    def note_written(self) -> None:
        """The end of the latest attempt is written."""
        written, self.unwritten = self.unwritten, None
        if written is not None:
            written.signal()

    async def incident(self) -> Incident | None:
        """The run's incident as it is now."""
        await self.catch_up()
        if self.record.incident_id is None:
            return None
        async with self.services.database.statement() as tx:
            return await incidents.get_incident(tx, self.record.incident_id)

    async def is_all_clear(self) -> bool:
        """Whether the run is about a resolved incident.

        Resolved alerts alone do not say so: the run may have to notify of an incident whose page failed and part of
        which fires.
        """
        pushed = self.record.reason is RunReason.PUSH
        if pushed and (not self.alerts or any(alert.firing for alert in self.alerts)):
            return False
        incident = await self.incident()
        return incident is None or incident.status.ended

    async def skip(self, node: Node, reason: str) -> None:
        """Leave a node out, with a row that says why."""
        _, cancelled = await shielded_write(self._skip(node, reason))
        raise_if_cancelled(cancelled)

    async def _skip(self, node: Node, reason: str) -> None:
        async with self.services.database.transaction() as tx:
            await attempts.skip(tx, self.run_id, node, reason)
        self.note_skipped(node, reason)

    async def end(self, status: RunStatus, *, skip_reason: str | None = None, error: StageError | None = None) -> None:
        """Give the run a final status and signal it. `error` is why it failed, if that is not its last error."""
        _, cancelled = await shielded_write(self._end(status, skip_reason, error))
        raise_if_cancelled(cancelled)

    async def _end(self, status: RunStatus, skip_reason: str | None, error: StageError | None) -> None:
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
                ending=None if self.unwritten is None else self.unwritten.ending,
            )
            self.note_written()
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
        """Send a signal that names the engine of this run."""
        self.services.signals.emit(signal, tags, engine=self.engine, **fields)


class StageFailed(PipelineError):
    """An attempt at a node failed. `retryable` says whether the cause can pass.

    `retry_in_seconds` is the time after which the node is tried again. None means that this was its last attempt: the
    cause does not pass, the retries are used up, or the other side asks for a wait longer than `MAX_WAIT_SECONDS`.
    """

    def __init__(self, node: Node, error: StageError, *, retry_in_seconds: float | None = None) -> None:
        super().__init__(f"{node.id}: {error.message}")
        self.node = node
        self.error = error
        self.retryable = error.retryable
        self.retry_in_seconds = retry_in_seconds


class _ResultsAsJson(Mapping[str, Any]):
    """Results by node id, dumped to JSON values only where they are read."""

    def __init__(self, results: Mapping[str, Contract]) -> None:
        self._results = results

    def __getitem__(self, node_id: str) -> Any:
        return self._results[node_id].model_dump(mode="json")

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)


def _is_done(attempt: AttemptRecord) -> bool:
    return attempt.status is StageStatus.SKIPPED or bool(attempt.output_ref)
