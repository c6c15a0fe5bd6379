"""How a definition's graph looks: lanes for branches in text, and the same as Mermaid."""

from __future__ import annotations

from typing import Any

import pytest

from flows.samples import sample_names, sample_text
from orchestration.graph import decode_definition, parse_definition
from orchestration.graph.drawing import draw, mermaid
from tasks.kinds import KINDS, validate_definition

BRANCHES: dict[str, Any] = {
    "nodes": [
        {"id": "ingest", "type": "ingest", "next": ["host", "web", "db"]},
        {"id": "host", "type": "context", "next": "analyze"},
        {"id": "web", "type": "context", "required": False, "next": "worse"},
        {"id": "db", "type": "context", "next": ["analyze", "pick"]},
        {"id": "pick", "type": "transform", "config": {"source_node": "db"}, "next": "page"},
        {
            "id": "worse",
            "type": "condition",
            "config": {"expression": "web.checks_failed > 0", "if_true": "analyze", "if_false": "page"},
        },
        {"id": "analyze", "type": "intelligence", "skip_if_errors": ["host"], "next": "page"},
        {"id": "page", "type": "notify"},
    ]
}


def test_branches_and_joins_are_lanes() -> None:
    assert draw(parse_definition(BRANCHES, KINDS.by_type)) == [
        "●          ingest   ingest",
        "├─┬─╮",
        "● │ │      host     context",
        "│ ● │      web      context, optional",
        "│ │ ●      db       context",
        "│ │ ├─╮",
        "│ │ │ ●    pick     transform",
        "│ ● │ │    worse    condition: web.checks_failed > 0",
        "│ ├─│─│─╮",
        "├─┴─╯ │ │",
        "●     │ │  analyze  intelligence, if worse holds, not if host has errors",
        "├─────┴─╯",
        "●          page     notify, if worse does not hold",
    ]


def test_a_list_without_next_is_drawn_in_its_order() -> None:
    listed = [{"id": "in", "type": "ingest"}, {"id": "b", "type": "context"}, {"id": "c", "type": "notify"}]
    with pytest.raises(Exception, match="reserved word"):  # `in` is one of the language of conditions
        parse_definition({"nodes": listed}, KINDS.by_type)
    listed[0]["id"] = "a"
    assert draw(parse_definition({"nodes": listed}, KINDS.by_type)) == ["●  a  ingest", "●  b  context", "●  c  notify"]


def test_mermaid_has_every_node_and_every_way() -> None:
    drawn = mermaid(parse_definition(BRANCHES, KINDS.by_type)).splitlines()
    assert drawn[0] == "flowchart TD"
    assert '    n6{"worse<br/>web.checks_failed #62; 0"}' in drawn
    assert "    n6 -- true --> n7" in drawn
    assert "    n6 -- false --> n8" in drawn
    assert sum("-->" in line for line in drawn) == 11
    assert drawn[-1] == "    class n3 optional"


def test_text_of_an_expression_cannot_leave_its_label() -> None:
    config = {"expression": "checks.errors == '\"] --> x'", "if_true": "page"}
    nodes = [
        {"id": "checks", "type": "context", "next": "gate"},
        {"id": "gate", "type": "condition", "config": config},
        {"id": "page", "type": "notify"},
    ]
    (line,) = [
        line for line in mermaid(parse_definition({"nodes": nodes}, KINDS.by_type)).splitlines() if "gate" in line
    ]
    assert line.count('"') == 2
    assert ">" not in line.replace("<br/>", "")


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("local-monitor", ["checks", "notify"]),
        ("external-alerts", ["ingest", "checks", "analyze", "notify"]),
        ("central-hub", ["ingest", "analyze", "notify"]),
        ("health-checked", ["ingest", "checks", "notify"]),
    ],
)
def test_the_samples_are_what_their_names_say(name: str, ids: list[str]) -> None:
    definition = validate_definition(decode_definition(sample_text(name)))
    assert name in sample_names()
    assert definition.name == name
    assert [node.id for node in definition.nodes] == ids
