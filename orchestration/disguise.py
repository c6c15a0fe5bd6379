"""Personal data and names of machines in a text are replaced before it leaves, and put back in what comes back.

A disguise is made for one question: the same name always has the same placeholder in it, such as HOST_1. What it
recognizes is the form (addresses, phone numbers, host names with a domain), and the names that it was told of.
Secrets are hidden by `redaction.py`, before this, and never put back.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from orchestration.redaction import redact_text


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9])(?:HOST|IP|MAC|EMAIL|PHONE|PERSON|WORD)_\d{1,5}(?!\d)", re.IGNORECASE)

_EMAIL = re.compile(r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.\-]{0,250}[A-Za-z0-9])?")
_IPV4 = re.compile(r"(?<![\w.])(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
_MAC = re.compile(r"(?<![\w:\-])[0-9A-Fa-f]{2}(?:[:\-][0-9A-Fa-f]{2}){5}(?![\w:\-])")
_PHONE = re.compile(
    r"(?<![\w.+/\-])(?:"
    r"(?:\+|00)[1-9]\d{0,2}(?:[ ./\-]?\(?\d{1,5}\)?){2,6}"
    r"|\(0?\d{2,5}\)[ \-/]?\d{3,}(?:[ \-/]?\d{2,}){0,4}"
    r"|0\d{1,4}[ /\-]\d{3,}(?:[ \-/]?\d{2,}){0,4}"
    r"|\d{3}[.\- ]\d{3}[.\- ]\d{4}"
    r")(?![\w\-]|[.:]\d)"
)
_CALLED = re.compile(
    r"(\b(?:tel|phone|mobile|cell|fax|call|pager|telefon|handy|sms)\b\.?(?:[ :=]|at|on|no\.?|number)*)"
    r"(\+?\d(?:[ ./\-]?\d){4,14})",
    re.IGNORECASE,
)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,62}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?<![\w.@\-])(?:{_LABEL}\.){{1,8}}([A-Za-z]{{2,24}})(?![\w\-]|\.\w)")
_NUMBERED = re.compile(
    r"(?<![\w.\-/])[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*-?(?<![A-Za-z0-9]-)\d[A-Za-z0-9]*(?![\w\-])"
)
_WITH_DASH = re.compile(r"(?<![\w.\-/$])[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+(?![\w\-])")
_HOST_SAID = re.compile(
    r"(\b(?:host(?:name)?|server|node|instance|machine|nodename|pod|vm)\b[\"']?\s?[=:]\s?[\"']?)([A-Za-z0-9][\w.\-]*)",
    re.IGNORECASE,
)
_PERSON_SAID = re.compile(
    r"((?:\b(?:by|from|ask|call|contact|page|owner|assignee|author|user|username|operator|reporter|engineer|cc|dear)\b"
    r"|\b(?:Mr|Ms|Mrs|Dr|Herr|Frau)\b\.?)(?:\s?[=:]\s?|\s)[\"']?)"
    r"([A-Z][\w'’\-]+(?:\s[A-Z][\w'’\-]+){1,2})"
)
_TITLED = re.compile(r"(\b(?:Mr|Ms|Mrs|Dr|Herr|Frau)\b\.?\s)([A-Z][\w'’\-]+)")
_USER_SAID = re.compile(
    r"(\b(?:user|username|login|owner|assignee|author|operator|logname|by)\b[\"']?\s?[=:]\s?[\"']?)([A-Za-z][\w.\-]*)",
    re.IGNORECASE,
)
_HOME_FOLDER = re.compile(r"(/(?:home|Users)/)([A-Za-z0-9_.\-]+)")
_MENTION = re.compile(r"((?:^|[\s(<,;])@)([A-Za-z0-9][\w.\-]{1,38})")

_FILE_ENDINGS = _words(
    "service socket timer mount target slice scope conf cfg yml yaml json toml log py js ts sh so txt md sql jar war"
    " html htm xml csv go rs c h cpp rb php gz zip tar tgz exe dll ini pid sock db pem crt key tmpl j2 lock bak tmp"
    " service_time count total bytes seconds rate sum avg min max"
)
"""What comes after the last dot of a file or a metric, and ends no name of a host."""

_NO_HOSTS = re.compile(
    r"(?:utf|sha|md|base|x86|iso|rfc|cve|http|tls|ssl|ipv|ip|p|v|h|log|arm|int|float|uint|sd[a-z]{1,2}|xvd[a-z]|vd[a-z]|nvme|eth|ens|enp|eno|tty|"
    r"dm|md|loop|cpu|core|gpu|python|py|java|node|go|level|sev|step|raid|ext|s|ec|k|q|rev|build|http/|amd|i|xfs)"
    r"-?\d[\w\-]*|(?:alert|check|change|event|episode|runbook|tool)-\d+|[a-f0-9]{6,}",
    re.IGNORECASE,
)
"""Words with a number that are no hosts: encodings, devices, percentiles, hashes, and the ids of evidence."""


class Disguise:
    """The placeholders of one question, in the order in which what they stand for was met."""

    def __init__(self, *, hosts: Iterable[str] = (), people: Iterable[str] = ()) -> None:
        """`hosts` and `people` are names that are known to be such: they are replaced wherever they stand."""
        self._by_text: dict[str, str] = {}
        self._by_placeholder: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._known: re.Pattern[str] | None = None
        self._kinds: dict[str, str] = {}
        self.learn(hosts=hosts, people=people)

    def learn(self, *, hosts: Iterable[str] = (), people: Iterable[str] = ()) -> None:
        """Replace these names too, from now on."""
        for kind, names in (("HOST", hosts), ("PERSON", people)):
            for name in names:
                if len(name) > 1 and not name.isdecimal():
                    self._kinds.setdefault(name.casefold(), kind)
        words = sorted(self._kinds, key=len, reverse=True)
        some = "|".join(re.escape(word) for word in words)
        self._known = re.compile(rf"(?<![\w\-])(?:{some})(?![\w]|-\w)", re.IGNORECASE) if words else None

    def hide(self, text: str) -> str:
        """The text without secrets, and with placeholders for what is personal or names a machine."""
        hidden = PLACEHOLDER.sub(partial(self._replace, "WORD"), redact_text(text))
        if self._known is not None:
            hidden = _outside(hidden, self._known, lambda found: self._name(self._kinds[found[0].casefold()], found[0]))
        for kind, pattern, is_one in _FORMS:
            hidden = _outside(hidden, pattern, partial(self._hide_form, kind, is_one))
        for kind, pattern in _SAID:
            hidden = _outside(hidden, pattern, partial(self._hide_said, kind))
        return hidden

    def hide_all(self, texts: Sequence[str]) -> list[str]:
        """The texts, each hidden. A name that one of them introduces as such is replaced in all of them."""
        for text in texts:
            self.hide(text)
        return [self.hide(text) for text in texts]

    def restore(self, text: str) -> str:
        """The text with what its placeholders stand for. Placeholders of nobody stay as they are."""
        return PLACEHOLDER.sub(lambda found: self._by_placeholder.get(found[0].upper(), found[0]), text)

    @property
    def hidden(self) -> dict[str, str]:
        """What each placeholder stands for."""
        return dict(self._by_placeholder)

    def _replace(self, kind: str, found: re.Match[str]) -> str:
        return self._name(kind, found[0])

    def _hide_form(self, kind: str, is_one: Callable[[re.Match[str]], bool], found: re.Match[str]) -> str:
        if not is_one(found):
            return found[0]
        if kind == "EMAIL" and "." in (mailbox := found[0].partition("@")[0]):
            self.learn(people=[mailbox.replace(".", " ")])  # jane.miller@… is Jane Miller
        return self._name(kind, found[0])

    def _hide_said(self, kind: str, found: re.Match[str]) -> str:
        said = found[2].rstrip(".-")
        rest = found[2][len(said) :]
        if PLACEHOLDER.fullmatch(said) or said.casefold() in _NO_NAMES:
            return found[0]
        self.learn(**{"hosts" if kind == "HOST" else "people": [said]})
        return f"{found[1]}{self._name(kind, said)}{rest}"

    def _name(self, kind: str, text: str) -> str:
        key = text.casefold()
        if (known := self._by_text.get(key)) is not None:
            return known
        self._counts[kind] = self._counts.get(kind, 0) + 1
        placeholder = f"{kind}_{self._counts[kind]}"
        self._by_text[key] = placeholder
        self._by_placeholder[placeholder] = text
        return placeholder


_NO_NAMES = _words("is was has are down up unknown none null true false the a an all any not localhost root")


def _always(_found: re.Match[str]) -> bool:
    return True


def _is_ipv6(found: re.Match[str]) -> bool:
    try:
        ipaddress.IPv6Address(found[0])
    except ValueError:
        return False
    return True


def _is_domain(found: re.Match[str]) -> bool:
    return found[1].lower() not in _FILE_ENDINGS and not found[0].replace(".", "").isdecimal()


def _is_host(found: re.Match[str]) -> bool:
    word = found[0]
    return any(letter.isdecimal() for letter in word) and not _NO_HOSTS.fullmatch(word) and not PLACEHOLDER.search(word)


_FORMS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("EMAIL", _EMAIL, _always),
    ("MAC", _MAC, _always),
    ("IP", _IPV6, _is_ipv6),
    ("IP", _IPV4, _always),
    ("PHONE", _PHONE, _always),
    ("HOST", _DOMAIN, _is_domain),
    ("HOST", _WITH_DASH, _is_host),
    ("HOST", _NUMBERED, _is_host),
)
"""What is recognized by its form, in this order: kind, form, and whether a match is one."""

_SAID = (
    ("PHONE", _CALLED),
    ("HOST", _HOST_SAID),
    ("PERSON", _PERSON_SAID),
    ("PERSON", _TITLED),
    ("PERSON", _USER_SAID),
    ("PERSON", _HOME_FOLDER),
    ("PERSON", _MENTION),
)
"""What is recognized by the words before it: kind and form, whose second group is the name."""


def _outside(text: str, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str]) -> str:
    """Replace outside the placeholders that are there already."""
    kept: list[str] = []
    done = 0
    for placeholder in PLACEHOLDER.finditer(text):
        kept += [pattern.sub(replace, text[done : placeholder.start()]), placeholder[0]]
        done = placeholder.end()
    return "".join([*kept, pattern.sub(replace, text[done:])])
