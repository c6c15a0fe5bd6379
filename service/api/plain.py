"""Bodies that are no JSON: a line of text, a form, or nothing but the parameters of the address.

Routers, UPS units, mail gateways and one-line scripts send these. They become one alert in the generic shape. A form
with parts, as `curl -F` and the uploads of tools send it, may also have the JSON of any source in one of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.decoding import BodyHeaders, decompressed, json_object_in, readable

_OWN_PARAMETERS = frozenset(("environment", "definition"))
"""Parameters of the address that are not about the alert."""

_TYPES = frozenset(("", "text/plain", "application/x-www-form-urlencoded"))
"""A body that says that it is JSON, and is not, is broken."""

_OF_OTHER_KINDS = ("{", "[", "<")
"""How JSON and XML begin. What begins like this and cannot be read is broken, and no text for people."""

_MAX_FIELDS = 50
_MAX_FILES = 10
_MAX_FILE_BYTES = 256 * 1024
"""A larger file is no alert, but something that belongs to it, such as a screenshot."""

_PAYLOAD = "payload"
"""The part whose JSON counts before that of others."""
_MAX_TEXT = 16 * 1024
_NAME_CHARACTERS = 200
_NAMES = frozenset(("name", "alertname", "alert_name", "title", "subject", "message", "text"))
"""Of these fields a form or the address has at least one; otherwise it is about no alert."""


def read_plain(raw: bytes, headers: BodyHeaders, parameters: Mapping[str, str], limit: int) -> dict[str, str] | None:
    """The alert in a body that is no JSON, in the generic shape. None means that there is none.

    The first line of a text is the alert's name, and the rest describes it. Fields of the address count where the body
    does not say otherwise.
    """
    if headers.content_type.partition(";")[0].strip().lower() not in _TYPES:
        return None
    fields = _fields_of(parameters)
    text = readable(raw, headers, min(_MAX_TEXT, limit))
    if text.startswith(_OF_OTHER_KINDS) or "\x00" in text or (text and not any(map(str.isalnum, text))):
        return None
    if headers.is_form and b"=" in raw:
        fields |= _form(raw, headers)
    elif text:
        first, _, rest = text.partition("\n")
        fields |= {"name": first.strip()[:_NAME_CHARACTERS]} | ({"description": rest.strip()} if rest.strip() else {})
        if len(first.strip()) > _NAME_CHARACTERS:
            fields["description"] = text
    return fields if not _NAMES.isdisjoint(fields) else None


async def read_multipart(
    raw: bytes, headers: BodyHeaders, parameters: Mapping[str, str], limit: int
) -> dict[str, Any] | None:
    """The JSON object in a part of a form, or else its fields. None means that there is neither.

    Files that are no JSON are left out.

    Raises:
        HttpProblem: 415 for an unknown encoding, 413 if the decompressed body is too large, 400 if its gzip is broken.
    """
    body = decompressed(raw, headers, limit)

    async def stream() -> AsyncGenerator[bytes]:
        yield body

    types = Headers({"content-type": headers.content_type})
    parser = MultiPartParser(types, stream(), max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=limit)
    parser.spool_max_size = limit + 1  # no file is written to disk
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError):  # the second is a charset that is none
        return None
    fields: dict[str, str] = {}
    objects: dict[str, dict[str, Any]] = {}
    for name, value in form.multi_items():
        text = await _text_of(value)
        if (found := json_object_in(text)) is not None:
            objects.setdefault(name.strip(), found)
        elif isinstance(value, str) and name.strip() and value.strip():
            fields[name.strip()] = value
    await form.close()
    if _PAYLOAD in objects or (len(objects) == 1 and _NAMES.isdisjoint(fields)):
        return objects.get(_PAYLOAD) or next(iter(objects.values()))
    return {**_fields_of(parameters), **fields, **objects} if fields or objects else None


async def _text_of(part: str | UploadFile) -> str:
    """The text of a part; "" if it is a large file."""
    if isinstance(part, str):
        return part
    return "" if (part.size or 0) > _MAX_FILE_BYTES else (await part.read()).decode("utf-8", "replace")


def _fields_of(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if name not in _OWN_PARAMETERS and value.strip()}


def _form(raw: bytes, headers: BodyHeaders) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii", "replace").strip(), encoding=headers.charset or "utf-8", max_num_fields=_MAX_FIELDS
        )
    except (ValueError, LookupError):  # too many fields, or a charset that is none
        return {}
    return {name.strip(): value for name, value in pairs if name.strip() and value.strip()}
