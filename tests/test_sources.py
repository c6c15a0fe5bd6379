"""Which source reads a body, and the error for a body that no source can read."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from orchestration.alert import Alert
from orchestration.errors import BadInput
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import ENTRY_POINTS, IN_CODE, SOURCES, parse_push, recognise, source_named
from tasks.ingest.sources.cleaning import MAX_DEPTH
from tests.payloads import body


def only(payload: object, source: str | None = None) -> Alert:
    (alert,) = parse_push(payload, source=source).alerts
    return alert


@pytest.mark.parametrize("version", ["1", "4", 4])
def test_grafana_is_never_taken_for_alertmanager(version: object) -> None:
    assert recognise(body("grafana_unified") | {"version": version}).name == "grafana"


def test_an_alert_of_a_grafana_rule_that_alertmanager_sends_is_alertmanagers() -> None:
    passed_on = body("alertmanager_group")
    for alert in passed_on["alerts"]:
        alert["generatorURL"] = "https://graphs.example.net/alerting/grafana/be1k9xq4/view?orgId=3"
    assert recognise(passed_on).name == "alertmanager"


def test_a_rule_page_alone_tells_grafana_from_generic() -> None:
    alert = {"labels": {"alertname": "X"}, "generatorURL": "https://graphs.example.net/alerting/1afz/edit"}
    assert recognise({"alerts": [alert]}).name == "grafana"


@pytest.mark.parametrize(
    "flat",
    [
        {"alertname": "HighCPU", "severity": "critical"},
        {"name": "Test", "status": "firing", "severity": "warning"},
        {"title": "Disk full"},
        {"labels": {"alertname": "HighCPU"}},
    ],
)
@pytest.mark.parametrize("source", [None, "grafana", "alertmanager", "generic", "webhook"])
def test_a_flat_body_is_one_alert_under_any_name(flat: dict[str, Any], source: str | None) -> None:
    alert = only(flat, source)
    assert alert.source == (source if source in SOURCES else "generic")
    assert alert.severity == flat.get("severity", "warning")
    assert alert.firing


def test_a_payload_in_a_payload_is_taken_out_once() -> None:
    assert only({"payload": {"alertname": "HighCPU"}}).name == "HighCPU"
    assert only({"payload": {"alertname": "HighCPU"}}, "grafana").source == "grafana"
    assert len(parse_push({"payload": body("alertmanager_group")}, source="cli").alerts) == 3
    with pytest.raises(BadInput, match="its fields: payload"):
        parse_push({"payload": {"payload": {"alertname": "HighCPU"}}})


def test_an_alert_may_have_a_field_called_payload() -> None:
    assert only({"name": "Bad message", "payload": {"name": "inner"}}).name == "Bad message"


# The name of the source


@pytest.mark.parametrize("name", ["Grafana", " GRAFANA ", "grafana"])
def test_a_named_source_is_found_in_any_case(name: str) -> None:
    assert source_named(name).name == "grafana"


def test_a_named_source_reads_the_body_whatever_it_looks_like() -> None:
    push = parse_push(body("grafana_unified"), source="Alertmanager")
    assert push.source == "alertmanager"
    assert push.alerts[0].incident_key.startswith("alertmanager:")


@pytest.mark.parametrize("name", [*sorted(ENTRY_POINTS), "CLI", "Webhook"])
def test_the_door_that_a_push_came_through_is_no_source(name: str) -> None:
    assert parse_push(body("grafana_unified"), source=name).source == "grafana"


def test_an_unknown_source_is_answered_with_the_sources() -> None:
    with pytest.raises(BadInput, match="no source 'semaphore'; the sources are alertmanager, grafana, pagerduty, "):
        parse_push({"name": "x"}, source="semaphore")


# What cannot be read


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (None, "the payload is null, not a JSON object"),
        ([], "the payload is a list"),
        ([{"name": "x"}], "the payload is a list"),
        ("name", "the payload is a string"),
        (7, "the payload is a number"),
        (True, "the payload is a boolean"),
        ({}, "the payload is an empty object"),
        ({"foo": 1, "bar": 2}, "its fields: foo, bar"),
        ({"payload": {}}, "its fields: payload"),
        ({"name": None, "title": "", "alertname": " \x07"}, "its fields: name, title, alertname"),
        ({"alerts": []}, "its list of alerts is empty"),
        ({"alerts": [1, None]}, r"alerts\[0\] is a number, not an object; alerts\[1\] is null"),
        ({"alerts": [{"host": "x"}]}, r"alerts\[0\] has no name, alertname or title"),
        ({"version": "4", "groupKey": "k", "alerts": []}, "its list of alerts is empty"),
        ({"version": "4", "groupKey": "k", "alerts": [{}]}, "it cannot be identified"),
        ({"orgId": 1, "title": "[FIRING:0]", "alerts": []}, "its list of alerts is empty"),
    ],
)
def test_a_body_without_an_alert_is_answered_in_one_sentence(payload: object, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        parse_push(payload)
    sentence = str(caught.value)
    assert all(name in sentence for name in (*IN_CODE, "mappings", "name, alertname or title"))
    assert "\n" not in sentence


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_nesting_without_end_is_bad_input(wrap: Any) -> None:
    nested: Any = "x"
    for _ in range(1000):
        nested = wrap(nested)
    with pytest.raises(BadInput, match=f"more than {MAX_DEPTH} levels"):
        parse_push({"name": "x", "extra": nested})


def test_an_object_that_contains_itself_is_bad_input() -> None:
    ring: dict[str, Any] = {"name": "x"}
    ring["self"] = ring
    with pytest.raises(BadInput):
        parse_push(ring)


def test_a_broken_alert_does_not_hold_up_the_others() -> None:
    push = parse_push(body("alertmanager_group") | {"alerts": [None, *body("alertmanager_group")["alerts"], "x"]})
    assert len(push.alerts) == 3
    assert push.errors == (
        "alerts[0] is null, not an object",
        "alerts[4] is a string, not an object",
        "Alertmanager left out 2 alerts (max_alerts)",
    )


def test_a_thousand_broken_alerts_are_counted_not_listed() -> None:
    push = parse_push({"alerts": [{"name": "good"}, *[None] * 1000]})
    assert len(push.errors) == 21
    assert push.errors[-1] == "and 980 more"


def test_of_one_fingerprint_the_latest_in_the_push_counts_and_is_noted() -> None:
    push = parse_push(
        {
            "alerts": [
                {"name": "a", "fingerprint": "1", "status": "firing"},
                {"name": "b", "fingerprint": "2", "status": "firing"},
                {"name": "a", "fingerprint": "1", "status": "resolved"},
            ]
        }
    )
    assert [(alert.fingerprint, alert.status) for alert in push.alerts] == [("2", "firing"), ("1", "resolved")]
    assert push.errors == (
        "1 of 3 alerts came again later in the push with the same fingerprint: the latest of each is used",
    )


def test_of_one_alert_in_one_push_the_later_moment_counts_whatever_its_place() -> None:
    first = {"alertname": "a", "fingerprint": "1", "startsAt": "2026-03-14T01:00:00Z", "status": "resolved"}
    again = first | {"startsAt": "2026-03-14T02:00:00Z", "status": "firing"}
    for alerts in ([first, again], [again, first]):
        assert [alert.status for alert in parse_push({"alerts": alerts}).alerts] == ["firing"]


def test_ten_thousand_alerts_in_one_push() -> None:
    (alert,) = body("alertmanager_resolved")["alerts"]
    alerts = [alert | {"fingerprint": f"{number:016x}"} for number in range(10_000)]
    push = parse_push(body("alertmanager_resolved") | {"alerts": alerts})
    assert len({alert.fingerprint for alert in push.alerts}) == 10_000
    assert len(split_by_incident(push.alerts)) == 1

    push = parse_push({"alerts": [{"name": "down", "host": f"h{number}"} for number in range(10_000)]})
    assert len(split_by_incident(push.alerts)) == 10_000


def test_reading_a_push_needs_neither_prefect_nor_a_database() -> None:
    code = (
        "import sys, tasks.ingest.incidents, tasks.ingest.sources;"
        "print(sorted({'prefect', 'sqlalchemy', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
