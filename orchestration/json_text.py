"""JSON with numbers of any size, for values that came from outside or from PostgreSQL."""

from __future__ import annotations

import json

import orjson
from pydantic_core import to_jsonable_python


def to_json(value: object, *, sort_keys: bool = False, indent: bool = False) -> bytes:
    """A value as JSON in UTF-8; moments and enums become text. `sort_keys` makes equal values equal bytes.

    orjson refuses integers beyond 64 bits. PostgreSQL makes them: a float such as 1.8446744073709552e19, which is what
    a counter below zero looks like, comes out of jsonb as an integer.

    Raises:
        TypeError: JSON cannot hold the value.
    """
    options = orjson.OPT_NON_STR_KEYS
    options |= orjson.OPT_SORT_KEYS if sort_keys else 0
    options |= orjson.OPT_INDENT_2 if indent else 0
    try:
        return orjson.dumps(value, option=options)
    except TypeError:
        separators = None if indent else (",", ":")
        text = json.dumps(
            value,
            ensure_ascii=False,
            default=to_jsonable_python,
            sort_keys=sort_keys,
            indent=2 if indent else None,
            separators=separators,
        )
        return text.encode("utf-8", "replace")
