"""What a body says beside the alert: its moments, why something ended, what it left out, and that it is no news."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.errors import BadInput
from tasks.ingest.sources import parse_push
from tests.payloads import IGNORED, body


def only(payload: object, source: str | None = None) -> Alert:
    (alert,) = parse_push(payload, source=source).alerts
    return alert


def at(hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 3, 14, hour, minute, second, tzinfo=UTC)


# Events that say nothing about an alert


REASONS = {
    "ignored/opsgenie_note": "AddNote",
    "ignored/pagerduty_note": "incident.annotated",
    "ignored/pagerduty_ping": "pagey.ping",
    "ignored/pagerduty_responder": "incident.responder.added",
    "ignored/pagerduty_service": "service.updated",
    "ignored/pagerduty_status_update": "incident.status_update_published",
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_says_nothing_about_an_alert_is_ignored_and_no_error(name: str) -> None:
    """Case 04."""
    vendor = name.removeprefix("ignored/").split("_")[0]
    for source in (None, "webhook", vendor):
        push = parse_push(body(name), source=source)
        assert (push.source, push.alerts, push.errors, push.ignored) == (vendor, (), (), REASONS[name])


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("incident.conference_bridge.updated", "incident_conference_bridge"),
        ("incident.custom_field_values.updated", "incident_field_values"),
        ("incident.responder.replied", "incident_responder"),
        ("incident.role.assigned", "incident_role_assignment"),
        ("incident.task.completed", "incident_task"),
        ("incident.workflow.started", "incident_workflow_instance"),
        ("service.created", "service"),
        ("service.deleted", "service"),
        ("service.custom_field_values.updated", "service_field_values"),
        ("orbit.moon.landed", "moon"),
        ("incident.future_thing.happened", "incident_future_thing"),
    ],
)
def test_an_event_about_something_else_is_ignored(event: str, kind: str) -> None:
    data = {"id": "PX1", "type": kind, "summary": "x", "status": "triggered", "incident": {"id": "PGR0VU2"}}
    assert parse_push({"event": {"event_type": event, "data": data}}).ignored == event


@pytest.mark.parametrize("status", ["triggered", "acknowledged", "resolved"])
def test_an_unknown_event_about_an_incident_with_a_status_is_used(status: str) -> None:
    whole = body("pagerduty_triggered")
    whole["event"]["event_type"] = "incident.merged_somehow"
    whole["event"]["data"]["status"] = status
    assert only(whole).firing is (status != "resolved")


def test_a_triggered_incident_without_a_title_is_still_a_page() -> None:
    alert = only({"event": {"event_type": "incident.triggered", "data": {"id": "PGR9"}}})
    assert (alert.name, alert.incident_key, alert.firing) == ("Incident PGR9", "pagerduty:PGR9", True)


def test_a_note_of_version_2_is_ignored_though_it_has_the_incident() -> None:
    whole = body("pagerduty_v2")
    for message in whole["messages"]:
        message["event"] = "incident.annotate"
    push = parse_push(whole)
    assert (push.alerts, push.ignored) == ((), "incident.annotate")

    whole["messages"].append(body("pagerduty_v2")["messages"][1])
    push = parse_push(whole)
    assert ([alert.fingerprint for alert in push.alerts], push.ignored) == (["PRORDTX"], "")


def test_a_test_message_of_version_2_is_ignored() -> None:
    assert parse_push({"messages": [{"event": "pagey.ping", "id": "1"}]}).ignored == "pagey.ping"


@pytest.mark.parametrize(
    "action",
    [
        "AddNote",
        "AddTags",
        "RemoveTags",
        "AddRecipient",
        "AddTeam",
        "AddResponder",
        "Escalate",
        "EscalateNext",
        "AssignOwnership",
        "TakeOwnership",
        "AddDetails",
        "RemoveDetails",
        "Acknowledge",
        "UnAcknowledge",
        "UpdateMessage",
        "UpdateDescription",
        "Snooze",
        "SnoozeEnded",
        "Restart",
    ],
)
def test_what_people_do_to_an_opsgenie_alert_pages_nobody(action: str) -> None:
    push = parse_push(body("opsgenie_create") | {"action": action})
    assert (push.source, push.alerts, push.ignored) == ("opsgenie", (), action)


def test_a_higher_priority_in_opsgenie_is_news() -> None:
    whole = body("opsgenie_create") | {"action": "UpdatePriority"}
    whole["alert"] |= {"priority": "P1", "oldPriority": "P3"}
    assert (only(whole).severity, only(whole).firing) == (Severity.CRITICAL, True)


def test_a_closed_opsgenie_alert_is_not_reopened_by_its_new_priority() -> None:
    whole = body("opsgenie_create") | {"action": "UpdatePriority"}
    whole["alert"]["status"] = "closed"
    assert only(whole).status is AlertStatus.RESOLVED


@pytest.mark.parametrize(("event_source", "subject"), [("1", "discovery"), (2, "autoregistration")])
def test_a_zabbix_event_about_no_problem_is_ignored(event_source: Any, subject: str) -> None:
    found = {"event_id": "5", "event_source": event_source, "event_name": "{EVENT.NAME}", "host": "pg-9"}
    assert parse_push(found).ignored == subject
    assert parse_push(found, source="zabbix").ignored == subject


def test_a_muted_monitor_of_datadog_is_ignored() -> None:
    assert parse_push(body("datadog_default") | {"title": "[Muted] Load balancer is down"}).ignored == "muted"
    again = body("datadog_default") | {"title": "[Muted] [Triggered on {host:lb-2}] Load balancer is down"}
    assert only(again).name == "Load balancer is down"


def test_a_broken_event_of_pagerduty_is_an_error_not_ignored() -> None:
    with pytest.raises(BadInput, match=r"event incident\.triggered names no incident"):
        parse_push({"event": {"event_type": "incident.triggered", "data": {}}})


# Moments


@pytest.mark.parametrize(
    ("name", "episode_at", "occurred_at"),
    [
        ("alertmanager_resolved", datetime(2026, 5, 1, 7, tzinfo=UTC), datetime(2026, 5, 1, 7, 20, 30, tzinfo=UTC)),
        ("grafana_unified", datetime(2026, 6, 2, 16, 30, 10, tzinfo=UTC), None),
        ("grafana_missing_series", at(1), at(1, 20)),
        ("grafana_legacy", None, None),
        ("pagerduty_triggered", None, datetime(2026, 3, 14, 2, 11, 9, 418_000, tzinfo=UTC)),
        ("pagerduty_resolved", None, at(2, 40)),
        ("datadog_triggered", None, datetime(2026, 1, 1, tzinfo=UTC)),
        ("newrelic_issue", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 2, tzinfo=UTC)),
        ("newrelic_closed", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)),
        ("newrelic_legacy", None, datetime(2026, 1, 1, tzinfo=UTC)),
        ("opsgenie_close", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)),
        ("zabbix_problem", at(2, 11, 9), None),
        ("zabbix_recovery", at(2, 11, 9), at(2, 31, 40)),
        ("generic_check_down", None, at(1)),
        ("generic_title", None, None),
    ],
)
def test_the_moments_of_a_body(name: str, episode_at: datetime | None, occurred_at: datetime | None) -> None:
    alert = only(body(name))
    assert (alert.episode_at, alert.occurred_at) == (episode_at, occurred_at)


def test_the_messages_of_version_2_happened_when_they_were_created() -> None:
    first, second = parse_push(body("pagerduty_v2")).alerts
    assert first.occurred_at == datetime(2026, 2, 1, 8, 3, tzinfo=UTC)
    assert second.occurred_at == second.ended_at == datetime(2026, 2, 1, 8, 30, tzinfo=UTC)


def test_a_late_end_names_the_episode_that_it_ends() -> None:
    """Case 10: it fired at 01:00, ended at 01:10 and fires again since 01:20; the end arrives last."""
    whole = body("alertmanager_truncated")
    newest = whole | {"alerts": [whole["alerts"][0] | {"startsAt": "2026-03-14T01:20:00Z"}]}
    late = body("alertmanager_truncated_end")
    late["alerts"] = [late["alerts"][0] | {"endsAt": "2026-03-14T01:10:00Z"}]
    fires, ended = only(newest), only(late)
    assert fires.fingerprint == ended.fingerprint
    assert (fires.episode_at, ended.episode_at, ended.occurred_at) == (at(1, 20), at(1), at(1, 10))


@pytest.mark.parametrize("name", ["started_at", "startsAt", "starts_at"])
def test_a_start_in_the_generic_shape_is_the_episode(name: str) -> None:
    alert = only({"name": "x", name: "2026-03-14T01:00:00Z", "timestamp": "2026-03-14T02:00:00Z"})
    assert (alert.episode_at, alert.occurred_at, alert.started_at) == (at(1), at(2), at(1))


@pytest.mark.parametrize("name", ["timestamp", "time", "date", "updated_at", "occurred_at", "updatedAt", "datetime"])
def test_the_present_moment_that_a_script_sends_is_no_episode(name: str) -> None:
    alert = only({"name": "x", "host": "h", name: "2026-03-14T01:00:00Z"})
    assert (alert.episode_at, alert.occurred_at) == (None, at(1))
    assert alert.fingerprint == only({"name": "x", "host": "h", name: "2026-03-14T02:00:00Z"}).fingerprint


def test_a_generic_end_happened_when_it_ended() -> None:
    alert = only(
        {"name": "x", "status": "resolved", "startsAt": "2026-03-14T01:00:00Z", "endsAt": "2026-03-14T02:00:00Z"}
    )
    assert (alert.episode_at, alert.occurred_at, alert.ended_at) == (at(1), at(2), at(2))


def test_datadogs_moment_is_the_more_exact_one() -> None:
    whole = body("datadog_triggered") | {"last_updated": 1773450000, "date": "1773450000250"}
    assert only(whole).occurred_at == datetime(2026, 3, 14, 1, 0, 0, 250_000, tzinfo=UTC)


def test_an_issue_that_is_activated_later_is_the_same_episode() -> None:
    created = body("newrelic_issue")
    activated = created | {"activatedAt": created["createdAt"] + 60_000, "updatedAt": created["updatedAt"] + 60_000}
    assert only(created).episode_at == only(activated).episode_at
    assert only(activated).started_at == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "zone", [{"timezone": "Europe/Berlin"}, {"event_timestamp": "1773450611", "event_recovery_timestamp": 1773452400}]
)
def test_zabbix_can_say_its_time_zone_or_the_epoch(zone: dict[str, Any]) -> None:
    alert = only(body("zabbix_live_recovery") | zone)
    assert alert.ended_at == alert.occurred_at == at(1, 40)
    assert alert.episode_at == at(1, 10, 11)


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "x" * 5000, "\x00", 7, None]
)
def test_a_time_zone_that_does_not_exist_is_utc(zone: Any) -> None:
    assert only(body("zabbix_live_problem") | {"timezone": zone}).episode_at == at(2, 10, 11)


# Keys


def test_a_zabbix_trigger_with_a_live_value_is_one_alert_of_one_incident() -> None:
    """Case 08."""
    alerts = [only(body(f"zabbix_live_{event}")) for event in ("problem", "acknowledged", "recovery")]
    assert len({alert.name for alert in alerts}) == 3
    assert len({(alert.fingerprint, alert.incident_key, alert.episode_at) for alert in alerts}) == 1
    assert [alert.firing for alert in alerts] == [True, True, False]


def test_a_comment_on_a_zabbix_problem_that_is_over_does_not_reopen_it() -> None:
    comment = body("zabbix_live_recovery") | {"event_value": "1", "event_update_status": "1"}
    assert only(comment).status is AlertStatus.RESOLVED


@pytest.mark.parametrize(
    "gone", [{"trigger_id": None}, {"trigger_id": "{TRIGGER.ID}"}, {"trigger_id": "", "service_id": "8"}]
)
def test_zabbix_without_a_trigger_id_goes_by_the_event_or_the_service(gone: dict[str, Any]) -> None:
    alerts = [only(body(f"zabbix_live_{event}") | gone) for event in ("problem", "acknowledged", "recovery")]
    assert len({(alert.fingerprint, alert.incident_key) for alert in alerts}) == 1


@pytest.mark.parametrize(
    ("name", "path", "live"),
    [
        ("pagerduty_triggered", ("event", "data", "title"), "Payments take {} s"),
        ("datadog_triggered", ("alert_title",), "Disk is {} % full"),
        ("datadog_triggered", ("title",), "[P{}] [Warn on {{host:web-9}}] Disk"),
        ("newrelic_issue", ("title",), "Memory is {} %"),
        ("newrelic_legacy", ("condition_name",), "Apdex is 0.{}"),
        ("opsgenie_create", ("alert", "message"), "{} mails wait"),
        ("zabbix_problem", ("trigger_name",), "CPU at {} %"),
        ("grafana_unified", ("title",), "[FIRING:{}] Checkout errors"),
        ("generic_pingdom_down", ("check_name",), "Shop ({} ms)"),
        ("uptime-kuma/firing", ("monitor", "name"), "Shop ({} ms)"),
    ],
)
def test_a_live_value_in_a_name_is_in_no_key_where_there_is_an_id(name: str, path: tuple[str, ...], live: str) -> None:
    keys: set[tuple[str, str]] = set()
    for value in (1, 2, 3):
        whole: dict[str, Any] = body(name)
        place = whole
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = live.format(value)
        keys.add((only(whole).fingerprint, only(whole).incident_key))
    assert len(keys) == 1


@pytest.mark.parametrize("own_id", [{"fingerprint": "f-1"}, {"dedup_key": "d-1"}, {"monitor_id": 5}])
def test_a_generic_id_is_the_key_if_there_is_no_incident_key(own_id: dict[str, Any]) -> None:
    first, second = (only({"name": f"Disk {value} % full", "host": "h"} | own_id) for value in (91, 92))
    assert (first.fingerprint, first.incident_key) == (second.fingerprint, second.incident_key)
    assert only({"name": "Disk", "incident_key": "storage"} | own_id).incident_key == "generic:storage"


def test_grafana_alerts_without_a_group_key_go_by_the_rules_uid() -> None:
    whole = body("grafana_unified") | {"groupKey": ""}
    renamed = body("grafana_unified") | {"groupKey": None}
    renamed["alerts"][0]["labels"]["alertname"] = "Checkout errors (new name)"
    assert only(whole).incident_key == "grafana:org-3:rule-be1k9xq4:6e0b83f2a9c4d715" == only(renamed).incident_key


# Titles of Datadog


@pytest.mark.parametrize(
    ("title", "name", "severity", "over"),
    [
        ("[P2] [Triggered on {host:cache-4}] Evictions", "Evictions", Severity.CRITICAL, False),
        ("[Triggered on {host:cache-4}] [P2] Evictions", "Evictions", Severity.CRITICAL, False),
        ("[P3] [Warn on {host:cache-4}] Evictions", "Evictions", Severity.WARNING, False),
        ("[P5] [No data on {host:cache-4}] Evictions", "Evictions", Severity.INFO, False),
        ("[P4] [Re-Warn on {host:cache-4}] Evictions", "Evictions", Severity.INFO, False),
        ("[P1] [Recovered on {host:cache-4}] Evictions", "Evictions", Severity.CRITICAL, True),
        ("[Recovered] Evictions", "Evictions", Severity.WARNING, True),
        ("[p2][re-triggered on {host:cache-4}]Evictions", "Evictions", Severity.CRITICAL, False),
        ("[P2] [Renotify] [Team A] Evictions", "[Team A] Evictions", Severity.CRITICAL, False),
        ("[Team A] [P2] [Recovered on {host:cache-4}] Evictions", "[Team A] Evictions", Severity.CRITICAL, True),
        ("[Monitor Alert] Triggered: Evictions", "Evictions", Severity.WARNING, False),
        ("Recovered on {host:cache-4}: Evictions", "Evictions", Severity.WARNING, True),
        ("[Team A] Evictions", "[Team A] Evictions", Severity.WARNING, False),
        ("[P2]", "[P2]", Severity.CRITICAL, False),
        ("[Triggered on {host:[::1]}] Evictions", "Evictions", Severity.WARNING, False),
    ],
)
def test_what_a_title_of_datadog_says(title: str, name: str, severity: Severity, over: bool) -> None:
    alert = only(body("datadog_default") | {"title": title})
    assert (alert.name, alert.severity, alert.firing) == (name, severity, not over)


def test_a_priority_before_the_state_is_one_page_and_one_all_clear() -> None:
    """Case 05."""
    alerts = [only(body(f"datadog_p2_{event}")) for event in ("triggered", "again", "recovered")]
    assert len({(alert.fingerprint, alert.incident_key, alert.name, alert.severity) for alert in alerts}) == 1
    assert [alert.firing for alert in alerts] == [True, True, False]
    changed = only(body("datadog_p2_triggered") | {"title": "[P4] [Triggered on {host:cache-4}] Evictions are high"})
    assert changed.incident_key == alerts[0].incident_key


def test_a_test_notification_of_datadog_is_a_page_of_its_own() -> None:
    real, test = (
        only(body("datadog_triggered") | {"title": f"{mark}[P4] [Triggered on {{host:web-9}}] Disk"})
        for mark in ("", "[TEST] ")
    )
    assert test.firing
    assert (real.fingerprint, real.incident_key) != (test.fingerprint, test.incident_key)


@pytest.mark.parametrize(
    "hostile", ["[" * 5000, "[{" * 5000, "[a]" * 5000, "[P2]" * 5000, "[Triggered on {" + "a" * 9000]
)
def test_a_hostile_title_is_read_in_no_time(hostile: str) -> None:
    assert only(body("datadog_default") | {"title": hostile}).firing


# Why


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("datadog_default", {"title": "[No data on {host:lb-2}] Load balancer is down"}, "No Data"),
        ("datadog_triggered", {"alert_transition": "No Data"}, "No Data"),
        ("datadog_triggered", {"alert_transition": "Triggered"}, ""),
        ("newrelic_closed", {"closeReason": "INACTIVITY"}, "INACTIVITY"),
        ("newrelic_closed", {"closedBy": ["Grace"]}, "Grace"),
        ("newrelic_issue", {"closedBy": "nobody yet"}, ""),
        ("zabbix_live_recovery", {"event_update_action": "closed"}, "closed"),
        ("zabbix_live_problem", {}, ""),
        ("grafana_legacy", {"state": "no_data"}, "NoData"),
        ("generic_check_up", {"reason": "closed by hand"}, "closed by hand"),
        ("alertmanager_resolved", {}, ""),
    ],
)
def test_why_it_has_its_status(name: str, fields: dict[str, Any], reason: str) -> None:
    assert only(body(name) | fields).state_reason == reason


def test_why_a_pagerduty_incident_was_resolved() -> None:
    whole = body("pagerduty_resolved")
    other = {"id": "PGR1", "type": "incident_reference", "summary": "Shop is down"}
    for said, reason in [
        ({"type": "merge_resolve_reason", "incident": other}, "merged into Shop is down"),
        ({"type": "something_new"}, "something_new"),
        ("by hand", "by hand"),
        (None, ""),
        ([], ""),
    ]:
        whole["event"]["data"]["resolve_reason"] = said
        assert only(whole).state_reason == reason


@pytest.mark.parametrize("reason", ["NoData", "Error", "MissingSeries", "Updated", "RuleDeleted", "Paused"])
def test_grafana_says_why_it_ended(reason: str) -> None:
    whole = body("grafana_missing_series")
    whole["alerts"][0]["annotations"]["grafana_state_reason"] = reason
    assert only(whole).state_reason == reason
    assert only(whole).description == "Belt 3 has more than 400 parcels"


# What Grafana measured


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"values": {"A": 91.23456789, "C": 1}}, "A = 91.2346, C = 1"),
        ({"values": {"A": None, "B": "x"}}, "A = , B = x"),
        (
            {"valueString": "[ var='A' labels={host=a, disk=/} value=0.5 ], [ var='C' labels={} value=1 ]"},
            "A = 0.5 (host=a, disk=/), C = 1",
        ),
        ({"valueString": "[ var='B0' metric='cpu' labels={host=a} value=86.83759366878994 ]"}, "B0 = 86.8376 (host=a)"),
        ({"valueString": "something new"}, "something new"),
        ({"values": {"A": 1e300, "B": 12345678}}, "A = 1e+300, B = 12345678"),
    ],
)
def test_the_values_are_readable_and_describe_what_has_no_description(fields: dict[str, Any], values: str) -> None:
    whole = body("grafana_unified")
    whole["alerts"][0] |= {"values": None, "valueString": "", "annotations": {}} | fields
    alert = only(whole)
    assert (alert.annotations["values"], alert.description) == (values, values)


@pytest.mark.parametrize("raw", ["{{ $labels.queue }} is long", "[no value] is long", "<no value> is long"])
def test_a_template_that_was_not_rendered_is_the_last_choice(raw: str) -> None:
    whole = body("grafana_unified")
    whole["alerts"][0]["annotations"] = {"description": raw, "summary": "Checkout fails"}
    assert only(whole).description == "Checkout fails"
    whole["alerts"][0]["annotations"] = {"description": raw}
    assert only(whole).description == "B = 7.31 (service=checkout)"
    whole["alerts"][0] |= {"valueString": "", "values": None}
    assert only(whole).description == "(no value) is long"


def test_a_rule_that_cannot_be_evaluated_is_named_with_its_error() -> None:
    """Case 12, and the same alert through an Alertmanager."""
    whole = body("grafana_datasource_error")
    whole["alerts"][0]["annotations"]["description"] = "Parcels wait."
    alertmanager = whole | {"version": "4"}
    for alert in (only(whole), only(alertmanager, "alertmanager")):
        assert (alert.name, alert.title, alert.state_reason) == ("Parcel backlog", "Parcel backlog", "Error")
        assert "connection refused" in alert.description.splitlines()[0]
        assert alert.description.endswith("\nParcels wait.")


# What was left out


@pytest.mark.parametrize("name", ["alertmanager_truncated", "grafana_unified"])
@pytest.mark.parametrize(
    ("sent", "omitted"), [(2, 2), ("2", 2), (" 2 ", 2), (2.0, 2), (10**30, 1_000_000), (0, 0), ("0", 0)]
)
def test_how_many_alerts_a_group_left_out(name: str, sent: Any, omitted: int) -> None:
    push = parse_push(body(name) | {"truncatedAlerts": sent})
    assert push.omitted == omitted
    assert bool(push.errors) is bool(omitted)


@pytest.mark.parametrize("odd", [None, True, -1, "-1", "two", 1.5, [], {}, [3], "９" * 30])
def test_an_odd_number_of_omitted_alerts_is_none(odd: Any) -> None:
    assert parse_push(body("alertmanager_truncated") | {"truncatedAlerts": odd}).omitted == 0


def test_the_end_of_a_truncated_group_is_the_end_of_what_it_left_out() -> None:
    """Case 09."""
    fires, ended = parse_push(body("alertmanager_truncated")), parse_push(body("alertmanager_truncated_end"))
    assert (fires.omitted, fires.all_resolved) == (1, False)
    assert (ended.omitted, ended.all_resolved) == (1, True)
    assert ended.errors == ("Alertmanager left out 1 alert (max_alerts)",)
    assert parse_push(body("alertmanager_truncated_end") | {"status": None}).all_resolved is False
