"""Redaction: the only place that removes secrets from values and texts, before they are stored or shown.

In doubt a text is hidden. All patterns and texts are bounded, so that a hostile text costs no more than any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import cast
from urllib.parse import quote, unquote_plus

from pydantic import JsonValue

from orchestration.secret_values import QUOTED, several_values
from orchestration.secret_words import Names, has_signs, is_secret_value, looks_made, meaning_of

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
_SHORT = 200
_OVERLAP = 4_096  # read beyond the limit, so that a secret that crosses it is found


_PLAIN = r"""[^\s,;&"'<>(){}\[\]]"""
_NAME = r"(?:(?:api|private|access|secret|signing|integration|routing|webhook)\ )?[^\W\d][\w.\-]{0,63}"

_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)

_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,8}-----.*?(?:-----END [A-Z0-9 ]{0,48}-----|\Z)", re.DOTALL
)
_USERINFO = re.compile(
    r"(?<![A-Za-z0-9+.\-])([A-Za-z][A-Za-z0-9+.\-]{0,31}://)"
    # A password may have any character, unless what stands there is a port and a path.
    r"(?:[^\s/?#\"'<>@:]{0,256}:(?!\d{1,5}[/?#])[^\s\"'<>]{1,512}|[^\s/?#\"'<>@]{1,512})@"
)
_USER = re.compile(r"[a-z][a-z0-9_.\-]{0,20}")
_HOOK_PATH = re.compile(
    r"((?:hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)"
    r"|discord(?:app)?\.com/api(?:/v\d{1,3})?/webhooks|hooks\.zapier\.com/hooks/catch"
    r"|webhook\.office\.com/webhookb2|outlook\.office(?:365)?\.com/webhook"
    r"|events\.pagerduty\.com/integration)/|api\.telegram\.org/bot|jdbc:oracle:thin:[^\s/@]{1,64}/)[^\s\"'<>|)\\]+",
    re.IGNORECASE,
)
_BEARER = re.compile(
    r"\b(bearer)([ \t]{1,3})(?!(?:tokens?|of|or|and|is|was|for|from|in|not)\b)[\w.~+/=:\-]+", re.IGNORECASE
)
_BASIC = re.compile(r"\b([Bb]asic|BASIC)([ \t]{1,3})(?=[A-Za-z0-9+/]*(?:[a-z][A-Z]|[0-9=]))[A-Za-z0-9+/]{4,}={0,2}")
_COMMAND = re.compile(
    r"""(\b(?:curl\b[^\n]{0,200}?\ (?:-u|--user|--proxy-user)[ =]?["']?[^\s:"']{1,64}:"""
    r"""|(?:mysql|mariadb)\w{0,9}\b[^\n]{0,200}?\ -p(?=\S)"""
    r"""|(?:sshpass|docker\ login|mongo\w{0,9})\b[^\n]{0,200}?\ -p\ ?"""
    r"""|redis-cli\b[^\n]{0,200}?\ -a\ |ldap\w{3,9}\b[^\n]{0,200}?\ -w\ ))["']?[^\s"']+""",
    re.VERBOSE,
)
_FLAG = re.compile(r"(?<!\S)--([A-Za-z][\w\-]{0,40})([ \t]{1,3})(?!-)(\S+)")
_SAID = re.compile(
    r"(?<![\w\-])(pass(?:word|wd|phrase)|pwd|requirepass|token|secret|identified by"
    r"|(?:api|access|private|secret)[ _]?key)"
    r"((?: (?:for|of) [\w.@\-]{1,64})?(?: is:?| was:?|:| =|[=:] ?null)? [\"']?)"
    r"(?=\S{0,40}[0-9A-Z@$!#%^&*])([^\s,;\"']{8,512})",
    re.IGNORECASE,
)
_IS = re.compile(r" (?:is|was):? [\"']?$")
_GO_LOGIN = re.compile(r"(?<![\w.\-])([\w.\-]{1,64}:)[^\s@\"']{1,128}(?=@(?:tcp|unix)\()")
_KEY = re.compile(
    rf"""(?:(?<![\w.\-])(?<!/etc/)(?<!\d{{12}}:)|(?<=%[23][0-9A-F]))-{{0,2}}({_NAME})
    (?:(?:\\?["'])?(?:[ \t\xa0]|%20){{0,8}}(?:[=\-]>|:=|[:：]|[=＝]{{1,3}}|%(?:25)?3[AD])(?:[ \t\xa0]|%20){{0,8}}
    (?:(?!\[redacted\])[\[({{]\s{{0,8}}){{0,8}}
    |\\?["']?[\s,]{{1,12}}(?:\\?["'])?value(?:\\?["'])?\s{{0,3}}[:=]\s{{0,3}}|>)""",
    re.VERBOSE | re.IGNORECASE,
)
_ANNOUNCES = frozenset(":：=＝>%")
"""Each match of `_KEY` has one of these; most texts have none."""
_SECOND_WORD = re.compile(r" ([^\s\"',;]{8,128})")
# The `=>` of Ruby and PHP, and `->`, announce a value; any other `>` does so only at the end of a tag.
_ARROW = re.compile(r"[=\-]>[^>]{0,32}$")
_ENCODED_SIGN = re.compile(r"%(?:25)?3[AD]", re.IGNORECASE)
_VALUE = re.compile(rf"{QUOTED}|(?:{_PLAIN}|[,;&()](?={_PLAIN})(?![\w.\-]{{1,64}}[=:]))+")
# In a percent-encoded text quotes, commas and the like end a value: `{secret="shop-tls", …}` in the link of a silence.
_ENCODED_VALUE = re.compile(r"(?:%22)?(?:[^%\s&\"'<>]|%(?!2[0267C]|3B|7D)[0-9A-F]{2})+", re.IGNORECASE)
_LINE = re.compile(r"""(?:=\\?"[^\n"]{0,512}"|[^\n"'])+""")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_PART_OF_URL = re.compile(r"[^\s\"'<>&?#;|]+")
_MAX_ENCODINGS = 2
"""How often a text is decoded: a link to a page that leads to another one has an address within its own."""

