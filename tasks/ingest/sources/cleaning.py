"""Makes a body safe to store, encode and walk through, before a parser reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import cast

from pydantic import JsonValue

from orchestration.errors import Unreadable

MAX_DEPTH = 64
"""How deep objects and lists may be nested. No vendor needs ten levels; a thousand would exhaust Python's stack."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def clean(value: object, depth: int = 0) -> JsonValue:
    """The value as plain JSON that PostgreSQL's text and jsonb, orjson and UTF-8 all accept.

    NUL and lone surrogates become U+FFFD, NaN and infinities become their names, integers beyond 64 bits become
    their digits as text. A Python value that JSON does not have (the Python API accepts any dict) becomes `str(value)`.
    `depth` is the number of levels around the value.

    Raises:
        Unreadable: nested more than `MAX_DEPTH` levels deep.
    """
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if _SMALLEST <= value <= _LARGEST else _digits(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if not isinstance(value, Mapping | list | tuple):
        return clean(str(value), depth)
    if depth >= MAX_DEPTH:
        raise Unreadable(f"the payload is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {_UNSTORABLE.sub("\ufffd", str(key)): clean(item, depth + 1) for key, item in pairs}
    return [clean(item, depth + 1) for item in cast("Sequence[object]", value)]


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to write out more than 4,300 decimal digits
        return hex(value)
