"""`/pagerduty/webhook/`: PagerDuty's webhooks, version 3. PagerDuty's signature is the key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from orchestration.errors import Unavailable
from orchestration.requests import RunRequest
from service.api.decoding import BodyHeaders, read_object
from service.api.pagerduty_events import apply_own_event
from service.api.problems import HttpProblem
from service.api.pushes import WRITE_TIMEOUT_SECONDS, plain, queued
from service.api.state import state_of
from service.api.vendor_body import read_signed
from tasks.ingest.inbox import PushMetadata, accept

SENDER = "pagerduty"

router = APIRouter(include_in_schema=False)


@router.post("/pagerduty/webhook/")
async def accept_event(request: Request) -> Response:
    """Accept an event: about an incident of ours it is an answer, about any other one it is a push."""
    api = state_of(request)
    given = request.headers.get("x-pagerduty-signature", "")

    def check_headers() -> None:
        if not given.isascii() or "v1=" not in given:
            raise HttpProblem(HTTPStatus.UNAUTHORIZED, "PagerDuty has not signed this request")

    def is_valid(raw: bytes, key: str) -> bool:
        # While a secret is renewed there are two signatures.
        right = f"v1={hmac.new(key.encode(), raw, hashlib.sha256).hexdigest()}"
        return any([hmac.compare_digest(right, one.strip()) for one in given.split(",")])

    secret = api.settings.pagerduty_webhook_secret
    raw = await read_signed(request, api, secret, "PAGERDUTY_WEBHOOK_SECRET", check_headers, is_valid)
    payload, size = await read_object(raw, BodyHeaders.of(request), api.settings.max_payload_bytes)
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
            if (own := await apply_own_event(api, payload)) is not None:
                return Response(own.model_dump_json(), media_type="application/json")
            environment = plain(request.query_params.get("environment", ""), "production")
            wanted = RunRequest(payload=payload, source=SENDER, environment=environment)
            metadata = PushMetadata(sender=SENDER, skip_duplicates=True, size_bytes=size)
            return queued(request, await accept(api, wanted, metadata, write=api.writer.write))
    except TimeoutError:
        raise Unavailable(f"The database did not answer within {WRITE_TIMEOUT_SECONDS:g} s") from None
