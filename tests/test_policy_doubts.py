"""What `policy validate` warns of: what is no mistake, and would leave somebody without a page."""

from __future__ import annotations

import pytest

from orchestration.policy.parse import read_policy
from orchestration.policy.problems import BadPolicy

ESCALATIONS = """
escalations:
  all: {steps: [{channels: phone}]}
  crit: {steps: [{channels: phone, severity: critical}]}
  high: {steps: [{channels: phone, severity: [critical, warning]}]}
"""


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in read_policy(text.lstrip("\n")).warnings]


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ("[{escalation: crit}]", "routes[0].escalation': the escalation 'crit' has no step for warning and info"),
        ("[{escalation: high}]", "routes[0].escalation': the escalation 'high' has no step for info"),
        ("[{escalation: crit, channels: []}]", "no step for warning and info"),
        ("[{escalation: crit, severity: [critical, warning]}]", "no step for warning:"),
        ("[{escalation: crit, matchers: 'severity=~\"critical|info\"'}]", "no step for info:"),
        ("[{escalation: crit, routes: [{severity: warning, channels: mail}]}]", "no step for info:"),
        ("[{escalation: crit, routes: [{severity: info, matchers: a=b}]}]", "routes[0].routes[0]': the escalation"),
        ("[{severity: [warning, info], channels: mail, continue: true}, {escalation: crit}]", "routes[1].escalation'"),
        ("[{severity: [warning, info], matchers: a=b, channels: mail}, {escalation: crit}]", "routes[1].escalation'"),
        ("[{escalation: all}]", None),
        ("[{escalation: crit, channels: mail}]", None),
        ("[{escalation: crit, severity: critical}]", None),
        ("[{escalation: crit, matchers: severity=critical}]", None),
        ("[{escalation: crit, routes: [{severity: [warning, info], channels: mail}]}]", None),
        ("[{severity: [warning, info], channels: mail}, {escalation: crit}]", None),
    ],
)
def test_an_escalation_without_a_step_for_a_severity_that_comes(routes: str, expected: str | None) -> None:
    found = warnings(f"{ESCALATIONS}routes: {routes}")
    if expected is None:
        assert found == []
    else:
        assert expected in found[0]
        assert found[0].startswith("line 5, field 'routes[")
        assert "only the default channels are notified, at once" in found[0]
        assert "only the catch_all channels are" in warnings(f"{ESCALATIONS}catch_all: mail\nroutes: {routes}")[0]


@pytest.mark.parametrize(
    "step", ["{wait: 20s}", "{channels: [], wait: 20s}", "{people: []}", "{severity: critical}", "{}"]
)
def test_a_step_that_names_nobody_is_a_mistake(step: str) -> None:
    with pytest.raises(BadPolicy) as bad:
        read_policy(f"escalations:\n  e:\n    steps:\n      - {{channels: phone}}\n      - {step}\n")
    (problem,) = bad.value.problems
    assert (problem.line, problem.field) == (5, "escalations.e.steps[1]")
    assert "names nobody to notify" in problem.message


TWO = """
escalations:
  first: {steps: [{channels: a}]}
  other: {steps: [{channels: b}]}
  crit: {steps: [{channels: a, severity: critical}]}
"""


