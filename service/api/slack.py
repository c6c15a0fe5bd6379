"""`/slack/interactions/`: the buttons of our messages in Slack. Slack's signature is the key.

Source: Slack's pages "Verifying requests from Slack" and "Handling user interaction".
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs

import orjson
from fastapi import APIRouter, Request, Response
from slack_sdk.signature import SignatureVerifier

from orchestration.errors import Unavailable
from orchestration.responses import Response as Answer
from orchestration.signals import logger
from orchestration.store import actions, keys
from orchestration.store.actions import Actor, Via
from orchestration.store.incidents import find_incident_of
from service.api.problems import HttpProblem
from service.api.state import ApiState, state_of
from service.api.vendor_body import name_in, object_in, read_signed

WINDOW_SECONDS = keys.LONGEST_VENDOR_WINDOW_SECONDS
"""How old a request may be. The verifier of Slack's SDK has the same time."""

ANSWER_SECONDS = 2.5
"""How long the database may take: Slack waits for three seconds."""

_STAMP_DIGITS = 12

router = APIRouter(include_in_schema=False)


@router.post("/slack/interactions/")
async def press(request: Request) -> Response:
    """Do what somebody has pressed. The message shows it as soon as a worker has edited it."""
    api = state_of(request)
    raw, signature = await _read(request, api)
    payload = _payload_in(raw)
    incident_key, response = _pressed(payload)
    actor = _actor(payload)
    remembered_as = hashlib.sha256(f"slack\n{signature}".encode()).hexdigest()
    # Signatures are forgotten after two windows, whichever of our doors has accepted them.
    window = max(WINDOW_SECONDS, api.settings.api_signature_window_seconds)
    try:
        async with asyncio.timeout(ANSWER_SECONDS), api.database.transaction() as tx:
            if not await keys.use_signature(tx, remembered_as, window_seconds=window):
                raise HttpProblem(HTTPStatus.CONFLICT, "This request was accepted before: press the button again")
            incident = await find_incident_of(tx, incident_key)
            done = await actions.respond(tx, incident.id, response, actor, api.settings)
    except TimeoutError:
        raise Unavailable(f"The database did not answer within {ANSWER_SECONDS:g} s") from None
    logger.info("From Slack: %s", done.message)
    return Response(status_code=HTTPStatus.OK)


async def _read(request: Request, api: ApiState) -> tuple[bytes, str]:
    """The body and its signature, which is Slack's.

    Raises:
        HttpProblem: 404 without SLACK_SIGNING_SECRET, 401 if Slack has not signed it within the last five minutes, 413
            if it is too large, 429 after too many requests.
    """
    secret = api.settings.slack_signing_secret
    stamp = request.headers.get("x-slack-request-timestamp", "")
    signature = request.headers.get("x-slack-signature", "")

    def check_headers() -> None:
        if not stamp.isascii() or not stamp.isdecimal() or len(stamp) > _STAMP_DIGITS or not signature.isascii():
            raise HttpProblem(HTTPStatus.UNAUTHORIZED, "Slack has not signed this request")
        if abs(time.time() - int(stamp)) > WINDOW_SECONDS:
            said = "The time of this request is more than five minutes from ours. Are the clocks set?"
            raise HttpProblem(HTTPStatus.UNAUTHORIZED, said)

    def is_valid(raw: bytes, key: str) -> bool:
        try:
            return SignatureVerifier(key).is_valid(raw, stamp, signature)
        except UnicodeDecodeError:
            return False

    raw = await read_signed(request, api, secret, "SLACK_SIGNING_SECRET", check_headers, is_valid)
    return raw, signature


def _payload_in(raw: bytes) -> dict[str, Any]:
    """The payload of an interaction.

    Raises:
        HttpProblem: 400, the body is none.
    """
    try:
        fields = parse_qs(raw.decode(), max_num_fields=10)
        payload = orjson.loads(fields.get("payload", [""])[0])
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "Expected a form with the payload of an interaction as JSON")
    return cast("dict[str, Any]", payload)


def _pressed(payload: Mapping[str, Any]) -> tuple[str, Answer]:
    """The key of the incident, and what is to be done.

    Raises:
        HttpProblem: 422, no button of ours was pressed.
    """
    pressed = payload.get("actions")
    for action in cast("list[object]", pressed) if isinstance(pressed, list) else []:
        given = object_in(action)
        response, value = Answer.of_button(given.get("action_id")), given.get("value")
        if response is not None and isinstance(value, str) and payload.get("type") == "block_actions":
            return value, response
    raise HttpProblem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "This is no press of a button of alert-pipeline",
    )


def _actor(payload: Mapping[str, Any]) -> Actor:
    user, team = object_in(payload.get("user")), object_in(payload.get("team"))
    number = name_in(user.get("id"))
    name = next((name for name in map(name_in, (user.get("name"), user.get("username"))) if name), number)
    account = f"{number} in {name_in(team.get('domain')) or name_in(team.get('id')) or '?'}" if number else ""
    return Actor(by=name or "somebody in Slack", via=Via.SLACK, account=account)
