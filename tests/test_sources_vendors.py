"""PagerDuty, Datadog, New Relic, Opsgenie and Zabbix: recognition, severity, status and identity."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.errors import BadInput
from tasks.ingest.sources import SOURCES, parse_push, recognise
from tasks.ingest.sources.fields import on_place
from tests.payloads import NAMES, body

VENDORS = ("pagerduty", "datadog", "newrelic", "opsgenie", "zabbix")


def only(payload: object, source: str | None = None) -> Alert:
    (alert,) = parse_push(payload, source=source).alerts
    return alert


def changed(name: str, **fields: Any) -> dict[str, Any]:
    """The payload with this name, with fields of its alert replaced where the vendor puts them."""
    whole = body(name)
    inner = whole["event"]["data"] if "event" in whole else whole.get("alert", whole)
    inner.update(fields)
    return whole


@pytest.mark.parametrize(
    ("payload", "source"),
    [
        ({"event": {"event_type": "incident.triggered", "data": {"id": "P1", "title": "x"}}}, "pagerduty"),
        ({"messages": [{"event": "incident.trigger", "incident": {"id": "P1", "title": "x"}}]}, "pagerduty"),
        ({"alert_id": 1, "alert_transition": "Triggered", "title": "x"}, "datadog"),
        ({"alert_id": 1, "alert_type": "error", "alert_title": "x"}, "datadog"),
        ({"alert_title": "x", "alert_status": "…", "hostname": "h"}, "datadog"),
        ({"issueId": "i", "accumulations": {}, "title": "x"}, "newrelic"),
        ({"issueUrl": "https://x/i", "workflowName": "w", "title": "x"}, "newrelic"),
        ({"condition_id": 1, "incident_id": 2, "condition_name": "x"}, "newrelic"),
        ({"action": "Create", "alert": {"alertId": "a", "message": "x"}}, "opsgenie"),
        ({"action": "Create", "alert": {"tinyId": 1, "message": "x"}}, "opsgenie"),
        ({"trigger_id": 1, "trigger_name": "x"}, "zabbix"),
        ({"event_id": 1, "event_name": "x", "host": "h"}, "zabbix"),
    ],
)
def test_what_is_enough_to_tell_a_vendor(payload: dict[str, Any], source: str) -> None:
    assert recognise(payload).name == source
    assert only(payload).name == "x"
    # Generic fields beside a vendor's own fields do not change the source.
    assert recognise(payload | {"name": "x", "title": "x", "severity": "critical", "status": "firing"}).name == source


@pytest.mark.parametrize(
    "payload",
    [
        {"title": "x", "event": "deploy", "alert_id": 7},
        {"title": "x", "event_id": 7, "event": {"event_type": "x"}},
        {"title": "x", "action": "Create", "alert": {"message": "x"}},
        {"title": "x", "issueId": 7},
        {"title": "x", "incident_id": 7},
        {"name": "x", "event_id": 7, "messages": ["a"]},
    ],
)
def test_a_field_that_others_have_too_does_not_tell_a_vendor(payload: dict[str, Any]) -> None:
    assert recognise(payload).name == "generic"


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_body_written_by_hand_is_read_under_a_vendors_name(vendor: str) -> None:
    alert = only({"alertname": "HighCPU", "severity": "critical", "host": "web-1"}, vendor)
    assert (alert.source, alert.name, alert.severity) == (vendor, "HighCPU", Severity.CRITICAL)
    assert alert.incident_key == f"{vendor}:HighCPU:web-1"


@pytest.mark.parametrize(
    ("name", "fields", "severity"),
    [
        ("pagerduty_triggered", {"urgency": "low", "priority": None}, Severity.INFO),
        ("pagerduty_triggered", {"urgency": "high", "priority": None}, Severity.CRITICAL),
        ("pagerduty_triggered", {"urgency": "low", "priority": {"summary": "P1"}}, Severity.CRITICAL),
        ("pagerduty_triggered", {"urgency": None, "priority": {"summary": "P3"}}, Severity.WARNING),
        ("pagerduty_triggered", {"urgency": None, "priority": {"summary": "P5"}}, Severity.INFO),
        ("pagerduty_triggered", {"urgency": 7, "priority": 7}, Severity.WARNING),
        ("datadog_triggered", {"alert_type": "error"}, Severity.CRITICAL),
        ("datadog_triggered", {"alert_type": "info", "alert_priority": "P2"}, Severity.CRITICAL),
        ("datadog_triggered", {"alert_type": "info", "alert_priority": "P3"}, Severity.WARNING),
        ("datadog_triggered", {"alert_type": "info", "alert_priority": "P5"}, Severity.INFO),
        ("datadog_triggered", {"alert_type": None, "alert_priority": None}, Severity.WARNING),
        ("newrelic_issue", {"priority": "MEDIUM"}, Severity.WARNING),
        ("newrelic_issue", {"priority": ["low"]}, Severity.INFO),
        ("newrelic_legacy", {"severity": "CRITICAL"}, Severity.CRITICAL),
        ("opsgenie_create", {"priority": "P2"}, Severity.CRITICAL),
        ("opsgenie_create", {"priority": "P3"}, Severity.WARNING),
        ("opsgenie_create", {"priority": "P4"}, Severity.INFO),
        ("opsgenie_create", {"priority": None}, Severity.WARNING),
        *[
            ("zabbix_problem", {"event_severity": said}, severity)
            for severity, words in {
                Severity.CRITICAL: ["Disaster", "High", 5, "4"],
                Severity.WARNING: ["Average", "Warning", 3, "2", "whatever"],
                Severity.INFO: ["Information", "Not classified", 1, "0"],
            }.items()
            for said in words
        ],
        ("zabbix_problem", {"event_severity": None, "event_nseverity": "{EVENT.NSEVERITY}"}, Severity.CRITICAL),
    ],
)
def test_how_bad_it_is(name: str, fields: dict[str, Any], severity: Severity) -> None:
    assert only(changed(name, **fields)).severity is severity


@pytest.mark.parametrize(
    ("name", "fields", "over"),
    [
        ("datadog_triggered", {"alert_transition": "Recovered"}, True),
        ("datadog_triggered", {"alert_transition": "Warn Recovered"}, True),
        ("datadog_triggered", {"alert_transition": "OK"}, True),
        ("datadog_triggered", {"alert_transition": "No Data"}, False),
        ("datadog_triggered", {"alert_transition": "Renotify", "alert_type": "success"}, False),
        ("datadog_triggered", {"alert_transition": None, "alert_type": "success"}, True),
        ("datadog_triggered", {"alert_transition": None, "alert_status": "OK"}, True),
        ("datadog_default", {"title": "[Recovered on {host:lb-2,port:443}] Load balancer is down"}, True),
        ("newrelic_issue", {"state": "CLOSED"}, True),
        ("newrelic_issue", {"state": "CREATED"}, False),
        ("newrelic_legacy", {"current_state": "closed"}, True),
        ("newrelic_legacy", {"current_state": "acknowledged"}, False),
        *[("zabbix_problem", {"event_value": value}, True) for value in (0, "0", "OK", "RESOLVED")],
        *[("zabbix_problem", {"event_value": value}, False) for value in (1, "1", "PROBLEM", "?")],
        ("zabbix_problem", {"event_value": None, "trigger_status": "OK"}, True),
        ("zabbix_problem", {"event_value": "*UNKNOWN*", "event_status": "RESOLVED"}, True),
    ],
)
def test_whether_it_is_over(name: str, fields: dict[str, Any], over: bool) -> None:
    assert only(changed(name, **fields)).status is (AlertStatus.RESOLVED if over else AlertStatus.FIRING)


@pytest.mark.parametrize("event", ["acknowledged", "unacknowledged", "escalated", "reassigned", "reopened"])
def test_an_incident_that_pagerduty_moves_about_goes_on(event: str) -> None:
    whole = changed("pagerduty_triggered", status="acknowledged" if event == "acknowledged" else "triggered")
    whole["event"]["event_type"] = f"incident.{event}"
    assert only(whole).firing
    assert only(whole).fingerprint == "PGR0VU2"


def test_a_priority_that_is_set_after_the_end_does_not_reopen_the_incident() -> None:
    whole = body("pagerduty_resolved")
    whole["event"]["event_type"] = "incident.priority_updated"
    assert not only(whole).firing


@pytest.mark.parametrize(
    ("action", "over"),
    [("Close", True), ("Resolve", True), ("delete", True), ("Create", False), ("UpdatePriority", False), (None, False)],
)
def test_what_is_done_to_an_alert_in_opsgenie(action: str | None, over: bool) -> None:
    assert only(body("opsgenie_create") | {"action": action}).firing is not over


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_end_is_the_end_of_the_same_alert(vendor: str) -> None:
    firing = SOURCES[vendor].sample("01")
    ends = {
        "pagerduty": ('"incident.triggered"', '"incident.resolved"'),
        "datadog": ('"Triggered"', '"Recovered"'),
        "newrelic": ('"ACTIVATED"', '"CLOSED"'),
        "opsgenie": ('"Create"', '"Close"'),
        "zabbix": ('"event_value": "1"', '"event_value": "0"'),
    }
    resolved = json.loads(json.dumps(firing).replace(*ends[vendor]))
    before, after = only(firing), only(resolved)
    assert (before.status, after.status) == (AlertStatus.FIRING, AlertStatus.RESOLVED)
    assert (before.fingerprint, before.incident_key) == (after.fingerprint, after.incident_key)


def test_a_title_that_datadog_writes_anew_is_one_alert() -> None:
    titles = (
        "[Triggered on {host:lb-2}] Down",
        "[Re-Triggered on {host:lb-2}] Down",
        "[Recovered on {host:lb-2}] Down",
    )
    alerts = [only(body("datadog_default") | {"title": title}) for title in titles]
    assert {(alert.name, alert.fingerprint, alert.incident_key) for alert in alerts} == {
        ("Down", alerts[0].fingerprint, "datadog:Down:host:lb-2")
    }
    assert only(body("datadog_default") | {"title": "[Team A] Down"}).name == "[Team A] Down"


def test_the_datadog_payload_of_the_documentation_is_datadogs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "http.md").read_text()
    (template,) = [block for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if "$ALERT_ID" in block]
    filled = template.replace("$ALERT_TRANSITION", "Recovered").replace("$ALERT_PRIORITY", "P1")
    alert = only(json.loads(re.sub(r"\$([A-Z_]+)", lambda variable: variable[1].casefold(), filled)))
    assert (alert.source, alert.name, alert.fingerprint) == ("datadog", "alert_title", "alert_id:alert_scope")
    assert (alert.severity, alert.status) == (Severity.CRITICAL, AlertStatus.RESOLVED)


def test_new_relics_default_payload_calls_the_issue_id() -> None:
    whole = body("newrelic_issue")
    whole["id"] = whole.pop("issueId")
    assert only(whole).fingerprint == only(body("newrelic_issue")).fingerprint


def test_zabbix_tells_one_trigger_on_two_hosts_apart_and_two_firings_not() -> None:
    first = only(body("zabbix_problem"))
    assert only(body("zabbix_problem") | {"event_id": 99}).fingerprint == first.fingerprint
    assert only(body("zabbix_problem") | {"host": "pg-4"}).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("pagerduty_triggered", {"id": None}),
        ("datadog_triggered", {"alert_id": None, "aggreg_key": None}),
        ("newrelic_issue", {"issueId": None, "issueUrl": None}),
        ("newrelic_legacy", {"incident_id": None}),
        ("opsgenie_create", {"alertId": None, "alias": None, "tinyId": None}),
        ("zabbix_problem", {"trigger_id": None}),
    ],
)
def test_an_alert_without_its_id_is_still_delivered_and_the_same_each_time(name: str, fields: dict[str, Any]) -> None:
    first, again = (only(changed(name, **fields)) for _ in range(2))
    assert first.firing
    assert first.fingerprint == again.fingerprint != only(body(name)).fingerprint


@pytest.mark.parametrize("odd", [None, True, 3, 2.5, {"a": [1]}, [{"b": None}], [], "", "\x00", "\ud800"])
def test_odd_values_in_every_field_do_not_raise(odd: Any) -> None:
    for name in (name for name in NAMES if name.split("_")[0] in VENDORS):
        for path in paths_in(body(name)):
            whole = body(name)
            *way, last = path
            place = whole
            for step in way:
                place = place[step]
            place[last] = odd
            with contextlib.suppress(BadInput):
                push = parse_push(whole, source=name.split("_")[0])
                assert push.alerts or push.ignored


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each field of a body, at any depth."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, inner in steps for way in ((*path, key), *paths_in(inner, (*path, key)))]


def test_datadogs_title_names_the_host_once_and_what_happened_is_in_the_text() -> None:
    happened = "system.cpu.user over host:i-0abc was > 90.0 on average during the last 5m"
    sent: dict[str, Any] = {
        "alert_id": "1",
        "title": "[Triggered on {host:i-0abc}] CPU is high on i-0abc",
        "alert_transition": "Triggered",
        "alert_type": "error",
        "hostname": "i-0abc",
        "alert_status": happened,
        "body": "Mail ops@example.com. @webhook-x @slack-ops",
    }
    [alert] = SOURCES["datadog"].parse(sent).alerts
    assert alert.title == "CPU is high on i-0abc"
    assert alert.description == f"{happened}\nMail ops@example.com."
    [short] = SOURCES["datadog"].parse({**sent, "alert_status": "Triggered", "body": "@webhook-x"}).alerts
    assert short.description == "Triggered"


@pytest.mark.parametrize(
    ("name", "place", "title"),
    [
        ("CPU is high on web-1", "web-1", "CPU is high on web-1"),
        ("Web-1: CPU is high", "web-1", "Web-1: CPU is high"),
        ("CPU of web-10", "web-1", "CPU of web-10 on web-1"),
        ("CPU of web-1.example.com", "web-1", "CPU of web-1.example.com on web-1"),
        ("CPU", "", "CPU"),
    ],
)
def test_a_title_names_its_place_once(name: str, place: str, title: str) -> None:
    assert on_place(name, place) == title
