"""Redaction: the only place that removes secrets from values and texts, before they are stored or shown.

In doubt a text is hidden. All patterns and texts are bounded, so that a hostile text costs no more than any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from pydantic import JsonValue

REDACTED = "[redacted]"
"""Replaces a secret."""

MAX_TEXT = 32_768
"""How many characters of a text are kept."""

MAX_DEPTH = 16
"""How many levels of nesting are kept."""

MAX_ITEMS = 1_000
"""How many items of a list or dict are kept."""

MAX_TOTAL = 500_000
"""How much of a value is kept in total: each character and each item counts as one."""

_MAX_KEY = 256
_OVERLAP = 4_096  # read beyond the limit, so that a secret that crosses it is found

# fmt: off
_SECRET_WORDS = frozenset({
    "password", "passwd", "pwd", "passphrase", "secret", "secrets", "token", "authorization",
    "cookie", "cookies", "credential", "credentials",
    "apikey", "privatekey", "accesskey", "secretkey", "signingkey", "integrationkey", "routingkey",
    "clientsecret", "accesstoken", "authtoken", "refreshtoken", "bottoken", "webhookurl", "connectionstring",
})
_SECRET_PAIRS = frozenset({
    ("api", "key"), ("private", "key"), ("access", "key"), ("signing", "key"), ("encryption", "key"),
    ("integration", "key"), ("routing", "key"), ("service", "key"), ("account", "key"),
    ("webhook", "url"), ("connection", "string"),
})
# fmt: on
_SECRET_QUERY = frozenset({"key", "sig", "signature", "auth", "code", "jwt", "x-amz-signature", "x-amz-credential"})

_NO_SECRETS = frozenset({"null", "true", "false", "None", '""', "''"})

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def is_secret_key(key: str) -> bool:
    """Whether a key names a secret: `db_password`, `X-Api-Key` and `webhookUrl`, but not `author` or `tokens_used`."""
    words = [word.lower() for word in _WORDS.findall(key[:_MAX_KEY])]
    pairs = pairwise(words)
    return not _SECRET_WORDS.isdisjoint(words) or any(pair in _SECRET_PAIRS for pair in pairs)


_QUOTED = r"""\\"[^"\\\n]*\\?"?|"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?"""
_NAME = r"(?:(?:api|private|access|secret|signing|integration|routing|webhook)\ )?[A-Za-z][\w.\-]{0,63}"

_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}KEY-----|\Z)", re.DOTALL)
_USERINFO = re.compile(r"(?<![A-Za-z0-9+.\-])([A-Za-z][A-Za-z0-9+.\-]{0,31}://)[^\s/?#\"'<>]+@")
_HOOK_PATH = re.compile(
    r"((?:hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)"
    r"|discord(?:app)?\.com/api(?:/v\d{1,3})?/webhooks"
    r"|webhook\.office\.com/webhookb2|outlook\.office(?:365)?\.com/webhook"
    r"|events\.pagerduty\.com/integration)/|api\.telegram\.org/bot)[^\s\"'<>|)\\]+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    rf"""(?<![\w\-])((?:proxy-)?authorization|(?:set-)?cookie)((?:\\?["'])?\ {{0,3}}[:=]\ {{0,3}})"""
    rf"""(?:{_QUOTED}|[^\n"']+)""",
    re.IGNORECASE | re.VERBOSE,
)
_BEARER = re.compile(r"\b(bearer)([ \t]{1,3})(?!tokens?\b)[\w.~+/=:\-]+", re.IGNORECASE)
_BASIC = re.compile(r"\b([Bb]asic|BASIC)([ \t]{1,3})(?=[A-Za-z0-9+/]*(?:[a-z][A-Z]|[0-9=]))[A-Za-z0-9+/]{4,}={0,2}")
_QUERY = re.compile(r"([?&;])([\w.\-]{1,64})=([^&;\s#\"'<>]+)")
_FLAG = re.compile(r"(?<!\S)--([A-Za-z][\w\-]{0,40})([ \t]{1,3})(?!-)(\S+)")
_KEY = re.compile(
    rf"""(?<![\w.\-])({_NAME})(?:\\?["'])?\s{{0,3}}(?:=>|:=|[:=])\s{{0,3}}(?:(?!\[redacted\])[\[({{]\s{{0,3}}){{0,2}}""",
    re.VERBOSE | re.IGNORECASE,
)
_VALUE = re.compile(rf"""{_QUOTED}|[^\s,;&"'<>(){{}}\[\]]+""")
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9_\-])(?:"
    r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9\-]{6,}|xapp-[A-Za-z0-9\-]{8,}"  # Slack
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"  # AWS
    r"|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w\-]{16,}"  # GitHub, GitLab
    r"|sk-[A-Za-z0-9_\-]{20,}|[sr]k_live_[A-Za-z0-9]{16,}|AIza[\w\-]{35}"  # model providers, Stripe, Google
    r"|eyJ[A-Za-z0-9_\-]{4,}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*){1,3}"  # JWT, JWE
    r")"
)


def _hide_pairs(text: str) -> str:
    """Hide the values of keys that name a secret: `key=value`, `key: value`, `"key": "value"`."""
    kept: list[str] = []
    done = 0
    for key in _KEY.finditer(text):
        value = _VALUE.match(text, key.end()) if key.end() > done and is_secret_key(key[1]) else None
        if value is None or value[0] in _NO_SECRETS:
            continue
        quote = next((mark for mark in ('\\"', '"', "'") if value[0].startswith(mark)), "")
        kept += [text[done : key.end()], quote, REDACTED, quote]
        done = value.end()
    return "".join([*kept, text[done:]])


