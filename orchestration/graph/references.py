"""What only the whole definition shows: ids given twice, ways that lead nowhere or in a circle, unknown references."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pydantic import ValidationError

from orchestration.graph.expression import FACTS, BadExpression, Expression, Reference
from orchestration.graph.model import ConditionConfig, Definition, NodeConfig, NodeDefinition, NodeTypes
from orchestration.graph.problems import DefinitionProblem
from orchestration.graph.shape import Graph
from orchestration.problems import explain, path_of
from orchestration.redaction import shown

RUN_FACTS = ("environment", "labels", "severity", "source", "title")
"""What an expression may ask of the run itself, as `run.severity`."""

PAYLOAD, RUN = "payload", "run"


def find_problems(
    definition: Definition, types: NodeTypes, *, vague: Collection[str] = ()
) -> Iterator[DefinitionProblem]:
    """Everything that keeps the graph of a definition from being run, in the order of its nodes.

    Of `vague` nodes only the id and what follows them is known, not what they are.
    """
    seen: set[str] = set()
    for node in definition.nodes:
        if node.id in seen:
            yield _of(node, "id", f"{shown(node.id)} is the id of an earlier node too: each node needs its own")
        seen.add(node.id)
    for node_type in (one for one in types.values() if one.once):
        same = [node for node in definition.nodes if node.type == node_type.name]
        for node in same[1:]:
            yield _of(node, "type", f"node {shown(same[0].id)} {node_type.name}s already: there can be only one")
    graph = Graph(definition)
    for node in definition.nodes:
        yield from _Checked(graph, node, types, vague).problems()
    if graph.cycle:
        path = " → ".join(graph.cycle)
        yield DefinitionProblem(node=graph.cycle[0], field="next", message=f"leads in a circle: {path}")
    for node_id in graph.unreachable:
        if node_id not in graph.cycle:
            first = f"{shown(graph.entry)}, the first node"
            message = f"no way leads here from {first}: name it in the next of an earlier one"
            yield DefinitionProblem(node=node_id, field="next", message=message)


def config_problems(node: NodeDefinition, config: type[NodeConfig]) -> list[DefinitionProblem]:
    """What is wrong with a node's config, as its type has it."""
    try:
        config.model_validate(node.config)
    except ValidationError as error:
        known = sorted(config.model_fields)
        return [
            _of(node, path_of(("config", *one["loc"])), explain(one, known=known))
            for one in error.errors(include_url=False)
        ]
    return []


class _Checked:
    """One node, looked at within its graph."""

    def __init__(self, graph: Graph, node: NodeDefinition, types: NodeTypes, vague: Collection[str]) -> None:
        self._graph = graph
        self._node = node
        self._types = types
        self._vague = vague

    def problems(self) -> Iterator[DefinitionProblem]:
        node = self._node
        yield from self._targets("next", node.next)
        if not isinstance(node.skip_if_errors, bool):
            for name in node.skip_if_errors:
                yield from self._earlier("skip_if_errors", name)
        if node.skip_if_condition is not None:
            yield from self._expression("skip_if_condition", node.skip_if_condition)
        if node.id in self._vague:
            return
        kind = self._types[node.type]
        # The other types' configs are checked where their nodes are made; a mistake here would be named twice.
        names_nodes = kind.config.sources is not NodeConfig.sources
        if kind.config is not ConditionConfig and not names_nodes:
            return
        wrong = config_problems(node, kind.config)
        yield from wrong
        if wrong:
            return
        config = kind.config.model_validate(node.config)
        if isinstance(config, ConditionConfig):
            yield from self._condition(config)
        for field, source in config.sources().items():
            if source != PAYLOAD:
                yield from self._earlier(f"config.{field}", source)

    def _condition(self, config: ConditionConfig) -> Iterator[DefinitionProblem]:
        yield from self._expression("config.expression", config.expression)
        yield from self._targets("config.if_true", config.if_true)
        yield from self._targets("config.if_false", config.if_false)
        if config.if_true and self._node.next:
            yield _of(self._node, "next", "says the same as config.if_true, which is there too: name what follows once")
        if not self._graph.successors(self._node.id) and not (config.if_true or config.if_false or self._node.next):
            yield _of(self._node, "config.if_true", "nothing follows this condition, so it decides nothing")

    def _targets(self, field: str, names: tuple[str, ...]) -> Iterator[DefinitionProblem]:
        for name in names:
            if name not in self._graph.nodes:
                yield self._unknown(field, name)

    def _unknown(self, field: str, name: str) -> DefinitionProblem:
        return _of(
            self._node, field, f"there is no node {shown(name)} (known: {', '.join(list(self._graph.nodes)[:20])})"
        )

    def _earlier(self, field: str, name: str) -> Iterator[DefinitionProblem]:
        if name not in self._graph.nodes:
            yield self._unknown(field, name)
        elif self._graph.cycle:
            return  # what comes before what is not known
        elif name not in self._graph.ancestors(self._node.id):
            yield _of(
                self._node, field, f"node {shown(name)} does not come before this one: only earlier nodes are known"
            )

    def _expression(self, field: str, text: str) -> Iterator[DefinitionProblem]:
        try:
            expression = Expression.parse(text)
        except BadExpression as error:
            yield _of(self._node, field, str(error))
            return
        for reference in expression.references:
            yield from self._reference(field, reference)

    def _reference(self, field: str, reference: Reference) -> Iterator[DefinitionProblem]:
        if reference.node == PAYLOAD:
            return
        if reference.node == RUN:
            if reference.path[0] not in RUN_FACTS:
                yield self._no_field(field, reference, RUN_FACTS)
            return
        wrong = list(self._earlier(field, reference.node))
        yield from wrong
        if wrong or reference.node in self._vague:
            return
        result = self._types[self._graph.nodes[reference.node].type].result
        fields = (*sorted(result.model_fields), *sorted(FACTS))
        if reference.path[0] not in fields:
            yield self._no_field(field, reference, fields)

    def _no_field(self, field: str, reference: Reference, known: tuple[str, ...]) -> DefinitionProblem:
        message = f"there is no {shown(str(reference))}: {reference.node} has {', '.join(known)}"
        return _of(self._node, field, message)


def _of(node: NodeDefinition, field: str, message: str) -> DefinitionProblem:
    return DefinitionProblem(node=node.id, field=field, message=message)
