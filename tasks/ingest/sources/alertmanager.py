"""Prometheus Alertmanager, webhook version 4.

Source: Prometheus documentation, "Alerting → Configuration → webhook_config".
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from urllib.parse import quote

from pydantic import JsonValue

from tasks.ingest.sources.fields import text
from tasks.ingest.sources.group import Dialect, Member, parse_group
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Source


def _recognises(body: JsonObject) -> int:
    is_version_4 = text(body.get("version")) == "4"
    return VENDOR if is_version_4 and "groupKey" in body and isinstance(body.get("alerts"), list) else NOT_MINE


def _links(body: JsonObject, member: Member) -> JsonObject:
    """The link to a new silence: Alertmanager sends none, but its page accepts matchers as `filter`."""
    external_url = text(body.get("externalURL")).rstrip("/")
    if not (external_url and member.labels):
        return {}
    escaped = ((name, value.replace("\\", "\\\\").replace('"', '\\"')) for name, value in sorted(member.labels.items()))
    matchers = ", ".join(f'{name}="{value}"' for name, value in escaped)
    return {"silence": f"{external_url}/#/silences/new?filter={quote('{' + matchers + '}', safe='')}"}


_DIALECT = Dialect(source="alertmanager", vendor="Alertmanager", links=_links)


def _sample(mark: str) -> JsonObject:
    now = datetime.now(UTC)
    common: JsonObject = {"alertname": "HighCPU", "cluster": f"eu-{mark}", "job": "node", "severity": "critical"}
    common["instance"] = f"{socket.gethostname()}:9100"
    alerts: list[JsonValue] = [
        _sample_alert(common, {"cpu": "0"}, "96.4 %", now - timedelta(minutes=7)),
        _sample_alert(common, {"cpu": "1"}, "93.1 %", now - timedelta(minutes=5)),
    ]
    return {
        "version": "4",
        "groupKey": f'{{}}/{{severity="critical"}}:{{alertname="HighCPU", cluster="eu-{mark}"}}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "alert-pipeline",
        "groupLabels": {"alertname": "HighCPU", "cluster": f"eu-{mark}"},
        "commonLabels": common,
        "commonAnnotations": {"runbook_url": "https://runbooks.example.com/high-cpu"},
        "externalURL": "https://alertmanager.example.com",
        "alerts": alerts,
    }


def _sample_alert(common: JsonObject, own: JsonObject, usage: str, since: datetime) -> JsonObject:
    labels = {**common, **own}
    core = f"Core {labels['cpu']} of {labels['instance']}"
    return {
        "status": "firing",
        "labels": labels,
        "annotations": {
            "summary": f"{core} is nearly used up",
            "description": f"{core} has been busy more than 90 % of the time for 5 minutes, now {usage}.",
            "runbook_url": "https://runbooks.example.com/high-cpu",
        },
        "startsAt": since.isoformat().replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "https://prometheus.example.com/graph?g0.expr=node_cpu_busy_percent+%3E+90&g0.tab=1",
        "fingerprint": sha256(f"{labels}".encode()).hexdigest()[:16],
    }


SOURCE = Source(
    name="alertmanager",
    title="Prometheus Alertmanager",
    recognises=_recognises,
    parse=partial(parse_group, dialect=_DIALECT),
    sample=_sample,
)