_TO_THE_END = ("authorization", "cookie", "passphrase")
"""Names whose values have several words."""

_ONE_WORD = re.compile(r"[A-Za-z0-9_.\-]*")
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9_\-])(?:"
    r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9\-]{6,}|xapp-[A-Za-z0-9\-]{8,}"  # Slack
    r"|A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Z0-9])|AIza[\w\-]{35}|ya29\.[\w\-]{20,}|GOCSPX-[\w\-]{20,}"  # AWS, Google
    r"|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|gl(?:[dfpr]t|pat|ptt|cbt|imt|oas|soat|agent|ffct)-[\w\-]{16,}"
    r"|gl(?:sa|c)_[\w+/=]{20,}|ap[ks]_[\w\-]{20,}|hv[sbr]\.[\w\-]{20,}"  # Grafana, our own, Vault
    r"|npm_[A-Za-z0-9]{30,}|pypi-[\w\-]{40,}|rubygems_[a-f0-9]{40,}|cio[A-Za-z0-9]{32}(?!\w)|dckr_[po]at_[\w\-]{20,}"
    r"|sk-(?:[a-f0-9]{32}|(?=[a-z0-9_\-]{0,80}[A-Z])[\w\-]{20,})|hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}"  # models
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{20,}|sq0[a-z]{3}-[\w\-]{20,}|shp[a-z]{2}_[A-Fa-f0-9]{32}"
    r"|SG\.[\w\-]{16,}\.[\w\-]{20,}|SK[0-9a-f]{32}(?!\w)|key-[0-9a-f]{32}(?!\w)|[0-9a-f]{32}-us\d{1,2}(?!\w)"  # mail
    r"|d(?:op|oo|or)_v1_[a-f0-9]{40,}|dapi[a-f0-9]{32}(?:-\d)?|[A-Za-z0-9]{14}\.atlasv1\.[\w\-]{20,}|HRKU-[\w\-]{30,}"
    r"|NR(?:AK|JS|II)-[\w\-]{16,}|sntry[su]_[\w+/=]{20,}|ph[cx]_[A-Za-z0-9]{30,}|lin_api_[A-Za-z0-9]{30,}|ntn_\w{30,}"
    r"|AT[AC]TT3[\w\-=]{30,}|figd_[\w\-]{30,}|pat[A-Za-z0-9]{14}\.[a-f0-9A-Z]{40,}|fo1_[\w\-]{30,}|dp\.[a-z]{2,5}\.[\w\-]{30,}"
    r"|pscale_[a-z]{2,5}_[\w\-.]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{50,}|ops_eyJ[\w+/=\-]{40,}"
    r"|\d{8,10}:[\w\-]{35}(?!\w)|[\w.~]{3}\dQ~[\w.~\-]{30,40}"  # Telegram, Azure
    r"|eyJ[A-Za-z0-9_\-]{4,}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*){1,3}"  # JWT, JWE
    r")"
)


