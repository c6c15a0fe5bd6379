"""From what a run is asked to what it executes: the linear pipeline, a stored definition, or one of its own."""

from __future__ import annotations

from collections.abc import Iterator

from orchestration.engine.run import NodeKinds, Plan
from orchestration.errors import BadInput
from orchestration.graph import (
    BadDefinition,
    Definition,
    DefinitionProblem,
    DefinitionSource,
    NodeDefinition,
    config_problems,
    parse_definition,
)
from orchestration.requests import RunOptions

INLINE = "inline"
"""The name of a definition that has none, such as one from a file."""


async def plan_for(
    options: RunOptions, definitions: DefinitionSource | None, kinds: NodeKinds, *, version: int | None = None
) -> Plan:
    """The plan for a run with these options. `version` is the one that the run has begun with.

    Raises:
        BadInput: there is no such definition, or it is broken; another try changes nothing.
        Unavailable: the place where definitions are kept does not answer.
    """
    if options.definition_config is not None:
        definition = validate_definition(options.definition_config, kinds)
        return Plan(definition, kinds, name=options.definition or INLINE)
    if options.definition is None:
        return Plan(kinds.linear, kinds)
    if definitions is None:
        raise BadInput(f"There are no stored definitions here: {options.definition!r} cannot be executed")
    stored = await definitions.load(options.definition, version)
    definition = validate_definition(stored.config, kinds)
    return Plan(definition, kinds, name=stored.name, version=stored.version, note=stored.note)


def validate_definition(raw: object, kinds: NodeKinds) -> Definition:
    """The definition in a value, if its graph and each of its nodes can be executed.

    Raises:
        BadDefinition: all that is wrong with its graph and with the configs of its nodes.
    """
    problems: list[DefinitionProblem] = []
    try:
        definition = parse_definition(raw, kinds.by_type)
    except BadDefinition as error:
        problems += error.problems
        definition = error.readable
    if definition is not None:
        problems += [problem for node in definition.nodes for problem in _node_problems(node, kinds)]
    if problems or definition is None:
        raise BadDefinition(list(dict.fromkeys(problems)))
    return definition


def _node_problems(node: NodeDefinition, kinds: NodeKinds) -> Iterator[DefinitionProblem]:
    kind = kinds.by_type[node.type]
    if wrong := config_problems(node, kind.config):
        yield from wrong
    elif kind.problems is not None:
        yield from kind.problems(node)
