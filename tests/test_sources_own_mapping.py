"""What a mapping of one's own can say: lists of alerts, what stands around them, and mistakes with their lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestration.errors import BadInput
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
    ],
)
def test_a_mistake_in_a_mapping_is_said_with_its_line(change: tuple[str, str], said: str) -> None:
    with pytest.raises(BadMapping) as refused:
        read_mapping(LAMP.replace(*change))
    assert said in str(refused.value)
    assert "line " in str(refused.value)


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
