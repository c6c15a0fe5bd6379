"""From what a run is asked to what it executes: the linear pipeline, a stored definition, or one of its own."""

from __future__ import annotations

from collections.abc import Iterator

from orchestration.contracts import Stage
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
from orchestration.redaction import redact_text, shown
from orchestration.requests import RunOptions
from orchestration.signals import logger

INLINE = "inline"
"""The name of a definition that has none, such as one from a file."""


async def plan_for(
    options: RunOptions, definitions: DefinitionSource | None, kinds: NodeKinds, *, version: int | None = None
) -> Plan:
    """The plan for a run with these options. `version` is the one that the run has begun with.

    A definition that the policy's route names, and that cannot be executed, stops no page: the plan is the linear
    pipeline, and its note says why.

    Raises:
        BadInput: there is no such definition, or it is broken; another try changes nothing.
        Unavailable: the place where definitions are kept does not answer.
    """
    if options.definition_config is not None:
        definition = validate_definition(options.definition_config, kinds)
        return Plan(definition, kinds, name=options.definition or INLINE)
    if options.definition is None:
        return kinds.linear_plan
    if not options.routed:
        return await _stored_plan(options.definition, definitions, kinds, version)
    try:
        plan = await _stored_plan(options.definition, definitions, kinds, version)
        if begins_with_ingest(plan):
            return plan
        why = "it does not begin with ingest, so its alerts would not be recorded"
    except BadInput as error:
        why = redact_text(str(error))
    note = f"the policy names the definition {shown(options.definition)}, and the linear pipeline ran instead: {why}"
    logger.error("%s", note)
    return Plan(kinds.linear, kinds, note=note)


async def _stored_plan(name: str, definitions: DefinitionSource | None, kinds: NodeKinds, version: int | None) -> Plan:
    if definitions is None:
        raise BadInput(f"There are no stored definitions here: {name!r} cannot be executed")
    stored = await definitions.load(name, version)
    definition = validate_definition(stored.config, kinds)
    return Plan(definition, kinds, name=stored.name, version=stored.version, note=stored.note)


def begins_with_ingest(plan: Plan) -> bool:
    """Whether nothing comes before ingest, and nothing can leave it out."""
    return any(
        step.node.stage is Stage.INGEST
        and not step.before
        and not step.definition.skip_if_errors
        and step.definition.skip_if_condition is None
        for step in plan.steps.values()
    )


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
