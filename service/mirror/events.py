"""What has happened, as events of Prefect: incidents, pages, storms and canaries. docs/prefect.md has their table.

An event has the same id each time it is sent, so that a batch that is sent twice makes no event twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid5

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from orchestration.alert import STORM_KEY
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.event_cursor import CANARY_DELIVERED, CANARY_MISSED, AboutIncident, HistoryEvent, PageEvent

BATCH = 200
"""How many events a request has."""

_IDS = UUID("7b6a0f0e-94b4-5d55-9f0b-4a8d5a1c3b52")
"""The namespace of the events' ids."""

_TITLE, _TEXT, _LABEL = 200, 500, 200
_REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)

_INCIDENT_EVENTS = {
    "incident_opened": "opened",
    "incident_reopened": "opened",
    "incident_acknowledged": "acknowledged",
    "incident_escalated": "escalated",
    "incident_resolved": "resolved",
    "incident_expired": "resolved",
}
_CANARY_EVENTS = {CANARY_DELIVERED: "delivered", CANARY_MISSED: "missed"}

REPORTED_EVENTS = (*_INCIDENT_EVENTS, *_CANARY_EVENTS)
"""The events of the history that Prefect hears of."""

_FACTS = ("by", "via", "why", "to", "number", "escalation")
"""What of the details of a line an event has."""

_STORM_EVENTS = {"opened": "began", "resolved": "ended"}

Event = Mapping[str, Any]


def events_of_history(line: HistoryEvent) -> Iterator[Event]:
    """The events for a line of the history."""
    facts = {name: line.details[name] for name in _FACTS if line.details.get(name)}
    if line.event in _CANARY_EVENTS:
        yield _event(
            f"alert-pipeline.canary.{_CANARY_EVENTS[line.event]}",
            _id("history", line.id, line.at),
            line,
            resource={
                "prefect.resource.id": f"alert-pipeline.canary.{_word(line.details.get('channel'))}",
                "prefect.resource.name": "canary",
            },
            payload={name: line.details.get(name) for name in ("channel", "problem", "milliseconds")},
            channel=str(line.details.get("channel") or ""),
        )
        return
    kind = _INCIDENT_EVENTS[line.event]
    payload = {**facts, "because": line.event.removeprefix("incident_")}
    yield _event(f"alert-pipeline.incident.{kind}", _id("history", line.id, line.at), line, payload=payload)
    if kind in _STORM_EVENTS and (line.incident_key or "").startswith(STORM_KEY):
        name = f"alert-pipeline.storm.{_STORM_EVENTS[kind]}"
        yield _event(name, _id("storm", line.id, line.at), line, payload=payload)


def event_of_page(page: PageEvent, *, failed: bool) -> Event:
    """The event for a message that was accepted by its channel, or that has failed."""
    kind = "failed" if failed else "sent"
    return _event(
        f"alert-pipeline.page.{kind}",
        _id(page.delivery_status, page.id, page.created_at),
        page,
        resource={
            "prefect.resource.id": f"alert-pipeline.page.{page.id}",
            "prefect.resource.name": _cut(page.title or page.channel, _TITLE),
        },
        payload={
            "channel": page.channel,
            "driver": page.driver,
            "tries": page.tries,
            "version": page.version,
            **({"error": _cut(page.error or "", _TEXT), "given_up": page.ended} if failed else {}),
        },
        channel=page.channel,
    )


async def send_events(client: PrefectClient, events: Sequence[Event]) -> None:
    """Send events in batches. One that Prefect refuses is left out, with a line in the log.

    Raises whatever Prefect's client raises: call it within `blocks.prefect_api.prefect_errors()`.
    """
    for start in range(0, len(events), BATCH):
        await _send(client, events[start : start + BATCH])


async def _send(client: PrefectClient, events: Sequence[Event]) -> None:
    try:
        await client.request("POST", "/events", json=[dict(event) for event in events])
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in _REFUSED:
            raise
        if len(events) == 1:
            logger.warning("Prefect refuses the event %s: %s", events[0]["event"], one_line(str(error), 300))
            return
        middle = len(events) // 2
        await _send(client, events[:middle])
        await _send(client, events[middle:])


def _event(
    name: str,
    event_id: UUID,
    about: HistoryEvent | PageEvent,
    *,
    resource: Mapping[str, str] | None = None,
    payload: Mapping[str, Any],
    channel: str = "",
) -> Event:
    labels = {
        "alert-pipeline.incident": None if about.incident_id is None else str(about.incident_id),
        "alert-pipeline.severity": about.severity,
        "alert-pipeline.status": about.status,
        "alert-pipeline.environment": about.environment,
        "alert-pipeline.source": about.source,
        "alert-pipeline.route": about.route,
        "alert-pipeline.channel": channel,
    }
    own = resource or {
        "prefect.resource.id": f"alert-pipeline.incident.{about.incident_id}",
        "prefect.resource.name": _cut(about.title or "an incident", _TITLE),
    }
    return {
        "id": str(event_id),
        "occurred": about.at.isoformat(),
        "event": name,
        "resource": {**own, **{label: _cut(value, _LABEL) for label, value in labels.items() if value}},
        "related": list(_related(about, channel, is_incident=resource is None)),
        "payload": {
            "title": _cut(about.title or "", _TITLE),
            "run_id": about.run_id,
            **{field: _cut(value, _TEXT) if isinstance(value, str) else value for field, value in payload.items()},
        },
    }


def _related(about: AboutIncident, channel: str, *, is_incident: bool) -> Iterator[dict[str, str]]:
    found = {
        "incident": "" if is_incident or about.incident_id is None else f"alert-pipeline.incident.{about.incident_id}",
        "route": f"alert-pipeline.route.{_word(about.route)}" if about.route else "",
        "channel": f"alert-pipeline.channel.{_word(channel)}" if channel else "",
        "flow-run": f"prefect.flow-run.{about.flow_run_id}" if about.flow_run_id else "",
        "tag": "prefect.tag.alert-pipeline",
    }
    for role, resource_id in found.items():
        if resource_id:
            yield {"prefect.resource.id": resource_id, "prefect.resource.role": role}


def _id(what: str, number: int, at: datetime) -> UUID:
    """The event's id. Another installation has the same numbers, but not at the same microsecond."""
    return uuid5(_IDS, f"{what}/{number}/{at.isoformat()}")


def _cut(text: str, most: int) -> str:
    return one_line(text, most)


def _word(value: object) -> str:
    return "-".join(str(value or "default").split())[:_LABEL]
