"""The graph of a definition: what runs after what. Pure; of an impossible definition it says why it is impossible."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from pydantic import ValidationError

from orchestration.graph.model import CONDITION, ConditionConfig, Definition, NodeDefinition


@dataclass(frozen=True)
class Edge:
    """`target` comes after `source`; after a condition, only if it came out as `branch` says."""

    source: str
    target: str
    branch: bool | None = None


class Graph:
    """What follows what. The run begins at the first node of the list; without any `next`, the list is the order.

    References to nodes that are not there are left out of it.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.nodes: dict[str, NodeDefinition] = {}
        for node in definition.nodes:
            self.nodes.setdefault(node.id, node)
        known = self.nodes.keys()
        self.edges: tuple[Edge, ...] = tuple(
            dict.fromkeys(edge for edge in _edges(list(self.nodes.values())) if edge.target in known)
        )
        self._before: dict[str, list[str]] = {node_id: [] for node_id in known}
        self._after: dict[str, list[str]] = {node_id: [] for node_id in known}
        for edge in self.edges:
            if edge.source not in self._before[edge.target]:
                self._before[edge.target].append(edge.source)
                self._after[edge.source].append(edge.target)

    @property
    def entry(self) -> str:
        """Where the run begins."""
        return next(iter(self.nodes))

    def predecessors(self, node_id: str) -> Sequence[str]:
        """The nodes right before this one."""
        return self._before[node_id]

    def successors(self, node_id: str) -> Sequence[str]:
        """The nodes right after this one."""
        return self._after[node_id]

    def incoming(self, node_id: str) -> list[Edge]:
        """The ways to this node."""
        return [edge for edge in self.edges if edge.target == node_id]

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All nodes, each after those before it, and otherwise as in the list. Nodes of a cycle are not in it."""
        place = {node_id: index for index, node_id in enumerate(self.nodes)}
        sorter = graphlib.TopologicalSorter(self._before)
        with suppress(graphlib.CycleError):
            sorter.prepare()
        ready: list[tuple[int, str]] = []
        order: list[str] = []
        while sorter.is_active():
            for node_id in sorter.get_ready():
                heapq.heappush(ready, (place[node_id], node_id))
            _, node_id = heapq.heappop(ready)
            order.append(node_id)
            sorter.done(node_id)
        return tuple(order)

    @cached_property
    def _ancestors(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for node_id in self.order:
            before = self._before[node_id]
            found[node_id] = frozenset(before).union(*(found[one] for one in before))
        return found

    def ancestors(self, node_id: str) -> frozenset[str]:
        """All nodes that are through, or left out, before this one begins."""
        return self._ancestors.get(node_id, frozenset())

    def ancestors_in_order(self, node_id: str) -> list[str]:
        """The same, in the order of the run."""
        before = self.ancestors(node_id)
        return [one for one in self.order if one in before]

    @cached_property
    def cycle(self) -> tuple[str, ...]:
        """A way that leads back to where it began, such as a, b, a; empty if there is none."""
        try:
            graphlib.TopologicalSorter(self._before).prepare()
        except graphlib.CycleError as error:
            return tuple(cast("list[str]", error.args[1]))
        return ()

    @cached_property
    def unreachable(self) -> tuple[str, ...]:
        """The nodes to which no way leads from the first one."""
        reached, waiting = {self.entry}, [self.entry]
        while waiting:
            for after in self._after[waiting.pop()]:
                if after not in reached:
                    reached.add(after)
                    waiting.append(after)
        return tuple(node_id for node_id in self.nodes if node_id not in reached)


def condition_of(node: NodeDefinition) -> ConditionConfig | None:
    """The config of a condition, if it is one that can be read."""
    if node.type != CONDITION:
        return None
    try:
        return ConditionConfig.model_validate(node.config)
    except ValidationError:
        return None


def _edges(nodes: Sequence[NodeDefinition]) -> Iterator[Edge]:
    conditions = {node.id: condition_of(node) for node in nodes}
    explicit = any(node.next for node in nodes) or any(
        config and (config.if_true or config.if_false) for config in conditions.values()
    )
    for index, node in enumerate(nodes):
        listed = () if explicit or index + 1 == len(nodes) else (nodes[index + 1].id,)
        after = node.next or listed
        if node.type != CONDITION:
            yield from (Edge(node.id, target) for target in after)
            continue
        config = conditions[node.id]
        yield from (Edge(node.id, target, True) for target in ((config and config.if_true) or after))
        yield from (Edge(node.id, target, False) for target in (config.if_false if config else ()))
