"""A policy: what is wrong with a broken one, and which way an alert takes through a good one."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.alert import Severity
from orchestration.policy.document import MAX_BYTES, read_document
from orchestration.policy.grouping import grouped_by
from orchestration.policy.inhibition import inhibited_by
from orchestration.policy.model import Policy
from orchestration.policy.parse import parse_policy, read_policy
from orchestration.policy.problems import BadPolicy
from orchestration.policy.routing import Decision, Subject, decide, union

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)

POLICY = """
catch_all: [ops]
windows:
  night: [{times: ["22:00-24:00", "00:00-07:00"], location: Europe/Lisbon}]
  office: [{times: "09:00-17:00", weekdays: "monday:friday", location: Europe/Lisbon}]
grouping:
  - matchers: team="db"
    by: [alertname, cluster]
  - by: ["..."]
routes:
  - name: audit
    matchers: [audit="yes"]
    channels: [archive]
    continue: true
  - name: databases
    matchers: ['team=~"db|sql"', env!=test]
    channels: [slack-db]
    definition: central-hub
    routes:
      - name: critical
        severity: critical
        escalation: databases
      - name: quiet at night
        mute: night
        matchers: [noise="low"]
      - name: night shift
        during: [night]
        channels: [slack-night]
  - name: office
    environment: [staging]
    active: office
  - name: nobody
    matchers: [drop="yes"]
    channels: []
inhibitions:
  - source_matchers: [alertname=HostDown]
    target_matchers: [severity=~"warning|info"]
    equal: [host]
escalations:
  databases: {steps: [{schedule: dba, wait: 5m}, {channels: [phone], people: [ana]}], repeat: 1}
