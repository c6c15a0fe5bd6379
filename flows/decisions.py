"""Whether a node of a run is left out, and by which rule: the first that holds decides, and its name is on record."""

from __future__ import annotations

from orchestration.alert import IncidentStatus
from orchestration.contracts import ConditionResult, IngestResult, Stage
from orchestration.graph import Edge, Expression, NodeDefinition, TransformConfig
from orchestration.requests import alerts_of
from tasks.definitions import Plan
from tasks.run import ActiveRun
from tasks.values import PAYLOAD, value_of

CHECKS_ONLY = "checks_only"
ALL_CLEAR = "resolved"
CHECKS_OFF = "checkers_skip_all"
NOT_TAKEN = "branch_not_taken"
ERRORS = "errors_in"
CONDITION = "skip_if_condition"
NO_SOURCE = "no_result_of"
NO_NOTIFY = "no_notify_node"


class Decisions:
    """The rules, for one run of one plan."""

    def __init__(self, run: ActiveRun, plan: Plan) -> None:
        self._run = run
        self._plan = plan
        self._dead: dict[str, bool] = {}

    async def reason_to_skip(self, node: NodeDefinition) -> str | None:
        """Why the node is left out, now that all before it are through; None: it is not.

        branch_not_taken: it can only be reached by the way that a condition did not take.
        (ingest's own reason): ingest came before it, and decided that nobody is told.
        checks_only: the run is about this host's health, and has no alerts to take in.
        resolved: it is an all-clear: nobody looks at hosts or asks a model.
        checkers_skip_all: the operator wants no checks.
        errors_in: a node that its skip_if_errors names has errors.
        skip_if_condition: the expression holds.
        no_result_of: what it would transform is not there.
        """
        run = self._run
        if self._is_dead(node.id):
            return f"{NOT_TAKEN}: {', '.join(edge.source for edge in self._plan.graph.incoming(node.id))}"
        if reason := self._not_told(node):
            return reason
        if node.stage is Stage.INGEST and run.record.options.checks_only:
            return CHECKS_ONLY
        if node.stage in (Stage.CHECK, Stage.ANALYZE) and await self._all_clear():
            return ALL_CLEAR
        if node.stage is Stage.CHECK and run.services.settings.checkers_skip_all:
            return CHECKS_OFF
        return self._own_rules(node)

    def reason_of_silence(self) -> str:
        """Why a run at whose end nobody was told was skipped."""
        run, graph = self._run, self._plan.graph
        for result in run.found(IngestResult, graph.order):
            if not result.tell:
                return result.reason
        silent = [node_id for node_id in graph.order if graph.nodes[node_id].stage is Stage.NOTIFY]
        if not silent:
            return NO_NOTIFY
        return next((run.skipped[one] for one in silent if one in run.skipped), f"{ERRORS}: {', '.join(silent)}")

    def _own_rules(self, node: NodeDefinition) -> str | None:
        run = self._run
        looked_at = node.skip_if_errors
        if isinstance(looked_at, bool):
            looked_at = tuple(self._plan.graph.predecessors(node.id)) if looked_at else ()
        if wrong := [one for one in looked_at if run.has_errors(one)]:
            return f"{ERRORS}: {', '.join(wrong)}"
        if node.skip_if_condition is not None and self._holds(node.skip_if_condition):
            return f"{CONDITION}: {node.skip_if_condition}"
        if node.stage is Stage.TRANSFORM:
            source = TransformConfig.model_validate(node.config).source_node
            if source != PAYLOAD and source not in run.results:
                return f"{NO_SOURCE}: {source}"
        return None

    def _holds(self, text: str) -> bool:
        return Expression.parse(text).holds(lambda reference: value_of(self._run, reference))

    def _is_dead(self, node_id: str) -> bool:
        """Whether no way that was taken leads here. All before it are through, so that it can be known for good."""
        if node_id not in self._dead:
            ways = self._plan.graph.incoming(node_id)
            self._dead[node_id] = bool(ways) and not any(self._is_taken(way) for way in ways)
        return self._dead[node_id]

    def _is_taken(self, way: Edge) -> bool:
        if self._is_dead(way.source):
            return False
        if way.branch is None:
            return True
        # A condition that was left out, or failed though it was not required, does not hold.
        result = self._run.results.get(way.source)
        return way.branch is (isinstance(result, ConditionResult) and result.holds)

    def _not_told(self, node: NodeDefinition) -> str | None:
        before = self._plan.graph.ancestors(node.id)
        for result in self._run.found(IngestResult, before):
            if not result.tell:
                return result.reason
        return None

    async def _all_clear(self) -> bool:
        """Whether the run is about a resolved incident.

        Resolved alerts alone do not say so: a run may have to tell of an incident whose page failed, part of which
        fires.
        """
        alerts = alerts_of(self._run.payload)
        if not alerts or any(alert.firing for alert in alerts):
            return False
        incident = await self._run.incident()
        return incident is None or incident.status in (IncidentStatus.RESOLVED, IncidentStatus.CLOSED)
