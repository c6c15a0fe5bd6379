"""What well-known senders send, from the firing to its end: one alert, ended by its end, that a person can read.

The bodies are written in the shape that each sender documents.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestration.alert import Alert, AlertStatus, Severity
from tasks.ingest.sources import parse_push
from tasks.ingest.sources.fields import moment
from tests.payloads import body
from tests.test_field_reports import Installation, here, said, settings  # noqa: F401 - here and settings are fixtures

Json = dict[str, Any]


def only(payload: object, source: str | None = None) -> Alert:
    (alert,) = parse_push(payload, source=source).alerts
    return alert


def azure(condition: str) -> Json:
    essentials = {"alertId": "/subscriptions/s/alerts/b9", "alertRule": "CPU", "severity": "Sev1"}
    essentials |= {
        "monitorCondition": condition,
        "configurationItems": ["vm-1"],
        "firedDateTime": "2026-03-14T01:00:00Z",
    }
    return {"schemaId": "azureMonitorCommonAlertSchema", "data": {"essentials": essentials, "alertContext": {}}}


def google(state: str) -> Json:
    incident = {"incident_id": "0.abc", "policy_name": "CPU", "state": state, "severity": "Critical"}
    return {"version": "1.2", "incident": incident | {"started_at": 1773450000, "summary": "CPU of vm-1 is above 0.9"}}


def cloudwatch(state: str) -> Json:
    return {"AlarmName": "CPU", "AlarmArn": "arn:aws:cloudwatch:eu-west-1:1:alarm:CPU", "NewStateValue": state}


def sns(state: str) -> Json:
    letter = {"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Subject": f"{state}: CPU"}
    return letter | {"MessageId": state, "Message": json.dumps(cloudwatch(state))}


def event_bridge(state: str) -> Json:
    detail = {"alarmName": "CPU", "state": {"value": state}}
    return {"id": state, "detail-type": "CloudWatch Alarm State Change", "detail": detail, "resources": ["arn:1"]}


def sentry(action: str) -> Json:
    return {"action": action, "data": {"metric_alert": {"id": "7", "title": "CPU"}, "description_text": action}}


def sentry_issue(status: str) -> Json:
    issue = {"id": "9", "title": "CPU", "level": "error", "status": status}
    return {"action": status, "data": {"issue": issue}}


def better_stack(status: str) -> Json:
    return {"data": {"id": "25", "attributes": {"name": "CPU", "status": status, "started_at": "2026-03-14T01:00:00Z"}}}


def nagios(state: str) -> Json:
    sent = {"host_name": "web-1", "service_description": "CPU", "service_state": state, "long_date_time": f"at {state}"}
    return sent | {"notification_type": "RECOVERY" if state == "OK" else "PROBLEM"}


def checkmk(state: str) -> Json:
    return {
        "HOSTNAME": "web-1",
        "SERVICEDESC": "CPU",
        "SERVICESTATE": state,
        "SERVICEOUTPUT": state,
        "MICROTIME": state,
    }


def host_check(state: str) -> Json:
    return {"HOSTNAME": "web-1", "HOSTSTATE": state, "HOSTOUTPUT": f"PING {state}"}


def netdata(severity: str) -> Json:
    return {"alert": "CPU", "chart": "system.cpu", "severity": severity, "info": "is busy", "message": severity}


def influx(level: str) -> Json:
    return {"_check_id": "c", "_check_name": "CPU", "_level": level, "_message": level, "host": "web-1"}


def zabbix_camel(value: str) -> Json:
    sent = {"EventID": "8", "EventName": "CPU", "EventNSeverity": "5", "EventSeverity": "Чрезвычайная"}
    return sent | {"EventValue": value, "HostName": "web-1", "TriggerID": "4"}


def zabbix_small(value: str) -> Json:
    return {"eventid": "8", "eventname": "CPU", "eventvalue": value, "hostname": "web-1", "triggerid": "4"}


def zabbix_mail(word: str) -> Json:
    text = "Host: web-1\r\nSeverity: High\r\nOriginal problem ID: 8\r\n"
    return {"Subject": f"{word}: CPU", "Message": text, "event_id": "8", "event_source": "0"}


def datadog_upper(transition: str) -> Json:
    return {"ALERT_ID": "5", "ALERT_TITLE": "CPU", "ALERT_TRANSITION": transition, "HOSTNAME": "$HOSTNAME"}


def datadog_incident(transition: str) -> Json:
    title = f"[{transition} on {{host:web-1}}] CPU"
    return {
        "alert_transition": transition,
        "deduplication_key": "K",
        "title": title,
        "source_url": "https://dd.example",
    }


def new_relic_snake(state: str) -> Json:
    return {"issue_id": "i", "issue_title": "CPU", "issue_state": state, "priority": "CRITICAL", "workflow_name": "W"}


def any_spelling(status: str) -> Json:
    return {"Alert-Name": "CPU", "SEVERITY": "Critical", "Host": "web-1", "Status": status, "Timestamp": status}


@pytest.mark.parametrize(
    ("write", "begins", "ends", "severity"),
    [
        (azure, "Fired", "Resolved", Severity.CRITICAL),
        (google, "open", "closed", Severity.CRITICAL),
        (cloudwatch, "ALARM", "OK", Severity.WARNING),
        (sns, "ALARM", "OK", Severity.WARNING),
        (event_bridge, "ALARM", "OK", Severity.WARNING),
        (sentry, "critical", "resolved", Severity.CRITICAL),
        (sentry_issue, "unresolved", "resolved", Severity.CRITICAL),
        (better_stack, "Started", "Resolved", Severity.WARNING),
        (nagios, "CRITICAL", "OK", Severity.CRITICAL),
        (checkmk, "WARNING", "OK", Severity.WARNING),
        (host_check, "DOWN", "UP", Severity.CRITICAL),
        (netdata, "critical", "clear", Severity.CRITICAL),
        (influx, "crit", "ok", Severity.CRITICAL),
        (zabbix_camel, "1", "0", Severity.CRITICAL),
        (zabbix_small, "1", "0", Severity.WARNING),
        (zabbix_mail, "Problem", "Resolved in 1h 5m", Severity.CRITICAL),
        (datadog_upper, "Triggered", "Recovered", Severity.WARNING),
        (datadog_incident, "Triggered", "Recovered", Severity.WARNING),
        (new_relic_snake, "ACTIVATED", "CLOSED", Severity.CRITICAL),
        (any_spelling, "Firing", "Resolved", Severity.CRITICAL),
    ],
)
def test_the_end_of_a_sender_ends_its_alert(write: Any, begins: str, ends: str, severity: Severity) -> None:
    first, last = only(write(begins)), only(write(ends))
    assert (first.status, first.severity) == (AlertStatus.FIRING, severity)
    assert first.name in ("CPU", "Host check")
    assert last.status is AlertStatus.RESOLVED
    assert (first.fingerprint, first.incident_key) == (last.fingerprint, last.incident_key)
    assert "$" not in first.title + first.description
    assert first.raw_payload == write(begins)


@pytest.mark.parametrize(
    "word",
    ["Behoben", "résolu", "Resuelto", "RISOLTO", "Решено", "восстановлено", "已恢复", "復旧", "복구"],
)
def test_an_end_in_the_language_of_the_operator(word: str) -> None:
    assert only({"name": "x", "status": word}).status is AlertStatus.RESOLVED


def test_a_text_without_a_name_is_a_page() -> None:
    assert only({"text": "Disk full on web-1"}).name == "Disk full on web-1"


@pytest.mark.parametrize(("status", "state"), [(2, "that is pending"), (3, "during a maintenance")])
def test_a_heartbeat_that_says_nothing_is_ignored(status: int, state: str) -> None:
    whole = body("uptime-kuma/firing")
    whole["heartbeat"]["status"] = status
    assert parse_push(whole).ignored == f"a heartbeat {state}"


def test_what_could_not_be_filled_in_is_not_in_a_page() -> None:
    alert = only(body("zabbix_problem") | {"event_name": "CPU of {HOST.NAME}", "trigger_name": "{TRIGGER.NAME}"})
    assert alert.name == "CPU of (no value)"
    alert = only(body("datadog_triggered") | {"tags": "$TAGS", "hostname": "null", "link": "$LINK"})
    assert not {"$TAGS", "null"} & set(alert.labels.values())
    assert only(body("newrelic_issue") | {"title": "Memory &gt; 90 on &#x27;db&#x27;"}).name == "Memory > 90 on 'db'"
    details = {"ping": "1500ms", "hosts": ["a", "b"]}
    whole = body("pagerduty_triggered")
    whole["event"]["data"]["body"] = {"type": "incident_body", "details": details}
    assert only(whole).description == "ping: 1500ms, hosts: a, b"


def test_tags_of_zabbix_in_json_and_the_severity_of_an_update() -> None:
    tags = '[{"tag":"component","value":"disk"},{"tag":"prod","value":""}]'
    alert = only(body("zabbix_problem") | {"event_tags": tags, "event_update_nseverity": "5"})
    assert (alert.labels["component"], alert.labels["tags"]) == ("disk", "prod")
    assert alert.severity is Severity.CRITICAL


def test_the_order_of_a_datadog_scope_does_not_matter() -> None:
    one, other = (
        only(body("datadog_triggered") | {"alert_scope": scope}) for scope in ("host:a,env:p", "env:p, host:a")
    )
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("state", ["paused", "pending", "unknown"])
def test_a_legacy_rule_of_grafana_without_a_state_is_ignored(state: str) -> None:
    assert parse_push(body("grafana_legacy") | {"state": state}).ignored == f"a rule that is {state}"


@pytest.mark.parametrize(
    "written",
    [
        *("2026.03.14 02:11:09", "2026/03/14 02:11:09", "14.03.2026 02:11:09", "2026-03-14 02:11:09 UTC"),
        *("2026-03-14 02:11:09 +0000 UTC", "2026-03-14 03:11:09 +0100", "Sat, 14 Mar 2026 02:11:09 GMT"),
    ],
)
def test_a_time_as_programs_write_it(written: str) -> None:
    assert moment(written) == datetime(2026, 3, 14, 2, 11, 9, tzinfo=UTC)
    assert moment("03/04/2026 02:11:09") is None


async def test_an_end_before_its_start_is_an_end(here: Installation, channel: Any) -> None:  # noqa: F811
    whole = body("alertmanager_resolved")
    ended = whole["alerts"][0]
    ended["endsAt"] = "2026-05-01T06:59:58Z"
    await here.receive(whole | {"status": "firing", "alerts": [ended | {"status": "firing"}]})
    await here.receive(whole)
    assert [status.split()[0] for status in said(channel)] == ["firing", "resolved"]


async def test_the_same_rule_in_two_organisations_is_two_incidents(here: Installation, channel: Any) -> None:  # noqa: F811
    whole = body("grafana_missing_series")
    for organisation in (1, 2):
        alerts = [alert | {"orgId": organisation, "status": "firing"} for alert in whole["alerts"]]
        await here.receive(whole | {"orgId": organisation, "status": "firing", "alerts": alerts})
    assert len(channel.messages) == len({message.dedup_key for message in channel.messages}) == 2