people: {ana: {contacts: [ana-sms]}}
schedules: {dba: {time_zone: Europe/Lisbon, layers: [{people: ana}]}}
timing: {remind_after: 2h, flapping: {changes: 4, within: 10m}}
"""


def subject(*, severity: str = "warning", environment: str = "production", **labels: str) -> Subject:
    return Subject.from_parts(
        labels, name="DiskFull", severity=Severity(severity), source="alertmanager", environment=environment
    )


def decided(
    text: str, *, at: datetime = NOON, severity: str = "warning", env: str = "production", **labels: str
) -> Decision:
    return decide(read_policy(text).policy, subject(severity=severity, environment=env, **labels), at)


def way(decision: Decision) -> list[str]:
    return [f"{step.name}: {step.verdict}" for step in decision.path]


# Routing


def test_the_first_route_that_matches_decides_and_the_path_says_why():
    decision = decided(POLICY, team="db", noise="low")
    assert [(step.name, step.depth, str(step.verdict), step.reason) for step in decision.path] == [
        ("audit", 0, "not_matched", 'audit="yes" does not hold: there is no such label'),
        (
            "databases",
            0,
            "passed_on",
            'team=~"db|sql" holds and env!="test" holds; a route below it matches too',
        ),
        ("critical", 1, "not_matched", "severity is warning, not critical"),
        ("quiet at night", 1, "chosen", 'noise="low" holds'),
    ]
    assert decision.channels == ("slack-db",)
    assert decision.definition == "central-hub"
    assert not decision.is_default
    assert decision.path[-1].route == "routes[1].routes[1]"


def test_a_route_inherits_its_channels_and_escalation_together():
    decision = decided(POLICY, severity="critical", team="sql")
    assert (decision.channels, decision.escalations) == ((), ("databases",))
    assert decision.definition == "central-hub"


def test_continue_looks_at_the_routes_after_it():
    decision = decided(POLICY, team="db", audit="yes")
    assert decision.channels == ("archive", "slack-db")
    assert way(decision)[0] == "audit: chosen"


def test_a_muted_route_ends_the_search_and_notifies_nobody():
    at_night = datetime(2026, 11, 27, 23, tzinfo=UTC)
    decision = decided(POLICY, at=at_night, team="db", noise="low")
    assert way(decision)[-1] == "quiet at night: muted"
    assert (decision.channels, decision.is_default) == ((), False)
    assert decision.muted_by == "muted: it is night now"


def test_outside_its_window_a_route_does_not_match_and_an_inactive_one_is_silent():
    at_night = datetime(2026, 11, 27, 23, tzinfo=UTC)
    assert decided(POLICY, at=at_night, team="db").channels == ("slack-night",)
    assert decided(POLICY, team="db").channels == ("slack-db",)
    assert decided(POLICY, team="db").path[-1].reason == "it is not night now"
    assert decided(POLICY, at=at_night, env="staging").muted_by == "not active: it is not office now"
    assert decided(POLICY, env="staging").is_default  # a route that does not say whom


def test_what_no_route_matches_goes_to_the_default_channels():
    for text in (POLICY, "description: empty"):
        decision = decided(text, team="web")
        assert (decision.targets, decision.is_default) == ((), True)


def test_a_route_may_notify_nobody():
    decision = decided(POLICY, drop="yes")
    assert (decision.channels, decision.is_default, decision.muted_by) == ((), False, "")


def test_a_label_of_the_alert_comes_before_what_is_known_of_it():
    text = 'routes: [{matchers: [severity="page", source="alertmanager", alertname="DiskFull"], channels: [a]}]'
    assert decide(
        read_policy(text).policy,
        Subject.from_parts(
            {"severity": "page"}, name="DiskFull", severity=Severity.CRITICAL, source="alertmanager", environment="x"
        ),
        NOON,
    ).channels == ("a",)


def test_an_incident_is_routed_as_all_its_alerts():
    alerts = [
        decided(POLICY, team="db"),
        decided(POLICY, team="db", audit="yes"),
        decided(POLICY, severity="critical", team="db"),
    ]
    both = union(alerts)
    assert (both.channels, both.escalations, both.is_default) == (("slack-db", "archive"), ("databases",), False)
    assert union([*alerts, decided(POLICY, team="web")]).is_default
    assert union([]).is_default


def test_a_target_is_muted_only_if_it_is_for_all_alerts():
    at_night = datetime(2026, 11, 27, 23, tzinfo=UTC)
    quiet, loud = (
        decided('windows: {n: [{times: "22:00-24:00"}]}\nroutes: [{mute: n, channels: [a]}]', at=at)
        for at in (at_night, NOON)
    )
    assert (quiet.channels, union([quiet, loud]).channels, union([loud, quiet]).channels) == ((), ("a",), ("a",))


def test_an_incident_is_made_of_alerts_with_the_same_labels():
    policy = read_policy(POLICY).policy
    assert grouped_by(policy, subject(team="db", cluster="a", pod="x")) == {"alertname": "DiskFull", "cluster": "a"}
    assert grouped_by(policy, subject(team="db")) == {"alertname": "DiskFull", "cluster": ""}
    assert grouped_by(policy, subject(pod="x")) == {
        "alertname": "DiskFull",
        "environment": "production",
        "pod": "x",
        "severity": "warning",
        "source": "alertmanager",
    }
    assert grouped_by(Policy(), subject()) is None


def test_an_alert_that_another_one_explains_is_kept_back():
    policy = read_policy(POLICY).policy
    down = {"alertname": "HostDown", "severity": "critical", "host": "a"}
    full = {"alertname": "DiskFull", "severity": "warning", "host": "a"}
    found = inhibited_by(policy, full, [full, down])
    assert found is not None
    assert (found.rule, found.labels) == (0, down)
    assert inhibited_by(policy, {**full, "host": "b"}, [down]) is None
    assert inhibited_by(policy, down, [down]) is None
    # Both are source and target: neither keeps the other back.
    minor = {**down, "severity": "info"}
    assert inhibited_by(policy, minor, [minor, {**minor, "job": "x"}]) is None


LABELS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "1", "2"]))
MATCHER = st.builds(
    "{}{}{}".format,
    st.sampled_from("abc"),
    st.sampled_from(["=", "!=", "=~", "!~"]),
    st.sampled_from(["", "1", "1|2", ".*"]),
)
ROUTES: Any = st.recursive(
    st.just([]),
    lambda below: st.lists(
        st.fixed_dictionaries(
            {
                "matchers": st.lists(MATCHER, max_size=2),
                "continue": st.booleans(),
                "channels": st.just(None),
                "routes": below,
            }
        ),
        max_size=3,
    ),
    max_leaves=6,
)


def named(routes: list[dict[str, Any]], place: str = "c") -> list[dict[str, Any]]:
    """The routes, each with a channel of its own."""
    return [
        {**route, "channels": [f"{place}-{at}"], "routes": named(route["routes"], f"{place}-{at}")}
        for at, route in enumerate(routes)
    ]


def by_alertmanager(routes: list[dict[str, Any]], labels: dict[str, str]) -> list[str]:
    """What Alertmanager's Route.Match finds, written once more."""

    def holds(text: str) -> bool:
        label, operator, value = re.fullmatch(r"(.)(=~|!=|!~|=)(.*)", text).groups()  # type: ignore[union-attr]
        own = labels.get(label, "")
        equal = re.fullmatch(value, own) is not None if "~" in operator else own == value
        return equal is not operator.startswith("!")

    found: list[str] = []
    for route in routes:
        if all(map(holds, route["matchers"])):
            found += by_alertmanager(route["routes"], labels) or route["channels"]
            if not route["continue"]:
                break
    return found


