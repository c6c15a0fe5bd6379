"""`/changes/`: accept what somebody has changed, and list it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, Field

from orchestration.changes.events import PostedChange, parse_change
from orchestration.changes.github import parse_github
from orchestration.contracts import ChangeEvent
from orchestration.errors import Unavailable
from orchestration.redaction import one_line
from orchestration.store.change_events import list_changes, record_change
from orchestration.store.database import read_clock
from orchestration.store.keys import Scope
from service.api.auth import token_of
from service.api.decoding import BodyHeaders, read_object
from service.api.problems import HttpProblem
from service.api.route import ApiRequest, GuardedRoute, requires
from service.api.signatures import is_signed
from service.api.state import ApiState, state_of
from service.api.vendor_body import read_signed

WRITE_TIMEOUT_SECONDS = 15.0
"""How long the database may take to store an event, before the sender gets a 503."""

IGNORED = "ignored"
_SIGNATURE, _EVENT = "x-hub-signature-256", "x-github-event"


class ChangesRoute(GuardedRoute):
    """A route to which GitHub also comes, whose signature is the key. A request with a key needs none."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler, but for what GitHub has signed."""
        usual = super().get_route_handler()

        async def handle(request: Request) -> Response:
            with_key = token_of(request.headers) is not None or is_signed(request.headers)
            if request.method != "POST" or _SIGNATURE not in request.headers or with_key:
                return await usual(request)
            return await _accept_signed(request)

        return handle


router = APIRouter(prefix="/changes", tags=["changes"], route_class=ChangesRoute)


class ChangeList(BaseModel):
    """Change events, the newest first."""

    count: int
    changes: list[ChangeEvent]


class ChangeAnswer(BaseModel):
    """What a posted change has done."""

    status: str = Field(description="created, updated, repeated (it is known by its id), or ignored (no change).")
    change: ChangeEvent | None = Field(description="The event as it is stored. Null if it was ignored.")

    @classmethod
    def ignored(cls) -> Self:
        """The answer to what is no change."""
        return cls(status=IGNORED, change=None)


_EXAMPLE = {"kind": "deploy", "title": "web 2.4.1", "by": "ada", "labels": {"service": "web"}}


@router.post("/")
@requires(Scope.TRIGGER)
async def post_change(
    request: ApiRequest, change: Annotated[dict[str, Any], Body(openapi_examples={"deploy": {"value": _EXAMPLE}})]
) -> ChangeAnswer:
    """Say what was changed: `title`, and `at`, `kind`, `by`, `url`, `labels`, `id`; or an annotation of Grafana, or an
    event of GitHub.

    Incidents shortly after it that share a label with it show it. A change with a known `id` is a repetition.
    """
    return await _record(request.api, change, request.headers.get(_EVENT))


@router.get("/")
@requires(Scope.READ)
async def show_changes(
    request: ApiRequest, limit: Annotated[int, Query(ge=1, le=500, description="How many.")] = 50
) -> ChangeList:
    """The change events, the newest first."""
    async with request.api.database.transaction() as tx:
        found = await list_changes(tx, limit=limit)
    return ChangeList(count=len(found), changes=found)


async def _accept_signed(request: Request) -> Response:
    api = state_of(request)
    given = request.headers.get(_SIGNATURE, "").strip()

    def check_headers() -> None:
        if not given.isascii() or not given.startswith("sha256="):
            raise HttpProblem(HTTPStatus.UNAUTHORIZED, "GitHub has not signed this request")

    def is_valid(raw: bytes, key: str) -> bool:
        right = f"sha256={hmac.new(key.encode(), raw, hashlib.sha256).hexdigest()}"
        return hmac.compare_digest(right, given)

    secret = api.settings.github_webhook_secret
    raw = await read_signed(request, api, secret, "GITHUB_WEBHOOK_SECRET", check_headers, is_valid)
    payload, _ = await read_object(raw, BodyHeaders.of(request), api.settings.max_payload_bytes)
    answer = await _record(api, payload, request.headers.get(_EVENT, ""))
    return Response(answer.model_dump_json(), media_type="application/json")


async def _record(api: ApiState, body: Mapping[str, Any], github_event: str | None) -> ChangeAnswer:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_SECONDS), api.database.transaction() as tx:
            now = await read_clock(tx)
            posted: PostedChange | None = (
                parse_change(body, now) if github_event is None else parse_github(one_line(github_event, 40), body, now)
            )
            if posted is None:
                return ChangeAnswer.ignored()
            done, event = await record_change(tx, posted)
    except TimeoutError:
        raise Unavailable(f"The database did not store the change within {WRITE_TIMEOUT_SECONDS:g} s") from None
    return ChangeAnswer(status=done.value, change=event)
