"""Vendors on loopback that judge a request as the real ones document it, and keep what they would show a person.

with pagerduty() as vendor: ...  # vendor.receiver.url; vendor.incidents
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from tests.receivers import Answer, HttpReceiver, Received, http_receiver

ROUTING_KEY = "0123456789abcdef0123456789abcdef"
_PD_FIELDS = {
    "routing_key": str,
    "event_action": str,
    "dedup_key": str,
    "payload": dict,
    "client": str,
    "client_url": str,
    "links": list,
    "images": list,
}
_PD_PAYLOAD = {
    "summary": str,
    "timestamp": str,
    "severity": str,
    "source": str,
    "component": str,
    "group": str,
    "class": str,
    "custom_details": dict,
}


@dataclass
class PagerDutyIncident:
    """One incident as PagerDuty shows it."""

    status: str
    severity: str
    summary: str
    details: dict[str, Any]
    events: list[str] = field(default_factory=list[str])


@dataclass
class PagerDuty:
    """The Events API v2: `PagerDuty/api-schema`, `reference/events-v2/openapiv3.json`, and the limits of the docs."""

    receiver: HttpReceiver = field(init=False)
    incidents: list[PagerDutyIncident] = field(default_factory=list[PagerDutyIncident])
    _open: dict[str, PagerDutyIncident] = field(default_factory=dict[str, PagerDutyIncident])

    @property
    def url(self) -> str:
        return f"{self.receiver.url}/v2/enqueue"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that were accepted."""
        return [request.json for request in self.receiver.requests if request.answered == 202]

    def judge(self, request: Received) -> Answer:
        problems = self._problems(request)
        if problems:
            refusal = {"status": "invalid event", "message": "Event object is invalid", "errors": problems}
            return Answer.json(refusal, 400)
        event = request.json
        key = event.get("dedup_key") or "made-by-pagerduty"
        self._apply(event, key)
        return Answer.json({"status": "success", "message": "Event processed", "dedup_key": key}, 202)

    def _problems(self, request: Received) -> list[str]:
        if (request.method, request.path) != ("POST", "/v2/enqueue"):
            return [f"{request.method} {request.path}"]
        if len(request.body) > 512 * 1024:
            return ["the event is larger than 512 KB"]
        try:
            event = json.loads(request.body)
        except ValueError:
            return ["JSON parse error"]
        problems = _wrong_types(event, _PD_FIELDS)
        if event.get("routing_key") != ROUTING_KEY:
            problems.append("Invalid routing key")
        action = event.get("event_action")
        if action not in ("trigger", "acknowledge", "resolve"):
            problems.append(f"'event_action' is {action!r}")
        if action != "trigger" and not event.get("dedup_key"):
            problems.append("'dedup_key' is missing or blank")
        if len(event.get("dedup_key", "")) > 255:
            problems.append("'dedup_key' is too long")
        if action == "trigger":
            problems += _payload_problems(event.get("payload"))
        return problems + [f"link {link!r}" for link in event.get("links", []) if not _is_link(link)]

    def _apply(self, event: dict[str, Any], key: str) -> None:
        known = self._open.get(key)
        action = event["event_action"]
        if action == "trigger":
            payload = event["payload"]
            if known is None:
                known = self._open[key] = PagerDutyIncident("triggered", "", "", {})
                self.incidents.append(known)
            known.severity = payload["severity"]
            known.summary, known.details = payload["summary"], payload.get("custom_details", {})
        elif known is not None:
            known.status = {"acknowledge": "acknowledged", "resolve": "resolved"}[action]
            if action == "resolve":
                del self._open[key]
        if known is not None:
            known.events.append(action)


def _wrong_types(given: Any, wanted: dict[str, type]) -> list[str]:
    if not isinstance(given, dict):
        return ["expected an object"]
    found = cast("dict[str, Any]", given)
    return [
        f"'{name}' is {type(value).__name__}"
        for name, value in found.items()
        if not isinstance(value, wanted.get(name, ()))
    ]


def _payload_problems(payload: Any) -> list[str]:
    problems = _wrong_types(payload, _PD_PAYLOAD)
    if problems:
        return problems
    problems += [f"'payload.{name}' is missing or blank" for name in ("summary", "source") if not payload.get(name)]
    if payload.get("severity") not in ("critical", "error", "warning", "info"):
        problems.append("'payload.severity' is invalid (must be one of the following: critical, warning, error, info)")
    if len(payload.get("summary", "")) > 1024:
        problems.append("'payload.summary' is too long")
    return problems


def _is_link(link: Any) -> bool:
    return isinstance(link, dict) and str(cast("dict[str, Any]", link).get("href", "")).startswith(("http:", "https:"))


@contextmanager
def pagerduty(*answers: int | Answer) -> Iterator[PagerDuty]:
    """PagerDuty; the first requests get these answers."""
    vendor = PagerDuty()
    with http_receiver(*answers, judge=vendor.judge) as receiver:
        vendor.receiver = receiver
        yield vendor
