"""What a mapping of one's own can say: lists of alerts, what stands around them, and mistakes with their lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestration.errors import BadInput, Unreadable
from tasks.ingest.sources import IN_CODE, SOURCES, Source, Sources, parse_push
from tasks.ingest.sources.mapped import source_of
from tasks.ingest.sources.mapping import SourceMapping
from tasks.ingest.sources.mapping_text import BadMapping, parse_mapping, read_mapping
from tests.test_sources_properties import assert_sentence, assert_storable, values

LAMP = """
name: lamp-watch
title: Lamp Watch
when: {has: [lamps, station]}
alerts: lamps
ignore: {equals: {state: testing}, because: a test of the lamp}
alert:
  name: [title, "='Lamp'"]
  severity: level
  status: state
  fingerprint: "join('/', [_body.station, id])"
  labels: {"*": tags, host: _body.station}
  links: {runbook: help}
  started_at: since
words: {firing: [dark], resolved: [lit], critical: [red]}
"""


def lamps() -> dict[str, Any]:
    return {
        "station": "north",
        "lamps": [
            {"id": "1", "title": "Main lamp", "state": "dark", "level": "red", "since": "2026-03-14T01:00:00Z"},
            {
                "id": "2",
                "title": "Spare lamp",
                "state": "lit",
                "tags": {"colour": "green"},
                "help": "https://x.example",
            },
            {"id": "3", "title": "Old lamp", "state": "testing"},
        ],
    }


def own(text: str = LAMP) -> Sources:
    mapping = read_mapping(text).mapping
    return {**SOURCES, mapping.name: source_of(mapping)}


def test_a_list_of_alerts_with_what_stands_around_it() -> None:
    push = parse_push(lamps(), sources=own())
    assert push.source == "lamp-watch"
    assert [(a.name, a.severity.value, a.status.value, a.fingerprint, a.host) for a in push.alerts] == [
        ("Main lamp", "critical", "firing", "north/1", "north"),
        ("Spare lamp", "warning", "resolved", "north/2", "north"),
    ]
    assert push.alerts[1].labels["colour"] == "green"
    assert push.alerts[1].links == {"runbook": "https://x.example"}
    assert [a.incident_key for a in push.alerts] == ["lamp-watch:north/1", "lamp-watch:north/2"]


def test_what_cannot_be_used_in_a_list_is_said_and_the_rest_is_used() -> None:
    sent = lamps()
    sent["lamps"] += [None, {"id": "4", "title": "Last lamp", "state": "dark"}]
    push = parse_push(sent, sources=own())
    assert len(push.alerts) == 3
    assert push.errors == ("alerts[3] is null, not an object",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("name: lamp-watch", "name: Lamp Watch"), "field 'name': is not made of lower-case letters"),
        (("level", "'level["), "is no YAML"),
        (("status: state", "status: 'state['"), "'state[' is no JMESPath"),
        (("status: state", "stauts: state"), "there is no such field (known: name, title, severity"),
        (("{has: [lamps, station]}", "{lacks: x}"), "a condition needs `has` or `equals`"),
        (("because: a test of the lamp", "why: x"), "is missing"),
        (("severity: level", f"severity: {'a' * 600}"), "it has at most 512"),
        (("title: Lamp Watch", "docs: nowhere"), "no http or https address"),
        (("severity: level", "severity: [[level]]"), "expected a JMESPath expression as a text"),
        (("status: state", "status: 'stat(e)'"), "there is no function stat()"),
        (("status: state", "status: 'a[?join(b)]'"), "Expected 2 arguments for function join(), received 1"),
        (("lit], critical", "lit, Dark], critical"), "'dark' cannot mean two things"),
        (("critical: [red]", "critical: [red, 1], info: '1'"), "'1' cannot mean two things"),
        (("{has: [lamps, station]}", "text"), "field 'when': expected a list, got 'text'"),
    ],
)
def test_a_mistake_in_a_mapping_is_said_with_its_line(change: tuple[str, str], said: str) -> None:
    with pytest.raises(BadMapping) as refused:
        read_mapping(LAMP.replace(*change))
    assert said in str(refused.value)
    assert "line " in str(refused.value)


def test_a_mapping_that_is_too_large_is_told_so() -> None:
    with pytest.raises(BadMapping, match="has more than 65,536 bytes"):
        read_mapping(f"{LAMP}\nsample: {{x: '{'x' * 70_000}'}}")


TWICE = "[@,@,@,@,@,@,@,@,@,@][]"


@pytest.mark.parametrize(
    ("alerts", "host", "body"),
    [
        # Each step finds ten times what the step before it found.
        (f"lamps[*].{'.'.join([TWICE] * 8)}.{{title: @}}", "=x", {"lamps": [{"a": 1}]}),
        # Each alert looks through all others.
        ("lamps", "_body.lamps[?parent==`true`] | [0].title", {"lamps": [{"title": str(n)} for n in range(2_000)]}),
        ("lamps", "contains(_body.lamps, title)", {"lamps": [{"title": str(n)} for n in range(6_000)]}),
        ("lamps", "to_string(_body)", {"lamps": [{"title": str(n)} for n in range(2_000)]}),
    ],
)
def test_expressions_that_take_too_much_work_are_ended(alerts: str, host: str, body: dict[str, Any]) -> None:
    raw = vars_of(LAMP) | {
        "when": {"has": "lamps"},
        "alerts": alerts,
        "alert": {"name": "title", "labels": {"h": host}},
    }
    with pytest.raises(Unreadable, match="the mapping lamp-watch takes too much work with this body"):
        parse_push(body, sources={**SOURCES, "lamp-watch": own_of(raw)})


def test_a_condition_that_takes_too_much_work_holds_for_no_body() -> None:
    raw = vars_of(LAMP) | {"when": {"has": f"lamps[*].{'.'.join([TWICE] * 8)}"}}
    assert own_of(raw).bid(lamps()) == 0


def test_many_alerts_are_no_work_to_speak_of() -> None:
    body = {"station": "north", "lamps": [{"id": n, "title": f"L{n}", "state": "dark"} for n in range(3_000)]}
    assert len(parse_push(body, sources=own()).alerts) == 3_000


@settings(max_examples=100, deadline=None)
@example(given="\x08")
@given(given=values)
def test_any_value_is_a_mapping_or_a_bad_one(given: Any) -> None:
    for raw in (given, {"name": "x", "when": given, "alert": {"name": given}}, {**vars_of(LAMP), "alert": given}):
        try:
            assert isinstance(parse_mapping(raw), SourceMapping)
        except BadMapping as refused:
            assert_sentence(str(refused))


def vars_of(text: str) -> dict[str, Any]:
    return dict(read_mapping(text).written)


@settings(max_examples=200, deadline=None)
@given(
    expression=st.sampled_from(
        [
            *("sort(@)", "max_by(a, &b)", "to_number(a)", "join(',', a)", "&a", "[&a]", "a[?b > `1`]", "keys(@)"),
            *("ceil(to_number(a))", "sum(a)", "avg(a)", "map(&b, a)", "reverse(a)", "a.*[].b", "starts_with(a, 'x')"),
            *("to_array(@)", "type(a)", "not_null(a, b)", "a || b && !c", "`1e999`", "merge(a, b)", "[@, [@, [@]]]"),
        ]
    ),
    payload=st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3),
)
def test_an_expression_never_raises(expression: str, payload: dict[str, Any]) -> None:
    fields = ("name", "severity", "status", "fingerprint", "started_at", "description", "title")
    raw = {
        "name": "x",
        "when": {"has": "@"},
        "alert": dict.fromkeys(fields, expression) | {"labels": {"*": expression}},
    }
    try:
        push = parse_push(payload, source="x", sources={**IN_CODE, "x": own_of(raw)})
    except BadInput:
        return
    for alert in push.alerts:
        assert_storable(alert)


def own_of(raw: dict[str, Any]) -> Source:
    return source_of(parse_mapping(raw))
