"""The monitored world of the incident machine: alerts that begin and end, and what their eight vendors send of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orchestration.alert import Severity

VENDORS = ("alertmanager", "grafana", "pagerduty", "datadog", "newrelic", "opsgenie", "zabbix", "generic")
GROUPING = ("alertmanager", "grafana")
"""Their pushes have several alerts of one group, with a fixed severity each."""
FIXED_SEVERITY = (*GROUPING, "zabbix")
_WORDS = {
    "opsgenie": {"critical": "P1", "warning": "P3", "info": "P5"},
    "newrelic": {"critical": "CRITICAL", "warning": "MEDIUM", "info": "LOW"},
    "zabbix": {"critical": "High", "warning": "Warning", "info": "Information"},
    "datadog": {"critical": "error", "warning": "warning", "info": "info"},
    "pagerduty": {"critical": "P1", "warning": "P3", "info": "P5"},
}

Key = tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """What a sender says of one alert. `start` names the episode, `at` the moment of the event, if the sender does."""

    alert: Key
    firing: bool
    severity: Severity
    start: datetime | None = None
    at: datetime | None = None


@dataclass
class Monitored:
    """Something that is monitored. Moments are on the machine's clock."""

    vendor: str
    environment: str
    number: int
    severity: Severity
    firing: bool = False
    start: datetime | None = None
    ended: datetime | None = None
    episode: int = 0
    unsaid: set[str] = field(default_factory=set[str])
    """The groups in which its end has not been said. After that it is left out of their pushes."""

    def begin(self, now: datetime) -> None:
        """It fires from now on."""
        self.firing, self.start, self.episode = True, now, self.episode + 1
        self.unsaid = set(self.groups)

    def end(self, now: datetime) -> None:
        """It does not fire any more."""
        self.firing, self.ended = False, now

    @property
    def id(self) -> str:
        own = f"{self.vendor}-{self.number}"
        # New Relic's issue, which is over for ever when it ends.
        return f"{own}-{self.episode}" if self.vendor == "newrelic" else own

    @property
    def groups(self) -> tuple[str, ...]:
        """What its vendor groups it by. Two alerts of Alertmanager are in two groups (`continue: true`)."""
        if self.vendor not in GROUPING:
            return (self.id,)
        shared = self.vendor == "alertmanager" and self.number in (1, 2)
        return (f"group-{self.number // 2}", *(("everything",) if shared else ()))


@dataclass(frozen=True)
class Push:
    """One request of a vendor, which can be sent at any time and more than once. Moments are the machine's."""

    vendor: str
    environment: str
    key: Key
    events: tuple[Event, ...]

    def body(self, shift: timedelta) -> Any:
        """What is sent, if the machine's clock is ahead of the real one by so much."""
        event = self.events[0]
        if self.vendor in GROUPING:
            return _group(self, shift)
        return _BODIES[self.vendor](event, _Moments(event, shift))


def said_of(*alerts: Monitored, group: str, now: datetime, skew: timedelta = timedelta()) -> Push:
    """What a vendor says now of alerts of one group. `skew` is how much later the other server of a pair began."""
    one = alerts[0]
    for alert in alerts:
        alert.unsaid -= set() if alert.firing else {group}
    key = (one.vendor, one.environment, group)
    return Push(one.vendor, one.environment, key, tuple(_event(alert, now, skew) for alert in alerts))


def _event(alert: Monitored, now: datetime, skew: timedelta) -> Event:
    names_start = alert.vendor in (*GROUPING, "newrelic", "opsgenie", "zabbix")
    start = alert.start if names_start else None
    if start is not None and alert.vendor in GROUPING and start + skew < now:
        start += skew
    at = now if alert.vendor in ("pagerduty", "datadog", "newrelic", "opsgenie") else None
    if not alert.firing and alert.vendor != "generic":
        at = alert.ended if alert.vendor in GROUPING else now
    return Event((alert.vendor, alert.environment, alert.id), alert.firing, alert.severity, start, at)


