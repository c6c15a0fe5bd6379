"""Grafana: the webhook contact point of Grafana Alerting, and the legacy alerts of Grafana up to version 10.

Sources: Grafana documentation, "Alerting → Configure contact points → Webhook notifier"; for the legacy body
Grafana 7 documentation, "Alerting → Notifications → Webhook".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from orchestration.alert import Alert, Severity
from tasks.ingest.sources.fields import (
    Fields,
    alert_of,
    annotations_of,
    known_severity,
    labels_of,
    one_line_text,
    status_of,
    text,
)
from tasks.ingest.sources.group import Dialect, Member, parse_group
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source, vendor_bid

_OWN_FIELDS = ("dashboardURL", "panelURL", "silenceURL", "valueString")
_OWN_LEGACY_FIELDS = ("ruleId", "ruleUrl", "evalMatches", "dashboardId", "panelId")
_RULE_PAGE = re.compile(r"/alerting/(grafana/)?[^/]+/(edit|view)|/d/[^/]+")


def _recognises(body: JsonObject) -> int:
    if _is_legacy(body):
        return vendor_bid(body, _OWN_LEGACY_FIELDS)
    alerts = body.get("alerts")
    if not isinstance(alerts, list):
        return NOT_MINE
    items = [item for item in alerts if isinstance(item, dict)]
    own_fields = sum(any(name in item for item in items) for name in _OWN_FIELDS)
    if "orgId" in body or own_fields:
        return VENDOR + VENDOR * ("orgId" in body) + VENDOR * own_fields
    # The link to a rule is weaker evidence: an Alertmanager that forwards alerts of Grafana's rules sends it too.
    rule_pages = any(_RULE_PAGE.search(text(item.get("generatorURL"))) for item in items)
    return VENDOR // 2 if rule_pages else NOT_MINE


def _is_legacy(body: JsonObject) -> bool:
    return bool(one_line_text(body.get("ruleName"))) and "state" in body


def _parse(body: JsonObject) -> Push:
    if isinstance(body.get("alerts"), list):
        return parse_group(body, _DIALECT)
    if _is_legacy(body):
        return Push(source="grafana", alerts=(_legacy_alert(body),))
    return Push(source="grafana")


def _links(_body: JsonObject, member: Member) -> JsonObject:
    return {link: member.item.get(f"{link}URL") for link in ("dashboard", "panel", "silence", "image")}


def _values(item: JsonObject) -> JsonObject:
    """The measured values, which Grafana sends beside the annotations."""
    return {"values": item.get("values") or item.get("valueString")}


_DIALECT = Dialect(source="grafana", vendor="Grafana", links=_links, annotations=_values)


def _legacy_alert(body: JsonObject) -> Alert:
    """One rule is one alert. `state` is alerting, ok, no_data, paused or pending; `tags` are those of the rule."""
    labels = labels_of(body.get("tags"), "tags")
    sent = Fields(body)
    rule = sent.identifier("ruleId")
    # Rule ids are unique only within an organisation.
    own_id = f"org-{sent.identifier('orgId') or 1}-rule-{rule}" if rule not in ("", "0") else ""
    alerting = Severity.CRITICAL if sent.line("state").lower() == "alerting" else Severity.WARNING
    return alert_of(
        "grafana",
        body,
        fingerprint=own_id,
        name=sent.line("ruleName"),
        severity=known_severity(labels.get("severity"), labels.get("priority")) or alerting,
        status=status_of(body.get("state")),
        description=body.get("message"),
        labels=labels,
        annotations=annotations_of({"values": body.get("evalMatches"), "title": body.get("title")}),
        group=own_id,
        links={"source": body.get("ruleUrl"), "image": body.get("imageUrl")},
    )


def _sample(mark: str) -> JsonObject:
    since = datetime.now(UTC) - timedelta(minutes=4)
    host = f"db-{mark}"
    labels: JsonObject = {
        "alertname": "DiskAlmostFull",
        "grafana_folder": "Hosts",
        "instance": host,
        "severity": "warning",
    }
    annotations: JsonObject = {
        "summary": f"Disk / of {host} is 91 % full",
        "description": f"Less than 10 % is free on / of {host}. At this rate it is full in about six hours.",
        "runbook_url": "https://runbooks.example.com/disk-full",
    }
    alert: JsonObject = {
        "status": "firing",
        "labels": labels,
        "annotations": annotations,
        "startsAt": since.isoformat(),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "https://grafana.example.com/alerting/grafana/fdz3k7q1/view?orgId=1",
        "fingerprint": sha256(host.encode()).hexdigest()[:16],
        "silenceURL": "https://grafana.example.com/alerting/silence/new?alertmanager=grafana"
        f"&matcher=alertname%3DDiskAlmostFull&matcher=instance%3D{host}&orgId=1",
        "dashboardURL": "https://grafana.example.com/d/hosts?orgId=1",
        "panelURL": "https://grafana.example.com/d/hosts?orgId=1&viewPanel=4",
        "values": {"A": 91.2, "C": 1},
        "valueString": f"[ var='A' labels={{instance={host}}} value=91.2 ]",
        "orgId": 1,
    }
    return {**_sample_envelope(host, labels, annotations), "alerts": [alert]}


def _sample_envelope(host: str, labels: JsonObject, annotations: JsonObject) -> JsonObject:
    return {
        "receiver": "alert-pipeline",
        "status": "firing",
        "orgId": 1,
        "groupLabels": {"alertname": "DiskAlmostFull", "instance": host},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "https://grafana.example.com/",
        "version": "1",
        "groupKey": f'{{}}:{{alertname="DiskAlmostFull", instance="{host}"}}',
        "truncatedAlerts": 0,
        "title": f"[FIRING:1] DiskAlmostFull Hosts ({host} warning)",
        "state": "alerting",
        "message": f"**Firing**\n\nLabels:\n - alertname = DiskAlmostFull\n - instance = {host}\n",
    }


SOURCE = Source(name="grafana", title="Grafana", recognises=_recognises, parse=_parse, sample=_sample)
