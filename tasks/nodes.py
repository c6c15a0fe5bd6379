"""The nodes of a definition as steps that can be tried: what each type takes as config, and what it is told.

A node hears of the nodes before it, and of no others: of all checks, of the last analysis, of every transform.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue

from orchestration.contracts import Contract, Stage
from orchestration.graph import (
    ConditionConfig,
    Expression,
    Graph,
    NodeDefinition,
    NodeType,
    TransformConfig,
)
from orchestration.store.records import Node
from tasks.analyze.local import LocalAnalysis
from tasks.analyze.stage import AnalysisProvider, AnalyzeConfig, analyze, case_of
from tasks.check.stage import CheckConfig, check
from tasks.condition.stage import ConditionSetup, condition
from tasks.ingest.stage import IngestConfig, ingest
from tasks.notify.stage import NotifyConfig, notify, subject_of
from tasks.run import ActiveRun
from tasks.stage import StageFunction, StageSpec, Step
from tasks.transform.stage import TransformSetup, transform
from tasks.values import source_of, value_of

PROVIDERS: Mapping[str, Callable[[], AnalysisProvider]] = {"local": LocalAnalysis}
"""Who can be asked for an analysis, by name."""

_Name = Annotated[str, Field(min_length=1, max_length=100)]


class NodeConfig(Contract):
    """The config of a node."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class IngestNode(NodeConfig):
    """Ingest takes what the run was started with, and needs no config."""


class ContextNode(NodeConfig):
    """Which checkers look, and how; without names those of the run, else those of the settings."""

    checker_names: list[_Name] | None = None
    checker_configs: dict[str, dict[str, JsonValue]] = Field(default_factory=dict[str, dict[str, JsonValue]])


class IntelligenceNode(NodeConfig):
    """Who analyses; None: who analyses for the linear pipeline."""

    provider: str | None = None


class NotifyNode(NodeConfig):
    """Where the message goes: names of channels, or drivers; without any, where the run says, else the default."""

    driver: _Name | None = None
    channel: _Name | None = None
    channels: list[_Name] = Field(default_factory=list[str], max_length=50)

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(name for name in (*self.channels, self.channel, self.driver) if name))


CONFIGS: Mapping[NodeType, type[Contract]] = {
    NodeType.INGEST: IngestNode,
    NodeType.CONTEXT: ContextNode,
    NodeType.INTELLIGENCE: IntelligenceNode,
    NodeType.NOTIFY: NotifyNode,
    NodeType.TRANSFORM: TransformConfig,
    NodeType.CONDITION: ConditionConfig,
}
"""What each type of node takes as config."""


def steps_of(graph: Graph) -> dict[str, Step]:
    """Every node of a definition that is valid, ready to be tried, by its id."""
    defaults = graph.definition.defaults
    return {
        node.id: Step(
            node=Node(id=node.id, stage=node.stage),
            spec=_spec(node, tuple(graph.ancestors_in_order(node.id))),
            max_retries=defaults.max_retries if node.max_retries is None else node.max_retries,
            timeout_seconds=node.timeout_seconds or defaults.timeout_seconds,
            before=tuple(graph.ancestors_in_order(node.id)),
        )
        for node in graph.nodes.values()
    }


Before = tuple[str, ...]
_Configure = Callable[[ActiveRun], Awaitable[Any]]


def _spec(node: NodeDefinition, before: Before) -> StageSpec[Any, Any]:
    function, configure = _MAKERS[node.type]
    return StageSpec(stage=node.stage, function=function, configure=configure(node, before))


def _ingest(_node: NodeDefinition, _before: Before) -> _Configure:
    async def configure(run: ActiveRun) -> IngestConfig:
        return IngestConfig(database=run.services.database)

    return configure


def _context(node: NodeDefinition, _before: Before) -> _Configure:
    own = ContextNode.model_validate(node.config)

    async def configure(run: ActiveRun) -> CheckConfig:
        asked = run.record.options
        return CheckConfig.from_settings(
            run.services.settings,
            names=asked.checker_names if own.checker_names is None else own.checker_names,
            configs={**asked.checker_configs, **own.checker_configs},
        )

    return configure


def _intelligence(node: NodeDefinition, before: Before) -> _Configure:
    own = IntelligenceNode.model_validate(node.config)

    async def configure(run: ActiveRun) -> AnalyzeConfig:
        usual = run.services.analysis
        provider = usual if own.provider in (None, usual.name) else PROVIDERS[own.provider]()
        return AnalyzeConfig(provider=provider, case=await case_of(run, before))

    return configure


def _notify(node: NodeDefinition, before: Before) -> _Configure:
    own = NotifyNode.model_validate(node.config)
    place = Node(id=node.id, stage=Stage.NOTIFY)

    async def configure(run: ActiveRun) -> NotifyConfig:
        names = own.names or [run.record.options.notify_driver]
        chosen = [named for name in names for named in await run.services.channels.select(name)]
        return NotifyConfig(
            database=run.services.database,
            channels=list({named.name: named for named in chosen}.values()),
            subject=await subject_of(run, place, before),
        )

    return configure


def _transform(node: NodeDefinition, _before: Before) -> _Configure:
    own = TransformConfig.model_validate(node.config)

    async def configure(run: ActiveRun) -> TransformSetup:
        return TransformSetup(source=source_of(run, own.source_node), config=own)

    return configure


def _condition(node: NodeDefinition, _before: Before) -> _Configure:
    expression = Expression.parse(ConditionConfig.model_validate(node.config).expression)

    async def configure(run: ActiveRun) -> ConditionSetup:
        values = {reference: value_of(run, reference) for reference in expression.references}
        return ConditionSetup(expression=expression, values=values)

    return configure


_MAKERS: Mapping[NodeType, tuple[StageFunction[Any, Any], Callable[[NodeDefinition, Before], _Configure]]] = {
    NodeType.INGEST: (ingest, _ingest),
    NodeType.CONTEXT: (check, _context),
    NodeType.INTELLIGENCE: (analyze, _intelligence),
    NodeType.NOTIFY: (notify, _notify),
    NodeType.TRANSFORM: (transform, _transform),
    NodeType.CONDITION: (condition, _condition),
}
"""What each type of node runs, and what sets it up for a run."""
