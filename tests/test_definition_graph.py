"""What a definition says: the order of its nodes, what is wrong with a broken one, and the language of conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.errors import BadInput
from orchestration.graph import (
    BadDefinition,
    BadExpression,
    Expression,
    Graph,
    decode_definition,
    parse_definition,
)
from tasks.kinds import KINDS, LINEAR, validate_definition
from tests.broken_definitions import BROKEN, Broken, condition, node, nodes


def graph_of(*listed: dict[str, Any]) -> Graph:
    return Graph(parse_definition(nodes(*listed), KINDS.by_type))


# Order


def test_without_any_next_the_list_is_the_order():
    graph = graph_of(node("a"), node("b"), node("c"))
    assert graph.order == ("a", "b", "c")
    assert graph.predecessors("c") == ["b"]
    assert graph.ancestors("c") == {"a", "b"}


def test_branches_run_side_by_side_and_join():
    graph = graph_of(
        node("start", next=["left", "right"]),
        node("join", "notify"),
        node("left", next="join"),
        node("right", next="join"),
    )
    assert graph.order == ("start", "left", "right", "join")
    assert graph.predecessors("join") == ["left", "right"]
    assert graph.ancestors("left") == {"start"}


def test_a_condition_leads_two_ways():
    graph = graph_of(
        node("checks", next="gate"),
        node("gate", "condition", config={"expression": "checks.has_errors", "if_true": "page", "if_false": ["log"]}),
        node("page", "notify"),
        node("log", "notify"),
    )
    assert [(edge.source, edge.target, edge.branch) for edge in graph.edges] == [
        ("checks", "gate", None),
        ("gate", "page", True),
        ("gate", "log", False),
    ]


def test_in_a_list_what_follows_a_condition_is_what_it_guards():
    edges = Graph(parse_definition(condition("checks.has_errors"), KINDS.by_type)).edges
    assert [(edge.source, edge.target, edge.branch) for edge in edges][-1] == ("gate", "page", True)


def test_the_linear_pipeline_is_a_definition():
    assert Graph(LINEAR).order == ("ingest", "check", "analyze", "notify")
    assert validate_definition(LINEAR.model_dump(mode="json")) == LINEAR


@given(st.integers(2, 25).flatmap(lambda size: st.tuples(st.just(size), st.randoms(use_true_random=False))))
def test_every_order_respects_what_comes_before(drawn: tuple[int, Any]) -> None:
    """Any graph whose ways lead onward in some hidden order is accepted, and its order is one of those possible."""
    size, random = drawn
    names = [f"n{number}" for number in range(size)]
    after: dict[str, list[str]] = {name: [] for name in names}
    for number in range(1, size):
        for earlier in random.sample(range(number), k=random.randint(1, min(3, number))):
            after[names[earlier]].append(names[number])
    shuffled = [names[0], *random.sample(names[1:], k=size - 1)]
    graph = graph_of(*(node(name, next=after[name]) for name in shuffled))

    place = {name: at for at, name in enumerate(graph.order)}
    assert sorted(graph.order) == sorted(names)
    assert all(place[source] < place[target] for source, targets in after.items() for target in targets)
    for name in names:
        before = graph.predecessors(name)
        assert graph.ancestors(name) == set(before).union(*(graph.ancestors(one) for one in before))


# What is wrong


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_definition_names_the_node_and_the_field(broken: Broken) -> None:
    with pytest.raises(BadDefinition) as refused:
        validate_definition(broken.raw)
    found = [one for one in refused.value.problems if (one.node, one.field) == (broken.node, broken.field)]
    assert found, str(refused.value)
    assert any(broken.says in one.message for one in found), str(refused.value)
    assert isinstance(refused.value, BadInput)
    assert "\n" not in str(refused.value)
    assert broken.field in str(refused.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(BadDefinition) as refused:
        validate_definition(
            nodes(
                node("a", "shell", next="b"),
                node("b", next="nowhere", config={"checker_names": ["weather"]}),
                node("b2", skip_if_errors=["ghost"]),
                typo=1,
            )
        )
    assert {(one.node, one.field) for one in refused.value.problems} == {
        (None, "typo"),
        ("a", "type"),
        ("b", "next"),
        ("b", "config.checker_names"),
        ("b2", "skip_if_errors"),
        ("b2", "next"),
    }


def test_a_definition_with_very_many_problems_says_how_many_more_there_are():
    with pytest.raises(BadDefinition) as refused:
        parse_definition(nodes(*(node(f"n{number}", "shell", x=1) for number in range(60))), KINDS.by_type)
    assert len(refused.value.problems) == 50
    assert refused.value.lines[-1] == "and 70 more"


def test_a_secret_in_a_broken_definition_is_not_told():
    with pytest.raises(BadDefinition) as refused:
        validate_definition(nodes(node("n", "notify", required="password=hunter2xyzzy", type_="x")))
    assert "hunter2xyzzy" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "in line 1, column 2"),
        (b'{"\xff": 1}', "no UTF-8"),
        ('{"nodes": NaN}', "NaN"),
        ("[" * 100_000, "deeper than 16"),
        ("x" * 10_000_000, "10,000,000 bytes"),
        ('{"nodes": [{"id": "a", "type": "context", "config": {"x": "\\ud800"}}]}', "cannot be kept"),
        ('{"nodes": [{"id": "a", "type": "context", "config": {"x": 1e999}}]}', "JSON does not have"),
    ],
    ids=["cut off", "bytes", "nan", "deep", "large", "surrogate", "infinite"],
)
def test_a_hostile_text_is_refused_at_once(text: str | bytes, says: str) -> None:
    with pytest.raises(BadDefinition, match=says):
        validate_definition(decode_definition(text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("id", "type", "config", "next", "required", "skip_if_errors", "skip_if_condition", "max_retries")
NODE = st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(["a", "context", "notify", ["a", "b"]]))


@given(JSON | st.fixed_dictionaries({"nodes": st.lists(NODE, max_size=4)}))
def test_whatever_comes_is_a_definition_or_says_what_is_wrong(raw: object) -> None:
    try:
        definition = validate_definition(raw)
    except BadDefinition as error:
        refused = error
    else:
        assert set(Graph(definition).order) == {one.id for one in definition.nodes}
        return
    assert refused.problems
    assert all(one.field and one.message for one in refused.problems)


# The language of conditions


VALUES = {
    "checks.checks_failed": 2,
    "check-db.checks_failed": 0,
    "ingest.severity": "critical",
    "analyze.summary": "the disk is full",
    "run.labels.team": "web",
    "checks.has_errors": False,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("checks.checks_failed > 0 and ingest.severity == 'critical'", True),
        ("checks.checks_failed > 0 and not checks.has_errors", True),
        ("check-db.checks_failed > 0 or checks.checks_failed == 2", True),
        ("ingest.severity in ['warning', 'info']", False),
        ("'disk' in analyze.summary", True),
        ("run.labels.team != 'web'", False),
        ("1 < checks.checks_failed <= 2", True),
        ("checks.checks_failed > -1", True),
        ("checks.has_errors == false", True),
        # What is not there is null, and compares with nothing.
        ("gone.x > 0", False),
        ("gone.x < 0", False),
        ("gone.x == null and gone.x is None", True),
        ("'a' in gone.x", False),
        # Nor do a text and a number compare.
        ("ingest.severity > 3", False),
        ("'a' in checks.checks_failed", False),
        ("checks.checks_failed not in ingest.severity", True),
    ],
)
def test_an_expression_holds_or_does_not(text: str, holds: bool) -> None:
    assert Expression.parse(text).holds(lambda reference: VALUES.get(str(reference))) is holds


def test_an_expression_knows_what_it_looks_at():
    references = Expression.parse("check-db.checks.cpu.status == 'a-b' and x.y == x.y").references
    assert [str(reference) for reference in references] == ["check-db.checks.cpu.status", "x.y"]


@pytest.mark.parametrize(
    "text",
    [
        "().__class__.__bases__[0].__subclasses__() == 1",
        "'a'.join(x.y) == 'a'",
        "x.y.format(1) == 1",
        "__import__('os').system('id') == 0",
        "[c for c in x.y] == 1",
        "(lambda: 1)() == 1",
        "9 ** 9 ** 9 == 1",
        "'a' * 999999999 == x.y",
        "f'{x.y}' == 'a'",
        "(a := 1) == 1",
        "x.y; import os",
        "x.y\nimport os",
    ],
)
def test_nothing_can_be_called_computed_or_reached_into(text: str) -> None:
    with pytest.raises(BadExpression):
        Expression.parse(text)


@given(st.text(max_size=600) | st.text(alphabet="ab.()[]'\"=<>! andortin0123456789-_,", max_size=500))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        expression = Expression.parse(text)
    except BadExpression:
        return
    assert expression.holds(lambda _: "x") in (True, False)
