"""The message that a person reads at three in the morning, and hostile text in its alerts."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.alert import Alert, AlertStatus, Incident, IncidentStatus, Severity
from orchestration.contracts import AnalyzeResult, Check, CheckResult, CheckStatus, Recommendation, Target
from orchestration.message import Upcoming
from orchestration.reasons import Reason
from orchestration.states import RunReason
from tasks.ingest.sources import parse_push
from tasks.notify.message import LINES_ABOVE_THE_FOLD, render_message
from tasks.notify.subject import MessageSubject

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def an_alert(number: int = 1, **fields: Any) -> Alert:
    own: dict[str, Any] = {
        "source": "alertmanager",
        "fingerprint": f"fingerprint-{number}",
        "name": "HighCPU",
        "severity": Severity.CRITICAL,
        "description": "CPU above 95 % for ten minutes",
        "labels": {"alertname": "HighCPU", "instance": f"web-{number}", "team": "infra", "severity": "critical"},
        "incident_key": "alertmanager/HighCPU",
        "links": {"dashboard": "https://grafana.example.com/d/1", "runbook": "https://wiki.example.com/cpu"},
        "started_at": START,
    }
    return Alert(**(own | fields))


def an_incident(**fields: Any) -> Incident:
    own: dict[str, Any] = {"id": "7", "incident_key": "alertmanager/HighCPU", "title": "HighCPU", "opened_at": START}
    return Incident(**(own | fields))


CHECKS = CheckResult(
    checks=[
        Check(name="disk", status=CheckStatus.OK, message="12 % used"),
        Check(name="cpu", status=CheckStatus.CRITICAL, message="97 % busy"),
        Check(name="network", status=CheckStatus.UNKNOWN, message="", error="timed out after 5 s"),
    ]
)
ANALYSIS = AnalyzeResult(
    summary="A process eats the CPU.", probable_cause="java, pid 42", actions=["Restart java"], confidence=0.8
)


def a_subject(**fields: Any) -> MessageSubject:
    own: dict[str, Any] = {
        "run_id": "run-1",
        "trace_id": "trace-1",
        "source": "alertmanager",
        "environment": "production",
        "node_id": "notify",
        "incident": an_incident(),
        "alerts": [an_alert()],
        "reason": "opened",
        "check": CHECKS,
        "analysis": ANALYSIS,
        "firing": 1,
        "resolved": 0,
    }
    return MessageSubject(**(own | fields))


def test_the_first_lines_say_severity_what_where_since_when_and_what_to_do():
    lines = render_message(a_subject()).text.splitlines()
    assert lines[0] == "[CRITICAL] HighCPU on web-1 (production)"
    assert lines[2:8] == [
        "What: HighCPU: CPU above 95 % for ten minutes",
        "Where: web-1",
        "Since: 2026-01-02 03:04:05 UTC",
        "Why now: a new incident",
        "Do first: Follow the runbook. https://wiki.example.com/cpu",
        "Then: Restart java",
    ]
    assert lines[-1] == "  trace trace-1, run run-1"


def test_a_message_says_how_much_how_long_who_has_it_and_what_comes_next_above_the_fold():
    subject = a_subject(
        alerts=[an_alert(annotations={"value": "97.1", "threshold": "95"})],
        at=START + timedelta(minutes=14),
        zone=ZoneInfo("Europe/Berlin"),
        on_call="Ann",
        on_call_until=START + timedelta(hours=15),
        upcoming=Upcoming(reason=RunReason.REMINDER, due_at=START + timedelta(hours=1)),
        pages={"incident": "https://alerts.example.com/incidents/7/"},
    )
    above, _, below = render_message(subject).text.partition("\nMore\n")
    lines = [line for line in above.splitlines() if line]
    assert "Value: 97.1, limit 95" in lines
    assert "Since: 2026-01-02 03:04:05 UTC (04:04 CET), for 14 min" in lines
    assert "On call: Ann, until 2026-01-02 18:04:05 UTC (19:04 CET)" in lines
    assert lines[-3] == (
        "Next: a reminder at 2026-01-02 04:04:05 UTC (05:04 CET), unless somebody acknowledges it: "
        "alert-pipeline incidents ack 7"
    )
    assert lines[-1] == "Incident: https://alerts.example.com/incidents/7/"
    assert len(lines) <= LINES_ABOVE_THE_FOLD
    assert "Labels: team=infra" in below


def test_the_top_of_a_message_never_has_more_lines_than_fit():
    subject = a_subject(
        alerts=[an_alert(annotations={"value": "1"}, links={f"l{n}": f"https://a.example/{n}" for n in range(8)})],
        analysis=AnalyzeResult(summary="s", actions=[f"step {n}" for n in range(8)]),
        test=True,
        on_call="Ann",
        notes=["mail did not accept it", "neither did chat", "nor the pager"],
        reason="resolved_by_hand",
    )
    above, _, below = render_message(subject).text.partition("\nMore\n")
    assert len([line for line in above.splitlines() if line]) <= LINES_ABOVE_THE_FOLD
    for said in (*(f"step {n}" for n in range(8)), *(f"https://a.example/{n}" for n in range(8)), "nor the pager"):
        assert said in above + below


@pytest.mark.parametrize("name", ["Short", "KubernetesPersistentVolumeFillingUpOnTheClusterOfTheShop" * 3])
def test_a_lock_screen_shows_severity_name_and_place(name: str):
    place = "ip-10-12-3-4.eu-central-1.compute.internal:9100"
    seen = render_message(a_subject(alerts=[an_alert(name=name, labels={"instance": place})])).title[:100]
    assert seen.startswith(f"[CRITICAL] {name[:50]}")
    assert f" on {place[:20]}" in seen


def test_the_message_names_checks_analysis_labels_and_links():
    message = render_message(a_subject())
    assert message.checks == [
        "✗ cpu: critical, 97 % busy",
        "? network: unknown, timed out after 5 s",
        "✓ disk: ok, 12 % used",
    ]
    assert list(message.links) == ["runbook", "dashboard"]
    facts = {fact.label: fact.value for fact in [*message.facts, *message.details]}
    assert facts["Labels"] == "team=infra"
    assert facts["Why now"] == "a new incident"
    assert "Probable cause: java, pid 42" in message.text
    for text in (message.text, message.markdown, message.html):
        for word in ("HighCPU", "Restart java", "97 % busy", "https://wiki.example.com/cpu", "trace-1", "run-1"):
            assert word in text


def test_messages_about_one_incident_share_a_key_and_a_retry_renders_the_same():
    first, again = (render_message(a_subject()) for _ in range(2))
    assert first == again
    later = render_message(a_subject(run_id="run-2", reason="resolved"))
    assert later.dedup_key == first.dedup_key
    assert render_message(a_subject(incident=an_incident(id="8"))).dedup_key != first.dedup_key
    assert render_message(a_subject(incident=None)).dedup_key == "run-1"


def test_a_test_message_says_so_first_in_every_form():
    message = render_message(a_subject(test=True))
    assert message.title == "[TEST] [CRITICAL] HighCPU on web-1 (production)"
    assert message.text.startswith("[TEST] ")
    assert message.markdown.startswith(r"## \[TEST\] ")
    assert message.html.startswith("<h2>[TEST] ")
    assert (message.facts[0].label, message.facts[0].value.partition(",")[0]) == ("Test", "This message is a test")
    assert "Test" not in {fact.label for fact in render_message(a_subject()).facts}


def a_check_of_this_host(*statuses: str) -> CheckResult:
    return CheckResult(
        checks=[Check(name=f"c{n}", status=CheckStatus(s), message="") for n, s in enumerate(statuses or ["critical"])],
        target=Target(host=socket.gethostname(), is_own=True),
    )


def test_the_health_of_a_host_can_be_a_test_too():
    message = render_message(a_subject(alerts=[], incident=None, check=a_check_of_this_host(), test=True))
    assert message.title == f"[TEST] [CRITICAL] Health of {socket.gethostname()}"


@pytest.mark.parametrize("reason", Reason)
def test_why_a_message_was_sent_is_said_in_words(reason: Reason):
    facts = {fact.label: fact.value for fact in render_message(a_subject(reason=reason.value)).facts}
    assert facts.get("Why now") != reason.value
    assert "_" not in facts.get("Why now", "")


@pytest.mark.parametrize(
    ("labels", "host"),
    [
        ({"instance": "db-1:9100", "host": "other", "node": "other"}, "db-1:9100"),
        ({"hostname": "web-3", "node": "other", "service": "shop"}, "web-3"),
        ({"node": "n-7", "pod": "shop-1"}, "n-7"),
    ],
)
def test_the_title_the_message_and_the_incident_key_name_the_same_host(labels: dict[str, str], host: str):
    (alert,) = parse_push({"name": "Slow", "labels": labels}).alerts
    assert (alert.incident_key, alert.title, alert.host) == (f"generic:Slow:{host}", f"Slow on {host}", host)
    message = render_message(a_subject(alerts=[alert]))
    assert message.title == f"[WARNING] Slow on {host} (production)"
    assert f"Where: {host}\n" in message.text


def test_without_a_host_the_message_names_the_pod_or_service():
    (alert,) = parse_push({"name": "Slow", "labels": {"pod": "shop-1", "service": "shop"}}).alerts
    assert (alert.incident_key, alert.host) == ("generic:Slow", "")
    assert render_message(a_subject(alerts=[alert])).title == "[WARNING] Slow on shop-1 (production)"


def test_a_critical_alert_stays_critical_whatever_the_analysis_says():
    calm = AnalyzeResult(summary="info: nothing to see", confidence=0.99)
    alerts = [an_alert(1, severity="info"), an_alert(2), an_alert(3, severity="warning")]
    message = render_message(a_subject(alerts=alerts, analysis=calm))
    assert (message.severity, message.status) == (Severity.CRITICAL, AlertStatus.FIRING)


def test_a_resolved_alert_does_not_make_a_warning_critical():
    alerts = [an_alert(1, status="resolved"), an_alert(2, severity="warning")]
    message = render_message(a_subject(alerts=alerts))
    assert message.title == "[WARNING] HighCPU on web-2 (production)"


def test_the_all_clear_says_how_long_it_lasted_and_asks_for_nothing():
    alerts = [an_alert(status="resolved", ended_at=START + timedelta(minutes=75))]
    subject = a_subject(alerts=alerts, reason="resolved", check=None, analysis=None, firing=0, resolved=1)
    message = render_message(subject)
    assert message.title == "[RESOLVED] HighCPU on web-1 (production)"
    assert message.status is AlertStatus.RESOLVED
    assert "until 2026-01-02 04:19:05 UTC (1 h 15 min)" in message.text
    assert message.actions == []


def test_an_incident_that_still_fires_is_no_all_clear():
    subject = a_subject(alerts=[an_alert(status="resolved")], reason="", firing=3, resolved=1)
    assert render_message(subject).status is AlertStatus.FIRING


def test_fifty_hosts_are_named_twenty_times_and_counted():
    message = render_message(a_subject(alerts=[an_alert(n) for n in range(1, 51)], firing=50))
    assert "Where: web-1, web-2, web-3, web-4, web-5 and 45 more\n" in message.text
    where = next(fact.value for fact in message.details if fact.label == "All places")
    assert where.startswith("web-1, web-2, ")
    assert where.endswith("web-20 and 30 more")
    assert message.title == "[CRITICAL] HighCPU on web-1, web-2 and 48 more (production)"
    assert "50 firing, 0 resolved" in message.text


def test_alerts_that_were_not_read_are_counted_too():
    hosts = [an_alert(n) for n in range(1, 201)]
    message = render_message(a_subject(alerts=hosts, unread=700, firing=900))
    assert message.title == "[CRITICAL] HighCPU on web-1, web-2 and 898 more (production)"
    assert "web-20 and 880 more\n" in message.text
    two = render_message(a_subject(alerts=[*hosts[:199], an_alert(200, name="DiskFull")], unread=700, firing=900))
    assert "With it: HighCPU ×198 or more, DiskFull ×1 or more\n" in two.text
    assert two.title == "[CRITICAL] HighCPU on web-1 and 899 more alerts (production)"


def test_alerts_of_several_names_are_all_named():
    alerts = [an_alert(1), an_alert(2, name="DiskFull"), an_alert(3, name="DiskFull")]
    message = render_message(a_subject(alerts=alerts, incident=an_incident(title="Cluster a")))
    assert message.title == "[CRITICAL] HighCPU on web-1 and 2 more alerts (production)"
    assert "What: HighCPU: CPU above 95 % for ten minutes\nWith it: DiskFull ×2\n" in message.text


def test_the_top_of_a_message_is_about_the_worst_alert_and_says_so_of_what_belongs_to_others():
    minor = an_alert(
        1,
        name="MinorWeb",
        severity="warning",
        description="a bit slow",
        annotations={"value": "1.2 s"},
        started_at=START - timedelta(days=2),
    )
    dead = an_alert(
        2, name="DbDead", labels={"instance": "db-1"}, description="primary is gone", links={}, started_at=START
    )
    message = render_message(
        a_subject(alerts=[minor, dead], analysis=None, incident=an_incident(title="MinorWeb on web-1"), at=START)
    )
    assert message.title == "[CRITICAL] DbDead on db-1 and 1 more alert (production)"
    assert message.text.splitlines()[2:7] == [
        "What: DbDead (critical): primary is gone",
        "With it: MinorWeb ×1 (warning)",
        "Value: 1.2 s (MinorWeb on web-1)",
        "Where: db-1, web-1",
        "Since: 2026-01-02 03:04:05 UTC; the first of its alerts since 2025-12-31 03:04:05 UTC",
    ]
    assert "Follow the runbook" not in message.text
    assert "Runbook of MinorWeb: https://wiki.example.com/cpu" in message.text
    assert message.links["runbook of MinorWeb"] == "https://wiki.example.com/cpu"


def test_of_one_alert_on_many_hosts_the_title_names_a_host_where_it_is_as_bad_as_it_says():
    alerts = [an_alert(1, severity="warning"), an_alert(2, started_at=START + timedelta(minutes=1)), an_alert(3)]
    message = render_message(a_subject(alerts=alerts))
    assert message.title == "[CRITICAL] HighCPU on web-3 and 2 more alerts (production)"
    assert "What: HighCPU (critical): CPU above 95 %" in message.text
    assert "With it: HighCPU ×1 (critical), HighCPU ×1 (warning)" in message.text
    assert "Where: web-3, web-2, web-1\n" in message.text


def test_an_outage_of_the_model_is_said_plainly_with_its_cause():
    analysis = AnalyzeResult(
        summary="AI analysis unavailable",
        actions=["Manual investigation required"],
        fallback_used=True,
        errors=["503 from the provider, token=abc123"],
    )
    message = render_message(a_subject(analysis=analysis))
    assert message.summary.startswith("AI analysis unavailable: 503 from the provider")
    assert "AI analysis unavailable: " in message.text
    assert "abc123" not in message.text
    assert message.actions == ["Follow the runbook.", "Manual investigation required"]


def test_recommendations_stand_in_for_missing_actions():
    tip = Recommendation(type="cpu", priority="high", title="Look at java", description="It uses 97 %")
    message = render_message(a_subject(analysis=AnalyzeResult(summary="s", recommendations=[tip])))
    assert "Look at java: It uses 97 %" in message.actions


@pytest.mark.parametrize(
    ("statuses", "title", "severity", "status"),
    [
        (["ok", "warning"], "[WARNING] Health of {host}", Severity.WARNING, AlertStatus.FIRING),
        (["critical", "warning"], "[CRITICAL] Health of {host}", Severity.CRITICAL, AlertStatus.FIRING),
        (["ok", "unknown"], "[UNKNOWN] Health of {host}", Severity.WARNING, AlertStatus.FIRING),
        (["ok", "ok"], "[OK] Health of {host}", Severity.INFO, AlertStatus.RESOLVED),
    ],
)
def test_checks_without_an_alert_are_the_health_of_this_host(
    statuses: list[str], title: str, severity: Severity, status: AlertStatus
):
    checks = a_check_of_this_host(*statuses)
    subject = a_subject(alerts=[], incident=None, check=checks, analysis=None, reason="", firing=0)
    message = render_message(subject)
    assert message.title == title.format(host=socket.gethostname())
    assert (message.severity, message.status) == (severity, status)


def test_an_incident_without_alerts_has_a_message_of_its_own():
    incident = an_incident(status=IncidentStatus.RESOLVED, severity=Severity.WARNING)
    message = render_message(a_subject(alerts=[], incident=incident, firing=0))
    assert message.title == "[RESOLVED] HighCPU (production)"


def test_a_template_in_an_alert_is_text():
    attack = "{{ 7*7 }}{% for x in ''.__class__.__mro__ %}{{ x }}{% endfor %}"
    alert = an_alert(name=attack, description=attack, labels={"instance": attack, "team": attack})
    message = render_message(a_subject(alerts=[alert]))
    assert "{{ 7*7 }}" in message.title
    assert "{{ 7*7 }}" in message.text
    assert "49" not in message.text
    assert "{{ 7*7 }}" in message.html


def test_markup_in_an_alert_is_text():
    alert = an_alert(
        name="<script>alert(1)</script>", description="![x](https://evil.example/p.png) <img src=x> `code`", links={}
    )
    message = render_message(a_subject(alerts=[alert]))
    assert "<script" not in message.html
    assert "<img" not in message.html
    assert "&lt;script&gt;" in message.html
    assert "![x](" not in message.markdown
    assert r"\<script\>" in message.markdown


def test_only_web_links_are_links():
    links = {
        "runbook": "javascript:alert(1)",
        "source": "file:///etc/passwd",
        "panel": "https://[bad",
        "silence": 'https://ok.example/"><b>|x',
        "dashboard": "https://bob:hunter2@ok.example/?token=abc",
    }
    message = render_message(a_subject(alerts=[an_alert(links=links)]))
    assert message.links == {
        "dashboard": "https://redacted@ok.example/?token=redacted",
        "silence": "https://ok.example/%22%3E%3Cb%3E%7Cx",
    }


def test_secrets_of_an_alert_stay_out_of_the_message():
    alert = an_alert(
        description="login failed: password=hunter2hunter2 with Bearer abc.def.ghi",
        labels={"instance": "web-1", "api_key": "hunter2hunter2", "team": "postgres://a:hunter2hunter2@db/x"},
    )
    message = render_message(a_subject(alerts=[alert]))
    assert "hunter2" not in message.model_dump_json()
    assert "abc.def.ghi" not in message.model_dump_json()


def test_a_hostile_push_gives_a_message_of_bounded_size():
    huge = "\x1b[31m\r\n\u202ebig " * 100_000
    alerts = [
        an_alert(n, name=f"A{n}" + "n" * 500, description=huge, labels={f"l{i}": huge for i in range(3)})
        for n in range(10_000)
    ]
    message = render_message(a_subject(alerts=alerts, firing=10_000, trace_id="t" * 100_000))
    assert len(message.text) < 20_000
    assert "\x1b" not in message.model_dump_json()
    assert "\u202e" not in message.text
    one = render_message(a_subject(alerts=[an_alert(name="web\n\x1b[2Jdown", description=huge)]))
    assert one.title == "[CRITICAL] webdown on web-1 (production)".replace("webdown", "web down")
    assert len(one.text) < 5_000


@settings(deadline=None)
@given(st.text(min_size=1, max_size=300), st.text(max_size=300), st.dictionaries(st.text(), st.text(), max_size=5))
def test_no_alert_breaks_the_message(name: str, description: str, labels: dict[str, str]):
    links = {name: description, "runbook": f"https://{name}"}
    alert = an_alert(name=name, description=description, labels=labels, annotations=labels, links=links)
    message = render_message(a_subject(alerts=[alert], environment=name, reason=description))
    assert len(message.title.splitlines()) == 1
    message.model_dump_json().encode()


def test_rendering_a_message_does_not_import_prefect():
    code = "import sys, tasks.notify.message; print([m for m in ('prefect', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
