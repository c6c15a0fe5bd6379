"""The alerts of each vendor's bodies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestration.alert import AlertStatus, Severity
from tasks.ingest.sources import IN_CODE, SOURCES, parse_push
from tasks.ingest.sources.fields import fingerprint_of
from tests.payloads import NAMES, body

FLAT_FINGERPRINT = fingerprint_of(
    "Backup failed", {"hostname": "backup-1", "exit_code": "2", "url": "https://ci.example.net/backup"}
)

EXPECTED: dict[str, list[dict[str, Any]]] = {
    "alertmanager_group": [
        {
            "source": "alertmanager",
            "name": "HighLatency",
            "fingerprint": "8a1f5be02c7d9346",
            "severity": Severity.CRITICAL,
            "status": AlertStatus.FIRING,
            "description": "The 99th percentile of shop-1 has been 2.4 s for 10 minutes.",
            "incident_key": 'alertmanager:{}/{team="web"}:{alertname="HighLatency", cluster="fra-2"}',
            "title": "HighLatency (5 alerts)",
            "started_at": datetime(2026, 3, 14, 2, 11, 9, 418273, UTC),
            "ended_at": None,
        },
        {"fingerprint": "17c2d9e4b6f08a53", "description": "p99 of shop-2 is above 2 s", "ended_at": None},
        {
            "fingerprint": "f3046b9d58a1ce72",
            "status": AlertStatus.RESOLVED,
            "ended_at": datetime(2026, 3, 14, 2, 5, 24, 418273, UTC),
        },
    ],
    "alertmanager_resolved": [
        {
            "name": "TargetDown",
            "status": AlertStatus.RESOLVED,
            "title": "TargetDown on db-3:9187",
            "started_at": datetime(2026, 5, 1, 7, 0, tzinfo=UTC),
            "ended_at": datetime(2026, 5, 1, 7, 20, 30, tzinfo=UTC),
        }
    ],
    "grafana_unified": [
        {
            "source": "grafana",
            "name": "Checkout errors",
            "fingerprint": "org-3:6e0b83f2a9c4d715",
            "severity": Severity.CRITICAL,
            "description": "More than 5 % of the checkouts fail",
            "incident_key": 'grafana:org-3:{}:{alertname="Checkout errors", grafana_folder="Shop"}',
            "title": "Checkout errors",
            "links": {
                "runbook": "https://wiki.example.net/runbooks/checkout",
                "source": "https://graphs.example.net/alerting/grafana/be1k9xq4/view?orgId=3",
                "dashboard": "https://graphs.example.net/d/shop?orgId=3",
                "panel": "https://graphs.example.net/d/shop?orgId=3&viewPanel=12",
                "silence": "https://graphs.example.net/alerting/silence/new?alertmanager=grafana"
                "&matcher=alertname%3DCheckout+errors&orgId=3",
            },
            "started_at": datetime(2026, 6, 2, 16, 30, 10, tzinfo=UTC),
            "ended_at": None,
        }
    ],
    "grafana_legacy": [
        {
            "source": "grafana",
            "name": "Mail queue",
            "fingerprint": "org-2-rule-19",
            "severity": Severity.CRITICAL,
            "status": AlertStatus.FIRING,
            "description": "The mail queue grows.",
            "labels": {"team": "mail", "host": "mx-1"},
            "incident_key": "grafana:org-2-rule-19",
            "title": "Mail queue on mx-1",
        }
    ],
    "grafana_legacy_ok": [{"fingerprint": "org-2-rule-19", "status": AlertStatus.RESOLVED}],
    "generic_flat": [
        {
            "source": "generic",
            "name": "Backup failed",
            "fingerprint": FLAT_FINGERPRINT,
            "severity": Severity.CRITICAL,
            "status": AlertStatus.FIRING,
            "description": "The nightly dump ended with code 2.",
            "labels": {"hostname": "backup-1", "exit_code": "2", "url": "https://ci.example.net/backup"},
            "annotations": {
                "message": "The nightly dump ended with code 2.",
                "elapsed_seconds": "418",
                "load": "0.75",
                "details": '{"target":"s3"}',
            },
            "incident_key": "generic:Backup failed:backup-1",
            "title": "Backup failed on backup-1",
            "links": {"source": "https://ci.example.net/backup"},
            "started_at": datetime(2026, 1, 1, 0, 0, 0, 123000, UTC),
        }
    ],
    "generic_list": [
        {
            "name": "Certificate expires",
            "fingerprint": "cert-www-1",
            "severity": Severity.INFO,
            "labels": {"environment": "staging", "host": "www-1"},
            "incident_key": "generic:cert-www-1",
        },
        {
            "severity": Severity.CRITICAL,
            "status": AlertStatus.RESOLVED,
            "ended_at": datetime(2026, 1, 5, 10, tzinfo=UTC),
            "incident_key": "generic:Certificate expires:www-2",
        },
        {"name": "Certificate expires", "description": "in 3 days", "severity": Severity.INFO},
    ],
    "pagerduty_triggered": [
        {
            "source": "pagerduty",
            "name": "Payments answer slowly",
            "fingerprint": "PGR0VU2",
            "severity": Severity.CRITICAL,
            "status": AlertStatus.FIRING,
            "labels": {
                "service": "Payments API",
                "escalation_policy": "Payments, day and night",
                "team": "Payments",
                "priority": "P3",
                "urgency": "high",
                "dedup_key": "payments-latency",
            },
            "incident_key": "pagerduty:PGR0VU2",
            "links": {
                "source": "https://acme.pagerduty.com/incidents/PGR0VU2",
                "conference": "https://meet.example.net/payments",
            },
            "started_at": datetime(2026, 3, 14, 2, 11, 9, 418000, UTC),
            "ended_at": None,
        }
    ],
    "pagerduty_resolved": [
        {
            "fingerprint": "PGR0VU2",
            "severity": Severity.INFO,
            "status": AlertStatus.RESOLVED,
            "incident_key": "pagerduty:PGR0VU2",
            "started_at": datetime(2026, 3, 14, 2, 11, 9, tzinfo=UTC),
            "ended_at": datetime(2026, 3, 14, 2, 40, tzinfo=UTC),
        }
    ],
    "pagerduty_v2": [
        {
            "name": "Certificate of shop.example.net expires",
            "fingerprint": "PRORDTY",
            "severity": Severity.CRITICAL,
            "status": AlertStatus.FIRING,
            "started_at": datetime(2026, 2, 1, 8, 0, tzinfo=UTC),
        },
        {
            "fingerprint": "PRORDTX",
            "status": AlertStatus.RESOLVED,
            "ended_at": datetime(2026, 2, 1, 8, 30, tzinfo=UTC),
        },
    ],
    "datadog_triggered": [
        {
            "source": "datadog",
            "name": "Disk is nearly full",
            "fingerprint": "23412571:device:/dev/sda1,host:web-9",
            "severity": Severity.WARNING,
            "status": AlertStatus.FIRING,
            "incident_key": "datadog:23412571:device:/dev/sda1,host:web-9",
            "title": "Disk is nearly full on web-9",
            "links": {
                "source": "https://app.datadoghq.eu/monitors/23412571?group=host%3Aweb-9",
                "image": "https://p.datadoghq.eu/snapshot/abc.png",
            },
            "started_at": datetime(2026, 1, 1, tzinfo=UTC),
            "ended_at": None,
        }
    ],
    "datadog_recovered": [
        {
            "name": "Disk is nearly full",
            "fingerprint": "23412571:device:/dev/sda1,host:web-9",
            "status": AlertStatus.RESOLVED,
            "labels": {
                "device": "/dev/sda1",
                "env": "prod",
                "host": "web-9",
                "tags": "monitor",
                "team": "web",
                "alert_id": "23412571",
                "scope": "device:/dev/sda1,host:web-9",
            },
            "incident_key": "datadog:23412571:device:/dev/sda1,host:web-9",
            "ended_at": datetime(2026, 1, 1, 1, tzinfo=UTC),
        }
    ],
    "datadog_default": [
        {
            "name": "Load balancer is down",
            "severity": Severity.WARNING,
            "status": AlertStatus.FIRING,
            "labels": {"host": "lb-2", "port": "443", "scope": "host:lb-2,port:443"},
            "incident_key": "datadog:Load balancer is down:host:lb-2,port:443",
        }
    ],
    "newrelic_issue": [
        {
            "source": "newrelic",
            "name": "Memory used % > 90 for at least 2 minutes on 'orders-3'",
            "fingerprint": "b6f53a0e-2c4e-4a3d-9f3f-0a7f2f6ad4ab",
            "severity": Severity.CRITICAL,
            "status": AlertStatus.FIRING,
            "labels": {
                "policy": "Golden signals",
                "condition": "Memory",
                "entity": "orders-3, orders-4",
                "workflow": "Orders team",
            },
            "incident_key": "newrelic:b6f53a0e-2c4e-4a3d-9f3f-0a7f2f6ad4ab",
            "started_at": datetime(2026, 1, 1, tzinfo=UTC),
            "ended_at": None,
        }
    ],
    "newrelic_closed": [
        {
            "name": "Memory used % > 90 for at least 2 minutes on 'orders-3'",
            "fingerprint": "b6f53a0e-2c4e-4a3d-9f3f-0a7f2f6ad4ab",
            "status": AlertStatus.RESOLVED,
            "description": "Restart the service.",
            "labels": {"policy": "Golden signals", "condition": "Memory"},
            "ended_at": datetime(2026, 1, 1, 1, tzinfo=UTC),
        }
    ],
    "newrelic_legacy": [
        {
            "name": "Apdex is low",
            "fingerprint": "2901",
            "severity": Severity.WARNING,
            "status": AlertStatus.FIRING,
            "description": "Apdex score < 0.7 for at least 5 minutes on 'Shop'",
            "labels": {"env": "prod", "policy": "Shop", "condition": "Apdex is low", "entity": "Shop"},
            "incident_key": "newrelic:2901",
            "title": "Apdex is low on Shop",
            "links": {
                "source": "https://alerts.newrelic.com/accounts/17/incidents/2901",
                "runbook": "https://wiki.example.net/runbooks/apdex",
            },
            "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
    ],
    "opsgenie_create": [
        {
            "source": "opsgenie",
            "name": "Queue of mx-3 grows",
            "fingerprint": "mail-queue-mx-3",
            "severity": Severity.CRITICAL,
            "status": AlertStatus.FIRING,
            "description": "1,912 mails wait.\nThe oldest for 40 minutes.",
            "labels": {
                "queue": "deferred",
                "runbook": "https://wiki.example.net/runbooks/mail",
                "shards": "4",
                "entity": "mx-3",
                "team": "Mail",
                "tags": "mail, OverwriteQuietHours",
                "tiny_id": "10",
                "sender": "10.0.0.7",
            },
            "incident_key": "opsgenie:mail-queue-mx-3",
            "title": "Queue of mx-3 grows",
            "links": {"runbook": "https://wiki.example.net/runbooks/mail"},
            "started_at": datetime(2026, 1, 1, 0, 0, 0, 123000, UTC),
        }
    ],
    "opsgenie_close": [
        {
            "fingerprint": "0f5f3b8c-91b4-4a6c-8a47-1d1f3e4a7c11-1767225600000",
            "severity": Severity.WARNING,
            "status": AlertStatus.RESOLVED,
            "ended_at": datetime(2026, 1, 1, 1, tzinfo=UTC),
        }
    ],
    "zabbix_problem": [
        {
            "source": "zabbix",
            "name": "High CPU utilization",
            "fingerprint": "23541:pg-3",
            "severity": Severity.WARNING,
            "status": AlertStatus.FIRING,
            "description": "The system is busy.",
            "labels": {
                "component": "cpu",
                "scope": "performance",
                "host": "pg-3",
                "host_ip": "192.0.2.3",
                "trigger_id": "23541",
            },
            "incident_key": "zabbix:23541:pg-3",
            "title": "High CPU utilization on pg-3",
            "links": {
                "source": "https://zabbix.example.net/tr_events.php?triggerid=23541&eventid=81237",
                "runbook": "https://wiki.example.net/runbooks/cpu",
            },
            "started_at": datetime(2026, 3, 14, 2, 11, 9, tzinfo=UTC),
            "ended_at": None,
        }
    ],
    "zabbix_recovery": [
        {
            "fingerprint": "23541:pg-3",
            "status": AlertStatus.RESOLVED,
            "incident_key": "zabbix:23541:pg-3",
            "ended_at": datetime(2026, 3, 14, 2, 31, 40, tzinfo=UTC),
        }
    ],
    "generic_title": [
        {
            "source": "generic",
            "name": "Nobody answers on port 443",
            "severity": Severity.WARNING,
            "status": AlertStatus.FIRING,
            "incident_key": "generic:Nobody answers on port 443",
        }
    ],
    **{
        f"datadog_p2_{event}": [
            {
                "name": "Evictions are high",
                "severity": Severity.CRITICAL,
                "status": AlertStatus.RESOLVED if event == "recovered" else AlertStatus.FIRING,
                "incident_key": "datadog:Evictions are high:host:cache-4",
                "episode_at": None,
                "occurred_at": occurred_at,
            }
        ]
        for event, occurred_at in {
            "triggered": datetime(2026, 1, 1, tzinfo=UTC),
            "again": datetime(2026, 1, 1, 0, 10, tzinfo=UTC),
            "recovered": datetime(2026, 1, 1, 0, 20, 0, 500_000, tzinfo=UTC),
        }.items()
    },
    **{
        f"zabbix_live_{event}": [
            {
                "fingerprint": "51377:nas-2",
                "incident_key": "zabbix:51377:nas-2",
                "status": AlertStatus.RESOLVED if event == "recovery" else AlertStatus.FIRING,
                "episode_at": datetime(2026, 3, 14, 2, 10, 11, tzinfo=UTC),
                "occurred_at": occurred_at,
            }
        ]
        for event, occurred_at in {
            "problem": None,
            "acknowledged": datetime(2026, 3, 14, 2, 20, tzinfo=UTC),
            "recovery": datetime(2026, 3, 14, 2, 40, tzinfo=UTC),
        }.items()
    },
    "alertmanager_truncated": [
        {"title": "PodRestarts (3 alerts)", "episode_at": datetime(2026, 3, 14, 1, tzinfo=UTC), "occurred_at": None},
        {"status": AlertStatus.FIRING},
    ],
    "alertmanager_truncated_end": [
        {"status": AlertStatus.RESOLVED, "occurred_at": datetime(2026, 3, 14, 2, tzinfo=UTC)},
        {"status": AlertStatus.RESOLVED, "episode_at": datetime(2026, 3, 14, 1, tzinfo=UTC)},
    ],
    "grafana_datasource_error": [
        {
            "name": "Parcel backlog",
            "title": "Parcel backlog",
            "description": "[sse.dataQueryError] failed to execute query [A]: dial tcp 192.0.2.20:9090: connect: "
            "connection refused",
            "state_reason": "Error",
            "episode_at": datetime(2026, 3, 14, 1, tzinfo=UTC),
        }
    ],
    "grafana_no_data": [
        {
            "name": "Parcel backlog",
            "description": "The query A of the rule returned no data.",
            "state_reason": "NoData",
        }
    ],
    "grafana_missing_series": [
        {
            "name": "Parcel backlog",
            "status": AlertStatus.RESOLVED,
            "description": "Belt 3 has more than 400 parcels",
            "state_reason": "MissingSeries",
        }
    ],
    "generic_check_down": [{"status": AlertStatus.FIRING, "incident_key": "generic:nightly-export"}],
    "generic_check_up": [{"status": AlertStatus.RESOLVED, "incident_key": "generic:nightly-export"}],
    "generic_host_up": [{"status": AlertStatus.RESOLVED, "labels": {"host": "router-5"}}],
    "generic_pingdom_down": [{"status": AlertStatus.FIRING, "incident_key": "generic:check-4711"}],
    "generic_pingdom_up": [{"status": AlertStatus.RESOLVED, "incident_key": "generic:check-4711"}],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_vendors_body_becomes_these_alerts(name: str) -> None:
    push = parse_push(body(name))
    assert push.source == name.split("_")[0]
    assert len(push.alerts) == len(EXPECTED[name])
    for alert, expected in zip(push.alerts, EXPECTED[name], strict=True):
        assert {field: getattr(alert, field) for field in expected} == expected


def test_every_payload_has_its_expectation() -> None:
    assert set(NAMES) == set(EXPECTED)


@pytest.mark.parametrize("name", SOURCES)
def test_a_sample_is_read_under_its_own_name_and_by_recognition(name: str) -> None:
    sample = SOURCES[name].sample("01")
    push = parse_push(sample)
    assert push == parse_push(sample, source=name)
    assert push.source == name
    assert push.errors == ()
    assert push.ignored == ""
    for alert in push.alerts if name in IN_CODE else ():
        assert alert.started_at is not None
        assert timedelta() < datetime.now(UTC) - alert.started_at < timedelta(hours=1)


@pytest.mark.parametrize("name", SOURCES)
def test_samples_with_different_marks_are_different_incidents(name: str) -> None:
    first, again, other = (parse_push(SOURCES[name].sample(mark)).alerts for mark in ("01", "01", "02"))
    assert [alert.fingerprint for alert in first] == [alert.fingerprint for alert in again]
    assert {alert.fingerprint for alert in first}.isdisjoint(alert.fingerprint for alert in other)
    assert first[0].incident_key == again[0].incident_key != other[0].incident_key
