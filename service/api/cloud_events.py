"""CloudEvents over HTTP: a batch of them in a body, and one whose attributes are headers.

An event as one JSON object needs nothing here: the sources read it. Source: CloudEvents 1.0.2, its HTTP binding.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from fastapi import Request

from orchestration.errors import BadInput
from orchestration.json_text import to_json
from service.api.body import TooLarge
from service.api.decoding import BodyHeaders, read_value, text_of
from service.api.problems import HttpProblem
from service.api.signatures import is_signed

BATCH = "application/cloudevents-batch"
MAX_EVENTS = 1_000
"""How many events a batch may have. A longer one is a push that is too large."""

_PREFIX = "ce-"
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,64}")
_STRUCTURED = "application/cloudevents"


def batch_in(value: object, headers: BodyHeaders) -> list[object] | None:
    """The events of a body that is a batch: its sender says so, or each of its members is one. None means that it is no
    batch.

    Raises:
        TooLarge: it has too many events.
    """
    if not isinstance(value, list):
        return None
    members = cast("list[object]", value)
    named = headers.content_type.strip().lower().startswith(BATCH)
    if not named and not (members and all(isinstance(each, dict) and "specversion" in each for each in members)):
        return None
    if len(members) > MAX_EVENTS:
        raise TooLarge(f"The batch has more than {MAX_EVENTS:,} events: send smaller ones")
    return members


def is_binary(request: Request) -> bool:
    """Whether the headers of a request are an event whose data is the body.

    A signature does not cover these headers, so that whoever sits on the wire could write them: a signed request is
    read by its body alone.
    """
    headers = request.headers
    if f"{_PREFIX}specversion" not in headers or is_signed(headers):
        return False
    return not headers.get("content-type", "").strip().lower().startswith(_STRUCTURED)


async def read_binary(raw: bytes, request: Request, limit: int) -> tuple[dict[str, Any], int]:
    """The event as one JSON object, and its size in bytes after decompression. Any body is data.

    Raises:
        HttpProblem: 415 for an unknown encoding, 413 if the decompressed body is too large, 400 if its gzip is broken.
    """
    headers = BodyHeaders.of(request)
    event: dict[str, Any] = {}
    for name, value in request.headers.items():
        attribute = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and _ATTRIBUTE.fullmatch(attribute):
            event.setdefault(attribute, _read(value))
    event["datacontenttype"] = headers.content_type
    if not raw.strip():
        return event, len(raw)
    try:
        event["data"], size = await read_value(raw, headers, limit)
    except TooLarge:
        raise
    except HttpProblem:
        body, text = text_of(raw, headers, limit)
        size = len(body)
        event |= {"data": text} if text is not None else {"data_base64": base64.b64encode(body).decode()}
    return event, size


def _read(value: str) -> str:
    """The value of an attribute in a header, where characters beyond ASCII stand as `%C3%96`, or as raw UTF-8."""
    written = value.strip()
    if len(written) > 1 and written[0] == written[-1] == '"':
        written = re.sub(r"\\(.)", r"\1", written[1:-1])
    return unquote_to_bytes(written.encode("latin-1", "replace")).decode("utf-8", "replace")


def key_of(payload: object, *place: str | None) -> str | None:
    """The idempotency key of an event: its producer sends no other one with this source and id.

    None means that the payload is no event with both. A producer whose ids are not unique must not lose an event, so
    that the whole event is in the key, with the `place` to which it is sent.
    """
    event = cast("dict[str, object]", payload) if isinstance(payload, dict) else {}
    if "specversion" not in event or not (event.get("source") and event.get("id")):
        return None
    try:
        return f"cloudevent-{hashlib.sha256(to_json([event, *place], sort_keys=True)).hexdigest()}"
    except (TypeError, ValueError, RecursionError, BadInput):
        return None