def _secret_query(match: re.Match[str]) -> str:
    before, key, _ = match.groups()
    secret = key.lower() in _SECRET_QUERY or is_secret_key(key)
    return f"{before}{key}={REDACTED}" if secret else match[0]


def _secret_flag(match: re.Match[str]) -> str:
    key, space, _ = match.groups()
    return f"--{key}{space}{REDACTED}" if is_secret_key(key) else match[0]


_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_PEM, REDACTED),
    (_USERINFO, rf"\1{REDACTED}@"),
    (_HOOK_PATH, rf"\1{REDACTED}"),
    (_HEADER, rf"\1\2{REDACTED}"),
    (_BEARER, rf"\1\2{REDACTED}"),
    (_BASIC, rf"\1\2{REDACTED}"),
    (_QUERY, _secret_query),
    (_FLAG, _secret_flag),
)
"""Secrets that are recognised by their context, in this order. Pairs and bare tokens come afterwards."""


def redact_text(text: str, *, limit: int = MAX_TEXT) -> str:
    """The first `limit` characters of a text without its secrets, and a note of how many characters are missing.

    NUL and lone surrogates, which PostgreSQL and UTF-8 refuse, become U+FFFD and "?".
    """
    clean = text[: limit + _OVERLAP].replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    for pattern, replacement in _RULES:
        clean = pattern.sub(replacement, clean)
    clean = _TOKENS.sub(REDACTED, _hide_pairs(clean))
    if len(text) <= limit:
        return clean
    return f"{clean[:limit]}… [{len(text) - limit} more characters]"


def one_line(text: str, limit: int) -> str:
    """A text from outside as one visible line without secrets, for people, terminals and mail headers.

    Terminal escape sequences, control characters and characters that hide or reorder text are removed before secrets
    are searched. Line breaks become spaces. A text with more than `limit` characters is cut and ends in "…".
    """
    visible = _INVISIBLE.sub("", _ANSI.sub("", text[: limit + _OVERLAP]))
    clean = " ".join(redact_text(visible).split())
    return clean if len(clean) <= limit else f"{clean[: limit - 1].rstrip()}…"


def redact(value: object) -> JsonValue:
    """The value as JSON without its secrets, for records, logs and answers. Accepts any value and never raises.

    Values that JSON does not have become text, and a pydantic secret becomes "[redacted]". "[too deep]" and
    "[truncated]" mark parts that are beyond a limit.
    """
    return _Redactor(budget=MAX_TOTAL).value(value, depth=0)


@dataclass
class _Redactor:
    """One pass over one value; `budget` is how much may still be kept."""

    budget: int

    def value(self, value: object, *, depth: int) -> JsonValue:
        self.budget -= 1
        if self.budget < 0:
            return "[truncated]"
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return _number(value)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if hasattr(value, "get_secret_value"):
            return REDACTED
        if isinstance(value, Mapping | list | tuple | Set):
            return self._container(cast("Mapping[object, object] | Iterable[object]", value), depth)
        return self._other(value, depth)

    def _text(self, text: str) -> str:
        clean = redact_text(text, limit=min(MAX_TEXT, max(self.budget, 0)))
        self.budget -= len(clean)
        return clean

    def _container(self, value: Mapping[object, object] | Iterable[object], depth: int) -> JsonValue:
        if depth >= MAX_DEPTH:
            return "[too deep]"
        if isinstance(value, Mapping):
            return self._dict(cast("Mapping[object, object]", value), depth)
        kept: list[JsonValue] = []
        for index, item in enumerate(value):
            if index >= MAX_ITEMS or self.budget <= 0:
                return [*kept, "[truncated]"]
            kept.append(self.value(item, depth=depth + 1))
        return kept

    def _dict(self, value: Mapping[object, object], depth: int) -> JsonValue:
        kept: dict[str, JsonValue] = {}
        for index, (key, item) in enumerate(value.items()):
            if index >= MAX_ITEMS or self.budget <= 0:
                kept["[truncated]"] = len(value) - index
                break
            name = redact_text(key if isinstance(key, str) else str(key), limit=_MAX_KEY)
            hide = is_secret_key(name) and item is not None and not isinstance(item, bool) and item != ""
            kept[name] = REDACTED if hide else self.value(item, depth=depth + 1)
            self.budget -= len(name)
        return kept

    def _other(self, value: object, depth: int) -> JsonValue:
        if isinstance(value, bytes | bytearray):
            return f"[{len(value)} bytes]"
        try:
            dump = getattr(value, "model_dump", None)
            if dump is not None:
                return self._container(cast("Mapping[object, object]", dump(mode="python")), depth)
            return self._text(str(value))
        except Exception:  # noqa: BLE001  the code of a foreign object may raise anything; its type is enough
            return f"[{type(value).__name__}]"


def _number(value: int | float) -> JsonValue:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    # Python refuses to write integers of thousands of digits, and PostgreSQL to read them.
    return int(value) if value.bit_length() <= 1024 else f"[integer of {value.bit_length()} bits]"


_SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """A value as a message quotes it: one short line, without secrets."""
    if isinstance(value, str):
        return repr(one_line(value, _SHOWN_CHARACTERS))
    if value is None or isinstance(value, bool | int | float):
        return repr(value)[:_SHOWN_CHARACTERS]
    return f"a value of type {type(value).__name__}"