@given(ROUTES, LABELS)
def test_every_tree_of_routes_decides_as_alertmanager_does(
    routes: list[dict[str, Any]], labels: dict[str, str]
) -> None:
    routes = named(routes)
    policy = parse_policy({"routes": routes}).policy
    decision = decide(policy, Subject(labels=labels, severity=Severity.INFO, source="s", environment="e"), NOON)
    assert list(decision.channels) == by_alertmanager(routes, labels)


# Parsing


def test_all_problems_are_told_at_once_with_their_lines():
    broken = """\
routes:
  - channels: [a]
    escalation: nope
    colour: red
    during: [night, day]
    routes:
      - matchers:
          a=~"("
        severity: [crit]
windows:
  night:
    - times: ["23:00-01:00"]
      location: Mars
  nacht: {}
  night: []
escalations:
  e: {steps: [{schedule: s, people: ana, wait: 5}]}
people: {bob: {contact: x}}
extra: 1
"""
    with pytest.raises(BadPolicy) as refused:
        read_policy(broken)
    assert [
        (problem.line, problem.field, problem.message.split(" (")[0][:40]) for problem in refused.value.problems
    ] == [
        (3, "routes[0].escalation", "there is no escalation 'nope'"),
        (4, "routes[0].colour", "there is no such field"),
        (5, "routes[0].during[1]", "there is no window 'day'"),
        (7, "routes[0].routes[0].matchers", "the pattern '(' of the label 'a' is no r"),
        (9, "routes[0].routes[0].severity[0]", "input should be 'critical', 'warning' or"),
        (12, "windows.night[0].times", "23:00-01:00 ends before it starts: a tim"),
        (13, "windows.night[0].location", "there is no time zone 'Mars': expected o"),
        (14, "windows.nacht", "expected a list, got an object"),
        (15, "", "has the key 'night' twice: it is also on"),
        (17, "escalations.e.steps[0].schedule", "there is no schedule 's'"),
        (17, "escalations.e.steps[0].people", "there is no person 'ana'"),
        (17, "escalations.e.steps[0].wait", "expected a duration such as 30s, 5m, 1h3"),
        (18, "people.bob.contacts", "is missing"),
        (18, "people.bob.contact", "there is no such field"),
        (19, "extra", "there is no such field"),
    ]
    assert "line 3, field 'routes[0].escalation': there is no escalation 'nope' (known: e)" in str(refused.value)
    assert "(known: version, description, catch_all, grouping, routes," in str(refused.value)


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)
MERGES = "a: &a {x: {k: 1}}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: is empty"),
        ("# nothing", "line 1: is empty"),
        ("- 1", "line 1: expected an object with fields such as routes, got a list"),
        ("3", "line 1: expected an object"),
        ("a: 1\n---\nb: 2", "line 2: has more than one document"),
        ("a: [", "line 2: is no YAML: while parsing a flow node"),
        ("a: 1\n b: 2", "line 2: is no YAML: mapping values are not allowed"),
        ("a: *x", "line 1: there is no anchor 'x'"),
        (b"a: b\nc: \xff", "line 2: is no text in UTF-8"),
        ("a: b\nc: \0", "line 2: has a NUL character"),
        ('description: "\\0"', "line 1: has the text '', with a character that cannot be kept"),
        ("a: b\nc: \x01", "has a character that YAML does not allow"),
        ("[" * 100_000, "line 1: is nested deeper than 32 levels"),
        ("{" * 100_000, "line 1: is nested deeper than 32 levels"),
        ('{"a":' * 100_000, "line 1: is nested deeper than 32 levels"),
        ("a: &a\n  - *a", "is nested deeper than 32 levels"),
        (BOMB, "has more than 50,000 values, with those that aliases repeat"),
        (MERGES, "merges too much with <<"),
        ("x" * (MAX_BYTES + 1), "has more than 524,288 bytes"),
        ("- " * 60_000, "line 1: is nested deeper than 32 levels"),
        ("a:\n" + "- 1\n" * 60_000, "has more than 50,000 values"),
        ("a: !!python/object/apply:os.system [x]", "which means nothing here"),
        ("? [a]\n: b", "line 1: has a key that is no text"),
        ("<<: 5", "line 1: merges with << what is no object"),
        ("description: 1e999", "has the number inf"),
        ('{"routes": [],\n "routes": []}', "line 2: has the key 'routes' twice: it is also on line 1"),
        ("routes: " + "[{routes: " * 20 + "[]" + "}]" * 20, "is nested deeper than 32 levels"),
        ("routes: [" + "{}," * 2_001 + "]", "has 2,001 routes: a policy has at most 2,000"),
        ("timing: {remind_after: 400d}", "is longer than a year"),
        ("timing: {storm: {threshold: 0, window: 1m}}", "input should be greater than or equal to 1, got 0"),
        ("routes: [{channels: 5}]", "field 'routes[0].channels': expected a list, got 5"),
        ("routes: [5]", "field 'routes[0]': expected an object, got 5"),
        ("people: {ana: {contacts: []}}", "field 'people.ana.contacts'"),
    ],
    ids=range(33),
)
def test_a_hostile_text_is_refused_with_what_is_wrong(text: str | bytes, says: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        read_policy(text)
    assert any(says in line for line in refused.value.lines), refused.value.lines


def test_a_secret_in_a_broken_policy_is_not_told():
    with pytest.raises(BadPolicy) as refused:
        read_policy("routes: [{escalation: 'https://me:hunter2hunter2@example.com/'}]")
    assert "hunter2" not in str(refused.value)


def test_a_route_that_no_alert_reaches_is_a_warning():
    read = read_policy(
        """\
routes:
  - matchers: [a=b]
  - matchers: [a=b, c=d]
  - severity: [critical, warning]
  - severity: critical
    matchers: [x=y]
  - name: all
  - severity: info
    routes:
      - {}
      - matchers: [x=y]
"""
    )
    assert [(warning.line, warning.field) for warning in read.warnings] == [
        (3, "routes[1]"),
        (5, "routes[3]"),
        (8, "routes[5]"),
        (11, "routes[5].routes[1]"),
    ]
    assert "all that match it match the route 'all' before it" in read.warnings[2].message


def test_the_text_of_a_policy_is_yaml_1_2_and_json():
    text = "on: no\ntime: 09:00\noctal: 010\nnothing:\nnumber: -1.5e3\nbase: &x {k: 1, l: 2}\nuse: {<<: *x, l: 3}\n"
    assert read_document(text).value == {
        "on": "no",
        "time": "09:00",
        "octal": 10,
        "nothing": None,
        "number": -1500.0,
        "base": {"k": 1, "l": 2},
        "use": {"l": 3, "k": 1},
    }
    assert read_document('{\n\t"emoji":"\\ud83d\\ude00",\t"b":[1,2.5e1,true,null]\n}').value == {
        "emoji": "😀",
        "b": [1, 25.0, True, None],
    }
    assert read_document("a: 1\nb: yes\nc: ~", plain_text=True).value == {"a": "1", "b": "yes", "c": None}


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5).filter(lambda key: key != "<<"),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c d"]), JSON, min_size=1),
    st.booleans(),
    st.sampled_from([None, 2, "\t"]),
)
def test_every_json_text_is_read_as_json(value: Any, ascii_only: bool, indent: Any) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read_document(text).value == json.loads(text)


@settings(max_examples=50)
@given(JSON | st.dictionaries(st.sampled_from(sorted(Policy.model_fields)), JSON))
def test_whatever_comes_is_a_policy_or_says_what_is_wrong(raw: object) -> None:
    with suppress(BadPolicy):
        assert parse_policy(raw).written == raw


@given(ROUTES, LABELS)
def test_a_decision_is_the_same_with_and_without_its_reasons(
    routes: list[dict[str, Any]], labels: dict[str, str]
) -> None:
    policy = parse_policy({"routes": named(routes)}).policy
    which = Subject(labels=labels, severity=Severity.INFO, source="s", environment="e")
    explained, bare = decide(policy, which, NOON), decide(policy, which, NOON, explain=False)
    assert (explained.targets, bare.path) == (bare.targets, ())
    assert len(explained.targets) == sum(step.verdict == "chosen" for step in explained.path)
