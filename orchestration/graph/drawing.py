"""Draws the graph of a definition: as text, with a lane for each branch, and as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestration.graph.model import CONDITION, Definition, NodeDefinition
from orchestration.graph.shape import Edge, Graph, condition_of

_MERMAID_SHAPES = {CONDITION: ("{", "}"), "transform": ("[/", "/]"), "notify": ("([", "])")}


def draw(definition: Definition) -> list[str]:
    """The graph as lines of text. Each node is below the nodes that it follows; `├─╮` is a branch, `├─╯` a join."""
    graph = Graph(definition)
    rows = list(_Lanes(graph).rows())
    width = max(len(lanes) for lanes, _ in rows)
    ids = max(len(node_id) for node_id in graph.nodes)
    return [
        lanes if node is None else f"{lanes:<{width}}  {node.id:<{ids}}  {described(node, graph)}".rstrip()
        for lanes, node in rows
    ]


def described(node: NodeDefinition, graph: Graph) -> str:
    """The type of a node and the conditions under which it runs, as one line."""
    words = [node.type]
    if (condition := condition_of(node)) is not None:
        words = [f"{node.type}: {condition.expression}"]
    words += [
        f"if {edge.source} {'holds' if edge.branch else 'does not hold'}"
        for edge in graph.incoming(node.id)
        if edge.branch is not None
    ]
    if not node.required:
        words.append("optional")
    if node.skip_if_errors:
        names = "a node before it" if node.skip_if_errors is True else " or ".join(node.skip_if_errors)
        words.append(f"not if {names} has errors")
    if node.skip_if_condition is not None:
        words.append(f"not if {node.skip_if_condition}")
    return ", ".join(words)


class _Lanes:
    """The lanes of a drawing, from left to right. A lane holds the id of the node that its edge leads to, or None."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._lanes: list[str | None] = []

    def rows(self) -> Iterator[tuple[str, NodeDefinition | None]]:
        for node_id in self._graph.order:
            arriving = [lane for lane, target in enumerate(self._lanes) if target == node_id]
            own = arriving[0] if arriving else self._free_lane(0)
            if joining := arriving[1:]:
                yield self._across(own, joining, "┴", "╯"), None
                for lane in joining:
                    self._lanes[lane] = None
            self._lanes[own] = node_id
            yield self._row(own), self._graph.nodes[node_id]
            after = self._graph.successors(node_id)
            self._lanes[own] = after[0] if after else None
            leaving: list[int] = []
            for target in after[1:]:
                leaving.append(self._free_lane(own + 1))
                self._lanes[leaving[-1]] = target
            if leaving:
                yield self._across(own, sorted(leaving), "┬", "╮"), None
            while self._lanes and self._lanes[-1] is None:
                self._lanes.pop()

    def _free_lane(self, first: int) -> int:
        if None in self._lanes[first:]:
            return self._lanes.index(None, first)
        self._lanes.append(None)
        return len(self._lanes) - 1

    def _row(self, own: int) -> str:
        return " ".join(
            "●" if lane == own else " " if target is None else "│" for lane, target in enumerate(self._lanes)
        ).rstrip()

    def _across(self, own: int, others: Sequence[int], middle: str, end: str) -> str:
        """A line from one lane to lanes at its right, across the lanes between them."""
        row = ""
        for lane, target in enumerate(self._lanes):
            within = own <= lane < others[-1]
            if lane == own:
                mark = "├"
            elif lane in others:
                mark = end if lane == others[-1] else middle
            elif target is not None:
                mark = "│"
            else:
                mark = "─" if within else " "
            row += mark + ("─" if within else " ")
        return row.rstrip()


def mermaid(definition: Definition) -> str:
    """The graph as a Mermaid flowchart, for documentation and pull requests."""
    graph = Graph(definition)
    names = {node_id: f"n{number}" for number, node_id in enumerate(graph.order, 1)}
    lines = ["flowchart TD"]
    for node_id in graph.order:
        node = graph.nodes[node_id]
        opening, closing = _MERMAID_SHAPES.get(node.type, ("[", "]"))
        condition = condition_of(node)
        what = condition.expression if condition else node.type
        lines.append(f'    {names[node_id]}{opening}"{_label(node_id)}<br/>{_label(what)}"{closing}')
    lines += [f"    {names[edge.source]} {_arrow(edge)} {names[edge.target]}" for edge in graph.edges]
    optional = [names[node_id] for node_id in graph.order if not graph.nodes[node_id].required]
    if optional:
        lines += ["    classDef optional stroke-dasharray: 5 5", f"    class {','.join(optional)} optional"]
    return "\n".join(lines)


def _arrow(edge: Edge) -> str:
    return "-->" if edge.branch is None else f"-- {'true' if edge.branch else 'false'} -->"


def _label(text: str) -> str:
    """The text, escaped for a quoted label: Mermaid reads numeric entities."""
    return "".join(f"#{ord(character)};" if character in '"#<>&;`' else character for character in text)
