"""The body of a request that a vendor has signed with a secret that it shares with us: the signature is the key.

What is in it is a vendor's, and is read without any trust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import cast

from fastapi import Request
from pydantic import SecretStr

from orchestration.errors import Unavailable
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.actions import MAX_NAME_CHARACTERS
from service.api.body import read_raw
from service.api.problems import HttpProblem
from service.api.state import ApiState


async def read_signed(
    request: Request,
    api: ApiState,
    secret: SecretStr | None,
    variable: str,
    check_headers: Callable[[], None],
    is_valid: Callable[[bytes, str], bool],
) -> bytes:
    """The body as it came over the wire, if the vendor has signed it.

    Args:
        request: is refused by its headers before its body is read.
        api: has the limits of requests without a key.
        secret: None means that the address is not set up.
        variable: the setting of the secret.
        check_headers: raises an `HttpProblem` if the headers cannot be right.
        is_valid: whether this body was signed with this secret.

    Raises:
        HttpProblem: 401 without a good signature, 404 without a secret, 413 if the body is too large, 429 after too
            many requests.
        Unavailable: the database cannot be used.
    """
    api.guard.count_visit(request)
    if secret is None or not secret.get_secret_value().strip():
        raise HttpProblem(HTTPStatus.NOT_FOUND, f"This address is not set up: {variable} is not set")
    if api.schema_problem is not None:
        raise Unavailable(f"The database cannot be used: {api.schema_problem}")
    try:
        check_headers()
        with api.bodies.reserve() as room:
            raw = await read_raw(request, api.settings.max_payload_bytes, room)
        if not is_valid(raw, secret.get_secret_value()):
            raise HttpProblem(HTTPStatus.UNAUTHORIZED, f"The signature does not fit: is {variable} right?")
    except HttpProblem as refusal:
        address = request.client.host if request.client else "?"
        logger.warning("Refused %s from %s with %d: %s", request.url.path, address, refusal.status, refusal)
        raise
    return raw


def object_in(value: object) -> Mapping[str, object]:
    """A part of a body, if it is an object; else nothing."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def name_in(value: object) -> str:
    """A name in a body as the history can keep it: one line, cut; "" if it is no text."""
    return one_line(value, MAX_NAME_CHARACTERS) if isinstance(value, str) else ""
