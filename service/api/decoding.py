"""The bytes of a body become JSON, or text: decompressed, decoded and parsed.

Monitoring systems, scripts and mail gateways write JSON in the charset of their machine and rarely name it. A byte that
cannot be decoded must not cost a page, so a body is refused only if it is no JSON in any charset.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from encodings.aliases import aliases
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote_plus

import orjson
from fastapi import Request

from orchestration.errors import BadInput
from service.api.body import TooLarge, too_large
from service.api.problems import HttpProblem

MAX_VALUES = 100_000
"""How many values a body may have: names, numbers, texts, lists and objects, at any depth."""

_THREAD_FROM_BYTES = 32 * 1024
"""Bodies from this size on are parsed in a thread, so that other requests do not wait."""

_GZIP_WINDOW = 31  # zlib's value for "gzip only"
_MAX_GZIP_MEMBERS = 64

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, whose little-endian mark begins in the same way.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ZEROS: dict[tuple[bool, ...], str] = {
    (True, True, True, False): "utf-32-be",
    (False, True, True, True): "utf-32-le",
    (True, False, True, False): "utf-16-be",
    (False, True, False, True): "utf-16-le",
}
"""Which of the first four bytes are zero: JSON begins with two ASCII characters. Source: RFC 4627, section 3."""

_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:\-]{1,40})""", re.IGNORECASE)
_FORM_START = b"payload="
_FORM = "application/x-www-form-urlencoded"
_WINDOWS: Final = "windows-1252"
_LATIN = frozenset({"latin_1", "cp1252"})
"""Senders that name one of these send Windows-1252, which has all of their characters. Source: WHATWG Encoding."""

_UNNAMED = frozenset({"utf_8", "ascii"})
"""These say no more than what is assumed anyway."""

_NO_CHARSETS = frozenset({"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"})
_CHARSETS = {**{name: name for name in aliases.values()}, **aliases}
"""Python's charsets by all of their names. Unknown names are not looked up: Python keeps each of them for ever."""

_ESCAPES = re.compile(r"(?P<numbers>(?:\\u[0-9A-Fa-f]{4})+)|\\.")
"""The escapes in a JSON text: characters by their numbers in a row, or any other one, also one that was cut off."""

_EDGES = " \t\r\n\x00\ufeff"
"""What may stand around the JSON of a body. A program in C may send the zero byte that ends its text."""


@dataclass(frozen=True, kw_only=True)
class BodyHeaders:
    """The headers that say how a body is written; "" if one is missing."""

    content_type: str = ""
    content_encoding: str = ""

    @classmethod
    def of(cls, request: Request) -> BodyHeaders:
        """The headers of this request."""
        headers = request.headers
        return cls(content_type=headers.get("content-type", ""), content_encoding=headers.get("content-encoding", ""))

    @property
    def charset(self) -> str | None:
        """Python's name of the charset in `Content-Type`, if it is known and another one than UTF-8; else None."""
        return _charset_in(self.content_type)

    @property
    def is_form(self) -> bool:
        """Whether the body may be a form. `curl -d` says so of every body."""
        return self.content_type.strip().lower().startswith(_FORM)

    @property
    def is_multipart(self) -> bool:
        """Whether the body is a form with parts."""
        return self.content_type.strip().lower().startswith("multipart/form-data")


@lru_cache(maxsize=64)
def _charset_in(content_type: str) -> str | None:
    named = _CHARSET.search(content_type)
    if named is None:
        return None
    charset = _CHARSETS.get(re.sub(r"[\W_]+", "_", named[1]).lower())
    return None if charset in _UNNAMED or charset in _NO_CHARSETS else charset


async def read_object(raw: bytes, headers: BodyHeaders, limit: int) -> tuple[dict[str, Any], int]:
    """The JSON object in a body, and its size in bytes after decompression.

    Raises:
        HttpProblem: 415 for an unknown encoding, 413 if the decompressed body is too large, 400 if it is not JSON.
        BadInput: the body is JSON, but not an object.
    """
    value, size = await read_value(raw, headers, limit)
    return as_object(value), size


async def read_value(raw: bytes, headers: BodyHeaders, limit: int) -> tuple[object, int]:
    """The JSON value in a body, and its size in bytes after decompression.

    Raises:
        HttpProblem: as `read_object`.
    """
    if len(raw) > _THREAD_FROM_BYTES or headers.content_encoding:
        return await asyncio.to_thread(_parse, raw, headers, limit)
    return _parse(raw, headers, limit)


def as_object(value: object) -> dict[str, Any]:
    """The value of a body as an object.

    Raises:
        BadInput: it is none.
    """
    if not isinstance(value, dict):
        raise BadInput(f"The body is {_type_of(value)}: send a JSON object")
    return cast("dict[str, Any]", value)


def text_of(raw: bytes, headers: BodyHeaders, limit: int) -> tuple[bytes, str | None]:
    """A body that is no JSON, after decompression, and its text; None means that it is no text.

    Raises:
        HttpProblem: 415 for an unknown encoding, 413 if the decompressed body is too large, 400 if its gzip is broken.
    """
    body = decompressed(raw, headers, limit)
    text = next(_decoded(body, headers.charset)).strip(_EDGES)
    return body, None if "\x00" in text else text


