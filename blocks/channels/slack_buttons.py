"""The buttons of a message in Slack.

The limits are those of Slack's page "Block elements": 75 characters for a button's text, 255 for its `action_id`, 2,000
for its value.
"""

from __future__ import annotations

from typing import Any

from orchestration.message import Message
from orchestration.responses import Response

Json = dict[str, Any]


def buttons_of(message: Message) -> list[Json]:
    """A block with the buttons of a message; none if there is nothing to be done."""
    if not message.buttons:
        return []
    return [{"type": "actions", "elements": [_button(response, message.dedup_key) for response in message.buttons]}]


def _button(response: Response, incident_key: str) -> Json:
    button: Json = {
        "type": "button",
        "action_id": response.button_id,
        "text": {"type": "plain_text", "text": response.label},
        "value": incident_key,
    }
    if response is Response.ACKNOWLEDGE:
        button["style"] = "primary"
    if response is Response.RESOLVE:
        # A thumb that slips must not end an incident that others wait for.
        button["confirm"] = {
            "title": {"type": "plain_text", "text": "Resolve the incident?"},
            "text": {"type": "plain_text", "text": "It ends, whatever its alerts say, and everybody is told so."},
            "confirm": {"type": "plain_text", "text": "Resolve"},
            "deny": {"type": "plain_text", "text": "Not yet"},
        }
    return button
