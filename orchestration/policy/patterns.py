"""Regular expressions of matchers, in RE2's syntax, which is Alertmanager's too. Any text costs linear time."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2  # pyright: ignore[reportMissingTypeStubs]

MAX_CHARACTERS = 4_096
"""The length of a pattern."""

_MEMORY_BYTES = 1 << 20

_ONE_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")

# google-re2 has no type annotations; this file is the only one that uses it.
_re2: Any = re2


class BadPattern(ValueError):
    """A pattern that RE2 does not accept. The message says why."""


def check_pattern(pattern: str) -> None:
    """Check that a pattern can be used.

    Raises:
        BadPattern: RE2 does not accept it, or it is too long.
    """
    _compiled(pattern)


def matches_all(pattern: str, text: str) -> bool:
    """Whether the pattern matches all of the text, from its start to its end.

    Raises:
        BadPattern: RE2 does not accept the pattern.
    """
    try:
        return _compiled(pattern).search(text) is not None
    except UnicodeEncodeError:  # a lone surrogate
        return _compiled(pattern).search(text.encode("utf-8", "replace").decode()) is not None


@lru_cache(maxsize=8_192)
def _compiled(pattern: str) -> Any:
    if len(pattern) > MAX_CHARACTERS:
        raise BadPattern(f"has {len(pattern):,} characters: a pattern has at most {MAX_CHARACTERS:,}")
    if _ONE_BYTE.search(pattern):  # a single byte, in RE2 but not in Alertmanager
        raise BadPattern(r"is no regular expression of Alertmanager: it has no \C")
    options = _re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES
    try:
        # A pattern such as `a)|(?:b` is accepted as Alertmanager accepts it, which adds the anchors in the same way.
        return _re2.compile(f"^(?:{pattern})$", options)
    except _re2.error as error:
        reason = error.args[0] if error.args else "it is not valid"
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise BadPattern(f"is no regular expression of RE2: {said.partition(': ^(?:')[0]}") from None
    except UnicodeEncodeError:
        raise BadPattern("has a character that no text can have") from None
