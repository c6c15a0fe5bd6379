"""Each field of an alert, from good and bad values in the body."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestration.alert import Alert, Severity, web_address
from orchestration.errors import BadInput
from tasks.ingest.sources import parse_push
from tasks.ingest.sources.fields import moment, severity_of
from tests.payloads import NAMES, body


def only(payload: object, source: str | None = None) -> Alert:
    (alert,) = parse_push(payload, source=source).alerts
    return alert


@pytest.mark.parametrize(
    ("severity", "words"),
    [
        (Severity.CRITICAL, "critical CRIT Fatal emergency page high error disaster P1 p2"),
        (Severity.WARNING, "warning WARN medium average p3 purple 17"),
        (Severity.INFO, "info Informational low notice none P4 p5"),
    ],
)
def test_words_for_a_severity(severity: Severity, words: str) -> None:
    assert {severity_of(word) for word in words.split()} == {severity}


def test_the_first_known_word_is_the_severity() -> None:
    assert severity_of(None, "whatever", {"a": 1}, "fatal", "info") is Severity.CRITICAL


NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000000000Z",
        "2026-01-01T01:00:00+01:00",
        "2026-01-01 00:00:00",
        " 2026-01-01 ",
        1767225600,
        1767225600.0,
        1767225600_000,
        1767225600_000_000,
        1767225600_000_000_000,
        "1767225600",
        "1767225600000",
        "1767225600.0",
    ],
)
def test_a_moment_in_every_notation(written: Any) -> None:
    assert moment(written) == NEW_YEAR


ABSURD_NUMBERS = [None, True, False, 0, -1, 5, 1e300, 10**19 * 9, "99999999999999999999", "202611271300", 202611271300]
ABSURD_DATES = ["", "soon", "2026-13-01", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"]
ABSURD_SHAPES = [[], {}, ["2026-01-01"]]


@pytest.mark.parametrize("absurd", [*ABSURD_NUMBERS, *ABSURD_DATES, "9999-12-31T23:59:59-12:00", *ABSURD_SHAPES])
def test_what_is_no_moment_is_none(absurd: Any) -> None:
    assert moment(absurd) is None


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("https://wiki.example.net/a?b=c&d=%20#e", "https://wiki.example.net/a?b=c&d=%20#e"),
        ("HTTP://wiki.example.net", "HTTP://wiki.example.net"),
        ("https://x.net/a|b>c", "https://x.net/a%7Cb%3Ec"),
        ("javascript:alert(1)", ""),
        ("file:///etc/passwd", ""),
        ("//x.net/a", ""),
        ("https://", ""),
        ("https://[", ""),
        ("", ""),
        (None, ""),
        (5, ""),
        ("https://x.net/" + "a" * 5000, ""),
    ],
)
def test_only_web_pages_are_links(value: Any, address: str) -> None:
    assert web_address(value) == address


def test_alertmanagers_silence_link_has_the_alerts_labels_as_matchers() -> None:
    group = body("alertmanager_resolved")
    group["alerts"][0]["labels"] = {"alertname": 'a "quoted" name', "job": "j"}
    assert parse_push(group).alerts[0].links["silence"] == (
        "http://alertmanager:9093/#/silences/new?filter="
        "%7Balertname%3D%22a%20%5C%22quoted%5C%22%20name%22%2C%20job%3D%22j%22%7D"
    )


def test_a_missing_fingerprint_is_the_documented_recipe() -> None:
    alert = only({"name": "Größe", "labels": {"b": "2", "a": "1"}})
    assert alert.fingerprint == hashlib.sha256('["Größe",[["a","1"],["b","2"]]]'.encode()).hexdigest()


@pytest.mark.parametrize(
    "later",
    [
        {"status": "resolved"},
        {"severity": "info"},
        {"value": 12},
        {"cpu": 12.5},
        {"timestamp": "2026-02-02T00:00:00Z"},
        {"event_id": "e-2"},
        {"message": "It is over."},
        {"updated_at": "2026-02-02"},
    ],
)
def test_what_differs_each_time_does_not_make_another_alert(later: dict[str, Any]) -> None:
    first = {"name": "HighCPU", "host": "web-1", "severity": "critical", "value": 97, "event_id": "e-1"}
    assert only(first | later).fingerprint == only(first).fingerprint


@pytest.mark.parametrize("other", [{"host": "web-2"}, {"port": 8081}, {"labels": ["env:b"]}, {"disk": "/dev/sdb"}])
def test_what_tells_two_things_apart_makes_two_alerts(other: dict[str, Any]) -> None:
    first = {"name": "Down", "host": "web-1", "port": 8080, "labels": ["env:a"], "disk": "/dev/sda"}
    assert only(first | other).fingerprint != only(first).fingerprint


def test_an_incident_key_of_the_sender_is_kept() -> None:
    assert only({"name": "x", "host": "h", "incident_key": "db-outage"}).incident_key == "generic:db-outage"


def test_a_group_of_several_rules_is_called_by_them() -> None:
    group = body("alertmanager_group") | {"truncatedAlerts": 0}
    for index, alert in enumerate(group["alerts"]):
        alert["labels"] |= {"alertname": f"Rule{index}", "instance": "db-1"}
    assert parse_push(group).alerts[0].title == "3 alerts on db-1: Rule0, Rule1, Rule2"


def test_an_alert_without_a_name_is_still_delivered() -> None:
    group = body("alertmanager_resolved") | {"commonLabels": None}
    group["alerts"] = [{"labels": {"job": "x"}}, {"annotations": {"summary": "Something broke"}}]
    assert [alert.name for alert in parse_push(group).alerts] == ["unnamed alert", "Something broke"]


def test_a_firing_alert_has_no_end() -> None:
    group = body("alertmanager_group")
    group["alerts"][0]["endsAt"] = "2026-03-14T02:20:00Z"
    assert parse_push(group).alerts[0].ended_at is None


def test_long_texts_are_cut_and_stay_apart() -> None:
    group = body("alertmanager_resolved")
    long = {"alertname": "n" * 2000, "instance": "i" * 5000}
    alerts = [
        {"labels": long, "annotations": {"description": "d" * 50_000}, "fingerprint": "f" * 3000 + end} for end in "ab"
    ]
    push = parse_push(group | {"alerts": alerts, "groupKey": "k" * 9000})
    first, second = push.alerts
    assert first.name == "n" * 511 + "…"
    assert len(first.description) == 8192
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("odd", [None, True, 3, 2.5, {"a": [1]}, [{"b": None}], "", "\x00", "\ud800"])
def test_odd_values_in_every_field_do_not_raise(odd: Any) -> None:
    for name in NAMES:
        whole = body(name)
        for field in whole:
            _read_or_refuse(whole | {field: odd})
        for field in whole["alerts"][0] if "alerts" in whole else ():
            _read_or_refuse(whole | {"alerts": [whole["alerts"][0] | {field: odd}]})


def _read_or_refuse(payload: dict[str, Any]) -> None:
    try:
        push = parse_push(payload)
    except BadInput:
        return
    assert push.alerts or push.ignored


def test_nothing_that_postgresql_cannot_store_is_left() -> None:
    dirty = {"name": "a\x00b\x1b[31m\u202ec", "x\x00": ["\ud83d", float("nan"), float("-inf"), 10**30, 10**5000]}
    alert = only(dirty)
    assert alert.name == "a\ufffdb [31m c"
    assert alert.raw_payload["x\ufffd"][:4] == ["\ufffd", "NaN", "-Infinity", str(10**30)]
    assert alert.raw_payload["x\ufffd"][4].startswith("0x")
    assert "\\u0000" not in alert.model_dump_json()


def test_python_values_that_json_does_not_know_become_text() -> None:
    assert only({"name": "x", "labels": {"at": NEW_YEAR, "pair": (1, 2)}}).labels == {
        "at": "2026-01-01 00:00:00+00:00",
        "pair": "1, 2",
    }
