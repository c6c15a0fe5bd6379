"""Events of PagerDuty about incidents that we have opened there: what a person did there is done here too.

Without this they would be incidents of their own, and each page would cause another one. Sources: PagerDuty's pages
"Webhooks overview" and "Verifying signatures".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic import BaseModel

from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.actions import MAX_NAME_CHARACTERS, Actor, Via
from orchestration.store.answers import Deed, answer, find_own
from service.api.state import ApiState
from tasks.ingest.sources.fields import moment

_OUR_KEY = re.compile(r"[0-9]{1,18}-[0-9a-f]{32}")

_DEEDS = {f"incident.{deed.value}": deed for deed in Deed}


class OwnEvent(BaseModel):
    """The answer to an event about an incident of ours."""

    status: Literal["done", "ignored"]
    message: str


async def take_own_event(api: ApiState, payload: Mapping[str, Any], *, may_respond: bool = True) -> OwnEvent | None:
    """Do what a person did in PagerDuty with an incident of ours. None means that the event is about something else.

    All other events about it are ignored: they only say what we have told PagerDuty. `may_respond` says whether the
    sender may act on incidents.

    Raises:
        Unavailable: the database does not answer.
    """
    event = _object(payload.get("event"))
    data = _object(event.get("data"))
    key = data.get("incident_key")
    if not isinstance(key, str) or not _OUR_KEY.fullmatch(key):
        return None
    async with api.database.transaction() as tx:
        incident = await find_own(tx, key)
        if incident is None:
            return None
        deed, actor = _deed_of(event), _actor(event)
        if deed is None or actor is None:
            return OwnEvent(status="ignored", message=f"Incident {incident.id} is ours: this event says nothing new")
        if not may_respond:
            return OwnEvent(status="ignored", message="This key may not act on incidents: it needs the scope respond")
        occurred_at = actor.occurred_at or datetime.now(UTC)
        answered = await answer(tx, incident, deed, actor, api.settings, occurred_at=occurred_at)
    logger.info("From PagerDuty: %s", answered.message)
    return OwnEvent(status="done" if answered.changed else "ignored", message=answered.message)


def _deed_of(event: Mapping[str, object]) -> Deed | None:
    """What somebody did. None means nothing that is to be done here.

    PagerDuty acknowledges and resolves because of our own events too; then the agent is no person. An acknowledgement
    ends there by itself as well, and never by an event of ours.
    """
    deed = _DEEDS.get(str(event.get("event_type")))
    return deed if _person(event) or deed is Deed.UNACKNOWLEDGED else None


def _actor(event: Mapping[str, object]) -> Actor | None:
    """Who did it. None means that the event has no time, without which it could be repeated for ever."""
    occurred_at = moment(cast("Any", event.get("occurred_at")))
    if occurred_at is None:
        return None
    person = _person(event)
    account = _words(person.get("id"))
    by = _words(person.get("summary")) or account or "PagerDuty"
    return Actor(by=by, via=Via.PAGERDUTY, account=account, occurred_at=occurred_at)


def _person(event: Mapping[str, object]) -> Mapping[str, object]:
    """The user who did it; nothing if it was a service, or the time."""
    agent = _object(event.get("agent"))
    return agent if str(agent.get("type")).startswith("user") else {}


def _object(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _words(value: object) -> str:
    return one_line(value, MAX_NAME_CHARACTERS) if isinstance(value, str) else ""
