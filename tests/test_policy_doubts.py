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
