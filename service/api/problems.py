"""Errors over HTTP: every error is a status and `{"error": "…"}`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from orchestration.errors import (
    BadInput,
    BadSetting,
    DefinitionDisabled,
    DefinitionNotFound,
    HeartbeatNotFound,
    IllegalTransition,
    IncidentNotFound,
    KeyReused,
    PipelineError,
    RunBusy,
    RunNotFound,
    ScheduleNotFound,
    Unavailable,
)
from orchestration.signals import logger

RETRY_AFTER_SECONDS = 5
"""When a caller may try again after a 503."""

STATUS_OF: tuple[tuple[type[PipelineError], int], ...] = (
    (KeyReused, HTTPStatus.CONFLICT),
    (IllegalTransition, HTTPStatus.CONFLICT),
    (RunBusy, HTTPStatus.CONFLICT),
    (DefinitionDisabled, HTTPStatus.CONFLICT),
    (RunNotFound, HTTPStatus.NOT_FOUND),
    (DefinitionNotFound, HTTPStatus.NOT_FOUND),
    (IncidentNotFound, HTTPStatus.NOT_FOUND),
    (ScheduleNotFound, HTTPStatus.NOT_FOUND),
    (HeartbeatNotFound, HTTPStatus.NOT_FOUND),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (BadInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (BadSetting, HTTPStatus.INTERNAL_SERVER_ERROR),
)
"""The status of each of our errors. The first class that fits counts."""

_MEANING = {
    400: "The body is not JSON, or its gzip is broken.",
    401: "The request has no valid key.",
    403: "The key lacks the scope.",
    404: "There is no such run, definition, incident, heartbeat or schedule.",
    408: "The body did not arrive in time.",
    409: "The state of the run, the definition, the incident or the idempotency key does not allow this.",
    413: "The body is too large.",
    415: "The body's encoding is not known.",
    422: "The request can be read, but has a wrong value; the error names it.",
    429: "Too many requests; Retry-After says when to try again.",
    502: "The run ended without a result.",
    503: "The database does not answer; nothing was stored. Retry-After says when to try again.",
    504: "The pipeline has not ended yet; it continues.",
}


class Problem(BaseModel):
    """Why a request was refused."""

    error: str = Field(examples=["payload: field required"])


class HttpProblem(PipelineError):
    """An error that has a meaning over HTTP only. `details` are added to the body of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.details = dict(details or {})


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses as the OpenAPI document describes them."""
    return {status: {"model": Problem, "description": _MEANING[status]} for status in statuses}


def refusals(*, reads_body: bool) -> dict[int | str, dict[str, Any]]:
    """The statuses with which every endpoint that needs a key may refuse a request."""
    return problems(401, 403, 422, 429, 503, *((400, 408, 413, 415) if reads_body else ()))


OnRefusal = Callable[[Request, int, str], Awaitable[None]]
"""Gets each request that is answered with an error, with the status and the message."""


def install(app: FastAPI, on_refusal: OnRefusal) -> None:
    """Answer every error as `{"error": "…"}`, after `on_refusal` has seen it."""

    def answering(explain: Callable[[Request, Exception], Answer]) -> Callable[[Request, Exception], Any]:
        async def handle(request: Request, error: Exception) -> Response:
            answer = explain(request, error)
            await on_refusal(request, answer.status, answer.message)
            content = orjson.dumps({"error": answer.message, **answer.details})
            return Response(content, answer.status, media_type="application/json", headers=answer.headers)

        return handle

    app.add_exception_handler(PipelineError, answering(_pipeline_error))
    app.add_exception_handler(HTTPException, answering(_http_error))
    app.add_exception_handler(RequestValidationError, answering(_validation_error))
    app.add_exception_handler(ClientDisconnect, answering(_client_disconnect))
    app.add_exception_handler(Exception, answering(_unexpected_error))


def status_of(error: PipelineError) -> int:
    """The HTTP status for one of our errors."""
    if isinstance(error, HttpProblem):
        return error.status
    return next((status for kind, status in STATUS_OF if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


@dataclass(frozen=True)
class Answer:
    """An error as it is answered. `details` are added to the body."""

    message: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    details: Mapping[str, object] = field(default_factory=dict[str, object])


def _pipeline_error(_request: Request, error: Exception) -> Answer:
    assert isinstance(error, PipelineError)  # noqa: S101 - installed for this type only
    status = status_of(error)
    headers, details = (error.headers, error.details) if isinstance(error, HttpProblem) else ({}, {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS), **headers}
        logger.warning("A request was answered 503: %s", error)
    return Answer(public_words(error), status, headers, details)


def public_words(error: PipelineError) -> str:
    """What a caller may know of an error. Why the database does not answer is not for everybody: the log says it."""
    return str(error).partition(": ")[0] if isinstance(error, Unavailable) else str(error)


def _http_error(request: Request, error: Exception) -> Answer:
    assert isinstance(error, HTTPException)  # noqa: S101
    listing = f"{request.scope.get('root_path', '')}/openapi.json"
    message = {
        HTTPStatus.NOT_FOUND: f"There is nothing at this address; {listing} lists what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: f"This address does not take {request.method[:16]}",
    }.get(HTTPStatus(error.status_code), str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return Answer(message, error.status_code, headers)


def _methods_at(request: Request) -> set[str]:
    """The methods of all routes with this address. Starlette itself names those of the first route only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    path = next((route.path for route in routes if route.matches(request.scope)[0] is not Match.NONE), None)
    methods = {method for route in routes if route.path == path for method in route.methods or ()}
    return methods | ({"HEAD"} if "GET" in methods else set())


_WORDS = {"extra_forbidden": "there is no such field"}
"""What is clearer than pydantic's own words, by the type of the error."""


def _validation_error(_request: Request, error: Exception) -> Answer:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    # The first part of a location is "body", "path" or "query", which the caller does not write.
    found = [(problem["loc"][1:], str(_WORDS.get(problem["type"], problem["msg"]))) for problem in error.errors()]
    return Answer(_in_one_line(found), HTTPStatus.UNPROCESSABLE_ENTITY)


def _in_one_line(found: Sequence[tuple[Sequence[int | str], str]]) -> str:
    """The errors of a validation: `payload: field required; source: …`."""
    parts: list[str] = []
    for location, message in found[:10]:
        text = message.removeprefix("Value error, ")
        parts.append(f"{'.'.join(str(part)[:80] for part in location) or 'the body'}: {text[:1].lower()}{text[1:]}")
    return "; ".join(parts)


def _client_disconnect(_request: Request, _error: Exception) -> Answer:
    return Answer("The request ended before its body did", HTTPStatus.BAD_REQUEST)


def _unexpected_error(_request: Request, _error: Exception) -> Answer:
    # The server logs the traceback. It is not for the caller.
    return Answer("Something went wrong here; the log says what", HTTPStatus.INTERNAL_SERVER_ERROR)
