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

from orchestration.signals import logger
from orchestration.store.actions import Actor, Via
from orchestration.store.answers import VendorAction, answer, find_own
from service.api.state import ApiState
from service.api.vendor_body import name_in, object_in
from tasks.ingest.sources.fields import moment

_OUR_KEY = re.compile(r"[0-9]{1,18}-[0-9a-f]{32}")

_ACTIONS = {f"incident.{action.value}": action for action in VendorAction}


class OwnEvent(BaseModel):
    """The answer to a push about something of ours, such as an incident, which is done and not stored."""

    status: Literal["done", "ignored"]
    message: str


async def apply_own_event(api: ApiState, payload: Mapping[str, Any], *, may_respond: bool = True) -> OwnEvent | None:
    """Do what a person did in PagerDuty with an incident of ours. None means that the event is about something else.

    All other events about it are ignored: they only repeat what PagerDuty has from us. `may_respond` says whether the
    sender may act on incidents.

    Raises:
        Unavailable: the database does not answer.
    """
    event = object_in(payload.get("event"))
    data = object_in(event.get("data"))
    key = data.get("incident_key")
    if not isinstance(key, str) or not _OUR_KEY.fullmatch(key):
        return None
    async with api.database.transaction() as tx:
        incident = await find_own(tx, key)
        if incident is None:
            return None
        action, actor = _action_of(event), _actor(event)
        if action is None or actor is None:
            return OwnEvent(status="ignored", message=f"Incident {incident.id} is ours: this event says nothing new")
        if not may_respond:
            return OwnEvent(status="ignored", message="This key may not act on incidents: it needs the scope respond")
        occurred_at = actor.occurred_at or datetime.now(UTC)
        answered = await answer(tx, incident, action, actor, api.settings, occurred_at=occurred_at)
    logger.info("From PagerDuty: %s", answered.message)
    return OwnEvent(status="done" if answered.changed else "ignored", message=answered.message)


def _action_of(event: Mapping[str, object]) -> VendorAction | None:
    """What somebody did. None means nothing that is to be done here.

    PagerDuty acknowledges and resolves because of our own events too; then the agent is no person. An acknowledgement
    ends there by itself as well, and never by an event of ours.
    """
    action = _ACTIONS.get(str(event.get("event_type")))
    return action if _person(event) or action is VendorAction.UNACKNOWLEDGED else None


def _actor(event: Mapping[str, object]) -> Actor | None:
    """Who did it. None means that the event has no time, without which it could be repeated for ever."""
    occurred_at = moment(cast("Any", event.get("occurred_at")))
    if occurred_at is None:
        return None
    person = _person(event)
    account = name_in(person.get("id"))
    by = name_in(person.get("summary")) or account or "PagerDuty"
    return Actor(by=by, via=Via.PAGERDUTY, account=account, occurred_at=occurred_at)


def _person(event: Mapping[str, object]) -> Mapping[str, object]:
    """The user who did it; nothing if it was a service, or the time."""
    agent = object_in(event.get("agent"))
    return agent if str(agent.get("type")).startswith("user") else {}