class _Moments:
    def __init__(self, event: Event, shift: timedelta) -> None:
        self._event, self._shift = event, shift

    def text(self, moment: datetime | None) -> str:
        return "0001-01-01T00:00:00Z" if moment is None else (moment - self._shift).isoformat()

    @property
    def start(self) -> str:
        return self.text(self._event.start)

    @property
    def at(self) -> str:
        return self.text(self._event.at)

    def micros(self, moment: datetime | None) -> int:
        return 0 if moment is None else int((moment - self._shift).timestamp() * 1_000_000)


def _word(event: Event) -> str:
    return _WORDS[event.alert[0]][event.severity.value]


def _group(push: Push, shift: timedelta) -> Any:
    alerts: list[Any] = []
    for event in push.events:
        moments = _Moments(event, shift)
        alerts.append(
            {
                "status": "firing" if event.firing else "resolved",
                "labels": {"alertname": event.alert[2], "severity": event.severity.value, "instance": event.alert[2]},
                "annotations": {},
                "startsAt": moments.start,
                "endsAt": moments.text(None if event.firing else event.at),
                "fingerprint": event.alert[2],
                **({"valueString": "", "silenceURL": "https://g.example.com"} if push.vendor == "grafana" else {}),
            }
        )
    return {
        "version": "4" if push.vendor == "alertmanager" else "1",
        "groupKey": push.key[2],
        "status": "firing" if any(event.firing for event in push.events) else "resolved",
        "receiver": "us",
        **({"orgId": 1} if push.vendor == "grafana" else {}),
        "alerts": alerts,
    }


def _pagerduty(event: Event, moments: _Moments) -> Any:
    data = {
        "id": event.alert[2],
        "type": "incident",
        "title": event.alert[2],
        "status": "triggered" if event.firing else "resolved",
        "priority": {"summary": _word(event)},
    }
    name = "incident.triggered" if event.firing else "incident.resolved"
    return {"event": {"event_type": name, "resource_type": "incident", "occurred_at": moments.at, "data": data}}


def _datadog(event: Event, moments: _Moments) -> Any:
    return {
        "alert_id": event.alert[2],
        "alert_title": event.alert[2],
        "alert_transition": "Triggered" if event.firing else "Recovered",
        "alert_type": _word(event) if event.firing else "success",
        "date": str(moments.micros(event.at)),
    }


def _newrelic(event: Event, moments: _Moments) -> Any:
    at = moments.micros(event.at)
    return {
        "issueId": event.alert[2],
        "title": event.alert[2],
        "priority": _word(event),
        "state": "ACTIVATED" if event.firing else "CLOSED",
        "createdAt": moments.micros(event.start),
        "updatedAt": at,
        **({} if event.firing else {"closedAt": at}),
        "workflowName": "us",
        "totalIncidents": 1,
    }


def _opsgenie(event: Event, moments: _Moments) -> Any:
    return {
        "action": "Create" if event.firing else "Close",
        "alert": {
            "alertId": event.alert[2],
            "tinyId": "1",
            "alias": event.alert[2],
            "message": event.alert[2],
            "priority": _word(event),
            "createdAt": moments.micros(event.start),
            "updatedAt": moments.micros(event.at),
        },
        "integrationId": "1",
    }


def _zabbix(event: Event, moments: _Moments) -> Any:
    return {
        "event_id": "1",
        "event_name": event.alert[2],
        "event_value": "1" if event.firing else "0",
        "event_severity": _word(event),
        "event_timestamp": str(moments.micros(event.start)),
        "trigger_id": event.alert[2],
        "trigger_name": event.alert[2],
        "host": "h",
        **({} if event.firing else {"event_recovery_timestamp": str(moments.micros(event.at))}),
    }


def _generic(event: Event, _moments: _Moments) -> Any:
    return {
        "name": event.alert[2],
        "fingerprint": event.alert[2],
        "severity": event.severity.value,
        "status": "firing" if event.firing else "resolved",
    }


_BODIES = {
    "pagerduty": _pagerduty,
    "datadog": _datadog,
    "newrelic": _newrelic,
    "opsgenie": _opsgenie,
    "zabbix": _zabbix,
    "generic": _generic,
}