def is_secret(name: str, value: object) -> bool:
    """Whether the value under this name is a secret, and neither the name of one nor a word about it.

    A number counts as its digits. Containers under a name of a secret are secret, and None and booleans never are.
    """
    meaning = meaning_of(name[:_MAX_KEY])
    if meaning is Names.NOTHING or value is None or isinstance(value, bool):
        return False
    if isinstance(value, str | int | float):
        return is_secret_value(meaning, str(value)[:MAX_TEXT].strip())
    return meaning in (Names.PASSWORD, Names.CREDENTIAL)


def _hide_pairs(text: str) -> str:
    """Hide the secrets that names announce: `key=value`, `key: value`, `"key": "value"`, `<key>value<`."""
    if _ANNOUNCES.isdisjoint(text):
        return text
    kept: list[str] = []
    done = 0
    for key in _KEY.finditer(text):
        meaning = meaning_of(key[1])
        if (
            meaning is Names.NOTHING
            or key.end() <= done
            or (key[0][-1] == ">" and not _ARROW.search(key[0]) and not text.startswith("<", key.start() - 1))
        ):
            continue
        to_the_end = key[1].lower().endswith(_TO_THE_END)
        is_line = to_the_end and key[0].rstrip()[-1] in "([{"
        if not is_line and (parts := several_values(text, key, meaning)) is not None:
            for begin, end in parts:
                kept += [text[done:begin], REDACTED]
                done = end
            continue
        encoded = _ENCODED_SIGN.search(key[0]) is not None
        value = (_ENCODED_VALUE if encoded else _VALUE).match(text, key.end())
        if value is None:
            continue
        mark = next((mark for mark in ('\\"', '"', "'") if value[0].startswith(mark)), "")
        if to_the_end and not mark:
            value = _LINE.match(text, key.end()) or value
        following = "" if mark or to_the_end else text[value.end() : value.end() + 80].partition("\n")[0]
        inner = value[0].removeprefix("%22") if encoded else value[0].strip("\\\"' \t" if mark else None)
        if not is_secret_value(meaning, inner, following if following[:1] in " \t" else ""):
            continue
        kept += [text[done : key.end()], mark, REDACTED, mark]
        done = value.end()
        # A password may have a space in it: `password=two s3cr3t-words`.
        if meaning is Names.PASSWORD and not mark and (more := _SECOND_WORD.match(text, done)) and looks_made(more[1]):
            done = more.end()
    return "".join([*kept, text[done:]])


def _secret_user(match: re.Match[str]) -> str:
    # `ssh://git@host` names a user, and has no password.
    user = match[0][len(match[1]) : -1]
    return match[0] if _USER.fullmatch(user) else f"{match[1]}{REDACTED}@"


