"""Personal data and names of machines in a text are replaced before it leaves, and put back in what comes back.

A disguise is made for one question: the same name always has the same placeholder in it, such as HOST_1. What it
recognizes is the form (addresses, phone numbers, account and card numbers with their check digits, host names with a
domain), and the names that it was told of.
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


PLACEHOLDER = re.compile(
    r"(?<![A-Za-z0-9])(?:HOST|IP|MAC|EMAIL|PHONE|IBAN|CARD|PERSON|WORD)_\d{1,5}(?!\d)", re.IGNORECASE
)

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
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,4})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.])[2-6]\d{3}(?:[ \-]?\d){10,15}(?!\d)")
_CALLED = re.compile(
    r"(\b(?:tel|phone|mobile|cell|fax|call|pager|telefon|handy|sms)\b\.?(?:[ :=]|at|on|no\.?|number)*)"
    r"(\+?\d(?:[ ./\-]?\d){4,14})",
    re.IGNORECASE,
)
_WITH_DOMAIN = r"((?:\.[A-Za-z0-9_\-]{1,63}){0,8}\.[A-Za-z]{2,24})?"
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
    r"((?:\b(?i:by|from|ask|call|contact|page|owner|assignee|author|user|username|operator|reporter|engineer|cc|dear)\b"
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
                if len(name) > 1 and not name.isdecimal() and name.casefold() not in _NO_NAMES:
                    self._kinds.setdefault(name.casefold(), kind)
        words = sorted(self._kinds, key=len, reverse=True)
        some = "|".join(re.escape(word) for word in words)
        self._known = re.compile(rf"(?<![\w\-])({some}){_WITH_DOMAIN}(?![\w]|-\w)", re.IGNORECASE) if words else None

    def hide(self, text: str) -> str:
        """The text without secrets, and with placeholders for what is personal or names a machine."""
        hidden = PLACEHOLDER.sub(partial(self._replace, "WORD"), redact_text(text))
        if self._known is not None:
            hidden = _outside(hidden, self._known, self._hide_known)
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

    def _hide_known(self, found: re.Match[str]) -> str:
        name, domain = found[1], found[2] or ""
        if domain and domain.rpartition(".")[2].lower() not in _FILE_ENDINGS:
            return self._name("HOST", found[0])  # db-77.example.com, of which only db-77 is known
        return f"{self._name(self._kinds[name.casefold()], name)}{domain}"

    def _hide_form(self, kind: str, one_in: Callable[[re.Match[str]], str], found: re.Match[str]) -> str:
        one = one_in(found)
        if not one:
            return found[0]
        if kind == "EMAIL" and "." in (mailbox := found[0].partition("@")[0]):
            self.learn(people=[mailbox.replace(".", " ")])  # jane.miller@… is Jane Miller
        return f"{self._name(kind, one)}{found[0][len(one) :]}"

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


def _all(found: re.Match[str]) -> str:
    return found[0]


def _ipv6(found: re.Match[str]) -> str:
    try:
        ipaddress.IPv6Address(found[0])
    except ValueError:
        return ""
    return found[0]


def _iban(found: re.Match[str]) -> str:
    """The account number that a text begins with, by its check digits; the words after it look like a part of it."""
    for end in [*(space.start() for space in reversed(list(re.finditer(" ", f"{found[0]} "))))]:
        number = found[0][:end].replace(" ", "").upper()
        if 15 <= len(number) <= 34 and int("".join(str(int(one, 36)) for one in number[4:] + number[:4])) % 97 == 1:
            return found[0][:end]
    return ""


def _card(found: re.Match[str]) -> str:
    """The card number that digits begin with, by the check digit of Luhn."""
    places = [place for place, one in enumerate(found[0]) if one.isdecimal()]
    for size in (15, 14) if found[0][0] == "3" else (16, 19):
        digits = [int(found[0][place]) for place in places[:size]]
        if len(digits) == size and sum(digits[-1::-2] + [sum(divmod(2 * one, 10)) for one in digits[-2::-2]]) % 10 == 0:
            return found[0][: places[size - 1] + 1]
    return ""


def _domain(found: re.Match[str]) -> str:
    is_one = found[1].lower() not in _FILE_ENDINGS and not found[0].replace(".", "").isdecimal()
    return found[0] if is_one else ""


def _host(found: re.Match[str]) -> str:
    word = found[0]
    is_one = any(letter.isdecimal() for letter in word) and not _NO_HOSTS.fullmatch(word)
    return word if is_one and not PLACEHOLDER.search(word) else ""


_FORMS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    ("EMAIL", _EMAIL, _all),
    ("MAC", _MAC, _all),
    ("IP", _IPV6, _ipv6),
    ("IP", _IPV4, _all),
    ("IBAN", _IBAN, _iban),
    ("CARD", _CARD, _card),
    ("PHONE", _PHONE, _all),
    ("HOST", _DOMAIN, _domain),
    ("HOST", _WITH_DASH, _host),
    ("HOST", _NUMBERED, _host),
)
"""What is recognized by its form, in this order: kind, form, and the part of a match that is one."""

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
