"""What a person can do about an incident from a message: with a button, or on the page of a link."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from orchestration.alert import Incident, IncidentStatus

SNOOZE_FOR = timedelta(minutes=30)

_BUTTON = "alert-pipeline/"


class Response(StrEnum):
    """One of the actions that a message offers."""

    ACKNOWLEDGE = "acknowledge"
    SNOOZE = "snooze"
    RESOLVE = "resolve"

    @property
    def label(self) -> str:
        """The text of the button."""
        minutes = int(SNOOZE_FOR.total_seconds() // 60)
        return f"Snooze {minutes} min" if self is Response.SNOOZE else self.value.capitalize()

    @property
    def button_id(self) -> str:
        """The name of the button at a vendor."""
        return f"{_BUTTON}{self.value}"

    @classmethod
    def of_button(cls, button_id: object) -> Response | None:
        """What the button with this name stands for. None means that it is not ours."""
        return next((one for one in cls if one.button_id == button_id), None)


def offered_for(incident: Incident | None) -> tuple[Response, ...]:
    """What can be done about an incident now. Nothing, if it has ended."""
    if incident is None or incident.status.ended:
        return ()
    acknowledged = incident.status is IncidentStatus.ACKNOWLEDGED
    return tuple(one for one in Response if not (acknowledged and one is Response.ACKNOWLEDGE))
