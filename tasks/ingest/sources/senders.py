"""Bodies of well-known senders that have no source of their own, as one flat object in the generic shape.

Sources: the webhook pages of each sender's documentation; for Nagios, Icinga and Checkmk the names of the macros that
their notification scripts get.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.fields import text
from tasks.ingest.sources.source import JsonObject
from tasks.ingest.sources.spelling import says_nothing, squashed


@dataclass(frozen=True)
class _Shape:
    """Where a sender writes each field of the generic shape.

    A path is a list of names with dots between them. `a|b` means the first of the paths a and b that has a value; `=x`
    means the text x itself. Names are compared without case and punctuation: `SERVICEDESC` and `service_desc` are the
    same name.
    """

    when: str
    """The paths, with spaces between them, that every body of this shape has."""
    fields: dict[str, str]
    """The path of each field, by its name in the generic shape."""

    @cached_property
    def outermost(self) -> frozenset[str]:
        """The first names of the paths that every body of this shape has, squashed."""
        return frozenset(squashed(path.split(".")[0]) for path in self.when.split())


_SHAPES = (
    _Shape(  # Azure Monitor, common alert schema
        "data.essentials.alertRule data.essentials.monitorCondition",
        {
            "name": "data.essentials.alertRule",
            "status": "data.essentials.monitorCondition",
            "severity": "data.essentials.severity",
            "message": "data.essentials.description",
            "fingerprint": "data.essentials.alertId",
            "host": "data.essentials.configurationItems.0",
            "started_at": "data.essentials.firedDateTime",
            "resolved_at": "data.essentials.resolvedDateTime",
        },
    ),
    _Shape(  # Google Cloud Monitoring
        "incident.incident_id incident.policy_name",
        {
            "name": "incident.policy_name",
            "status": "incident.state",
            "severity": "incident.severity",
            "message": "incident.summary|incident.documentation.content",
            "fingerprint": "incident.incident_id",
            "host": "incident.resource_display_name|incident.resource_name",
            "condition": "incident.condition_name",
            "url": "incident.url",
            "started_at": "incident.started_at",
            "resolved_at": "incident.ended_at",
        },
    ),
    _Shape(  # Amazon CloudWatch through SNS
        "AlarmName NewStateValue",
        {
            "name": "AlarmName",
            "status": "NewStateValue",
            "message": "AlarmDescription|NewStateReason",
            "fingerprint": "AlarmArn",
            "region": "Region",
            "occurred_at": "StateChangeTime",
            "reason": "NewStateReason",
        },
    ),
    _Shape(  # Amazon CloudWatch through EventBridge
        "detail.alarmName detail.state.value",
        {
            "name": "detail.alarmName",
            "status": "detail.state.value",
            "message": "detail.configuration.description|detail.state.reason",
            "fingerprint": "resources.0",
            "region": "region",
            "occurred_at": "detail.state.timestamp|time",
            "reason": "detail.state.reason",
        },
    ),
    _Shape(  # SNS asks whether it may send: a person has to open the link
        "Type TopicArn SubscribeURL",
        {
            "name": "=Amazon SNS waits for somebody to confirm its subscription",
            "message": "Message",
            "url": "SubscribeURL",
        }
        | {"fingerprint": "TopicArn", "severity": "=info"},
    ),
    _Shape("Type TopicArn Message", {"name": "Subject|Message", "message": "Message", "topic": "TopicArn"}),
    _Shape(  # Sentry, a metric alert
        "action data.metric_alert",
        {
            "name": "data.metric_alert.alert_rule.name|data.metric_alert.title",
            "status": "action",
            "severity": "action",
            "message": "data.description_text",
            "fingerprint": "data.metric_alert.id",
            "url": "data.web_url",
            "started_at": "data.metric_alert.date_started",
        },
    ),
    _Shape(  # Sentry, an issue
        "action data.issue.id",
        {
            "name": "data.issue.title",
            "status": "data.issue.status",
            "severity": "data.issue.level",
            "message": "data.issue.culprit",
            "fingerprint": "data.issue.id",
            "service": "data.issue.project.slug",
            "url": "data.issue.web_url|data.issue.permalink",
        },
    ),
    _Shape(  # Sentry, an alert about an event
        "action data.event.title",
        {
            "name": "data.event.title",
            "severity": "data.event.level",
            "message": "data.event.culprit",
            "fingerprint": "data.event.issue_id",
            "rule": "data.triggered_rule",
            "url": "data.event.web_url",
        },
    ),
    _Shape(  # Better Stack
        "data.attributes.name data.attributes.started_at",
        {
            "name": "data.attributes.name",
            "status": "data.attributes.status",
            "message": "data.attributes.cause",
            "fingerprint": "data.id",
            "url": "data.attributes.url",
            "started_at": "data.attributes.started_at",
            "resolved_at": "data.attributes.resolved_at",
        },
    ),
    _Shape(  # Dynatrace
        "State ProblemTitle",
        {
            "name": "ProblemTitle",
            "status": "State",
            "message": "ProblemDetailsText|ProblemImpact",
            "fingerprint": "PID|ProblemID",
            "host": "ImpactedEntity",
            "url": "ProblemURL",
        },
    ),
    _Shape(  # Netdata Cloud, an alert
        "alert chart severity",
        {"name": "alert", "severity": "severity", "message": "info|message", "chart": "chart", "space": "space"}
        | {"host": "node|host", "url": "alert_url|alarm_url", "occurred_at": "date"},
    ),
    _Shape(  # Netdata Cloud, reachability
        "host status.reachable",
        {"name": "=Node is unreachable", "status": "status.text", "severity": "severity", "message": "message"}
        | {"host": "host", "url": "url"},
    ),
    _Shape(  # InfluxDB
        "_check_id _check_name _level",
        {"name": "_check_name", "severity": "_level", "message": "_message", "check_id": "_check_id", "host": "host"}
        | {"occurred_at": "_time"},
    ),
    _Shape(  # Kapacitor
        "id level previousLevel",
        {"name": "id", "severity": "level", "message": "message", "occurred_at": "time"},
    ),
    _Shape(  # Splunk
        "search_name results_link",
        {"name": "search_name", "host": "result.host", "message": "result._raw", "url": "results_link"},
    ),
    _Shape(  # Graylog
        "event_definition_title event.id",
        {"name": "event_definition_title", "message": "event.message", "service": "event.source"}
        | {"check_id": "event_definition_id"},
    ),
    *(
        _Shape(  # Nagios, Icinga and Checkmk, a service
            f"{host} {service} {state}",
            {
                "name": service,
                "status": state,
                "severity": state,
                "message": "service_output|output|long_service_output",
                "host": host,
                "service": service,
                "url": "service_url|url",
            },
        )
        for host, service, state in (
            ("hostname", "service_desc", "service_state"),
            ("hostname", "service_description", "service_state"),
            ("hostname", "service_name", "service_state"),
            ("host", "service", "state"),
            ("host_name", "service_name", "state"),
        )
    ),
    _Shape(  # the same, a host
        "hostname host_state",
        {"name": "=Host check", "status": "host_state", "severity": "=critical", "message": "host_output|output"}
        | {"host": "hostname"},
    ),
)


def flattened(body: JsonObject) -> JsonObject | None:
    """The body in the generic shape, read with the first shape that fits; None if no shape fits."""
    inner = _unwrapped(body)
    names = {squashed(name) for name in inner}  # most bodies have the names of no shape: that is found out quickly
    near = (shape for shape in _SHAPES if shape.outermost <= names)
    shape = next((shape for shape in near if all(_has(inner, path) for path in shape.when.split())), None)
    if shape is None:
        return None
    found = {field: next(_said(inner, paths), None) for field, paths in shape.fields.items()}
    return {field: value for field, value in found.items() if value is not None}


def _unwrapped(body: JsonObject) -> JsonObject:
    """The object that SNS wraps as a text in its field `Message`; any other body as it is."""
    message = body.get("Message")
    if "TopicArn" in body and isinstance(message, str) and message.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            inner = clean(json.loads(message))
            return inner if isinstance(inner, dict) else body
    return body


def _said(body: JsonObject, paths: str) -> Iterator[JsonValue]:
    if paths.startswith("="):
        yield paths[1:]
        return
    for path in paths.split("|"):
        value = _at(body, path)
        if text(value).strip() and not says_nothing(text(value)):
            yield value


def _has(body: JsonObject, path: str) -> bool:
    return text(_at(body, path)).strip() != ""


def _at(body: JsonValue, path: str) -> JsonValue:
    value = body
    for step in path.split("."):
        if isinstance(value, list):
            value = value[0] if value and step == "0" else None
        elif isinstance(value, dict):
            wanted = squashed(step)
            value = (
                value[step] if step in value else next((value[key] for key in value if squashed(key) == wanted), None)
            )
        else:
            return None
    return value
