"""What happens to a request before its handler: authentication, then its body.

Handlers are typed: they get a validated body and an `ApiRequest`, whose caller may make the request.
Source: FastAPI's documentation, "Custom Request and APIRoute class".
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar, cast

from fastapi import Request, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Receive, Send
from starlette.types import Scope as ScopeOfRequest

from orchestration.errors import BadInput, Unavailable
from orchestration.store.keys import Scope
from orchestration.store.refused import READ_BYTES
from service.api.auth import CALLER, Caller
from service.api.body import RAW_BODY, TooLarge, beginning_of, read_raw
from service.api.cloud_events import batch_in, is_binary, read_binary
from service.api.decoding import BodyHeaders, as_object, read_value
from service.api.plain import read_multipart, read_plain
from service.api.problems import HttpProblem, refusals
from service.api.signatures import is_signed
from service.api.state import ApiState, state_of

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, apk_…"},
    "basic": {"type": "http", "scheme": "basic", "description": "Any user, with an API key as the password."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Signature",
        "description": "v2= and the HMAC-SHA256 of X-Timestamp.METHOD.path?query.body; X-Key-Id names the key.",
    },
}
"""The ways to authenticate, as the OpenAPI document lists them."""

EndpointT = TypeVar("EndpointT", bound=Callable[..., Awaitable[Any]])


class ApiRequest(Request):
    """A request that passed `GuardedRoute`: its caller is authenticated, its body is read and parsed."""

    def __init__(self, request: Request, api: ApiState, caller: Caller, body: tuple[Any, int] | None) -> None:
        # FastAPI reads a body as JSON if there is no Content-Type; senders use many types for their JSON.
        headers = [header for header in request.scope["headers"] if header[0] != b"content-type"]
        super().__init__({**request.scope, "headers": headers})
        self.api = api
        self.caller = caller
        self._content, self.size_bytes = body or ({}, 0)
        self._has_body = body is not None

    async def body(self) -> bytes:
        """FastAPI only looks whether this is empty."""
        return b"{}" if self._has_body else b""

    async def json(self) -> Any:
        """The parsed body."""
        return self._content


def requires(scope: Scope) -> Callable[[EndpointT], EndpointT]:
    """Name the scope that a caller of this endpoint needs."""

    def mark(endpoint: EndpointT) -> EndpointT:
        cast("Any", endpoint).required_scope = scope
        return endpoint

    return mark


TooLargeHandler = Callable[[ApiRequest, str], Awaitable[Response]]
"""Answers a request whose body is too large to be read; it gets the reason."""


def when_too_large(handler: TooLargeHandler) -> Callable[[EndpointT], EndpointT]:
    """Name what handles a body that is too large for this endpoint. Without it, it is refused with 413."""

    def mark(endpoint: EndpointT) -> EndpointT:
        cast("Any", endpoint).too_large = handler
        return endpoint

    return mark


UnreadableHandler = Callable[[ApiRequest, bytes, str], Awaitable[Response]]
"""Answers a request whose body is no JSON object; it gets the body as it came, and the reason."""


def when_unreadable(handler: UnreadableHandler) -> Callable[[EndpointT], EndpointT]:
    """Name what handles a body that is no JSON object. Without it, it is refused with 400, 415 or 422."""

    def mark(endpoint: EndpointT) -> EndpointT:
        cast("Any", endpoint).unreadable = handler
        return endpoint

    return mark


def takes_plain(endpoint: EndpointT) -> EndpointT:
    """Let this endpoint take bodies that are no JSON object: a line of text, a form, the parameters of the address, or
    CloudEvents in a list or in headers."""
    cast("Any", endpoint).takes_plain = True
    return endpoint


class GuardedRoute(APIRoute):
    """A route whose handler is called for authenticated requests only, with a parsed body.

    Raises:
        AttributeError: the endpoint has no `@requires(scope)`.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._scope: Scope = cast("Any", endpoint).required_scope
        security = [{name: [self._scope.value]} for name in SECURITY_SCHEMES]
        options["openapi_extra"] = {"security": security, **(options.get("openapi_extra") or {})}
        reads_body = "POST" in (options.get("methods") or ())
        options["responses"] = {**refusals(reads_body=reads_body), **(options.get("responses") or {})}
        options["strict_content_type"] = False
        super().__init__(path, endpoint, **options)
        if self._direct_handler is not None:  # then nothing needs what FastAPI keeps open around an endpoint
            guarded = self.get_route_handler()

            async def answer(scope: ScopeOfRequest, receive: Receive, send: Send) -> None:
                response = await guarded(Request(scope, receive, send))
                await response(scope, receive, send)

            self.app = answer

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler with everything of this module before it."""
        handle = self._direct_handler or super().get_route_handler()
        takes_body = self.body_field is not None
        body_required = self.body_field is not None and self.body_field.field_info.is_required()

        too_large: TooLargeHandler | None = getattr(self.endpoint, "too_large", None)
        unreadable: UnreadableHandler | None = getattr(self.endpoint, "unreadable", None)
        plain: bool = getattr(self.endpoint, "takes_plain", False)

        async def guarded(request: Request) -> Response:
            api = state_of(request)
            with api.bodies.reserve() as room:
                return await read_and_handle(request, api, room)

        async def read_and_handle(request: Request, api: ApiState, room: Callable[[int], None]) -> Response:
            try:
                caller, raw = await _authenticate(request, api, self._scope, room)
                body = None
                if takes_body and (body_required or raw.strip()):
                    try:
                        body = await _read(request, raw, api.settings.max_payload_bytes, plain=plain)
                    except TooLarge:
                        raise
                    except (HttpProblem, BadInput) as error:
                        if unreadable is None or not raw.strip():
                            raise
                        return await unreadable(ApiRequest(request, api, caller, None), raw, str(error))
                    room(max(body[1] - len(raw), 0))
            except TooLarge as error:
                # The signature of a body that was not read as a whole cannot be checked: its caller is not known.
                known: Caller | None = request.scope.get(CALLER)
                if known is None or too_large is None:
                    raise
                if RAW_BODY not in request.scope:
                    request.scope[RAW_BODY] = await beginning_of(request, READ_BYTES)
                return await too_large(ApiRequest(request, api, known, None), str(error))
            return await handle(ApiRequest(request, api, caller, body))

        return guarded

    @cached_property
    def _direct_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]] | None:
        """What FastAPI does for an endpoint that takes one body and answers for itself, in a fraction of its time.

        None means that the endpoint needs more of FastAPI.
        """
        needs, answers = self.dependant, inspect.signature(self.endpoint, eval_str=True).return_annotation
        more = needs.header_params or needs.cookie_params or needs.dependencies or needs.response_param_name
        if more or len(needs.body_params) != 1 or not needs.body_params[0].field_info.is_required():
            return None
        if answers is not Response or needs.request_param_name is None:
            return None
        (body,), request_name = needs.body_params, needs.request_param_name

        async def handle(request: Request) -> Response:
            asked, problems = body.validate(await request.json(), {}, loc=("body",))
            values: dict[str, Any] = {body.name: asked, request_name: request}
            for fields, given in (
                (needs.path_params, request.path_params),
                (needs.query_params, request.query_params),
            ):
                if fields:
                    found, wrong = request_params_to_args(fields, given)
                    values |= found
                    problems = [*problems, *wrong]
            if problems:
                raise RequestValidationError(problems)
            return await self.endpoint(**values)

        return handle


async def _read(request: Request, raw: bytes, limit: int, *, plain: bool) -> tuple[Any, int]:
    """The object in a body, and its size. With `plain` a body that is no JSON object can be one as well.

    A batch of CloudEvents is the only body that stays a list.
    """
    headers = BodyHeaders.of(request)
    if plain and is_binary(request):
        return await read_binary(raw, request, limit)
    try:
        value, size = await read_value(raw, headers, limit)
    except HttpProblem as problem:
        found = None
        if plain and problem.status == HTTPStatus.BAD_REQUEST:
            given = (raw, headers, request.query_params, limit)
            found = await read_multipart(*given) if headers.is_multipart else read_plain(*given)
        if found is None:
            raise
        return found, len(raw)
    batch = batch_in(value, headers) if plain else None
    return as_object(value) if batch is None else batch, size


async def _authenticate(
    request: Request, api: ApiState, scope: Scope, room: Callable[[int], None]
) -> tuple[Caller, bytes]:
    """The caller and the raw body. The body of an unknown caller is read only if it is signed.

    Raises:
        HttpProblem: the caller or the body is refused.
        Unavailable: the database cannot be used.
    """
    if api.schema_problem is not None:
        raise Unavailable(f"The database cannot be used: {api.schema_problem}")
    limit = api.settings.max_payload_bytes
    if not is_signed(request.headers):
        caller = await api.guard.authenticate(request, scope, None)
        return caller, await read_raw(request, limit, room)
    await api.guard.check_signature_headers(request)
    raw = await read_raw(request, limit, room)
    return await api.guard.authenticate(request, scope, raw), raw
