"""Grafana: the webhook contact point of Grafana Alerting, and the legacy alerts of Grafana up to version 10.

Sources: Grafana documentation, "Alerting → Configure contact points → Webhook notifier"; for the legacy body
Grafana 7 documentation, "Alerting → Notifications → Webhook".
"""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from pydantic import JsonValue

from orchestration.alert import Alert, Severity
from tasks.ingest.sources.fields import (
    LABEL_LIMIT,
    Fields,
    alert_of,
    annotations_of,
    fingerprint_of,
    known_severity,
    labels_of,
    long_text,
    one_line_text,
    text,
)
from tasks.ingest.sources.group import Dialect, Member, parse_group
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source, vendor_bid
from tasks.ingest.sources.status import status_of

_OWN_FIELDS = ("dashboardURL", "panelURL", "silenceURL", "valueString")
_OWN_LEGACY_FIELDS = ("ruleId", "ruleUrl", "evalMatches", "dashboardId", "panelId")
_NO_STATES = frozenset(("paused", "pending", "unknown"))
"""States of a legacy rule that do not say whether its condition holds."""
_RULE_PAGE = re.compile(r"/alerting/(grafana/)?(?P<rule>[^/]+)/(edit|view)|/d/[^/]+")
_RULE_LABELS = ("__alert_rule_uid__", "alert_rule_uid", "rule_uid")
_MEASURED = re.compile(r"var='([^']*)'(?: metric='[^']*')? labels=\{([^}]*)\} value=([^\s\]]+)")


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
        state = one_line_text(body.get("state")).casefold()
        if state in _NO_STATES:
            return Push(source="grafana", ignored=f"a rule that is {state}")
        return Push(source="grafana", alerts=(_legacy_alert(body),))
    return Push(source="grafana")


def _links(_body: JsonObject, member: Member) -> JsonObject:
    return {link: member.item.get(f"{link}URL") for link in ("dashboard", "panel", "silence", "image")}


def _values(item: JsonObject) -> JsonObject:
    """The measured values, which Grafana sends beside the annotations, for people: `B = 7.31 (service=checkout)`."""
    values = item.get("values")
    if isinstance(values, dict) and values:
        return {"values": ", ".join(f"{name} = {_number(value)}" for name, value in values.items())}
    written = long_text(item.get("valueString"))
    measured = [
        f"{name} = {_number(value)}{f' ({labels})' if labels else ''}"
        for name, labels, value in _MEASURED.findall(written)
    ]
    return {"values": ", ".join(measured) or text(values) or written}


def _number(value: JsonValue) -> str:
    """A measured value with at most six significant digits, unless it is an integer."""
    try:
        number = float(text(value))
    except ValueError:
        return one_line_text(value, LABEL_LIMIT)
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.6g}"


def _rule_key(item: JsonObject, labels: dict[str, str]) -> str:
    """The key of an alert without a group: the rule's uid with the alert's labels; "" if the rule is not named."""
    page = _RULE_PAGE.search(text(item.get("generatorURL"))[:LABEL_LIMIT])
    rule = Fields(labels).identifier(*_RULE_LABELS) or ((page["rule"] if page else None) or "")
    return f"rule-{rule}:{one_line_text(item.get('fingerprint'), None) or fingerprint_of('', labels)}" if rule else ""


def _organisation(body: JsonObject, item: JsonObject) -> str:
    """Rules that are provisioned into several organisations have the same uid and labels in each. The first one is
    the only one that most installations have."""
    organisation = Fields(item, body).identifier("orgId")
    return f"org-{organisation}:" if organisation not in ("", "0", "1") else ""


_DIALECT = Dialect(
    source="grafana", vendor="Grafana", links=_links, annotations=_values, group=_rule_key, tenant=_organisation
)


def _legacy_alert(body: JsonObject) -> Alert:
    """One rule is one alert. `state` is alerting, ok, no_data, paused or pending; `tags` are those of the rule."""
    labels = labels_of(body.get("tags"), "tags")
    sent = Fields(body)
    rule = sent.identifier("ruleId")
    # Rule ids are unique only within an organisation.
    own_id = f"org-{sent.identifier('orgId') or 1}-rule-{rule}" if rule not in ("", "0") else ""
    state = sent.line("state")
    alerting = Severity.CRITICAL if state.lower() == "alerting" else Severity.WARNING
    return alert_of(
        "grafana",
        body,
        fingerprint=own_id,
        name=sent.line("ruleName"),
        severity=known_severity(labels.get("severity"), labels.get("priority")) or alerting,
        status=status_of(body.get("state")),
        description=sent.pick("message") or _matches(body.get("evalMatches")),
        labels=labels,
        annotations=annotations_of({"values": _matches(body.get("evalMatches")), "title": body.get("title")}),
        group=own_id,
        links={"source": body.get("ruleUrl"), "image": body.get("imageUrl")},
        state_reason="NoData" if state.lower() == "no_data" else "",
    )


def _matches(value: JsonValue) -> str:
    """The measured values of a legacy alert, for people: `queue length = 512`."""
    items = [Fields(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    return ", ".join(f"{item.line('metric') or 'value'} = {_number(item.pick('value'))}" for item in items)


def _sample(mark: str) -> JsonObject:
    since = datetime.now(UTC) - timedelta(minutes=4)
    host = socket.gethostname()
    labels: JsonObject = {
        "alertname": "DiskAlmostFull",
        "cluster": f"eu-{mark}",
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
        "fingerprint": sha256(f"{labels}".encode()).hexdigest()[:16],
        "silenceURL": "https://grafana.example.com/alerting/silence/new?alertmanager=grafana"
        f"&matcher=alertname%3DDiskAlmostFull&matcher=instance%3D{host}&orgId=1",
        "dashboardURL": "https://grafana.example.com/d/hosts?orgId=1",
        "panelURL": "https://grafana.example.com/d/hosts?orgId=1&viewPanel=4",
        "values": {"A": 91.2, "C": 1},
        "valueString": f"[ var='A' labels={{instance={host}}} value=91.2 ]",
        "orgId": 1,
    }
    return {**_sample_envelope(host, mark, labels, annotations), "alerts": [alert]}


def _sample_envelope(host: str, mark: str, labels: JsonObject, annotations: JsonObject) -> JsonObject:
    return {
        "receiver": "alert-pipeline",
        "status": "firing",
        "orgId": 1,
        "groupLabels": {"alertname": "DiskAlmostFull", "cluster": f"eu-{mark}", "instance": host},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "https://grafana.example.com/",
        "version": "1",
        "groupKey": f'{{}}:{{alertname="DiskAlmostFull", cluster="eu-{mark}", instance="{host}"}}',
        "truncatedAlerts": 0,
        "title": f"[FIRING:1] DiskAlmostFull Hosts ({host} warning)",
        "state": "alerting",
        "message": f"**Firing**\n\nLabels:\n - alertname = DiskAlmostFull\n - instance = {host}\n",
    }


SOURCE = Source(name="grafana", title="Grafana", recognises=_recognises, parse=_parse, sample=_sample)
