"""What an error is over HTTP: a status and `{"error": "…"}`, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from orchestration.errors import (
    BadInput,
    BadSetting,
    DefinitionDisabled,
    DefinitionNotFound,
    IllegalTransition,
    KeyReused,
    PipelineError,
    RunBusy,
    RunNotFound,
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
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (BadInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (BadSetting, HTTPStatus.INTERNAL_SERVER_ERROR),
)
"""The status of each of our errors; the first that fits counts."""


class HttpProblem(PipelineError):
    """An error that only HTTP knows."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Any value as a JSON answer."""
    return Response(orjson.dumps(content), status, media_type="application/json", headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Have every error answered as `{"error": "…"}`."""
    app.add_exception_handler(PipelineError, _pipeline_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


def status_of(error: PipelineError) -> int:
    """The status that says what kind of error it is."""
    if isinstance(error, HttpProblem):
        return error.status
    return next((status for kind, status in STATUS_OF if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def explain(error: ValidationError) -> str:
    """What a validation found, in one line: `payload: field required; source: …`."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return _in_words([(problem["loc"], problem["msg"]) for problem in problems])


def _in_words(problems: Sequence[tuple[Sequence[int | str], str]]) -> str:
    said: list[str] = []
    for where, message in problems[:10]:
        text = message.removeprefix("Value error, ")
        said.append(f"{'.'.join(map(str, where)) or 'the body'}: {text[:1].lower()}{text[1:]}")
    return "; ".join(said)


def _pipeline_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PipelineError)  # noqa: S101 - it is installed for nothing else
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, HttpProblem) else {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
        logger.warning("A request was answered 503: %s", error)
    return json_response({"error": str(error)}, status, headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    said = {
        HTTPStatus.NOT_FOUND: "There is nothing at this address; /openapi.json lists what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: f"This address does not take {request.method[:16]}",
    }.get(HTTPStatus(error.status_code), str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return json_response({"error": said}, error.status_code, headers)


def _methods_at(request: Request) -> set[str]:
    """What the address takes. Starlette itself names the methods of its first route alone."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    there = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in there for method in route.methods or ()}


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    # Where it was looked for (path, query) is nothing that the caller calls it by.
    problems = [(problem["loc"][1:], problem["msg"]) for problem in error.errors()]
    return json_response({"error": _in_words(problems)}, HTTPStatus.UNPROCESSABLE_ENTITY)


def _gone(_request: Request, _error: Exception) -> Response:
    return json_response({"error": "The request ended before its body did"}, HTTPStatus.BAD_REQUEST)


def _bug(_request: Request, _error: Exception) -> Response:
    # The server logs the traceback; what is in it is nothing for the caller.
    return json_response({"error": "Something went wrong here; the log says what"}, HTTPStatus.INTERNAL_SERVER_ERROR)
