"""Request bodies: read within limits, unpacked within limits, and only then believed to be JSON."""

from __future__ import annotations

import asyncio
import zlib
from http import HTTPStatus
from typing import Any, cast

import orjson
from fastapi import Request

from orchestration.errors import BadInput
from service.api.problems import HttpProblem

READ_SECONDS = 30.0
"""How long a caller may take to send its body."""

_LARGE_BYTES = 32 * 1024
_GZIP_WINDOW = 31  # zlib's way to say: gzip, and nothing else
_GZIP_MEMBERS = 64
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def read_raw(request: Request, limit: int) -> bytes:
    """The body as it came over the wire.

    Raises:
        HttpProblem: 413 when it is longer than `limit` bytes, whatever the request says of its length;
            408 when it does not come.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise HttpProblem(HTTPStatus.REQUEST_TIMEOUT, f"The body did not come within {READ_SECONDS:g} s") from None
    return bytes(body)


async def read_object(raw: bytes, content_encoding: str, limit: int) -> tuple[dict[str, Any], int]:
    """The JSON object that a body holds, and its size unpacked.

    Raises:
        HttpProblem: 415 for an unknown encoding, 413 when it is too large unpacked, 400 when it is no JSON.
        BadInput: it is JSON, and no object.
    """
    if len(raw) > _LARGE_BYTES or content_encoding:
        return await asyncio.to_thread(_parse, raw, content_encoding, limit)
    return _parse(raw, content_encoding, limit)


def _parse(raw: bytes, content_encoding: str, limit: int) -> tuple[dict[str, Any], int]:
    body = _decoded(raw, content_encoding, limit)
    if not body.strip():
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "The body is empty: send a JSON object")
    try:
        value: object = orjson.loads(body.removeprefix(_BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"The body is {_kind(value)}: send a JSON object")
    return cast("dict[str, Any]", value), len(body)


def _decoded(raw: bytes, content_encoding: str, limit: int) -> bytes:
    match content_encoding.strip().lower():
        case "" | "identity":
            return raw
        case "gzip" | "x-gzip":
            return _unpacked(raw, limit)
        case other:
            raise HttpProblem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"Content-Encoding {other[:32]!r} is not known here: send gzip, or nothing",
                {"Accept-Encoding": "gzip"},
            )


def _unpacked(raw: bytes, limit: int) -> bytes:
    """Gzip, unpacked no further than the limit: a few kilobytes can stand for gigabytes."""
    unpacked = bytearray()
    rest = raw
    try:
        for _ in range(_GZIP_MEMBERS):
            stream = zlib.decompressobj(wbits=_GZIP_WINDOW)
            unpacked += stream.decompress(rest, limit + 1 - len(unpacked))
            if len(unpacked) > limit:
                raise _too_large(limit)
            if not stream.eof:
                raise HttpProblem(HTTPStatus.BAD_REQUEST, "The body's gzip ends too early")
            rest = stream.unused_data.lstrip(b"\x00")  # several members in a row, and padding, are gzip too
            if not rest:
                return bytes(unpacked)
    except zlib.error as error:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body is not gzip: {error}") from None
    raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body's gzip has more than {_GZIP_MEMBERS} members")


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body is larger than ORCHESTRATION_MAX_PAYLOAD_BYTES={limit}: send smaller pushes",
    )


def _kind(value: object) -> str:
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
