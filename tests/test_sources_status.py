"""The words and flags with which senders end an alert, and those that must not end one."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.alert import Alert, AlertStatus
from tasks.ingest.sources import parse_push
from tasks.ingest.sources.status import status_of
from tests.payloads import body

ENDS = (
    "resolved ok normal closed inactive recovered healthy cleared up passing passed pass success successful succeeded "
    "fixed green online operational available deactivated deactivate good back restored reachable"
)
FIRING = (
    "firing alerting down pending unknown paused degraded acknowledged open triggered active no_data nodata error "
    "warning critical failed failure offline red yellow unhealthy unreachable unavailable unresolved flapping expired "
    "maintenance suppressed silenced muted investigating identified monitoring mitigated running started completed "
    "notready unstable whatever 0 1 2 true false none null"
)


def only(payload: object, source: str | None = None) -> Alert:
    (alert,) = parse_push(payload, source=source).alerts
    return alert


@pytest.mark.parametrize("word", ENDS.split())
@pytest.mark.parametrize("written", ["{}", " {} ", "✅ {}", "[{}]", "{}!", "**{}**", "{}.", "🟢{}\ufe0f"])
def test_a_word_for_an_end_in_every_spelling(word: str, written: str) -> None:
    for spelled in (word, word.upper(), word.capitalize()):
        assert status_of(written.format(spelled)) is AlertStatus.RESOLVED


@pytest.mark.parametrize(
    "phrase",
    [
        *("back to normal", "Back online", "all_clear", "auto-resolved", "AutoResolved", "Down ended (now: Up)"),
        *("is up", "now OK", "Not firing", "✅", "🟢", "✔️", "\uff4f\uff4b", ["resolved"]),
        *("Problem resolved", "The issue has been fixed", "alarm cleared", "Alert closed", "Problem solved", "solved"),
        *("Host is back online", "Service restored", "Check passed", "All systems operational", "server is up again"),
        *("OK (was CRITICAL)", "Normal - was warning", "CRITICAL -> OK", "down → up", "changed from critical to ok"),
        *("resolved (by timeout)", "Closed by user", "Recovered after 5m", "Resolved in 30m 5s", "Returned to normal"),
        *("Status: OK", "state=UP", "Alert status: Resolved"),
    ],
)
def test_a_phrase_or_a_sign_for_an_end(phrase: Any) -> None:
    assert status_of(phrase) is AlertStatus.RESOLVED


@pytest.mark.parametrize("word", FIRING.split())
def test_what_is_not_clearly_an_end_fires(word: str) -> None:
    for spelled in (word, word.upper(), f"✅ {word}"):
        assert status_of(spelled) is AlertStatus.FIRING


@pytest.mark.parametrize(
    "odd",
    [
        *("Problem not resolved", "Service inactive", "host deactivated", "service closed", "monitor is not up"),
        *("OK -> CRITICAL", "up → down", "changed from ok to critical", "failed to recover", "unable to resolve"),
        *("ok was a lie" * 9, "resolved by", "alert is up", "problem available", "up 3 of 5", "Status: down", "status"),
        *("was up", "service was ok", "all hosts but one up", "closed on 3 of 4 ports", "->", "ok ->"),
        *("not ok", "!ok", "ok?no", "partially resolved", "up 97 %", "", "🔴", "✅🔴", "ok " * 100, f"ok{' ' * 99}not"),
        *(None, True, False, 0, 1, {"state": "ok"}, []),
    ],
)
def test_what_only_looks_like_an_end_fires(odd: Any) -> None:
    assert status_of(odd) is AlertStatus.FIRING


def test_the_first_value_that_says_something_decides() -> None:
    assert status_of(None, "", " ", "up", "down") is AlertStatus.RESOLVED
    assert status_of("down", "up") is AlertStatus.FIRING


def test_a_check_goes_down_and_up_and_down_as_one_alert() -> None:
    down, up = only(body("generic_check_down")), only(body("generic_check_up"))
    assert (down.status, up.status) == (AlertStatus.FIRING, AlertStatus.RESOLVED)
    assert (down.fingerprint, down.incident_key) == (up.fingerprint, up.incident_key)


def test_an_uptime_checkers_end_is_the_end_of_its_alert() -> None:
    down, up = only(body("generic_pingdom_down")), only(body("generic_pingdom_up"))
    assert (down.status, up.status) == (AlertStatus.FIRING, AlertStatus.RESOLVED)
    assert (down.fingerprint, down.incident_key) == (up.fingerprint, up.incident_key)
    assert up.raw_payload == body("generic_pingdom_up")


def test_a_test_message_of_uptime_kuma_is_a_page() -> None:
    alert = only({"heartbeat": None, "monitor": None, "msg": "My notification Testing"})
    assert (alert.name, alert.firing) == ("My notification Testing", True)


FLAGS_OF_AN_END = [
    {"resolved": True},
    {"resolved": "true"},
    {"is_resolved": "True"},
    {"recovered": True},
    {"firing": False},
    {"firing": "false"},
    {"active": False},
    {"ok": True},
    {"healthy": True},
    {"down": False},
    {"success": "yes"},
    {"status": "down", "resolved": True},
    {"severity": "ok"},
    {"level": "OK"},
    {"conclusion": "success", "status": "completed"},
    {"Status": "Up"},
    {"monitorCondition": "Resolved"},
    {"event": "uptime.up", "trigger": "up"},
    {"type": "UP"},
    {"notification_type": "RECOVERY", "service_state": "OK"},
    {"host_state": "UP"},
    {"action": "resolved"},
    {"event_type": "INCIDENT_RESOLVED"},
]
FLAGS_OF_A_FIRING = [
    {"resolved": False},
    {"resolved": None},
    {"resolved": 1},
    {"resolved": "2026-01-01"},
    {"firing": True},
    {"firing": 2},
    {"firing": True, "status": "ok"},
    {"active": True},
    {"ok": False},
    {"ok": True, "status": "down"},
    {"up": False},
    {"severity": "normal"},
    {"priority": "ok"},
    {"conclusion": "failure", "status": "completed"},
    {"status": True},
    {"event": "uptime.down"},
    {"event": "vpn.connected"},
    {"type": "available"},
    {"action": "not_resolved"},
    {"event": "partially.resolved"},
    {"notification_type": "PROBLEM", "service_state": "CRITICAL"},
]


@pytest.mark.parametrize("fields", FLAGS_OF_AN_END)
def test_a_flag_ends_the_same_alert(fields: dict[str, Any]) -> None:
    first = {"name": "Export", "host": "batch-1"}
    over = only(first | fields)
    assert over.status is AlertStatus.RESOLVED
    assert (over.fingerprint, over.incident_key) == (only(first).fingerprint, only(first).incident_key)


@pytest.mark.parametrize("fields", FLAGS_OF_A_FIRING)
def test_a_flag_that_ends_nothing(fields: dict[str, Any]) -> None:
    assert only({"name": "Export", "host": "batch-1"} | fields).firing


def test_the_flag_of_a_list_ends_its_alerts_but_the_flag_of_the_request_does_not() -> None:
    alerts = [{"name": "Export", "host": "batch-1"}]
    assert only({"resolved": True, "alerts": alerts}).status is AlertStatus.RESOLVED
    assert only({"ok": True, "success": True, "alerts": alerts}).firing


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("alertmanager_truncated", ("alerts", 0, "status")),
        ("grafana_unified", ("alerts", 0, "status")),
        ("grafana_legacy", ("state",)),
        ("pagerduty_triggered", ("event", "data", "status")),
        ("datadog_triggered", ("alert_transition",)),
        ("newrelic_issue", ("state",)),
        ("newrelic_legacy", ("current_state",)),
        ("opsgenie_create", ("alert", "status")),
        ("zabbix_problem", ("event_value",)),
        ("generic_flat", ("state",)),
    ],
)
@pytest.mark.parametrize("word", ["Resolved", "UP", "passing", "fixed", "deactivated"])
def test_every_source_knows_the_same_words(name: str, path: tuple[Any, ...], word: str) -> None:
    whole = body(name)
    place: Any = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = word
    assert parse_push(whole).alerts[0].status is AlertStatus.RESOLVED