@pytest.mark.parametrize(
    ("routes", "where"),
    [
        ("[{escalation: first, continue: true}, {escalation: other}]", "routes[1].escalation"),
        ("[{matchers: t=two, escalation: first, continue: true}, {matchers: a=b, escalation: other}]", "routes[1].esc"),
        ("[{routes: [{escalation: first}], continue: true}, {routes: [{escalation: other}]}]", "routes[1].routes[0]."),
        ("[{routes: [{escalation: first, continue: true}, {escalation: other}]}]", "routes[0].routes[1].escalation"),
        (
            "[{escalation: first, matchers: 'a=~\"x|y\"', continue: true}, {escalation: other, matchers: a=y}]",
            "routes[1]",
        ),
        ("[{escalation: first, continue: true}, {escalation: first}]", None),
        ("[{escalation: first, continue: true}, {channels: chat}]", None),
        ("[{escalation: first, matchers: a=b}, {escalation: other}]", None),
        ("[{escalation: first, matchers: a=b, continue: true}, {escalation: other, matchers: a=c}]", None),
        ("[{escalation: first, matchers: a=b, continue: true}, {escalation: other, matchers: a!=b}]", None),
        ("[{escalation: first, source: x, continue: true}, {escalation: other, source: y}]", None),
        ("[{escalation: first, severity: critical, continue: true}, {escalation: other, severity: warning}]", None),
        ("[{escalation: crit, channels: x, continue: true}, {escalation: other, severity: warning}]", None),
    ],
)
def test_a_second_escalation_that_never_begins(routes: str, where: str | None) -> None:
    found = warnings(f"{TWO}routes: {routes}")
    if where is None:
        assert found == []
    else:
        (said,) = found
        assert said.startswith(f"line 5, field '{where}")
        assert "'other' never begins for an alert that takes the escalation 'first' of routes[0]" in said


@pytest.mark.parametrize(
    ("rules", "circle"),
    [
        ([("a=1", "a=2"), ("a=2", "a=1")], "inhibitions[0] and inhibitions[1]"),
        (
            [("a=1", "a=2"), ("a=2", "a=3"), ("x=y", "b=2,a=9"), ("a=3", "a=1")],
            "inhibitions[0] and inhibitions[1] and",
        ),
        ([("severity=critical", 'severity=~"warning|info"')], None),
        ([("a=1", "a=1")], None),
        ([("alertname=Down", 'severity=~"warning|info"'), ("severity=critical", "severity=warning")], None),
    ],
)
def test_inhibitions_by_which_alerts_keep_each_other_back(rules: list[tuple[str, str]], circle: str | None) -> None:
    lines = "\n".join(f"  - {{source_matchers: '{source}', target_matchers: '{target}'}}" for source, target in rules)
    found = warnings(f"inhibitions:\n{lines}\n")
    if circle is None:
        assert found == []
    else:
        (said,) = found
        assert said.startswith(f"line {len(rules) + 1}, field 'inhibitions[{len(rules) - 1}]': by {circle}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "routes:\n  - matchers: [a=b, a!=b]\n    channels: x",
            "routes[0].matchers': no alert reaches",
        ),
        ("routes:\n  - matchers: a=b\n    routes: [{matchers: a=c, channels: x}]", "routes[0].routes[0].matchers"),
        ("routes:\n  - {matchers: ['a=~\"x|y\"', a=z], channels: x}", "cannot both hold"),
        ("routes:\n  - {matchers: ['a=~\"x.*\"', a!=z], channels: x}", None),
        ("windows:\n  w: [{days_of_month: 31, months: february}]", "windows.w[0].days_of_month': it is never"),
        ("windows:\n  w: [{days_of_month: [30, '31'], months: ['february']}]", "it is never"),
        ("windows:\n  w: [{days_of_month: 29, months: february, years: 2027}]", "it is never"),
        ("windows:\n  w: [{days_of_month: 31, months: [april, june]}]", "it is never"),
        ("windows:\n  w: [{days_of_month: 29, months: february}]", None),
        ("windows:\n  w: [{days_of_month: 29, months: february, years: '2027:2028'}]", None),
        ("windows:\n  w: [{days_of_month: '-1', months: february}]", None),
        ("windows:\n  w: [{days_of_month: '28:31', months: february}]", None),
        ("windows:\n  w: [{days_of_month: '-31', months: april}]", "it is never"),
    ],
)
def test_what_never_holds(text: str, said: str | None) -> None:
    found = warnings(text)
    assert bool(found) is (said is not None)
    assert all(str(said) in one and one.startswith("line ") for one in found)
