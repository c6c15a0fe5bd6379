"""How large and how deep a value from outside may be, before anything looks at all of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import cast

from orchestration.redaction import shown

_MAX_BITS = 1024


def out_of_bounds(raw: object, *, max_bytes: int, max_depth: int) -> str | None:
    """What is too much in a value, or cannot be stored, in words that follow "the document …". None means nothing.

    `max_bytes` is its size as JSON or thereabouts, `max_depth` how many lists and objects may be in each other.
    """
    size = 0
    level: list[object] = [raw]
    for _ in range(max_depth + 1):
        inner: list[object] = []
        for value in level:
            size += len(value) if isinstance(value, str | bytes) else 1
            if (wrong := _unstorable(value)) is not None:
                return f"has {wrong}"
            if size > max_bytes:
                return f"is too large: it may have {max_bytes:,} bytes"
            inner.extend(_parts(value))
        if not inner:
            return None
        level = inner
    return f"is nested deeper than {max_depth} levels"


def _unstorable(value: object) -> str | None:
    """What is wrong with a value that the database cannot store; None means that it can."""
    if isinstance(value, str) and ("\0" in value or value != value.encode(errors="ignore").decode()):
        return f"the text {shown(value)}, with a character that cannot be kept"
    if isinstance(value, float) and not math.isfinite(value):
        return f"the number {value}, which JSON does not have"
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"a number of {value.bit_length()} bits"
    return None


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return chain.from_iterable(cast("Mapping[object, object]", value).items())
    return cast("Sequence[object]", value) if isinstance(value, list | tuple | set | frozenset) else ()
