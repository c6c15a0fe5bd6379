"""What happens to a request before its handler: limits, authentication, decompression, JSON.

Handlers are typed: they get a validated body and an `ApiRequest`, whose caller may make the request.
Source: FastAPI's documentation, "Custom Request and APIRoute class".
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, TypeVar, cast

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from orchestration.errors import BadInput, Unavailable
from orchestration.store.keys import Scope
from service.api.auth import Caller
from service.api.problems import HttpProblem, refusals
from service.api.state import ApiState, state_of

READ_TIMEOUT_SECONDS = 30.0
"""How long a caller may take to send its body."""

_THREAD_FROM_BYTES = 32 * 1024
"""Bodies from this size on are parsed in a thread, so that other requests do not wait."""

_GZIP_WINDOW = 31  # zlib's value for "gzip only"
_MAX_GZIP_MEMBERS = 64
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, apk_…"},
    "basic": {"type": "http", "scheme": "basic", "description": "Any user, with an API key as the password."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Signature",
        "description": "sha256= and the HMAC-SHA256 of X-Timestamp, a dot and the body; X-Key-Id names the key.",
    },
}
"""The ways to authenticate, as the OpenAPI document lists them."""

EndpointT = TypeVar("EndpointT", bound=Callable[..., Awaitable[Any]])


class ApiRequest(Request):
    """A request that passed `GuardedRoute`: its caller is authenticated, its body is read and parsed."""

    def __init__(
        self, request: Request, api: ApiState, caller: Caller, body: tuple[dict[str, Any], int] | None
    ) -> None:
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

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler with everything of this module before it."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        body_required = self.body_field is not None and self.body_field.field_info.is_required()

        async def guarded(request: Request) -> Response:
            api = state_of(request)
            caller, raw = await _authenticate(request, api, self._scope)
            body = None
            if takes_body and (body_required or raw.strip()):
                encoding = request.headers.get("content-encoding", "")
                body = await read_object(raw, encoding, api.settings.max_payload_bytes)
            return await handle(ApiRequest(request, api, caller, body))

        return guarded


async def _authenticate(request: Request, api: ApiState, scope: Scope) -> tuple[Caller, bytes]:
    """The caller and the raw body. The body of an unknown caller is read only if it is signed.

    Raises:
        HttpProblem: the caller or the body is refused.
        Unavailable: the database cannot be used.
    """
    limit = api.settings.max_payload_bytes
    signed = "x-signature" in request.headers
    raw = await read_raw(request, limit) if signed else None
    caller = await api.guard.authenticate(request, scope, raw)
    if api.schema_problem is not None:
        raise Unavailable(f"The database cannot be used: {api.schema_problem}")
    return caller, await read_raw(request, limit) if raw is None else raw


async def read_raw(request: Request, limit: int) -> bytes:
    """The body as it came over the wire, of at most `limit` bytes, whatever Content-Length says.

    Raises:
        HttpProblem: 413 if the body is longer; 408 if it does not arrive in time.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(READ_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise HttpProblem(
            HTTPStatus.REQUEST_TIMEOUT, f"The body did not come within {READ_TIMEOUT_SECONDS:g} s"
        ) from None
    return bytes(body)


async def read_object(raw: bytes, content_encoding: str, limit: int) -> tuple[dict[str, Any], int]:
    """The JSON object in a body, and its size in bytes after decompression.

    Raises:
        HttpProblem: 415 for an unknown encoding, 413 if the decompressed body is too large, 400 if it is not JSON.
        BadInput: the body is JSON, but not an object.
    """
    if len(raw) > _THREAD_FROM_BYTES or content_encoding:
        return await asyncio.to_thread(_parse, raw, content_encoding, limit)
    return _parse(raw, content_encoding, limit)


def _parse(raw: bytes, content_encoding: str, limit: int) -> tuple[dict[str, Any], int]:
    body = _decompress(raw, content_encoding, limit)
    if not body.strip():
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "The body is empty: send a JSON object")
    try:
        value: object = orjson.loads(body.removeprefix(_BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"The body is {_type_of(value)}: send a JSON object")
    return cast("dict[str, Any]", value), len(body)


def _decompress(raw: bytes, content_encoding: str, limit: int) -> bytes:
    match content_encoding.strip().lower():
        case "" | "identity":
            return raw
        case "gzip" | "x-gzip":
            return _gunzip(raw, limit)
        case other:
            raise HttpProblem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"Content-Encoding {other[:32]!r} is not known here: send gzip, or nothing",
                {"Accept-Encoding": "gzip"},
            )


def _gunzip(raw: bytes, limit: int) -> bytes:
    """Decompress at most `limit` bytes: a few kilobytes of gzip can hold gigabytes."""
    unpacked = bytearray()
    rest = raw
    try:
        for _ in range(_MAX_GZIP_MEMBERS):
            stream = zlib.decompressobj(wbits=_GZIP_WINDOW)
            unpacked += stream.decompress(rest, limit + 1 - len(unpacked))
            if len(unpacked) > limit:
                raise _too_large(limit)
            if not stream.eof:
                raise HttpProblem(HTTPStatus.BAD_REQUEST, "The body's gzip ends too early")
            rest = stream.unused_data.lstrip(b"\x00")  # several members in a row, and padding, are valid gzip
            if not rest:
                return bytes(unpacked)
    except zlib.error as error:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body is not gzip: {error}") from None
    raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body's gzip has more than {_MAX_GZIP_MEMBERS} members")


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body is larger than ORCHESTRATION_MAX_PAYLOAD_BYTES={limit}: send smaller pushes",
    )


def _type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case list():
            return "a list"
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case _:
            return "a number"