def json_object_in(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, such as a field of a form; None means that it is none."""
    if not text.lstrip(_EDGES).startswith("{"):
        return None
    try:
        value = _loads(text.strip(_EDGES))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def readable(raw: bytes, headers: BodyHeaders, limit: int) -> str:
    """The text at the beginning of a body, for people; `limit` in bytes. A body that cannot be read gives "".

    Letters stand in it as themselves, also where its sender has written `\\u00d6` or `%C3%96`: people search for them.
    """
    body = raw[:limit]
    if "gzip" in headers.content_encoding.lower():
        try:
            body = zlib.decompressobj(wbits=_GZIP_WINDOW).decompress(raw, limit)
        except zlib.error:
            return ""
    text = next(_decoded(body, headers.charset)).strip(_EDGES)
    if headers.is_form and not text.startswith(("{", "[")):
        text = unquote_plus(text)
    return _ESCAPES.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    """The characters of an escape, if they can be printed and do not end the text; else the escape."""
    if escape["numbers"] is None:
        return escape[0]
    said = str(json.loads(f'"{escape[0]}"')).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return said if said.isprintable() and not set(said) & set('"\\') else escape[0]


def _parse(raw: bytes, headers: BodyHeaders, limit: int) -> tuple[object, int]:
    body = decompressed(raw, headers, limit)
    if not body.strip():
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "The body is empty: send a JSON object")
    charset, value, problem = headers.charset, None, ""
    if charset is None:
        try:
            value = orjson.loads(body.removeprefix(codecs.BOM_UTF8))
        except orjson.JSONDecodeError as error:
            problem = str(error)
    if charset is not None or problem:
        value = _parse_patiently(body, headers, problem)
    if isinstance(value, str):  # JSON that was made JSON twice
        value = _unwrapped(value)
    _ensure_few_values(body, value)
    return value, len(body)


def _unwrapped(text: str) -> object:
    """The object in a JSON string, or the string itself."""
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return cast("dict[str, Any]", value) if isinstance(value, dict) else text


def _parse_patiently(body: bytes, headers: BodyHeaders, problem: str) -> object:
    """The value of a body that is not plain JSON in UTF-8, in the first charset in which it is JSON.

    Raises:
        HttpProblem: 400, it is JSON in none of them. The message has `problem`, or else the first charset's.
    """
    for text in _decoded(body, headers.charset):
        try:
            return _loads(text.strip(_EDGES))
        except (ValueError, RecursionError) as error:
            problem = problem or str(error)
    if headers.is_form or body.startswith(_FORM_START):
        found = _form_value(body, headers.charset)
        if found is not None:
            return found
    raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {problem}")


def _decoded(body: bytes, charset: str | None) -> Iterator[str]:
    """The texts that a body can be, the likeliest first: by its mark, its zeros, its header, then by its bytes.

    The last of them replaces what cannot be decoded.
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            yield body[len(mark) :].decode(name, "replace")
            return
    if (by_zeros := _ZEROS.get(tuple(byte == 0 for byte in body[:4]))) is not None:
        yield body.decode(by_zeros, "replace")
        return
    if charset is not None and charset not in _LATIN:
        with suppress(UnicodeError, LookupError):  # the header may be wrong about the body
            yield body.decode(charset)
    as_utf8 = body.decode("utf-8", "replace")
    broken = as_utf8.count("\ufffd")
    other = sum(character > "\x7f" for character in as_utf8) - broken if broken else 0
    # One broken character among whole ones is a text in UTF-8 that was cut; in Latin-1 hardly any of them is whole.
    if charset in _LATIN or broken > other:
        yield body.decode(_WINDOWS, "replace")
    else:
        yield as_utf8


def _loads(text: str) -> object:
    """A JSON value. Line breaks within strings, as templates make them, and half characters are accepted. NaN and
    infinities, which Python and others write for a number that they do not have, become their names.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(text, strict=False, parse_constant=str)
    repaired = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    # As the fast way reads it, with the same numbers.
    return orjson.loads(repaired)


def _form_value(body: bytes, charset: str | None) -> object:
    """The JSON object that is the only such field of a form, as `payload=…`. None means that there is none."""
    try:
        text = body.decode("ascii", "replace")
        fields = parse_qsl(text, keep_blank_values=True, encoding=charset or "utf-8", max_num_fields=50)
    except (ValueError, LookupError):
        return None
    found = list[object]()
    for name, content in fields:
        try:
            # Some libraries make the JSON itself the name of a field.
            value = _loads((content or name).strip(_EDGES))
        except (ValueError, RecursionError):
            continue
        found += [value] if isinstance(value, dict) else []
    return found[0] if len(found) == 1 else None


def decompressed(raw: bytes, headers: BodyHeaders, limit: int) -> bytes:
    """A body without its gzip.

    Raises:
        HttpProblem: 415 for an unknown encoding, 413 if the decompressed body is too large, 400 if its gzip is broken.
    """
    match headers.content_encoding.strip().lower():
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
                raise too_large(limit)
            if not stream.eof:
                raise HttpProblem(HTTPStatus.BAD_REQUEST, "The body's gzip ends too early")
            rest = stream.unused_data.lstrip(b"\x00")  # several members in a row, and padding, are valid gzip
            if not rest:
                return bytes(unpacked)
    except zlib.error as error:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body is not gzip: {error}") from None
    raise HttpProblem(HTTPStatus.BAD_REQUEST, f"The body's gzip has more than {_MAX_GZIP_MEMBERS} members")


def _ensure_few_values(body: bytes, value: object) -> None:
    """Refuse JSON of very many small values: each costs more memory and time than its bytes say.

    Raises:
        TooLarge: there are more than `MAX_VALUES`.
    """
    # A value has two bytes at least, and one of these characters beside it.
    if len(body) < 2 * MAX_VALUES or body.count(b",") + body.count(b"[") + body.count(b"{") < MAX_VALUES:
        return
    count, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict | list):
            inside = cast("dict[str, object] | list[object]", one)
            count += len(inside)
            if count > MAX_VALUES:
                raise TooLarge(f"The body has more than {MAX_VALUES:,} values: send smaller pushes")
            rest.extend(inside.values() if isinstance(inside, dict) else inside)


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
