"""Definitions that cannot be run, each with the node and the field that its error must name, and what it must say.

One table for every way in: the parser, the command line, HTTP, and a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Broken:
    """One mistake. `node` is None where it is one of the definition as a whole."""

    name: str
    raw: object
    node: str | None
    field: str
    says: str


def node(node_id: object, node_type: object = "context", /, **more: Any) -> dict[str, Any]:
    """A node, as a file has it."""
    return {"id": node_id, "type": node_type, **more}


def nodes(*listed: object, **more: Any) -> dict[str, Any]:
    """A definition, as a file has it."""
    return {"nodes": list(listed), **more}


def condition(expression: object, **more: Any) -> dict[str, Any]:
    """A definition whose condition `gate` looks at the checks before it."""
    return nodes(
        node("checks"), node("gate", "condition", config={"expression": expression, **more}), node("page", "notify")
    )


def transform(**config: Any) -> dict[str, Any]:
    """A definition whose transform `pick` comes after checks."""
    return nodes(node("checks"), node("pick", "transform", config={"source_node": "checks", **config}))


def checks(**config: Any) -> dict[str, Any]:
    """A definition of one context node with this config."""
    return nodes(node("checks", config=config))


def deep(levels: int) -> object:
    """Lists in lists."""
    value: object = "bottom"
    for _ in range(levels):
        value = [value]
    return value


BROKEN = [
    # The definition as a whole
    Broken("no object", [], None, "definition", "expected an object"),
    Broken("no nodes", {}, None, "nodes", "is missing"),
    Broken("empty nodes", nodes(), None, "nodes", "at least one node"),
    Broken("nodes that are no list", {"nodes": {"a": {}}}, None, "nodes", "expected a list"),
    Broken("unknown field", nodes(node("a"), steps=[]), None, "steps", "no such field"),
    Broken("wrong defaults", nodes(node("a"), defaults={"max_retries": -1}), None, "defaults.max_retries", "-1"),
    Broken("no time at all", nodes(node("a"), defaults={"timeout_seconds": 0}), None, "defaults.timeout_seconds", "0"),
    Broken("unknown default", nodes(node("a"), defaults={"retries": 1}), None, "defaults.retries", "no such field"),
    Broken("too many nodes", nodes(*(node(f"n{n}") for n in range(201))), None, "nodes", "at most 200"),
    Broken("too deep", nodes(node("a", config={"x": deep(40)})), None, "definition", "deeper than 16"),
    Broken("too large", nodes(node("a", config={"x": "y" * 300_000})), None, "definition", "too large"),
    Broken("a zero byte", nodes(node("a", config={"x": "a\0b"})), None, "definition", "cannot be kept"),
    # Nodes
    Broken("a node that is a text", nodes(node("a"), "checks"), "nodes[1]", "node", "expected an object"),
    Broken("no id", nodes({"type": "context"}), "nodes[0]", "id", "is missing"),
    Broken("a number as id", nodes(node(7)), "nodes[0]", "id", "7"),
    Broken("an id with a slash", nodes(node("a/b")), "a/b", "id", "expected a letter"),
    Broken("a long id", nodes(node("a" * 64)), "a" * 64, "id", "expected a letter"),
    Broken("a reserved id", nodes(node("payload")), "payload", "id", "reserved"),
    Broken("an id that is a word of expressions", nodes(node("and")), "and", "id", "reserved"),
    Broken("an id twice", nodes(node("a"), node("b"), node("a")), "a", "id", "earlier node too"),
    Broken("no type", nodes({"id": "a"}), "a", "type", "is missing"),
    Broken("unknown type", nodes(node("a", "shell")), "a", "type", "no type of node 'shell'"),
    Broken("unknown node field", nodes(node("a", retries=3)), "a", "retries", "no such field"),
    Broken("required as a text", nodes(node("a", required="yes")), "a", "required", "'yes'"),
    Broken("config as a list", nodes(node("a", config=[])), "a", "config", "object with fields"),
    Broken("too many retries", nodes(node("a", max_retries=21)), "a", "max_retries", "21"),
    Broken("two ingests", nodes(node("in1", "ingest"), node("in2", "ingest")), "in2", "type", "'in1' ingests already"),
    # What follows what
    Broken("next to nowhere", nodes(node("a", next="b"), node("c")), "a", "next", "no node 'b'"),
    Broken("next as a number", nodes(node("a", next=1)), "a", "next", "expected the id"),
    Broken("next twice", nodes(node("a", next=["b", "b"]), node("b")), "a", "next", "twice"),
    Broken("a circle", nodes(node("a", next="b"), node("b", next="c"), node("c", next="b")), "b", "next", "b → c → b"),
    Broken("a node after itself", nodes(node("a", next="a")), "a", "next", "a → a"),
    Broken("unreachable", nodes(node("a", next="b"), node("b"), node("c")), "c", "next", "no way leads here"),
    # Rules
    Broken("errors of nobody", nodes(node("a"), node("b", skip_if_errors=["x"])), "b", "skip_if_errors", "no node 'x'"),
    Broken(
        "errors of a later node",
        nodes(node("a", skip_if_errors="b"), node("b")),
        "a",
        "skip_if_errors",
        "does not come before",
    ),
    Broken(
        "errors of a node beside",
        nodes(node("a", next=["b", "c"]), node("b"), node("c", skip_if_errors=["b"])),
        "c",
        "skip_if_errors",
        "does not come before",
    ),
    Broken("errors as a number", nodes(node("a", skip_if_errors=1)), "a", "skip_if_errors", "expected true"),
    Broken(
        "a rule that is no expression",
        nodes(node("a"), node("b", skip_if_condition="a.has_errors and")),
        "b",
        "skip_if_condition",
        "no expression",
    ),
    # Conditions
    Broken("no expression", nodes(node("a"), node("g", "condition")), "g", "config.expression", "is missing"),
    Broken("an empty expression", condition(" "), "gate", "config.expression", "is empty"),
    Broken("an expression that calls", condition("open('/etc/passwd')"), "gate", "config.expression", "Call"),
    Broken("an expression that computes", condition("checks.checks_run * 9 > 1"), "gate", "config.expression", "BinOp"),
    Broken("an expression that indexes", condition("checks.checks[0] == 1"), "gate", "config.expression", "Subscript"),
    Broken("a long expression", condition("checks.has_errors or " * 30), "gate", "config.expression", "at most 500"),
    Broken("nested brackets", condition("(" * 400), "gate", "config.expression", "no expression"),
    Broken("a node without a field", condition("checks"), "gate", "config.expression", "alone says nothing"),
    Broken("an unknown node", condition("cheks.has_errors"), "gate", "config.expression", "no node 'cheks'"),
    Broken("a later node", condition("page.has_errors"), "gate", "config.expression", "does not come before"),
    Broken("an unknown field", condition("checks.failed > 0"), "gate", "config.expression", "no 'checks.failed'"),
    Broken("a private attribute", condition("checks.__class__ == 1"), "gate", "config.expression", "__class__"),
    Broken("an unknown fact", condition("run.password == 'x'"), "gate", "config.expression", "no 'run.password'"),
    Broken(
        "a branch to nowhere",
        condition("checks.has_errors", if_false="x"),
        "gate",
        "config.if_false",
        "no node 'x'",
    ),
    Broken(
        "what follows named twice",
        nodes(
            node("a", next="g"),
            node("g", "condition", next="b", config={"expression": "a.has_errors", "if_true": "b"}),
            node("b", "notify"),
        ),
        "g",
        "next",
        "name what follows once",
    ),
    Broken(
        "a condition at the end",
        nodes(node("a"), node("g", "condition", config={"expression": "a.has_errors"})),
        "g",
        "config.if_true",
        "decides nothing",
    ),
    # Transforms
    Broken("no source", nodes(node("t", "transform")), "t", "config.source_node", "is missing"),
    Broken("an unknown source", transform(source_node="x"), "pick", "config.source_node", "no node 'x'"),
    Broken("itself as source", transform(source_node="pick"), "pick", "config.source_node", "does not come before"),
    Broken("a wrong priority", transform(filter_priority="urgent"), "pick", "config.filter_priority", "high, medium"),
    Broken("a mapping of numbers", transform(mapping={"a": 1}), "pick", "config.mapping.a", "a text"),
    Broken("an unknown option", transform(template="{{ 7 * 7 }}"), "pick", "config.template", "no such field"),
    # The other types
    Broken("config for ingest", nodes(node("in1", "ingest", config={"x": 1})), "in1", "config.x", "no such field"),
    Broken("an unknown checker", checks(checker_names=["weather"]), "checks", "config.checker_names", "'weather'"),
    Broken("names as a text", checks(checker_names="cpu"), "checks", "config.checker_names", "list"),
    Broken(
        "an unknown option of a checker",
        checks(checker_configs={"disk": {"path": "/"}}),
        "checks",
        "config.checker_configs.disk",
        "unknown option 'path'",
    ),
    Broken(
        "an unknown provider",
        nodes(node("ai", "intelligence", config={"provider": "oracle"})),
        "ai",
        "config.provider",
        "no provider 'oracle'",
    ),
    Broken("an unknown option of notify", nodes(node("n", "notify", config={"to": "x"})), "n", "config.to", "no such"),
    Broken("an empty driver", nodes(node("n", "notify", config={"driver": ""})), "n", "config.driver", "at least 1"),
]
