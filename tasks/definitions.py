"""Definitions as they are run: validated whole, found by name, and made into a plan. It knows no Prefect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from orchestration.contracts import LINEAR_STAGES, Stage
from orchestration.errors import BadInput
from orchestration.graph import (
    BadDefinition,
    Definition,
    DefinitionProblem,
    Graph,
    NodeDefinition,
    NodeType,
    StoredDefinition,
    parse_definition,
)
from orchestration.graph.references import config_problems
from orchestration.requests import RunOptions
from orchestration.store.records import RunRecord
from tasks.check.stage import CheckConfig
from tasks.nodes import CONFIGS, PROVIDERS, ContextNode, IntelligenceNode, steps_of
from tasks.stage import Step

_TYPES = {
    Stage.INGEST: NodeType.INGEST,
    Stage.CHECK: NodeType.CONTEXT,
    Stage.ANALYZE: NodeType.INTELLIGENCE,
    Stage.NOTIFY: NodeType.NOTIFY,
}

LINEAR = Definition(
    name="linear",
    description="From an alert to the person on call: ingest, check, analyze, notify.",
    nodes=tuple(NodeDefinition(id=stage.value, type=_TYPES[stage]) for stage in LINEAR_STAGES),
)
"""The pipeline that is run where no definition is named."""

INLINE = "inline"
"""What the definition of a run is called that has no name, such as one from a file."""


class DefinitionSource(Protocol):
    """Finds stored definitions."""

    async def load(self, name: str, version: int | None = None) -> StoredDefinition:
        """This version of a definition; without a number the one that is to run now.

        Raises:
            BadInput: there is no such definition or version, or it must not run.
            BadDefinition: it is broken, as somebody has edited it.
            Unavailable: the place where definitions are kept does not answer.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """A definition, ready to be run."""

    definition: Definition
    name: str | None = None
    version: int | None = None

    @cached_property
    def graph(self) -> Graph:
        """What follows what."""
        return Graph(self.definition)

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """Its nodes, by id."""
        return steps_of(self.graph)


LINEAR_PLAN = Plan(LINEAR)


def validate_definition(raw: object) -> Definition:
    """The definition in a value, if every node of it can be run.

    Raises:
        BadDefinition: all that is wrong with its graph and with the configs of its nodes.
    """
    problems: list[DefinitionProblem] = []
    try:
        definition = parse_definition(raw)
    except BadDefinition as error:
        problems += error.problems
        definition = error.readable
    if definition is not None:
        problems += [problem for node in definition.nodes for problem in _config_problems(node)]
    if problems or definition is None:
        raise BadDefinition(list(dict.fromkeys(problems)))
    return definition


async def plan_of(record: RunRecord, definitions: DefinitionSource | None) -> Plan:
    """What a run runs; once it was begun, the version that it began with. Raises what `plan_for()` does."""
    return await plan_for(record.options, definitions, version=record.definition_version)


async def plan_for(options: RunOptions, definitions: DefinitionSource | None, *, version: int | None = None) -> Plan:
    """What these options ask for: the linear pipeline, a definition of their own, or a stored one.

    Raises:
        BadInput: there is no such definition, or it is broken; another try changes nothing.
        Unavailable: the place where definitions are kept does not answer.
    """
    if options.definition_config is not None:
        return Plan(validate_definition(options.definition_config), name=options.definition or INLINE)
    if options.definition is None:
        return LINEAR_PLAN
    if definitions is None:
        raise BadInput(f"There are no stored definitions here: {options.definition!r} cannot be run")
    stored = await definitions.load(options.definition, version)
    return Plan(validate_definition(stored.config), name=stored.name, version=stored.version)


def _config_problems(node: NodeDefinition) -> Iterator[DefinitionProblem]:
    if wrong := config_problems(node, CONFIGS[node.type]):
        yield from wrong
    elif node.type is NodeType.CONTEXT:
        yield from _checker_problems(node)
    elif node.type is NodeType.INTELLIGENCE:
        provider = IntelligenceNode.model_validate(node.config).provider
        if provider is not None and provider not in PROVIDERS:
            message = f"there is no provider {provider[:80]!r} (known: {', '.join(PROVIDERS)})"
            yield DefinitionProblem(node=node.id, field="config.provider", message=message)


def _checker_problems(node: NodeDefinition) -> Iterator[DefinitionProblem]:
    config = ContextNode.model_validate(node.config)
    for name in config.checker_names or ():
        yield from _checker_problem(node, "config.checker_names", (name,), {})
    for name, options in config.checker_configs.items():
        yield from _checker_problem(node, f"config.checker_configs.{name}", (), {name: options})


def _checker_problem(
    node: NodeDefinition, field: str, names: tuple[str, ...], configs: Mapping[str, Mapping[str, object]]
) -> Iterator[DefinitionProblem]:
    try:
        CheckConfig(names=names, timeout_seconds=1.0, configs=configs)
    except BadInput as error:
        yield DefinitionProblem(node=node.id, field=field, message=str(error))