def _secret_flag(match: re.Match[str]) -> str:
    key, space, value = match.groups()
    return f"--{key}{space}{REDACTED}" if is_secret(key, value) else match[0]


def _secret_said(match: re.Match[str]) -> str:
    name, words, value = match.groups()
    said = meaning_of(name) is Names.PASSWORD and _IS.search(words) is not None and has_signs(value)
    return f"{name}{words}{REDACTED}" if said or looks_made(value) else match[0]


def _hide_after_word(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{REDACTED}"


_RULES: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    ("-----BEGIN", _PEM, REDACTED),
    ("@", _USERINFO, _secret_user),
    ("@", _GO_LOGIN, rf"\1{REDACTED}"),
    ("/", _HOOK_PATH, rf"\1{REDACTED}"),
    (" -", _COMMAND, rf"\1{REDACTED}"),
    ("--", _FLAG, _secret_flag),
    (" ", _SAID, _secret_said),
)
"""Secrets that are recognised by what stands around them, in this order; a rule is for texts with its first column."""


def redact_text(text: str, *, limit: int = MAX_TEXT) -> str:
    """The first `limit` characters of a text without its secrets, and a note of how many characters are missing.

    NUL and lone surrogates, which PostgreSQL and UTF-8 refuse, become U+FFFD and "?".
    """
    if len(text) <= _SHORT and len(text) <= limit:
        return _short_without_secrets(text)
    clean = _without_secrets(text[: limit + _OVERLAP])
    if len(text) <= limit:
        return clean
    return f"{clean[:limit]}… [{len(text) - limit} more characters]"


def _without_secrets(text: str, encodings: int = _MAX_ENCODINGS) -> str:
    if _ONE_WORD.fullmatch(text):  # most names, hosts and ids; nothing announces a secret in them
        return _TOKENS.sub(REDACTED, text)
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    for needle, pattern, replacement in _RULES:
        if needle in clean:
            clean = pattern.sub(replacement, clean)
    clean = _hide_pairs(clean)
    if " " in clean or "\t" in clean:
        clean = _BASIC.sub(_hide_after_word, _BEARER.sub(_hide_after_word, clean))
    clean = _TOKENS.sub(REDACTED, clean)
    if not encodings or not _ENCODED.search(clean):
        return clean
    return _PART_OF_URL.sub(lambda part: _without_encoded_secrets(part[0], encodings - 1), clean)


def _without_encoded_secrets(part: str, encodings: int) -> str:
    """A part of a URL without the secrets that its percent-encoding hides, such as those in the link to a silence."""
    decoded = unquote_plus(part).replace("\x00", "\ufffd")
    clean = decoded if decoded == part else _without_secrets(decoded, encodings)
    return part if clean == decoded else quote(clean, safe="[]/:=@")


# The labels of an alert are those of the alert before, and come again in what its sender sent.
_short_without_secrets = lru_cache(maxsize=4096)(_without_secrets)
forget_short_texts = _short_without_secrets.cache_clear


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
            self.budget -= len(name)
            if _is_secret_in(value, name, item):
                kept[name] = REDACTED
            elif type(item) is str:  # nearly all items are
                self.budget -= 1
                kept[name] = self._text(item)
            else:
                kept[name] = self._under(name, item, depth)
        return kept

    def _under(self, name: str, item: object, depth: int) -> JsonValue:
        kept = self.value(item, depth=depth + 1)
        if not isinstance(kept, list):
            return kept
        return [REDACTED if isinstance(one, str | int) and is_secret(name, one) else one for one in kept]

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


def _is_secret_in(value: Mapping[object, object], name: str, item: object) -> bool:
    """Whether the item under this name is a secret; `{"name": "DB_PASSWORD", "value": …}` has its name beside it."""
    if is_secret(name, item):
        return True
    beside = value.get("name", value.get("key")) if name == "value" else None
    return isinstance(beside, str) and is_secret(beside, item)


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
