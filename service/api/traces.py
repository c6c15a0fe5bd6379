"""Which trace a request belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLAIN = re.compile(r"[!-~]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def trace_id_of(headers: Mapping[str, str]) -> str | None:
    """The trace id of `X-Trace-Id`, else of a W3C `traceparent`; None where neither is valid.

    A header often comes from a proxy, and the alert from somebody who knows nothing of it: a wrong one is ignored.
    Source: W3C Recommendation "Trace Context", section 3.2.
    """
    own = headers.get("x-trace-id", "").strip()
    if _PLAIN.fullmatch(own):
        return own
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    return parent[1] if parent else None
